//! The shell around the pure state machine: decodes entries, applies them on top of the stored state, writes what
//! changed in one batch together with the applied id, and only then wakes those who follow and answers.
//!
//! Guarantees at stake: G1 and G4 after a crash. State writes have no write-ahead log, so they are lost with the
//! process unless a flush has completed; the applied id is part of each batch, and openraft replays from there.
//! What openraft is told about snapshots is therefore the durable mark, never the live position.
//!
//! openraft goes on after no error of its storage: the replica stops. So each fails the database too, the node stops, and
//! its next start goes on from what is on disk (G9).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

use super::live::Growth;
use super::raft_types::{
    Outcomes, RaftLogId, RaftSnapshotMeta, RaftStoredMembership, TypeConfig, entry_bytes,
    from_raft_log_id, membership_record, to_raft_log_id, to_stored_membership,
};
use super::tails::LiveMessages;
use super::{SnapshotSource, Tails};
use crate::log::{self, GroupState, Proposal, ProposalRef};
use crate::seams::crash;
use crate::storage::records::{GroupRow, LogId, MembershipRecord, Record};
use crate::storage::{Durability, Engine, Overlay, Table, install, keys};
use crate::types::limits::ENTRY_BYTES_TARGET;
use crate::types::{ConversationId, GroupId, HashRange, LogIndex, ReplicaId, Seq};

/// Entries that one write of applied state gathers.
const ENTRIES_PER_WRITE_MAX: usize = 64;
/// Bytes of entries from which on a write gathers no more. Writing them takes a thread for some milliseconds, in which it
/// does nothing else.
const BYTES_PER_WRITE: usize = ENTRY_BYTES_TARGET / 2;
/// Messages that are applied before others have a turn, some milliseconds of them. The thread that applies carries
/// heartbeats, too: a group that has much to catch up with must not take the lease from another one's leader.
const MESSAGES_PER_TURN: usize = 256;

/// What a replica has applied, shared between the state machine and the group's handle.
pub struct Applied {
    group: GroupId,
    engine: Arc<dyn Engine>,
    row: Mutex<GroupRow>,
    durable: Mutex<DurableMark>,
    index: watch::Sender<Option<LogIndex>>,
    topology_changed: watch::Sender<()>,
    tails: Tails,
    /// Held by whoever changes the stored state, across the change. False once nobody may.
    is_open: Arc<tokio::sync::Mutex<bool>>,
    closed: CancellationToken,
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
    pub(super) fn open(
        group: GroupId,
        engine: Arc<dyn Engine>,
        row: GroupRow,
        live: LiveMessages,
    ) -> Self {
        let durable = DurableMark { applied: row.applied, membership: row.membership.clone() };
        Applied {
            group,
            engine,
            index: watch::Sender::new(row.applied.map(|id| id.index)),
            topology_changed: watch::Sender::new(()),
            row: Mutex::new(row),
            durable: Mutex::new(durable),
            tails: Tails::new(live),
            is_open: Arc::new(tokio::sync::Mutex::new(true)),
            closed: CancellationToken::new(),
        }
    }

    /// Waits for the change of the stored state that is under way, and lets no other begin: what comes in its place must
    /// not be mixed with it.
    pub async fn close(&self) {
        *self.is_open.lock().await = false;
        self.closed.cancel();
        self.tails.forget();
    }

    /// Waits until an index is applied; false if it never will be, because the replica was closed. Cancel safe.
    pub async fn wait_for(&self, index: LogIndex) -> bool {
        let mut applied = self.watch_index();
        let reached = applied.wait_for(|at| at.is_some_and(|at| at >= index));
        self.closed.run_until_cancelled(reached).await.is_some_and(|reached| reached.is_ok())
    }

    /// Leave to change the stored state, for as long as it is held.
    async fn leave_to_change(&self) -> io::Result<OwnedMutexGuard<bool>> {
        let is_open = self.is_open.clone().lock_owned().await;
        if *is_open { Ok(is_open) } else { Err(io::Error::other("the replica was stopped")) }
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
    source: SnapshotSource,
    turn: Turn,
}

/// What was applied since others had theirs.
#[derive(Clone, Default)]
struct Turn {
    messages: usize,
}

impl Turn {
    /// Counts as many messages, or what takes as long, and lets others go on if it was their turn.
    async fn took(&mut self, messages: usize) {
        self.messages += messages;
        if self.messages >= MESSAGES_PER_TURN {
            self.messages = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// A snapshot for openraft: never bytes. What is sent is read from a pinned view when it is sent; what was received
/// lies in a staging area.
#[derive(Debug)]
pub enum SnapshotData {
    /// The state of the replica that it names, at its durable mark or later.
    Durable(SnapshotSource),
    /// Rows that were received and sealed.
    Received(Box<install::StagedSnapshot>),
}

/// Builds nothing: the applied state is the snapshot.
pub struct SnapshotBuilder {
    source: SnapshotSource,
    /// Makes what is applied durable first.
    of_now: bool,
}

impl GroupStateMachine {
    /// The state machine over the state of the replica that `source` can send.
    pub fn new(source: SnapshotSource) -> Self {
        GroupStateMachine { applied: source.applied().clone(), source, turn: Turn::default() }
    }

    /// Applies entries in one write and answers those that wait for one. Dropped before that write, it has changed
    /// nothing.
    async fn apply_chunk(
        &self,
        chunk: Vec<EntryResponder<TypeConfig>>,
        turn: &mut Turn,
    ) -> io::Result<()> {
        let entries = chunk.len();
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
                    let (overlay, effects) = (&mut overlay, &mut effects);
                    outcomes =
                        self.apply_proposal(overlay, &mut row, &proposal, effects, turn).await?;
                }
            }
            row.applied = Some(log_id);
            answers.push((responder, outcomes));
        }
        effects.keep_live(&overlay, &self.applied.tails);
        let key = keys::group(self.applied.group);
        let value = row.encode(&key);
        overlay.put(Table::Groups, key, value);
        let batch = overlay.into_batch();
        crash::apply_decided();
        self.applied.engine.write(batch, Durability::Flushed).map_err(io::Error::other)?;
        crash::apply_written();

        let index = row.applied.map(|id| id.index);
        *self.applied.lock_row() = row;
        self.applied.index.send_replace(index);
        // Before the answers, each of which makes work for this thread: what is announced is committed, written, and can be
        // read at this index, as what is answered is (G6).
        effects.announce(&self.applied);
        for (responder, outcomes) in answers {
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        crash::apply_answered();
        turn.took(entries).await;
        Ok(())
    }

    async fn apply_proposal(
        &self,
        overlay: &mut Overlay<'_>,
        row: &mut GroupRow,
        proposal: &ProposalRef<'_>,
        effects: &mut Effects,
        turn: &mut Turn,
    ) -> io::Result<Outcomes> {
        let mut outcomes = Vec::with_capacity(proposal.commands.len());
        let mut group = GroupState::of(self.applied.group, row);
        for command in &proposal.commands {
            let applied = log::apply(overlay, &mut group, proposal.stamped_at, command);
            let applied = applied.map_err(|error| {
                if let log::ApplyError::Storage(error) = &error {
                    self.applied.engine.note_failure(error);
                }
                io::Error::other(error)
            })?;
            effects.note_growth(&applied);
            effects.topology_changed |= matches!(command, log::Command::ChangeTopology(_));
            outcomes.push(applied.outcome);
            turn.took(match command {
                log::Command::Append(append) => append.messages.len(),
                _ => 1,
            })
            .await;
        }
        group.store_in(row);
        Ok(Outcomes(outcomes))
    }
}

/// The entries that go into one write with the first: those that are there already, as far as they fit.
fn one_write(
    first: EntryResponder<TypeConfig>,
    entries: &mut (impl Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin),
) -> io::Result<Vec<EntryResponder<TypeConfig>>> {
    let mut bytes = entry_bytes(&first.0);
    let mut chunk = vec![first];
    while chunk.len() < ENTRIES_PER_WRITE_MAX
        && bytes < BYTES_PER_WRITE
        && let Some(Some(next)) = entries.next().now_or_never()
    {
        let next = next?;
        bytes += entry_bytes(&next.0);
        chunk.push(next);
    }
    Ok(chunk)
}

/// What others are told once a write is done.
#[derive(Default)]
struct Effects {
    grown: BTreeMap<ConversationId, Growth>,
    topology_changed: bool,
}

impl Effects {
    fn note_growth(&mut self, applied: &log::Applied) {
        if let (Some((conversation, tail)), log::Outcome::Appended(appended)) =
            (applied.tail_moved, &applied.outcome)
        {
            let from = appended.first_seq;
            let growth = Growth { from, tail, stored: Vec::new() };
            self.grown.entry(conversation).or_insert(growth).tail = tail;
        }
    }

    /// Takes the messages that somebody waits for out of what is about to be written.
    fn keep_live(&mut self, overlay: &Overlay<'_>, tails: &Tails) {
        for (conversation, growth) in &mut self.grown {
            if tails.is_watched(*conversation) {
                let stored = (growth.from.0..growth.tail.0).map_while(|seq| {
                    let key = keys::message(*conversation, Seq(seq));
                    // A copy, of just its length: the buffer that it was encoded into is larger.
                    overlay.change(Table::Messages, &key).map(Bytes::copy_from_slice)
                });
                growth.stored = stored.collect();
            }
        }
    }

    fn announce(self, applied: &Applied) {
        for (conversation, growth) in self.grown {
            applied.tails.publish(conversation, &growth);
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
        let mut entries = entries.fuse();
        let mut turn = std::mem::take(&mut self.turn);
        while let Some(first) = entries.next().await {
            let chunk = one_write(first?, &mut entries)?;
            let _leave = self.applied.leave_to_change().await?;
            self.apply_chunk(chunk, &mut turn).await?;
        }
        self.turn = turn;
        Ok(())
    }

    /// openraft itself never forces one: a forced one is made of what is applied now, any other of what is durable.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        Some(SnapshotBuilder { source: self.source.clone(), of_now: force })
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { source: self.source.clone(), of_now: true }
    }

    /// A snapshot that was received waits in a staging area. One of another replica in this process is staged first,
    /// with the same rows that a transfer would have brought.
    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let staged = match snapshot {
            SnapshotData::Received(staged) => *staged,
            SnapshotData::Durable(source) if Arc::ptr_eq(source.applied(), &self.applied) => {
                return Ok(()); // The state that is already here.
            }
            SnapshotData::Durable(source) => {
                let (group, engine) = (self.applied.group, self.applied.engine.clone());
                let staging = move || source.stage_into(group, engine);
                offload(&self.applied, staging).await?.map_err(io::Error::other)?
            }
        };
        check_position(meta, staged.row())?;
        let applied = self.applied.clone();
        let leave = self.applied.leave_to_change().await?;
        let installed = offload(&self.applied, move || {
            // With the work, which goes on if nobody waits for it any longer.
            let _leave = leave;
            let (engine, replica) = (applied.engine.as_ref(), applied.replica());
            let installed = install::install(engine, applied.group, replica, staged);
            installed.inspect_err(|error| engine.note_failure(error))
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
        Ok(durable_snapshot(&self.source))
    }
}

type RaftSnapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    /// Answers from the durable mark; where it is asked to, or nothing is durable yet, makes what is applied durable
    /// first.
    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        if let Some(snapshot) = durable_snapshot(&self.source).filter(|_| !self.of_now) {
            return Ok(snapshot);
        }
        let applied = self.source.applied();
        let mark = applied.live_mark();
        let engine = applied.engine.clone();
        offload(applied, move || engine.flush()).await?.map_err(io::Error::other)?;
        applied.raise_durable(mark);
        Ok(durable_snapshot(&self.source).unwrap_or_else(|| RaftSnapshot {
            meta: RaftSnapshotMeta::default(),
            snapshot: SnapshotData::Durable(self.source.clone()),
        }))
    }
}

/// What openraft may rely on: the state at the durable mark.
fn durable_snapshot(source: &SnapshotSource) -> Option<RaftSnapshot> {
    let mark = source.applied().durable();
    let log_id = mark.applied?;
    let meta = RaftSnapshotMeta {
        last_log_id: Some(to_raft_log_id(&log_id)),
        last_membership: to_stored_membership(&mark.membership),
    };
    Some(RaftSnapshot { meta, snapshot: SnapshotData::Durable(source.clone()) })
}

/// openraft goes on behind the entry that it was told of. Rows that are newer would have the entries between applied
/// to them twice, so such a snapshot is refused.
fn check_position(meta: &RaftSnapshotMeta, row: &GroupRow) -> io::Result<()> {
    let found = row.applied.as_ref().map(to_raft_log_id);
    if found == meta.last_log_id {
        return Ok(());
    }
    let place = |id: Option<RaftLogId>| id.map_or("nothing".to_owned(), |id| id.to_string());
    Err(io::Error::other(format!(
        "a snapshot has applied {}, and was announced as having applied {}",
        place(found),
        place(meta.last_log_id)
    )))
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
