//! What a replica's node has last seen of the voters' clocks and disks, and what follows from it: whether the replica may
//! go on leading, which times it may stamp, and where it hands leadership.
//!
//! Guarantees at stake: G4 and the truth of commit times. A verdict on a clock is of the past: whoever sets the clock
//! after the others were asked would have a time stamped that nobody has compared, and a dedup floor never goes back. So
//! a verdict is kept with the clock as it was then, and holds for as long as nobody has set it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::async_runtime::WatchReceiver;

use super::Group;
use super::fitness::{ClockReading, Fitness, Sighting};
use crate::storage::DiskMark;
use crate::types::{Clock, NodeId, ReplicaId, Timestamp};

/// After how many rounds without an answer of most voters a quorum is missed: one is soon lost on a busy machine.
const LACKS_QUORUM_AFTER: u32 = 3;

/// A replica as weighed last.
pub(super) struct Weighed {
    clock: Arc<dyn Clock>,
    last: Mutex<Weighing>,
}

#[derive(Default)]
struct Weighing {
    /// Whoever leads: it may be this replica by now.
    known: Fitness,
    /// The same if it led then; else nothing is held against it.
    fitness: Fitness,
    /// Where leadership could be moved to.
    fit: Vec<NodeId>,
    /// Where nothing is taken from leaders any more.
    full: Vec<NodeId>,
    /// How many times in a row too few of the voters' nodes answered to elect or follow a leader.
    minorities: u32,
    /// The clock, before the others were asked; none before the first time.
    read: Option<ClockReading>,
}

impl Weighed {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Weighed { clock, last: Mutex::default() }
    }

    fn last(&self) -> MutexGuard<'_, Weighing> {
        self.last.lock().expect("no panic while locked")
    }

    /// The time to be stamped on an entry, and what is known of the clock that shows it; none if it was set since it was
    /// compared with the others'.
    pub(super) fn stamp(&self) -> Option<(Timestamp, Fitness)> {
        let (read, known) = {
            let last = self.last();
            (last.read, last.known)
        };
        let now = ClockReading::of(self.clock.as_ref());
        (!read.is_some_and(|read| read.is_set_in(now))).then_some((now.wall, known))
    }

    /// What is known of this replica, whether it led when it was weighed or not: whoever is elected then may have been
    /// known to be unfit.
    pub(super) fn known(&self) -> Fitness {
        self.last().known
    }

    /// What time it is by the clock as it was compared, if a majority's agreed with it.
    fn agreed_now(&self) -> Option<Timestamp> {
        let (known, read) = {
            let last = self.last();
            (last.known, last.read)
        };
        read.filter(|_| known.clocks_agree).map(|read| read.at(self.clock.elapsed_us()))
    }
}

impl Group {
    /// Weighs anew whether this replica may go on leading, by what its node knows of the voters' nodes and of itself, and
    /// by its clock as it was `read` before it asked. A replica that does not lead has nothing held against it until it does.
    pub fn weigh(&self, seen: &BTreeMap<NodeId, Sighting>, read: ClockReading) -> Fitness {
        let voters = self.voters_seen(seen);
        let each = voters.iter().map(|voters| Fitness::of(voters));
        let known = each.reduce(Fitness::and).unwrap_or_default();
        let fitness = if self.is_leader() { known } else { Fitness::default() };
        let nodes = |is_so: fn(&Sighting) -> bool| {
            let such = seen.iter().filter(|(_, sighting)| is_so(sighting));
            such.map(|(node, _)| *node).collect()
        };
        let fit = nodes(Sighting::is_fit);
        let full = nodes(|sighting| sighting.disk == DiskMark::Hard);
        let is_minority = |voters: &Vec<_>| {
            !voters.is_empty() && voters.iter().flatten().count() <= voters.len() / 2
        };
        let mut last = self.weighed.last();
        let minorities = if voters.iter().any(is_minority) { last.minorities + 1 } else { 0 };
        *last = Weighing { known, fitness, fit, full, minorities, read: Some(read) };
        fitness
    }

    /// What was seen of the voters' nodes, in each configuration.
    fn voters_seen(&self, seen: &BTreeMap<NodeId, Sighting>) -> Vec<Vec<Option<Sighting>>> {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        let configs = metrics.membership_config.membership().get_joint_config().iter();
        let of = |id: &ReplicaId| seen.get(&id.node).copied();
        configs.map(|voters| voters.iter().map(of).collect()).collect()
    }

    /// As weighed last, if it led then.
    pub fn fitness(&self) -> Fitness {
        self.weighed.last().fitness
    }

    /// Whether this replica's node has seen another lately, with a clock that is not far from its own and room on its disk:
    /// only there is leadership moved by plan.
    pub fn has_seen_fit(&self, node: NodeId) -> bool {
        self.weighed.last().fit.contains(&node)
    }

    /// Whether this replica's node has seen another lately that takes no entries, for it has no room.
    pub(super) fn has_seen_full(&self, node: NodeId) -> bool {
        self.weighed.last().full.contains(&node)
    }

    /// What time it is, if a majority's clocks agreed with this leader's when they were compared, whatever was done to its
    /// clock since then.
    pub fn agreed_now(&self) -> Option<Timestamp> {
        self.weighed.agreed_now()
    }

    /// Whether too few of the voters' nodes have answered this one for some time, whatever leader is known.
    pub fn lacks_quorum(&self) -> bool {
        self.weighed.last().minorities >= LACKS_QUORUM_AFTER
    }

    /// Hands leadership to a voter that should have it in place of this replica, as weighed last, if there is one that
    /// answers: if the clock here is off, to one whose clock is far from it; if the disk here alone is low, to one that is
    /// fit.
    pub async fn give_way(&self, seen: &BTreeMap<NodeId, Sighting>) {
        let fitness = self.fitness();
        let is_full = !self.admission().takes_appends() && !fitness.needs_low_disk;
        if !self.is_leader() || !(fitness.clock_is_off || is_full) {
            return; // Nearly always, and of every group once a second.
        }
        let should_lead = |sighting: &Sighting| match fitness.clock_is_off {
            true => sighting.clock.is_far(),
            false => sighting.is_fit(),
        };
        let others = self.raft().voter_ids().filter(|voter| *voter != self.replica());
        for heir in others.filter(|voter| seen.get(&voter.node).is_some_and(should_lead)) {
            if self.transfer_leader(heir).await {
                return;
            }
        }
    }

    /// Hands leadership to a voter that was seen fit, if one answers, and returns once this replica does not lead. The
    /// groups of a node go to different ones.
    pub async fn step_down(&self) {
        if !self.is_leader() {
            return;
        }
        let is_fit = |voter: &ReplicaId| *voter != self.replica() && self.has_seen_fit(voter.node);
        let mut heirs: Vec<_> = self.raft().voter_ids().filter(is_fit).collect();
        heirs.sort_unstable();
        let first = self.id().0 as usize % heirs.len().max(1);
        heirs.rotate_left(first);
        for heir in heirs {
            if self.transfer_leader(heir).await {
                return self.succeeded().await;
            }
        }
    }

    /// Returns once another replica leads, or this one has stopped.
    async fn succeeded(&self) {
        let own = self.replica();
        let wait = self.raft().wait(None);
        let another = wait.metrics(|m| m.current_leader.is_some_and(|leader| leader != own), "led");
        if let Err(error) = another.await {
            tracing::debug!(group = %self.id(), %error, "the replica has stopped");
        }
    }
}
