//! The state machine: G4.

use quorate::log::{self, GroupState, Outcome, Proposal, ProposalRef};
use quorate::storage::records::GroupRow;
use quorate::storage::{Database, MemoryDisk, Overlay};
use quorate::types::{HashRange, Timestamp};

use crate::node::{GROUP, OWN, append};
use crate::without_and_with;

#[test]
fn dedup_off_appends_a_retry_again() {
    let (right, wrong) = without_and_with("planted::dedup_off", || {
        let engine = MemoryDisk::new(Database::State).open();
        let mut overlay = Overlay::new(&engine);
        let row = GroupRow { range: Some(HashRange::ALL), ..GroupRow::blank(OWN) };
        let mut group = GroupState::of(GROUP, &row);
        let mut attempt = || {
            let commands = vec![append("one", 10)];
            let entry = Proposal { stamped_at: Timestamp(2_000_000), commands }.encode();
            let ProposalRef { stamped_at, commands } = Proposal::decode(&entry).unwrap();
            log::apply(&mut overlay, &mut group, stamped_at, &commands[0]).unwrap().outcome
        };
        let (first, second) = (attempt(), attempt());
        let (Outcome::Appended(first), Outcome::Appended(second)) = (first, second) else {
            panic!("both are accepted");
        };
        (second.duplicate, second.first_seq.0 - first.first_seq.0)
    });
    assert_eq!((right, wrong), ((true, 0), (false, 1)));
}
