//! What may leave the disk, and what keeps it there.

use super::*;
use crate::storage::conformance::copy_folder;
use crate::storage::records::{DedupOutcome, DedupRow, GroupRow, Record};
use crate::storage::{View, keys};
use crate::types::{
    ConversationName, GroupId, HashRange, Incarnation, NodeId, PlacementHash, ReplicaId, Timestamp,
};

const GROUP: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);

fn range_of(group: GroupId) -> HashRange {
    let middle = PlacementHash(1 << 63);
    match group {
        GROUP => HashRange { start: PlacementHash(0), end: Some(middle) },
        _ => HashRange { start: middle, end: None },
    }
}

fn open(folder: &std::path::Path) -> RocksEngine {
    RocksEngine::open_state(&folder.join("state"), &Tuning::small()).unwrap()
}

fn write_row(engine: &RocksEngine, group: GroupId, incarnation: u32, floor: u64) {
    let replica = ReplicaId { node: NodeId(1), incarnation: Incarnation(incarnation) };
    let row = GroupRow {
        range: Some(range_of(group)),
        dedup_floor: Timestamp(floor),
        ..GroupRow::blank(replica)
    };
    let key = keys::group(group);
    let mut batch = Batch::default();
    batch.put(Table::Groups, key.clone(), row.encode(&key));
    engine.write(batch, Durability::Flushed).unwrap();
}

/// The key of an id in some conversation of the group.
fn key_in(group: GroupId, client_msg_id: &str) -> Vec<u8> {
    let names = (0..).map(|number| ConversationName(format!("room/{number}")));
    let mut held = names.filter(|name| range_of(group).contains(name.id().placement()));
    keys::dedup(held.next().unwrap().id(), "alice", client_msg_id)
}

fn write_id(engine: &RocksEngine, group: GroupId, client_msg_id: &str, issued_at: u64) {
    let row = DedupRow { issued_at: Timestamp(issued_at), outcome: DedupOutcome::Burnt };
    let key = key_in(group, client_msg_id);
    let mut batch = Batch::default();
    batch.put(Table::Dedup, key.clone(), row.encode(&key));
    engine.write(batch, Durability::Flushed).unwrap();
}

/// Two ids in each group, issued at 10 and at 20, on disk.
fn filled(engine: &RocksEngine) {
    for group in [GROUP, OTHER] {
        write_id(engine, group, "at 10", 10);
        write_id(engine, group, "at 20", 20);
    }
    engine.flush().unwrap();
}

fn compact(engine: &RocksEngine) {
    let family = view::family(&engine.db, Table::Dedup).unwrap();
    let mut options = rocksdb::CompactOptions::default();
    options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
    engine.db.compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &options);
}

fn holds(view: &dyn View, group: GroupId, client_msg_id: &str) -> bool {
    view.get(Table::Dedup, &key_in(group, client_msg_id)).unwrap().is_some()
}

#[test]
fn what_is_below_the_floor_goes_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    write_row(&engine, GROUP, 1, 15);
    write_row(&engine, OTHER, 1, 5);
    filled(&engine);
    compact(&engine);
    assert!(!holds(&engine, GROUP, "at 10"));
    assert!(holds(&engine, GROUP, "at 20"));
    assert!(holds(&engine, OTHER, "at 10") && holds(&engine, OTHER, "at 20"), "its floor is lower");
    // An id that is used again after its row expired.
    write_id(&engine, GROUP, "at 10", 30);
    engine.flush().unwrap();
    compact(&engine);
    assert!(holds(&engine, GROUP, "at 10"));
}

#[test]
fn a_floor_counts_once_it_would_survive_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    write_row(&engine, GROUP, 1, 5);
    filled(&engine);
    write_row(&engine, GROUP, 1, 15);
    compact(&engine);
    assert!(holds(&engine, GROUP, "at 10"), "a crash would bring the floor of 5 back");
    engine.flush().unwrap();
    compact(&engine);
    assert!(!holds(&engine, GROUP, "at 10"));
}

#[test]
fn a_pinned_view_keeps_what_its_own_floor_counts() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    write_row(&engine, GROUP, 1, 5);
    filled(&engine);
    let pinned = engine.pin();
    write_row(&engine, GROUP, 1, 15);
    engine.flush().unwrap();
    let later = engine.pin();
    compact(&engine);
    assert!(holds(pinned.as_ref(), GROUP, "at 10"), "a snapshot may be sent from it");
    drop(pinned);
    compact(&engine);
    assert!(!holds(&engine, GROUP, "at 10"));
    assert!(holds(later.as_ref(), GROUP, "at 20"));
}

#[test]
fn a_replica_made_anew_has_no_floor_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    write_row(&engine, GROUP, 1, 15);
    engine.flush().unwrap();
    let mut batch = Batch::default();
    batch.delete(Table::Groups, keys::group(GROUP));
    engine.write(batch, Durability::Flushed).unwrap();
    filled(&engine);
    compact(&engine);
    assert!(holds(&engine, GROUP, "at 10"), "there is no group");
    // It replays the log from its beginning, and meets ids that its floor still counts.
    write_row(&engine, GROUP, 2, 0);
    engine.flush().unwrap();
    compact(&engine);
    assert!(holds(&engine, GROUP, "at 10"), "its floor is 0");
    write_row(&engine, GROUP, 2, 15);
    engine.flush().unwrap();
    compact(&engine);
    assert!(!holds(&engine, GROUP, "at 10"));
}

/// What nearly every write does: it has the row, and the same floor in it.
#[test]
fn a_row_that_is_written_again_keeps_its_floor() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    write_row(&engine, GROUP, 1, 15);
    write_row(&engine, GROUP, 1, 15);
    filled(&engine);
    write_row(&engine, GROUP, 1, 15);
    compact(&engine);
    assert!(!holds(&engine, GROUP, "at 10") && holds(&engine, GROUP, "at 20"));
}

#[test]
fn floors_are_found_again_on_opening() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    write_row(&engine, GROUP, 1, 15);
    filled(&engine);
    let copy = tempfile::tempdir().unwrap();
    drop(engine);
    copy_folder(folder.path(), copy.path());
    let engine = open(copy.path());
    compact(&engine);
    assert!(!holds(&engine, GROUP, "at 10"));
    assert!(holds(&engine, GROUP, "at 20") && holds(&engine, OTHER, "at 10"));
}

#[test]
fn a_damaged_row_stays_to_be_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    write_row(&engine, GROUP, 1, 15);
    let mut batch = Batch::default();
    batch.put(Table::Dedup, key_in(GROUP, "damaged"), b"no record".to_vec());
    batch.put(Table::Dedup, b"short".to_vec(), b"no record".to_vec());
    engine.write(batch, Durability::Flushed).unwrap();
    engine.flush().unwrap();
    compact(&engine);
    assert!(holds(&engine, GROUP, "damaged"));
    assert!(engine.get(Table::Dedup, b"short").unwrap().is_some());
}
