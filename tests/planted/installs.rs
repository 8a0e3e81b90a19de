//! A snapshot that is brought in while the process dies: G1 and G11.

use std::sync::Arc;

use quorate::storage::install::{self, SnapshotSink};
use quorate::storage::records::GroupRow;
use quorate::storage::{
    Batch, Database, Direction, Durability, Engine, KeyRange, MemoryDisk, Table, View,
};
use quorate::types::HashRange;

use crate::node::{GROUP, OWN};
use crate::without_and_with;

fn rows(view: &dyn View, table: Table) -> Vec<Vec<u8>> {
    let whole = KeyRange { start: Vec::new(), end: None };
    let rows = view.scan(table, whole, Direction::Forward);
    rows.map(|row| row.unwrap().0.to_vec()).collect()
}

#[test]
fn non_atomic_install_leaves_a_part() {
    let (right, wrong) = without_and_with("planted::non_atomic_install", || {
        let disk = MemoryDisk::new(Database::State);
        let engine: Arc<dyn Engine> = Arc::new(disk.open());
        let mut old = Batch::default();
        old.put(Table::Messages, b"old".to_vec(), b"value".to_vec());
        engine.write(old, Durability::Flushed).unwrap();
        engine.flush().unwrap();
        let mut sink = SnapshotSink::begin(engine.clone(), GROUP, 1).unwrap();
        sink.add(Table::Messages, b"new", b"value").unwrap();
        sink.add(Table::Dedup, b"new", b"value").unwrap();
        let row = GroupRow { range: Some(HashRange::ALL), ..GroupRow::blank(OWN) };
        let staged = sink.finish(row).unwrap();
        // The first table is in when the process dies.
        let dying = disk.clone();
        fail::cfg_callback("crash::install_ingested", move || dying.crash()).unwrap();
        assert!(install::install(engine.as_ref(), GROUP, OWN, staged).is_err());
        fail::remove("crash::install_ingested");
        let reopened = disk.open();
        install::roll_forward(&reopened).unwrap();
        (rows(&reopened, Table::Messages), rows(&reopened, Table::Dedup))
    });
    assert_eq!(right, (vec![b"new".to_vec()], vec![b"new".to_vec()]));
    assert_eq!(wrong, (vec![b"new".to_vec()], vec![]), "messages without their dedup rows");
}
