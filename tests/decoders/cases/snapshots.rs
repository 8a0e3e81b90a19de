//! A replica's state on its way in: the frames of a transfer, each behind its length, taken in as far as they can be
//! and installed. Checksums of the rows, of their values and of the group's row are made right.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use quorate::log::invariants;
use quorate::storage::install::{SnapshotSink, install, roll_forward};
use quorate::storage::records::{GroupRow, LogId, Record};
use quorate::storage::{
    Database, Direction, Engine, KeyRange, MemoryDisk, StorageError, Table, View, keys,
};
use quorate::transport::proto::{self, snapshot_frame::Step};
use quorate::transport::wire;
use quorate::types::{GroupId, HashRange};

use super::{Case, records, sealed, unsealed};

pub const CASE: Case = Case { seeds, check };

const GROUP: GroupId = GroupId(1);
const ROWS_MAX: usize = 64;

fn check(input: &[u8]) {
    let mut left = Bytes::copy_from_slice(input);
    let mut row = None;
    let mut taken = Vec::new();
    while let Ok(frame) = proto::SnapshotFrame::decode_length_delimited(&mut left) {
        match frame.step {
            Some(Step::Open(open)) => row = group_row(&open),
            Some(Step::Rows(rows)) => taken.extend(rows_of(rows)),
            Some(Step::End(_)) | None => break,
        }
    }
    taken.truncate(ROWS_MAX);
    if let Some(row) = row {
        take_in(row, &taken);
    }
}

fn group_row(open: &proto::SnapshotOpen) -> Option<GroupRow> {
    let encoded = sealed(&keys::group(GROUP), &open.group_row);
    let row = wire::group_row_from_wire(GROUP, &encoded).ok()?;
    assert!(!row.applied.is_some_and(LogId::is_beyond_all_logs));
    Some(row)
}

type Row = (Table, Bytes, Bytes);

/// The rows of a frame with checksums made right; as many as were sent, or none.
fn rows_of(mut part: proto::SnapshotRows) -> Vec<Row> {
    for row in &mut part.rows {
        row.value = Bytes::from(sealed(&row.key, &row.value));
    }
    part.crc32c = wire::rows_checksum(&part.rows);
    let damaged = proto::SnapshotRows { crc32c: part.crc32c ^ 1, ..part.clone() };
    assert!(wire::rows_from_wire(damaged).is_err(), "damage is taken");
    let Ok(rows) = wire::rows_from_wire(part.clone()) else { return Vec::new() };
    assert_eq!(wire::rows_to_wire(rows.clone()), part);
    rows
}

/// Whatever the rows are, they are refused, or installed as they are so that a restart finds nothing left to do.
fn take_in(row: GroupRow, rows: &[Row]) {
    let disk = MemoryDisk::new(Database::State);
    let engine: Arc<dyn Engine> = Arc::new(disk.open());
    let mut sink = SnapshotSink::begin(engine.clone(), GROUP, 1).unwrap();
    let added: Result<(), StorageError> =
        rows.iter().try_for_each(|(table, key, value)| sink.add(*table, key, value));
    if added.is_err() {
        return;
    }
    let range = row.range;
    let staged = sink.finish(row).unwrap();
    if let Ok(installed) = install(engine.as_ref(), GROUP, records::OWN, staged) {
        assert_eq!((installed.replica, &installed.installing), (records::OWN, &None));
        assert!(engine.staged().unwrap().is_empty());
        disk.crash();
        let engine = disk.open();
        assert_eq!(roll_forward(&engine), Ok(Vec::new()));
        if range == Some(HashRange::ALL) {
            assert_eq!(stored(&engine), rows.len());
        }
    }
    let report = invariants::check(&disk.open(), &mut |_| ());
    assert!(report.violations.len() <= invariants::VIOLATIONS_LISTED_MAX);
}

fn stored(view: &dyn View) -> usize {
    let everything = KeyRange { start: Vec::new(), end: None };
    let rows = |table: &Table| view.scan(*table, everything.clone(), Direction::Forward).count();
    Table::BY_CONVERSATION.iter().map(rows).sum()
}

fn seeds() -> Vec<Vec<u8>> {
    let bare = |value: Vec<u8>| Bytes::copy_from_slice(unsealed(&value));
    let open = |row: GroupRow| {
        let group_row = bare(row.encode(&keys::group(GROUP)));
        Step::Open(proto::SnapshotOpen { group_row, ..Default::default() })
    };
    let applied = GroupRow { applied: Some(records::log_id(u64::MAX)), ..records::group_row() };
    let row = |(table, key, value): (Table, Vec<u8>, Vec<u8>)| proto::SnapshotRow {
        table: u32::from(table as u8),
        value: bare(value),
        key: key.into(),
    };
    let rows: Vec<_> = conversation().into_iter().map(row).collect();
    let end = Step::End(proto::SnapshotEnd { rows: rows.len() as u64 });
    let rows = Step::Rows(proto::SnapshotRows { crc32c: 0, rows });
    let framed = |step| proto::SnapshotFrame { step: Some(step) }.encode_length_delimited_to_vec();
    let transfer = [open(records::group_row()), rows, end].map(framed);
    vec![transfer.concat(), framed(open(applied))]
}

/// The rows of one conversation.
pub fn conversation() -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let (head, message) = (records::head(), records::message());
    let id = head.name.id();
    let mut rows = vec![
        (Table::Messages, keys::message(id, message.seq), Vec::new()),
        (Table::Conversations, keys::conversation(id), Vec::new()),
    ];
    rows[0].2 = message.encode(&rows[0].1);
    rows[1].2 = head.encode(&rows[1].1);
    for (row, client_msg_id) in records::dedup_rows().iter().zip(["one", "two"]) {
        let key = keys::dedup(id, &message.sender, client_msg_id);
        let value = row.encode(&key);
        rows.push((Table::Dedup, key, value));
    }
    rows
}
