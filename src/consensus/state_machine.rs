//! The shell around the pure state machine: decodes entries, applies them on top of the stored state, writes what
//! changed in one batch together with the applied id, and only then answers and wakes.
//!
//! Guarantees at stake: G1 and G4 after a crash. State writes have no write-ahead log, so they are lost with the
//! process unless a flush has completed; the applied id is part of each batch, and openraft replays from there.
//! What openraft is told about snapshots is therefore the durable mark, never the live position.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::watch;

use super::Tails;
use super::raft_types::{
    Outcomes, RaftLogId, RaftSnapshotMeta, RaftStoredMembership, TypeConfig, from_raft_log_id,
    membership_record, to_raft_log_id, to_stored_membership,
};
use crate::log::{self, GroupState, Proposal};
use crate::storage::records::{GroupRow, LogId, MembershipRecord, Record};
use crate::storage::{Durability, Engine, Overlay, Table, install, keys};
use crate::types::{ConversationId, GroupId, HashRange, LogIndex, ReplicaId, Seq};

/// Entries that one write of applied state gathers.
const ENTRIES_PER_WRITE_MAX: usize = 64;

/// What a replica has applied, shared between the state machine and the group's handle.
pub struct Applied {
    group: GroupId,
    engine: Arc<dyn Engine>,
    row: Mutex<GroupRow>,
    durable: Mutex<DurableMark>,
    index: watch::Sender<Option<LogIndex>>,
    topology_changed: watch::Sender<()>,
    tails: Tails,
}

/// Up to where the applied state is on stable storage.
#[derive(Clone, Default)]
pub struct DurableMark {
    /// The last entry whose effects are.
    pub applied: Option<LogId>,
    /// The membership as of that entry.
    pub membership: MembershipRecord,
}

impl Applied {
    /// The state of a replica as it stands on disk: all of it durable, because it was read after opening.
    pub fn open(group: GroupId, engine: Arc<dyn Engine>, row: GroupRow) -> Self {
        let durable = DurableMark { applied: row.applied, membership: row.membership.clone() };
        Applied {
            group,
            engine,
            index: watch::Sender::new(row.applied.map(|id| id.index)),
            topology_changed: watch::Sender::new(()),
            row: Mutex::new(row),
            durable: Mutex::new(durable),
            tails: Tails::default(),
        }
    }

    /// The group's row as applied.
    pub fn row(&self) -> GroupRow {
        self.lock_row().clone()
    }

    /// Which replica this is.
    pub fn replica(&self) -> ReplicaId {
        self.lock_row().replica
    }

    /// What the group holds; none until its first command.
    pub fn range(&self) -> Option<HashRange> {
        self.lock_row().range
    }

    /// The applied index as it moves.
    pub fn watch_index(&self) -> watch::Receiver<Option<LogIndex>> {
        self.index.subscribe()
    }

    /// Ticks after each change of the topology (in the meta group).
    pub fn watch_topology(&self) -> watch::Receiver<()> {
        self.topology_changed.subscribe()
    }

    /// Tails as they move.
    pub fn tails(&self) -> &Tails {
        &self.tails
    }

    /// The database of applied state.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// What is applied now, to be made the durable mark once a flush that starts after this call has completed.
    pub fn live_mark(&self) -> DurableMark {
        let row = self.lock_row();
        DurableMark { applied: row.applied, membership: row.membership.clone() }
    }

    /// Raises the durable mark. A mark that lies behind the present one changes nothing.
    pub fn raise_durable(&self, mark: DurableMark) {
        let mut durable = self.durable.lock().expect("no panic while locked");
        if mark.applied > durable.applied {
            *durable = mark;
        }
    }

    /// The durable mark.
    pub fn durable(&self) -> DurableMark {
        self.durable.lock().expect("no panic while locked").clone()
    }

    fn lock_row(&self) -> MutexGuard<'_, GroupRow> {
        self.row.lock().expect("no panic while locked")
    }
}

/// openraft's state machine of one group.
#[derive(Clone)]
pub struct GroupStateMachine {
    applied: Arc<Applied>,
}

/// A snapshot for openraft: never bytes. What is sent is read from a pinned view when it is sent; what was received
/// lies in a staging area.
#[derive(Debug)]
pub enum SnapshotData {
    /// The state of this replica at its durable mark.
    Durable,
    /// Rows that were received and sealed.
    Received(Box<install::StagedSnapshot>),
}

/// Builds nothing: the applied state is the snapshot.
pub struct SnapshotBuilder {
    applied: Arc<Applied>,
    /// Makes what is applied durable first.
    of_now: bool,
}

impl GroupStateMachine {
    /// The state machine over a replica's state.
    pub fn new(applied: Arc<Applied>) -> Self {
        GroupStateMachine { applied }
    }

    /// Applies entries in one write and answers those that wait for one.
    fn apply_chunk(&self, chunk: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut row = self.applied.row();
        let mut overlay = Overlay::new(self.applied.engine.as_ref());
        let mut effects = Effects::default();
        let mut answers = Vec::with_capacity(chunk.len());
        for (entry, responder) in chunk {
            let log_id = from_raft_log_id(&entry.log_id);
            let mut outcomes = Outcomes::default();
            match entry.payload {
                openraft::EntryPayload::Blank => {}
                openraft::EntryPayload::Membership(membership) => {
                    row.membership = membership_record(log_id, &membership);
                }
                openraft::EntryPayload::Normal(proposal) => {
                    let proposal = Proposal::decode(&proposal.0).map_err(io::Error::other)?;
                    outcomes =
                        self.apply_proposal(&mut overlay, &mut row, &proposal, &mut effects)?;
                }
            }
            row.applied = Some(log_id);
            answers.push((responder, outcomes));
        }
        let key = keys::group(self.applied.group);
        let value = row.encode(&key);
        overlay.put(Table::Groups, key, value);
        let batch = overlay.into_batch();
        self.applied.engine.write(batch, Durability::Flushed).map_err(io::Error::other)?;

        let index = row.applied.map(|id| id.index);
        *self.applied.lock_row() = row;
        self.applied.index.send_replace(index);
        for (responder, outcomes) in answers {
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        effects.announce(&self.applied);
        Ok(())
    }

    fn apply_proposal(
        &self,
        overlay: &mut Overlay<'_>,
        row: &mut GroupRow,
        proposal: &Proposal,
        effects: &mut Effects,
    ) -> io::Result<Outcomes> {
        let mut outcomes = Vec::with_capacity(proposal.commands.len());
        let mut group = GroupState::of(self.applied.group, row);
        for command in &proposal.commands {
            let applied = log::apply(overlay, &mut group, proposal.stamped_at, command)
                .map_err(io::Error::other)?;
            effects.tails_moved.extend(applied.tail_moved);
            effects.topology_changed |= matches!(command, log::Command::ChangeTopology(_));
            outcomes.push(applied.outcome);
        }
        group.store_in(row);
        Ok(Outcomes(outcomes))
    }
}

/// What others are told once a write is done.
#[derive(Default)]
struct Effects {
    tails_moved: Vec<(ConversationId, Seq)>,
    topology_changed: bool,
}

impl Effects {
    fn announce(self, applied: &Applied) {
        for (conversation, tail) in self.tails_moved {
            applied.tails.publish(conversation, tail);
        }
        if self.topology_changed {
            applied.topology_changed.send_replace(());
        }
    }
}

impl RaftStateMachine<TypeConfig> for GroupStateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, RaftStoredMembership)> {
        let row = self.applied.lock_row();
        Ok((row.applied.as_ref().map(to_raft_log_id), to_stored_membership(&row.membership)))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(ENTRIES_PER_WRITE_MAX);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.into_iter().collect::<io::Result<Vec<_>>>()?;
            self.apply_chunk(chunk)?;
        }
        Ok(())
    }

    /// openraft itself never forces one: a forced one is made of what is applied now, any other of what is durable.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        Some(SnapshotBuilder { applied: self.applied.clone(), of_now: force })
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { applied: self.applied.clone(), of_now: true }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &RaftSnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let SnapshotData::Received(staged) = snapshot else {
            return Ok(()); // The state that is already here.
        };
        let applied = self.applied.clone();
        let installed = offload(&self.applied, move || {
            let replica = applied.replica();
            install::install(applied.engine.as_ref(), applied.group, replica, *staged)
        });
        let row = installed.await?.map_err(io::Error::other)?;
        let mark = DurableMark { applied: row.applied, membership: row.membership.clone() };
        let index = row.applied.map(|id| id.index);
        *self.applied.lock_row() = row;
        self.applied.raise_durable(mark);
        self.applied.index.send_replace(index);
        self.applied.topology_changed.send_replace(());
        self.applied.tails.publish_all();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        Ok(durable_snapshot(&self.applied))
    }
}

type RaftSnapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    /// Answers from the durable mark; where it is asked to, or nothing is durable yet, makes what is applied durable
    /// first.
    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        if let Some(snapshot) = durable_snapshot(&self.applied).filter(|_| !self.of_now) {
            return Ok(snapshot);
        }
        let mark = self.applied.live_mark();
        let engine = self.applied.engine.clone();
        offload(&self.applied, move || engine.flush()).await?.map_err(io::Error::other)?;
        self.applied.raise_durable(mark);
        Ok(durable_snapshot(&self.applied).unwrap_or_else(|| RaftSnapshot {
            meta: RaftSnapshotMeta::default(),
            snapshot: SnapshotData::Durable,
        }))
    }
}

/// What openraft may rely on: the state at the durable mark.
fn durable_snapshot(applied: &Applied) -> Option<RaftSnapshot> {
    let mark = applied.durable();
    let log_id = mark.applied?;
    let meta = RaftSnapshotMeta {
        last_log_id: Some(to_raft_log_id(&log_id)),
        last_membership: to_stored_membership(&mark.membership),
    };
    Some(RaftSnapshot { meta, snapshot: SnapshotData::Durable })
}

/// Runs what waits for the disk on a thread where that blocks nobody.
async fn offload<T: Send + 'static>(
    applied: &Applied,
    job: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    applied.engine.offload(Box::new(move || drop(sender.send(job()))));
    receiver.await.map_err(|_| io::Error::other("a job on the disk was abandoned"))
}
