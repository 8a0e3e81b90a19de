use bytes::Bytes;
use quorate::log::{GroupState, Outcome, ProposalRef, apply};
use quorate::storage::{Batch, Database, Durability, Engine, MemoryDisk, MemoryEngine, Overlay};
use quorate::types::{GroupId, HashRange, Timestamp};

/// The applied state of a group that holds everything, in memory.
pub struct Replica {
    engine: MemoryEngine,
    group: GroupState,
}

impl Replica {
    pub fn blank() -> Replica {
        let group = GroupState {
            id: GroupId(1),
            range: Some(HashRange::ALL),
            epoch: 1,
            dedup_floor: Timestamp(1),
        };
        Replica { engine: MemoryDisk::new(Database::State).open(), group }
    }

    /// Applies an entry and writes what it changed.
    pub fn write(&mut self, entry: &Bytes) {
        let batch = self.try_out(entry);
        self.engine.write(batch, Durability::Flushed).expect("the engine writes");
    }

    /// What the state machine does with an entry, up to the write. The next one finds the same state.
    ///
    /// # Panics
    ///
    /// If the entry holds anything but appends that are accepted: nothing else is worth measuring.
    pub fn try_out(&self, entry: &Bytes) -> Batch {
        let mut group = self.group.clone();
        let proposal = ProposalRef::decode(entry).expect("an encoded proposal");
        let mut overlay = Overlay::new(&self.engine);
        for command in &proposal.commands {
            let applied = apply(&mut overlay, &mut group, proposal.stamped_at, command);
            let outcome = applied.expect("the state is sound").outcome;
            assert!(matches!(&outcome, Outcome::Appended(it) if !it.duplicate), "{outcome:?}");
        }
        overlay.into_batch()
    }
}
