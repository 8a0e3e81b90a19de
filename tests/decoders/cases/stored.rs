//! What a node finds when it starts: rows of both databases and a watermark, each a `SnapshotRow` behind its length.
//! The checksums of values are made right. Table 0 stands for the watermark.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use quorate::log::queries::{self, Slice};
use quorate::log::{invariants, read_topology};
use quorate::storage::records::{
    GroupRow, LogIdRecord, MessageRecord, NameRow, Record, VoteRecord, entry_key,
};
use quorate::storage::small_file::{MemoryFile, SmallFile};
use quorate::storage::{
    Batch, Database, Direction, Durability, Engine, GroupRecovery, MemoryDisk, MemoryEngine, Table,
    keys, make_ready, read_entries,
};
use quorate::transport::proto::SnapshotRow;
use quorate::types::{ConversationName, GroupId, LogIndex, Seq, Term, Timestamp};

use super::{Case, records, sealed, small_files, snapshots, unsealed};

pub const CASE: Case = Case { seeds, check };

const GROUP: GroupId = GroupId(1);
const WATERMARK: u32 = 0;
const ROWS_MAX: usize = 64;
const READ_BYTES_MAX: usize = 1024 * 1024;

fn check(input: &[u8]) {
    let found = Found::read(input);
    let report = invariants::check(&found.state, &mut |_| ());
    assert_eq!(report.is_clean(), report.violations.is_empty());
    ask(&found.state);
    let Ok(first) = found.recover() else { return };
    for (group, recovery) in &first {
        if let GroupRecovery::Healthy(log) = recovery {
            assert!(!log.vote.is_some_and(|vote| vote.term.is_beyond_all_terms()));
            let start =
                log.purged.map_or(LogIndex(0), |purged| LogIndex(purged.index.0.saturating_add(1)));
            let range = start..LogIndex(u64::MAX);
            let entries = read_entries(&found.log, *group, range, READ_BYTES_MAX).unwrap();
            let last = entries.last().map(|entry| entry.log_id).or(log.purged);
            assert_eq!(last, log.last, "a healthy log is read to its end");
        }
    }
    // Damage is not forgotten, and nothing else comes to light the second time.
    assert_eq!(found.recover().as_ref(), Ok(&first));
}

/// A node's disk.
struct Found {
    log: MemoryEngine,
    state: MemoryEngine,
    watermark: MemoryFile,
}

impl Found {
    fn read(input: &[u8]) -> Found {
        let open = |database| MemoryDisk::new(database).open();
        let (log, state) = (open(Database::Log), open(Database::State));
        let watermark = MemoryFile::default();
        let (mut log_rows, mut state_rows) = (Batch::default(), Batch::default());
        let mut left = Bytes::copy_from_slice(input);
        for _ in 0..ROWS_MAX {
            let Ok(row) = SnapshotRow::decode_length_delimited(&mut left) else { break };
            if row.table == WATERMARK {
                watermark.replace(&sealed(&[], &row.value)).unwrap();
                continue;
            }
            let table = u8::try_from(row.table).ok().and_then(Table::from_tag);
            let Some(table) = table else { continue };
            let rows = if Table::LOG.contains(&table) { &mut log_rows } else { &mut state_rows };
            rows.put(table, row.key.to_vec(), sealed(&row.key, &row.value));
        }
        log.write(log_rows, Durability::Synced).unwrap();
        state.write(state_rows, Durability::Flushed).unwrap();
        Found { log, state, watermark }
    }

    fn recover(&self) -> Result<BTreeMap<GroupId, GroupRecovery>, String> {
        let ready = make_ready(&self.log, &self.state, self.watermark.clone());
        Ok(ready.map_err(|error| error.to_string())?.groups)
    }
}

/// Reads are answered, or refused, and an answer has no gap.
fn ask(state: &MemoryEngine) {
    let _ = read_topology(state);
    let name = ConversationName(records::NAME.into());
    if let Ok(heads) = queries::list(state, |_| true, "acme/", None, ROWS_MAX) {
        assert!(heads.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
    let Ok(Some(head)) = queries::head(state, &name) else { return };
    assert_eq!(head.name, name);
    for direction in [Direction::Forward, Direction::Backward] {
        let (from, to) = (Seq(0), Seq(u64::MAX));
        let slice = Slice { from, to, direction, messages_max: ROWS_MAX, bytes_max: u64::MAX };
        let Ok(messages) = queries::messages(state, &head, slice) else { continue };
        let mut seqs: Vec<u64> = messages.iter().map(|message| message.seq.0).collect();
        seqs.sort_unstable();
        assert!(seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{seqs:?}");
    }
    if let Ok(seq) = queries::first_seq_at_or_after(state, &head, Timestamp(2_000_000)) {
        assert!(seq <= head.tail.max(head.first_seq));
    }
}

/// A node in order, a log alone, and numbers that none can follow.
fn seeds() -> Vec<Vec<u8>> {
    let mut node =
        vec![row(WATERMARK, Vec::new(), &small_files::watermark_file(&small_files::marks()))];
    node.extend(log());
    let log = node.concat();
    node.extend(state());
    let purged = keys::raft_meta(GROUP, keys::RaftMetaField::Purged);
    let end = of(purged, &LogIdRecord(records::log_id(u64::MAX)));
    let applied = GroupRow { applied: Some(records::log_id(u64::MAX)), ..records::group_row() };
    let applied = of(keys::group(GROUP), &applied);
    let last_vote = VoteRecord { term: Term(u64::MAX), ..records::vote() };
    let last_vote = of(keys::raft_meta(GROUP, keys::RaftMetaField::Vote), &last_vote);
    vec![node.concat(), log, [end, applied].concat(), last_vote, unread().concat()]
}

fn row(table: u32, key: Vec<u8>, value: &[u8]) -> Vec<u8> {
    let value = Bytes::copy_from_slice(unsealed(value));
    SnapshotRow { table, key: key.into(), value }.encode_length_delimited_to_vec()
}

fn of<R: Record>(key: Vec<u8>, record: &R) -> Vec<u8> {
    let value = record.encode(&key);
    row(u32::from(R::TABLE as u8), key, &value)
}

fn log() -> Vec<Vec<u8>> {
    let meta = |field| keys::raft_meta(GROUP, field);
    let mut rows = vec![
        of(meta(keys::RaftMetaField::Vote), &records::vote()),
        of(meta(keys::RaftMetaField::Committed), &LogIdRecord(records::log_id(1))),
    ];
    rows.extend(records::entries().iter().map(|entry| of(entry_key(GROUP, entry), entry)));
    rows
}

fn state() -> Vec<Vec<u8>> {
    let name = ConversationName::<String>(records::NAME.into());
    let mut rows = vec![
        of(keys::group(GROUP), &records::group_row()),
        of(keys::name(&name), &NameRow(name.id())),
        of(keys::topology(), &records::topology()),
    ];
    let conversation = snapshots::conversation().into_iter();
    rows.extend(conversation.map(|(table, key, value)| row(u32::from(table as u8), key, &value)));
    rows
}

/// Two messages, the first of which counts as the last of all numbers.
fn unread() -> Vec<Vec<u8>> {
    let id = records::head().name.id();
    let message = |seq, unread_ordinal| {
        let message = MessageRecord { seq: Seq(seq), unread_ordinal, ..records::message() };
        of(keys::message(id, message.seq), &message)
    };
    vec![of(keys::conversation(id), &records::head()), message(1, u64::MAX), message(2, 2)]
}
