//! The check finds what was damaged, wherever it was.

use super::replica::{Replica, append_of, minutes, name, text_message};
use super::scenario_commands::two_groups_on_two_nodes;
use crate::log::invariants::{Report, VIOLATIONS_LISTED_MAX, check};
use crate::log::{Command, IdKey, Settle, Topology, TopologyReplica};
use crate::storage::records::{
    ContentIdentity, ConversationHead, DedupOutcome, DedupRow, GroupRow, MessageRecord, NameRow,
    OwnedRecord,
};
use crate::storage::{Table, View, keys};
use crate::types::{
    ClusterId, ConversationId, ConversationName, GroupId, HashRange, Incarnation, NodeId,
    PlacementHash, ReplicaId, Seq, Timestamp,
};

fn topology() -> Topology {
    two_groups_on_two_nodes(ClusterId(7))
}

/// Two conversations; `room` has messages a1 to a3, of which a2 is stamped later than a1.
fn sound() -> Replica {
    let mut replica = Replica::of_everything();
    for (minute, id) in [(10, "a1"), (11, "a2"), (12, "a3")] {
        replica.append(minutes(minute), append_of("room", "alice", vec![text_message(id, id)]));
    }
    replica.append(minutes(12), append_of("other", "bob", vec![text_message("b1", "b1")]));
    let burnt = Settle {
        conversation: name("unborn"),
        id: IdKey { sender: "carol".to_owned(), client_msg_id: "c1".to_owned() },
        issued_at: minutes(12),
    };
    replica.apply(minutes(12), &Command::Settle(burnt));
    assert_eq!(replica.check().violations, []);
    replica
}

fn room() -> ConversationId {
    name("room").id()
}

fn change<R: OwnedRecord>(replica: &mut Replica, key: Vec<u8>, change: impl FnOnce(&mut R)) {
    let value = replica.view.get(R::TABLE, &key).unwrap().expect("what a test changes is there");
    let mut record = R::decode(&key, &value).unwrap();
    change(&mut record);
    replica.put_record(key, &record);
}

fn change_message(replica: &mut Replica, seq: u64, f: impl FnOnce(&mut MessageRecord)) {
    change(replica, keys::message(room(), Seq(seq)), f);
}

fn change_head(replica: &mut Replica, f: impl FnOnce(&mut ConversationHead)) {
    change(replica, keys::conversation(room()), f);
}

fn change_dedup(replica: &mut Replica, f: impl FnOnce(&mut DedupRow)) {
    change(replica, keys::dedup(room(), "alice", "a2"), f);
}

#[track_caller]
fn assert_found(replica: &Replica, what: &str) {
    let report = replica.check();
    let found = report.violations.iter().any(|violation| violation.what.contains(what));
    assert!(found, "{what:?} is not among {:#?}", report.violations);
    assert!(!report.is_clean());
}

#[test]
fn a_sound_state_is_clean_and_counted() {
    let replica = sound();
    let mut seen = 0;
    let report = check(&replica.view, &mut |rows| seen = rows);
    assert!(report.is_clean());
    assert_eq!(report.counts.conversations, 2);
    assert_eq!(report.counts.messages, 4);
    assert_eq!(report.counts.message_bytes, 8);
    assert_eq!(report.counts.dedup_rows, 5);
    assert_eq!(report.counts.names, 2);
    assert_eq!(report.groups.len(), 1);
    assert_eq!(report.groups[0].conversations, 2);
    assert_eq!(seen, 1 + 2 + 4 + 5 + 2);
}

#[test]
fn a_state_without_groups_is_checked_too() {
    let mut replica = sound();
    replica.view.delete(Table::Groups, &keys::group(GroupId(1)));
    assert_eq!(replica.check().violations, []);
    change_head(&mut replica, |head| head.tail = Seq(9));
    assert_found(&replica, "the tail of the head is another");
}

#[test]
fn equal_histories_have_equal_digests_and_others_have_not() {
    let digest = |replica: &Replica| replica.check().groups[0].digest;
    assert_eq!(digest(&sound()), digest(&sound()));
    let mut longer = sound();
    longer.append(minutes(13), append_of("other", "bob", vec![text_message("b2", "b2")]));
    assert_ne!(digest(&sound()), digest(&longer));
}

#[test]
fn damaged_bytes() {
    let tables_and_keys = [
        (Table::Messages, keys::message(room(), Seq(2))),
        (Table::Conversations, keys::conversation(room())),
        (Table::Names, keys::name(&name("room"))),
        (Table::Dedup, keys::dedup(room(), "alice", "a2")),
        (Table::Groups, keys::group(GroupId(1))),
        (Table::Topology, keys::topology()),
    ];
    for (table, key) in tables_and_keys {
        let mut replica = sound();
        replica.put_record(keys::topology(), &topology());
        let mut value = replica.view.get(table, &key).unwrap().unwrap().to_vec();
        let middle = value.len() / 2;
        value[middle] ^= 1;
        replica.view.put(table, key, value);
        assert_found(&replica, "checksum");
    }
}

#[test]
fn a_payload_that_is_not_what_was_accepted() {
    let mut replica = sound();
    change_message(&mut replica, 2, |message| message.payload_crc32c ^= 1);
    assert_found(&replica, "the payload's checksum is");
}

#[test]
fn a_message_of_another_history() {
    let mut replica = sound();
    change_message(&mut replica, 2, |message| message.content_type = "text/html".to_owned());
    assert_found(&replica, "the digest of seq 2 is not that of its history");
}

#[test]
fn a_message_under_anothers_key() {
    let mut replica = sound();
    change_message(&mut replica, 2, |message| message.seq = Seq(3));
    assert_found(&replica, "the message found there has seq 3");
}

#[test]
fn missing_messages() {
    for (seq, what) in [
        (1, "seq 1 was to follow and 2 does"),
        (2, "seq 2 was to follow and 3 does"),
        (3, "the tail of the head is another"),
    ] {
        let mut replica = sound();
        replica.view.delete(Table::Messages, &keys::message(room(), Seq(seq)));
        assert_found(&replica, what);
        assert_found(&replica, "where another message or none stands");
    }
}

#[test]
fn time_that_goes_back() {
    let mut replica = sound();
    change_message(&mut replica, 2, |message| message.commit_time = minutes(9));
    assert_found(&replica, "commit time goes back at seq 2");
}

#[test]
fn a_wrong_unread_ordinal() {
    let mut replica = sound();
    change_message(&mut replica, 2, |message| message.unread_ordinal = 7);
    assert_found(&replica, "the unread ordinal of seq 2 is 7");
    change_message(&mut replica, 2, |message| message.unread_ordinal = u64::MAX);
    assert_found(&replica, "the unread ordinal of seq 3 is 3");
}

#[test]
fn a_head_that_differs_from_its_messages() {
    type Change = fn(&mut ConversationHead);
    let changes: [(&str, Change); 6] = [
        ("the base digest", |head| head.base_digest = [1; 32]),
        ("the tail", |head| head.tail = Seq(5)),
        ("the digest", |head| head.digest = [1; 32]),
        ("the unread total", |head| head.unread_total = 1),
        ("the number of bytes", |head| head.bytes += 1),
        ("the last commit time", |head| head.last_commit_time.0 += 1),
    ];
    for (what, change) in changes {
        let mut replica = sound();
        change_head(&mut replica, change);
        assert_found(&replica, &format!("{what} of the head is another"));
    }
}

#[test]
fn a_head_under_anothers_key() {
    let mut replica = sound();
    change_head(&mut replica, |head| head.name = name("else"));
    assert_found(&replica, "which is not its hash");
    assert_found(&replica, "its name does not lead to it");
}

#[test]
fn messages_without_a_head() {
    for conversation in ["room", "other"] {
        let mut replica = sound();
        let id = name(conversation).id();
        replica.view.delete(Table::Conversations, &keys::conversation(id));
        assert_found(&replica, "the conversation has no head");
        assert_found(&replica, "there is no conversation of that name");
        assert_found(&replica, "beyond the tail");
    }
}

#[test]
fn names_that_are_missing_or_wrong() {
    let mut replica = sound();
    replica.view.delete(Table::Names, &keys::name(&name("room")));
    assert_found(&replica, "its name does not lead to it");

    let mut replica = sound();
    replica.put_record(keys::name(&name("nobody")), &NameRow(name("nobody").id()));
    assert_found(&replica, "there is no conversation of that name");

    let mut replica = sound();
    replica.put_record(keys::name(&name("room")), &NameRow(name("other").id()));
    assert_found(&replica, "which is not its hash");
}

#[test]
fn dedup_rows_that_are_missing_or_wrong() {
    let mut replica = sound();
    replica.view.delete(Table::Dedup, &keys::dedup(room(), "alice", "a2"));
    assert_found(&replica, "the id of seq 2 does not lead to it");

    let changes: [fn(&mut DedupRow); 4] = [
        |row| row.outcome = DedupOutcome::Burnt,
        |row| row.issued_at.0 -= 1,
        |row| {
            if let DedupOutcome::Committed { seq, .. } = &mut row.outcome {
                *seq = Seq(3);
            }
        },
        |row| {
            if let DedupOutcome::Committed { content, .. } = &mut row.outcome {
                *content = Some(ContentIdentity { salt: [0; 16], hash: [0; 16] });
            }
        },
    ];
    for change in changes {
        let mut replica = sound();
        change_dedup(&mut replica, change);
        assert_found(&replica, "the id of seq 2 does not lead to it");
    }
}

#[test]
fn a_dedup_row_that_leads_nowhere() {
    for (seq, what) in [(3, "where another message or none stands"), (4, "beyond the tail")] {
        let mut replica = sound();
        let row = DedupRow {
            issued_at: minutes(10),
            outcome: DedupOutcome::Committed {
                seq: Seq(seq),
                commit_time: minutes(12),
                content: None,
                attempt: None,
            },
        };
        replica.put_record(keys::dedup(room(), "alice", "stray"), &row);
        assert_found(&replica, what);
    }
}

/// Below the floor rows mean nothing: they may be gone, wrong, or still there.
#[test]
fn expired_dedup_rows_are_not_looked_at() {
    let mut replica = sound();
    replica.apply(minutes(13), &Command::RaiseDedupFloor { floor: minutes(11) });
    change_dedup(&mut replica, |row| row.outcome = DedupOutcome::Burnt);
    replica.view.delete(Table::Dedup, &keys::dedup(room(), "alice", "a3"));
    assert_eq!(replica.check().violations, []);
}

#[test]
fn an_erased_content_identity_is_no_violation() {
    let mut replica = sound();
    change_dedup(&mut replica, |row| {
        if let DedupOutcome::Committed { content, .. } = &mut row.outcome {
            *content = None;
        }
    });
    assert_eq!(replica.check().violations, []);
}

#[test]
fn replicas_that_are_placed_wrongly() {
    type Change = fn(&mut TopologyReplica);
    let mut replica = sound();
    replica.put_record(keys::topology(), &topology());
    assert_eq!(replica.check().violations, []);
    let changes: [(&str, Change); 2] = [
        ("node 3 is to hold a replica and is not known", |replica| replica.node = NodeId(3)),
        ("node 1 is to hold two replicas", |replica| replica.node = NodeId(1)),
    ];
    for (what, change_replica) in changes {
        replica.put_record(keys::topology(), &topology());
        change::<Topology>(&mut replica, keys::topology(), |topology| {
            change_replica(&mut topology.groups[0].replicas[1]);
        });
        assert_found(&replica, what);
    }
}

fn group_row(range: HashRange) -> GroupRow {
    let replica = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
    GroupRow { range: Some(range), ..GroupRow::blank(replica) }
}

#[test]
fn groups_that_overlap() {
    let mut replica = sound();
    let upper = HashRange { start: PlacementHash(1 << 63), end: None };
    replica.put_record(keys::group(GroupId(2)), &group_row(upper));
    assert_found(&replica, "with group 1");
}

#[test]
fn a_conversation_outside_every_group() {
    let mut replica = sound();
    let placement = room().placement();
    let range = HashRange { start: PlacementHash(placement.0 + 1), end: None };
    replica.put_record(keys::group(GroupId(1)), &group_row(range));
    assert_found(&replica, "lies in the range of no group on this node");
    // The name alone may stay behind when a group leaves.
    let names = |report: &Report| {
        report.violations.iter().filter(|found| found.place.starts_with("names")).count()
    };
    assert_eq!(names(&replica.check()), 0);
}

#[test]
fn an_install_that_was_interrupted() {
    let mut replica = sound();
    let row = GroupRow { installing: Some("staged".to_owned()), ..group_row(HashRange::ALL) };
    replica.put_record(keys::group(GroupId(1)), &row);
    assert_found(&replica, "a snapshot was being brought in");
}

#[test]
fn the_list_of_violations_is_bounded() {
    let mut replica = sound();
    for number in 0..VIOLATIONS_LISTED_MAX as u64 + 50 {
        let stray: ConversationName = name(&format!("stray{number}"));
        replica.put_record(keys::name(&stray), &NameRow(stray.id()));
    }
    let report = replica.check();
    assert_eq!(report.violations.len(), VIOLATIONS_LISTED_MAX);
    assert_eq!(report.violations_total, VIOLATIONS_LISTED_MAX as u64 + 50);
    assert_eq!(replica.group.dedup_floor, Timestamp(0));
}
