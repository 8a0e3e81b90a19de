//! The replicas of this node, and which group a conversation is in.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};

use super::admission::Admission;
use super::config::RaftTiming;
use super::group::GroupParts;
use super::log_store::{GroupLog, NodeLog};
use super::network::{self, RaftTransport};
use super::parking::Footing;
use super::read_index::RemoteReadIndex;
use super::state_machine::Applied;
use super::tails::LiveMessages;
use super::{ConsensusObserver, Group, GroupStatus};
use crate::log::{Topology, TopologyGroup, read_topology};
use crate::seams::{crash, planted};
use crate::storage::records::{GroupRow, Record};
use crate::storage::{
    Batch, Done, Durability, Engine, GroupRecovery, LogWrite, Storage, StorageError, Table,
    install, keys,
};
use crate::types::{Clock, ConversationId, GroupId, NodeId, ReplicaId, Term, limits};

/// Where a conversation is.
#[derive(Clone)]
pub struct Route {
    /// Its group.
    pub group: GroupId,
    /// This node's replica, if it has one that serves.
    pub local: Option<Arc<Group>>,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Nodes with a replica, the preferred leader first.
    pub nodes: Vec<NodeId>,
}

/// Why a replica could not be started or made.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The data of this replica cannot be trusted.
    #[error("replica of group {group} is damaged: {reason}")]
    Damaged {
        /// Which group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// Another incarnation than the one asked for stands here.
    #[error("group {group} has replica {found} here, newer than {asked}")]
    Newer {
        /// Which group.
        group: GroupId,
        /// The replica here.
        found: ReplicaId,
        /// The replica asked for.
        asked: ReplicaId,
    },
    /// The storage failed.
    #[error("storage")]
    Storage(#[from] StorageError),
    /// openraft did not start.
    #[error("replica of group {group} did not start: {reason}")]
    NotStarted {
        /// Which group.
        group: GroupId,
        /// Why.
        reason: String,
    },
}

/// What all replicas of the node share.
pub struct NodeParts {
    /// This node.
    pub node: NodeId,
    /// Raft's clocks.
    pub timing: RaftTiming,
    /// The way to other replicas.
    pub transport: Arc<dyn RaftTransport>,
    /// The way to another leader's read index.
    pub remote: Arc<dyn RemoteReadIndex>,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// Whether the node takes appends.
    pub admission: Arc<Admission>,
    /// Whoever counts.
    pub observer: Arc<dyn ConsensusObserver>,
}

/// Why a replica that is wanted here does not serve.
#[derive(Clone)]
struct Problem {
    replica: ReplicaId,
    /// `damaged` or `missing`.
    role: &'static str,
    reason: String,
}

/// The replicas of this node.
pub struct Replicas {
    /// Where they run, whoever has them made.
    runtime: Handle,
    parts: NodeParts,
    log: NodeLog,
    state: Arc<dyn Engine>,
    groups: RwLock<BTreeMap<GroupId, Arc<Group>>>,
    /// Replicas that stand here and do not serve, and why.
    problems: Mutex<BTreeMap<GroupId, Problem>>,
    /// One replica is made or removed at a time.
    making: tokio::sync::Mutex<()>,
    topology: watch::Sender<Option<Arc<Topology>>>,
    /// Sent to whenever a replica here sees another leader.
    leaders: watch::Sender<()>,
    /// What all replicas keep for those who follow.
    live: LiveMessages,
    /// Snapshots that were begun to be received.
    transfers: AtomicU64,
    snapshot_places: Semaphore,
}

impl Replicas {
    /// Starts every replica that stands on this node, on the runtime of the caller. A damaged one is noted and does not
    /// start; the others serve.
    pub async fn open(parts: NodeParts, storage: &Storage) -> Result<Arc<Replicas>, ReplicaError> {
        let replicas = Arc::new(Replicas {
            runtime: Handle::current(),
            parts,
            log: NodeLog::new(storage.log.clone(), storage.writer.clone()),
            state: storage.state.clone(),
            groups: RwLock::default(),
            problems: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            topology: watch::Sender::new(None),
            leaders: watch::Sender::new(()),
            live: LiveMessages::default(),
            transfers: AtomicU64::new(0),
            snapshot_places: Semaphore::new(limits::SNAPSHOTS_AT_ONCE),
        });
        replicas.refresh_topology()?;
        for (id, recovery) in &storage.groups {
            replicas.open_one(*id, recovery).await?;
        }
        Ok(replicas)
    }

    async fn open_one(&self, id: GroupId, recovery: &GroupRecovery) -> Result<(), ReplicaError> {
        let Some(mut row) = self.stored_row(id)? else {
            tracing::warn!(group = %id, "a log without a replica is left alone");
            return Ok(());
        };
        let replica = row.replica;
        let recovered = match recovery {
            GroupRecovery::Healthy(state) => state,
            GroupRecovery::Damaged { reason } => {
                tracing::error!(group = %id, reason, "a replica is damaged and does not serve");
                self.note_damaged(id, replica, reason.clone());
                return Ok(());
            }
        };
        if planted::purge_before_flush() {
            row.applied = row.applied.max(recovered.purged);
        }
        let log = GroupLog::new(id, self.log.clone(), Some(recovered));
        let applied = Arc::new(Applied::open(id, self.state.clone(), row, self.live.clone()));
        match self.start(id, log, applied).await {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::error!(group = %id, %error, "a replica did not start");
                self.note_damaged(id, replica, error.to_string());
                Ok(())
            }
        }
    }

    /// Makes a blank replica, or returns the one that stands. The caller vouches that this replica id has never
    /// voted or acknowledged: it comes from the topology while the replica is being created or joining. Cancel safe: what
    /// has begun goes on.
    pub async fn make(
        self: &Arc<Self>,
        id: GroupId,
        replica: ReplicaId,
    ) -> Result<Arc<Group>, ReplicaError> {
        let replicas = self.clone();
        let making =
            self.runtime.spawn(async move { replicas.make_uncancelled(id, replica).await });
        making.await.unwrap_or_else(|ended| {
            Err(ReplicaError::NotStarted { group: id, reason: ended.to_string() })
        })
    }

    async fn make_uncancelled(
        &self,
        id: GroupId,
        replica: ReplicaId,
    ) -> Result<Arc<Group>, ReplicaError> {
        let _one_at_a_time = self.making.lock().await;
        if let Some(row) = self.stored_row(id)? {
            if row.replica > replica {
                return Err(ReplicaError::Newer { group: id, found: row.replica, asked: replica });
            }
            if row.replica == replica {
                return self.get(id).ok_or_else(|| ReplicaError::Damaged {
                    group: id,
                    reason: self.problem_of(id).unwrap_or_default(),
                });
            }
            self.clear_state(id).await?;
            crash::replica_state_removed();
        }
        // Also without a row: a crash may have come between the two.
        self.clear_log(id).await?;
        crash::replica_log_removed();
        let row = GroupRow::blank(replica);
        let (engine, stored) = (self.state.clone(), row.clone());
        self.durably(move || write_row(engine.as_ref(), id, &stored)).await?;
        let log = GroupLog::new(id, self.log.clone(), None);
        let applied = Arc::new(Applied::open(id, self.state.clone(), row, self.live.clone()));
        let group = self.start(id, log, applied).await?;
        self.problems.lock().expect("no panic while locked").remove(&id);
        Ok(group)
    }

    /// Removes what an older incarnation had applied, and its row, without which nothing starts here. Only then goes
    /// the log: an old row beside an empty log would be a voter that has forgotten its votes.
    async fn clear_state(&self, id: GroupId) -> Result<(), ReplicaError> {
        let old = self.groups.write().expect("no panic while locked").remove(&id);
        if let Some(group) = old {
            group.stop().await;
        }
        // Not before: until then it may have applied what gives it its range, and rows within.
        let range = self.stored_row(id)?.and_then(|row| row.range);
        let engine = self.state.clone();
        self.durably(move || install::remove(engine.as_ref(), id, range)).await
    }

    async fn clear_log(&self, id: GroupId) -> Result<(), ReplicaError> {
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |result| drop(sender.send(result)));
        self.log.writer().submit(LogWrite::RemoveGroup { group: id, done }).await;
        let result = receiver.await.unwrap_or_else(|_| {
            Err(StorageError::Failed {
                action: "removing a log",
                reason: "the log writer has stopped".into(),
            })
        });
        Ok(result?)
    }

    async fn durably(
        &self,
        change: impl FnOnce() -> Result<(), StorageError> + Send + 'static,
    ) -> Result<(), ReplicaError> {
        let (sender, receiver) = oneshot::channel();
        self.state.offload(Box::new(move || drop(sender.send(change()))));
        let result = receiver.await.unwrap_or_else(|_| {
            Err(StorageError::Failed {
                action: "changing a replica's state",
                reason: "the change was abandoned".into(),
            })
        });
        Ok(result?)
    }

    async fn start(
        &self,
        id: GroupId,
        log: GroupLog,
        applied: Arc<Applied>,
    ) -> Result<Arc<Group>, ReplicaError> {
        let parts = GroupParts {
            id,
            log,
            applied,
            timing: self.parts.timing,
            transport: self.parts.transport.clone(),
            remote: self.parts.remote.clone(),
            clock: self.parts.clock.clone(),
            admission: self.parts.admission.clone(),
            observer: self.parts.observer.clone(),
        };
        let group = Group::start(parts)
            .await
            .map_err(|error| ReplicaError::NotStarted { group: id, reason: error.to_string() })?;
        self.groups.write().expect("no panic while locked").insert(id, group.clone());
        let (leaders, observer) = (self.leaders.clone(), self.parts.observer.clone());
        tokio::spawn(group.watch_leader(move |leader| {
            if leader.is_some() {
                observer.leader_changed();
            }
            leaders.send_replace(());
        }));
        Ok(group)
    }

    /// Reads the topology as the local replica of the meta group has applied it and announces it if it is new.
    pub fn refresh_topology(&self) -> Result<(), StorageError> {
        let stored = read_topology(self.state.as_ref());
        if let Some(stored) = stored.inspect_err(|error| self.state.note_damage(error))? {
            self.learn_topology(stored);
        }
        Ok(())
    }

    /// Announces a topology if it is new.
    pub fn learn_topology(&self, topology: Topology) {
        self.topology.send_if_modified(|current| {
            let is_newer = current.as_ref().is_none_or(|known| topology.version > known.version);
            if is_newer {
                *current = Some(Arc::new(topology));
            }
            is_newer
        });
    }

    fn stored_row(&self, id: GroupId) -> Result<Option<GroupRow>, StorageError> {
        let key = keys::group(id);
        let stored = self.state.get(Table::Groups, &key)?;
        let row = stored.map(|value| GroupRow::decode(&key, &value)).transpose();
        row.inspect_err(|error| self.state.note_damage(error))
    }

    /// Whether the node has state of a replica of this group, sound or not.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn has_stored(&self, id: GroupId) -> Result<bool, StorageError> {
        self.stored_row(id).map(|row| row.is_some())
    }

    /// Notes that a replica which the topology wants does not stand here, and is not to be made by this node alone: its
    /// data was lost, or somebody has begun to replace it. It may have voted.
    pub fn note_missing(&self, id: GroupId, replica: ReplicaId) {
        // Held across the look at the groups: a replica that is being made is among them before its problem goes.
        let mut problems = self.problems.lock().expect("no panic while locked");
        // Whoever says so may have an older topology, and a newer replica may have been made meanwhile.
        let stands = self.get(id).is_some_and(|standing| standing.replica() >= replica);
        if !stands && !problems.contains_key(&id) {
            let reason = "its data is not here; run `quorate node replace` for this node";
            tracing::error!(group = %id, %replica, "a replica is missing");
            problems.insert(id, Problem { replica, role: "missing", reason: reason.to_owned() });
        }
    }

    fn note_damaged(&self, id: GroupId, replica: ReplicaId, reason: String) {
        self.note_problem(id, Problem { replica, role: "damaged", reason });
    }

    fn note_problem(&self, id: GroupId, problem: Problem) {
        self.problems.lock().expect("no panic while locked").insert(id, problem);
    }

    fn problem_of(&self, id: GroupId) -> Option<String> {
        let problems = self.problems.lock().expect("no panic while locked");
        problems.get(&id).map(|problem| problem.reason.clone())
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.parts.node
    }

    /// What the node takes on.
    pub fn admission(&self) -> &Admission {
        &self.parts.admission
    }

    /// The database of applied state.
    pub fn state_engine(&self) -> &Arc<dyn Engine> {
        &self.state
    }

    /// Places of snapshots that are taken in.
    pub fn snapshot_places(&self) -> &Semaphore {
        &self.snapshot_places
    }

    /// A number for a snapshot that is about to be received: no other transfer of this process has it.
    pub fn next_transfer(&self) -> u64 {
        self.transfers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The topology; none before the cluster is initialized.
    pub fn topology(&self) -> watch::Receiver<Option<Arc<Topology>>> {
        self.topology.subscribe()
    }

    /// Changes whenever a replica here sees another leader.
    pub fn leaders(&self) -> watch::Receiver<()> {
        self.leaders.subscribe()
    }

    /// A group's replica here.
    pub fn get(&self, group: GroupId) -> Option<Arc<Group>> {
        self.groups.read().expect("no panic while locked").get(&group).cloned()
    }

    /// All replicas here that were started, the meta group's included, in order of id.
    pub fn all(&self) -> Vec<Arc<Group>> {
        self.groups.read().expect("no panic while locked").values().cloned().collect()
    }

    /// The node of a group's leader says on what it rests. Whether the replica that is meant does.
    pub fn told(&self, route: network::Route, footing: Footing) -> bool {
        let meant = self.get(route.group).filter(|group| group.replica() == route.to);
        meant.is_some_and(|group| group.told(footing))
    }

    /// The way to other replicas.
    pub(super) fn transport(&self) -> &dyn RaftTransport {
        self.parts.transport.as_ref()
    }

    /// Raft's clocks.
    pub(super) fn timing(&self) -> &RaftTiming {
        &self.parts.timing
    }

    /// This node's replica of a group of the topology, if it can be asked: one that was just made knows nothing yet, and
    /// one that was taken out may never learn more.
    pub fn serving(&self, group: &TopologyGroup) -> Option<Arc<Group>> {
        let own = group.replicas.iter().find(|replica| replica.node == self.node());
        let own = own.map(|own| ReplicaId { node: own.node, incarnation: own.incarnation });
        let serves = |local: &Arc<Group>| local.range().is_some() && local.takes_part(own);
        self.get(group.id).filter(serves)
    }

    /// How every replica here is, those that do not serve included.
    pub fn statuses(&self) -> Vec<GroupStatus> {
        let mut statuses: Vec<_> = self.all().iter().map(|group| group.status()).collect();
        for (id, problem) in &*self.problems.lock().expect("no panic while locked") {
            statuses.push(GroupStatus {
                group: *id,
                replica: problem.replica,
                role: problem.role,
                is_parked: false,
                receives_snapshot: false,
                term: Term(0),
                last_index: None,
                applied_index: None,
                durable_index: None,
                purged_index: None,
                leader: None,
                problem: problem.reason.clone(),
            });
        }
        statuses.sort_by_key(|status| status.group);
        statuses
    }

    /// Where a conversation is; none before the cluster is initialized or while its group is being created.
    pub fn route(&self, conversation: ConversationId) -> Option<Route> {
        let topology = self.topology.borrow().clone()?;
        Some(self.route_to(active_group(&topology, conversation)?))
    }

    /// Where the conversations of a group of the topology are.
    pub fn route_to(&self, group: &TopologyGroup) -> Route {
        let local = self.serving(group);
        Route {
            group: group.id,
            leader: local.as_ref().and_then(|local| local.leader()),
            local,
            nodes: group.made_on().collect(),
        }
    }
}

/// The group that holds a conversation, unless it is still being created.
pub fn active_group(topology: &Topology, conversation: ConversationId) -> Option<&TopologyGroup> {
    let hash = conversation.placement();
    let at = topology.groups.partition_point(|group| group.range.start <= hash);
    let group = topology.groups.get(at.checked_sub(1)?)?;
    (group.range.contains(hash) && group.active).then_some(group)
}

fn write_row(engine: &dyn Engine, id: GroupId, row: &GroupRow) -> Result<(), StorageError> {
    let key = keys::group(id);
    let value = row.encode(&key);
    let mut batch = Batch::default();
    batch.put(Table::Groups, key, value);
    engine.write(batch, Durability::Flushed)?;
    engine.flush()
}
