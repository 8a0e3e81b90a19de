//! One group's replica on this node, as the floors above see it.

use std::future::Future;
use std::sync::{Arc, Mutex};

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::admission::Admission;
use super::config::RaftTiming;
use super::leadership::Voters;
use super::log_needs::LogNeeds;
use super::log_store::GroupLog;
use super::network::{GroupNetwork, RaftTransport};
use super::parking::Parking;
use super::proposer::Proposer;
use super::raft_types::{Raft, RaftVote};
use super::read_index::{ReadIndex, RemoteReadIndex};
use super::snapshot_source::SnapshotSource;
use super::state_machine::{Applied, GroupStateMachine};
use super::weighing::Weighed;
use super::{ConsensusObserver, GroupStatus, ProposeError, ReadError, Tails, observer};
use crate::log::{Command, Outcome};
use crate::storage::records::GroupRow;
use crate::storage::{View, offload};
use crate::types::{Clock, GroupId, HashRange, LogIndex, NodeId, ReplicaId, Term};

/// What a linearizable read waits for.
#[derive(Debug, Clone, Copy)]
pub struct Barrier {
    /// The replica has applied at least this.
    pub index: LogIndex,
    /// `Clock::elapsed_us` when the confirmation began: the read is no older.
    pub confirmed_from_us: u64,
}

/// What a replica is started with.
pub struct GroupParts {
    /// Which group.
    pub id: GroupId,
    /// Its log.
    pub log: GroupLog,
    /// Its applied state.
    pub applied: Arc<Applied>,
    /// Raft's clocks.
    pub timing: RaftTiming,
    /// Its way to other replicas.
    pub transport: Arc<dyn RaftTransport>,
    /// Its way to another leader's read index.
    pub remote: Arc<dyn RemoteReadIndex>,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// Whether the node takes appends.
    pub admission: Arc<Admission>,
    /// Whoever counts.
    pub observer: Arc<dyn ConsensusObserver>,
}

/// One group's replica on this node.
pub struct Group {
    id: GroupId,
    replica: ReplicaId,
    raft: Raft,
    log: GroupLog,
    needs: LogNeeds,
    applied: Arc<Applied>,
    source: SnapshotSource,
    proposer: Proposer,
    read_index: ReadIndex,
    last_barrier: Mutex<Option<Barrier>>,
    admission: Arc<Admission>,
    pub(super) weighed: Arc<Weighed>,
    /// The newest snapshot transfer to this replica.
    incoming: watch::Sender<u64>,
    /// Held across each change of membership that this replica makes, with what it looks at first.
    pub(super) changing: tokio::sync::Mutex<()>,
    transport: Arc<dyn RaftTransport>,
    timing: RaftTiming,
    parking: Parking,
    observer: Arc<dyn ConsensusObserver>,
}

impl Group {
    /// Starts a replica on its recovered or blank data.
    pub async fn start(parts: GroupParts) -> Result<Arc<Group>, ProposeError> {
        let GroupParts { id, log, applied, timing, transport, remote, clock, admission, observer } =
            parts;
        let replica = applied.replica();
        let source = SnapshotSource::new(id, applied.clone());
        let voters = Voters::new(transport.clone(), id, replica, timing);
        let needs = LogNeeds::default();
        let network = GroupNetwork::new(transport.clone(), id, replica, needs.clone());
        let config = super::config::raft_config(id, &timing);
        let machine = GroupStateMachine::new(source.clone());
        let raft = Raft::new(replica, config, network, log.clone(), machine)
            .await
            .map_err(|error| ProposeError::Stopped { reason: error.to_string() })?;
        needs.look_at(&raft);
        let parking = Parking::new(raft.clone(), timing);
        let weighed = Arc::new(Weighed::new(clock.clone()));
        Ok(Arc::new(Group {
            id,
            replica,
            proposer: Proposer::start(
                raft.clone(),
                weighed.clone(),
                admission.clone(),
                parking.clone(),
                observer.clone(),
                &timing,
            ),
            read_index: ReadIndex::start(id, raft.clone(), voters, clock, remote, parking.clone()),
            last_barrier: Mutex::new(None),
            changing: tokio::sync::Mutex::default(),
            transport,
            timing,
            parking,
            raft,
            log,
            needs,
            applied,
            source,
            admission,
            weighed,
            incoming: watch::Sender::new(0),
            observer,
        }))
    }

    /// The voters, to be asked by this replica.
    pub(super) fn voters(&self) -> Voters {
        Voters::new(self.transport.clone(), self.id, self.replica, self.timing)
    }

    /// Raft's clocks.
    pub(super) fn timing(&self) -> &RaftTiming {
        &self.timing
    }

    /// Whether this replica ticks.
    pub fn parking(&self) -> &Parking {
        &self.parking
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Which replica.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// openraft's handle, for the transport and membership changes.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// What can send this replica's state.
    pub fn snapshot_source(&self) -> &SnapshotSource {
        &self.source
    }

    /// Notes that a snapshot transfer to this replica begins, and returns what ends once a newer one has begun.
    pub fn take_in(&self, transfer: u64) -> impl Future<Output = ()> + use<> {
        let mut newest = self.incoming.subscribe();
        self.incoming.send_if_modified(|newest| {
            let newer = transfer > *newest;
            *newest = transfer.max(*newest);
            newer
        });
        async move {
            // An error means that the replica is gone: its transfers are over too.
            let _ = newest.wait_for(|newest| *newest != transfer).await;
        }
    }

    /// The vote that this replica has given, if it stands in the way of `vote`: whoever sends with an older one does
    /// not lead any more.
    pub fn newer_vote(&self, vote: &RaftVote) -> Option<RaftVote> {
        let own = self.raft.server_metrics().borrow_watched().vote;
        (own > *vote).then_some(own)
    }

    /// The log, for the flush coordinator.
    pub fn log(&self) -> &GroupLog {
        &self.log
    }

    /// From where on somebody may need the log.
    pub fn log_needs(&self) -> &LogNeeds {
        &self.needs
    }

    /// The applied state and its marks.
    pub fn applied(&self) -> &Arc<Applied> {
        &self.applied
    }

    /// Whether the node takes entries and appends.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// What the group holds, as applied here; none until its first command.
    pub fn range(&self) -> Option<HashRange> {
        self.applied.range()
    }

    /// The group's row, as applied here.
    pub fn row(&self) -> GroupRow {
        self.applied.row()
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader_and_term().0
    }

    /// The same, and the term of which it holds.
    pub fn leader_and_term(&self) -> (Option<NodeId>, Term) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader.map(|replica| replica.node);
        (leader, Term(metrics.vote.leader_id.term))
    }

    /// Tells of each change of who leads, until the replica stops.
    pub(super) fn watch_leader<F: Fn(Option<ReplicaId>)>(
        &self,
        changed: F,
    ) -> impl Future<Output = ()> + use<F> {
        let (group, mut metrics) = (self.id, self.raft.server_metrics());
        async move {
            let mut known = None;
            while metrics.changed().await.is_ok() {
                let (leader, term) = {
                    let metrics = metrics.borrow_watched();
                    (metrics.current_leader, metrics.vote.leader_id.term)
                };
                if std::mem::replace(&mut known, leader) != leader {
                    match leader {
                        Some(leader) => tracing::info!(%group, %leader, term, "a leader is known"),
                        None => tracing::info!(%group, term, "no leader is known"),
                    }
                    changed(leader);
                }
            }
        }
    }

    /// Whether this replica believes that it leads.
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// Proposes a command and waits for its outcome. A dropped call may still take effect.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, ProposeError> {
        let proposal = observer::Proposal::begin(self.observer.as_ref());
        let answer = self.propose_unobserved(command, deadline).await;
        proposal.answered(&answer);
        answer
    }

    async fn propose_unobserved(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        let known = self.weighed.known();
        let disk_low = known.needs_low_disk || !self.admission.takes_appends();
        if matches!(command, Command::Append(_) | Command::Settle(_)) && disk_low {
            return Err(ProposeError::DiskLow);
        }
        if !known.may_stamp(&command) {
            return Err(ProposeError::ClockUntrusted);
        }
        self.proposer.propose(command, deadline).await
    }

    /// Proposals that wait for a place in an entry.
    pub fn proposals_waiting(&self) -> usize {
        self.proposer.waiting()
    }

    /// Confirms with a quorum that the local state, once this returns, holds all that was committed before the
    /// call. One confirmation serves all calls that wait for it. On a follower the leader is asked. Cancel safe.
    pub async fn barrier(&self, deadline: Instant) -> Result<Barrier, ReadError> {
        let barrier = timeout_at(deadline, self.read_index.confirm())
            .await
            .map_err(|_| ReadError::NoQuorum { reason: "the deadline passed".into() })??;
        self.wait_applied(barrier.index, deadline).await?;
        let mut last = self.last_barrier.lock().expect("no panic while locked");
        if last.is_none_or(|last| last.confirmed_from_us < barrier.confirmed_from_us) {
            *last = Some(barrier);
        }
        Ok(barrier)
    }

    /// The index a follower's read has to wait for, confirmed by this leader.
    pub async fn confirm_read_index(&self) -> Result<LogIndex, ReadError> {
        if !self.is_leader() {
            return Err(ReadError::NoQuorum { reason: "this replica does not lead".into() });
        }
        self.read_index.confirm().await.map(|barrier| barrier.index)
    }

    /// Waits until this replica has applied an index. Cancel safe.
    pub async fn wait_applied(&self, index: LogIndex, deadline: Instant) -> Result<(), ReadError> {
        match timeout_at(deadline, self.applied.wait_for(index)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ReadError::Stopped { reason: "the replica stopped".into() }),
            Err(_) => Err(ReadError::Expired),
        }
    }

    /// The newest confirmation whose index this replica has applied, if there was one.
    pub fn last_barrier(&self) -> Option<Barrier> {
        *self.last_barrier.lock().expect("no panic while locked")
    }

    /// The applied state. Reads through it are of whatever has been applied when they are made; pin for more.
    pub fn state(&self) -> Arc<dyn View> {
        self.applied.engine().clone()
    }

    /// The applied state now, held for several reads.
    pub fn pin(&self) -> Arc<dyn View> {
        self.applied.engine().pin()
    }

    /// Runs a job that reads from disk where it blocks nobody.
    pub async fn offload<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        offload(self.applied.engine(), |_| job()).await
    }

    /// The applied index; 0 before anything was applied.
    pub fn applied_index(&self) -> LogIndex {
        self.applied.watch_index().borrow().unwrap_or_default()
    }

    /// Tails of conversations as they move on this replica.
    pub fn tails(&self) -> &Tails {
        self.applied.tails()
    }

    /// How it is.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let problem = match &metrics.running_state {
            Ok(()) => String::new(),
            Err(fatal) => fatal.to_string(),
        };
        let role = match metrics.state {
            _ if !problem.is_empty() => "stopped",
            ServerState::Leader => "leader",
            ServerState::Follower => "follower",
            ServerState::Candidate => "candidate",
            ServerState::Learner => "learner",
            ServerState::Shutdown => "stopped",
        };
        GroupStatus {
            group: self.id,
            replica: self.replica,
            role,
            is_parked: self.parking.is_parked(),
            receives_snapshot: self.incoming.receiver_count() > 0,
            term: Term(metrics.current_term),
            last_index: metrics.last_log_index.map(LogIndex),
            applied_index: self.applied.row().applied.map(|id| id.index),
            durable_index: self.applied.durable().applied.map(|id| id.index),
            purged_index: metrics.purged.map(|id| LogIndex(id.index)),
            leader: metrics.current_leader.map(|replica| replica.node),
            problem,
        }
    }

    /// Stops the replica: nothing is proposed, voted or applied afterwards.
    pub async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.id, %error, "a replica did not stop in good order");
        }
        // openraft leaves its state machine to itself, with all that waits there.
        self.applied.close().await;
    }
}
