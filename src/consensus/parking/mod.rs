//! Parks a group's replica and wakes it: what `rest.rs` decides, done to openraft.
//!
//! A parked leader has no lease, without which openraft appends nothing, and would keep nobody from electing another. So
//! it is roused before it does anything: it ticks again, and waits until a quorum has heard it.

mod rest;
mod rounds;
mod silence;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::raft::{StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};
use openraft::{Instant as _, ServerState};
use tokio::time::Instant;

use super::Group;
use super::config::RaftTiming;
use super::leadership::is_heard;
use super::network::Appending;
use super::raft_types::{Raft, TypeConfig};
use crate::types::ReplicaId;

use rest::Answered;
use silence::Silence;

pub use rest::{Footing, Rest};
pub use rounds::run;

/// What a leader's node tells the nodes of a group's other members.
struct AtRest {
    /// On what the group rests.
    footing: Footing,
    /// The other members.
    members: BTreeSet<ReplicaId>,
}

/// Whether a replica ticks. Shared by all that wakes it.
#[derive(Clone)]
pub struct Parking {
    raft: Raft,
    timing: RaftTiming,
    decided: Arc<Mutex<Decided>>,
}

struct Decided {
    rest: Rest,
    silence: Silence,
}

impl Parking {
    /// The replica ticks.
    pub fn new(raft: Raft, timing: RaftTiming) -> Self {
        let rest = Rest::new(timing.park_after(), timing.lease());
        let decided = Decided { rest, silence: Silence::new(&timing) };
        Parking { raft, timing, decided: Arc::new(Mutex::new(decided)) }
    }

    /// Before this replica does anything as a leader: wakes the group, if it is parked, and waits until a quorum has heard
    /// of it, for a lease at most. Whether it leads is seen later, by what it does. Cancel safe.
    pub async fn rouse(&self) {
        if !self.decide(Rest::rouse) {
            return;
        }
        if let Err(fatal) = self.raft.trigger().heartbeat().await {
            tracing::debug!(%fatal, "nobody is roused: the replica has stopped");
        }
        if let Err(reason) = is_heard(self.raft.clone(), self.timing.lease()).await {
            tracing::debug!(reason, "a parked group was roused without a quorum");
        }
        self.decide(Rest::is_heard);
    }

    /// This replica has taken something of Raft that it was sent.
    pub fn wake(&self) {
        self.decide(Rest::wake);
    }

    /// Whether it does not tick.
    pub fn is_parked(&self) -> bool {
        !self.look(Rest::is_awake)
    }

    /// Something about a replica at rest.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Rest) -> T) -> T {
        look(&self.decided.lock().expect("no panic while locked").rest)
    }

    /// A decision, and what follows of it. Held meanwhile, so that openraft is told in the same order.
    pub(super) fn decide<T>(&self, decision: impl FnOnce(&mut Rest) -> T) -> T {
        let mut decided = self.decided.lock().expect("no panic while locked");
        let (was_awake, did_lead) = (decided.rest.is_awake(), decided.rest.leads());
        let decision = decision(&mut decided.rest);
        let is_awake = decided.rest.is_awake();
        if is_awake != was_awake {
            if did_lead {
                self.let_speak(&mut decided.silence);
            }
            self.raft.runtime_config().tick(is_awake);
        }
        decision
    }

    fn let_speak(&self, silence: &mut Silence) {
        silence.wake(Instant::now());
        self.raft.runtime_config().heartbeat(true);
    }

    /// Has a leader send heartbeats, or not, by how long it has not been heard.
    fn speak_or_be_silent(&self) {
        let vote = self.raft.server_metrics().borrow_watched().vote;
        let acked = self.raft.data_metrics().borrow_watched().last_quorum_acked;
        let unheard = acked.map(|acked| acked.into_inner().elapsed());
        let mut decided = self.decided.lock().expect("no panic while locked");
        let speaks =
            !self.raft.is_leader() || decided.silence.is_over(vote, unheard, Instant::now());
        self.raft.runtime_config().heartbeat(speaks);
    }
}

impl Group {
    /// What is to be told of this group now, if this replica leads it and it rests, or could. To be called every
    /// `RaftTiming::rest_interval`.
    fn tell(&self) -> Option<AtRest> {
        let parking = self.parking();
        if parking.look(Rest::follows) {
            if !self.is_leader() {
                return None; // Most replicas of an idle node, and several times a second.
            }
            parking.wake(); // It was told to rest while it won an election.
        }
        if !parking.is_parked() {
            parking.speak_or_be_silent();
        }
        let could_rest = self.led_footing();
        let now = Instant::now();
        let footing = could_rest.as_ref().map(|at_rest| at_rest.footing);
        let told = parking.decide(|rest| rest.tell(footing, now));
        could_rest.filter(|_| told.is_some())
    }

    /// What became of what was told.
    fn answered(&self, told: &AtRest, answered: Answered) {
        let parking = self.parking();
        if parking.look(Rest::leads) && answered != Answered::Refused {
            return; // It rests on.
        }
        let footing = self.led_footing().map(|at_rest| at_rest.footing);
        let now = Instant::now();
        parking.decide(|rest| rest.answered(told.footing, answered, footing, now));
    }

    /// The node of this group's leader says that it rests on this. Whether this replica does.
    pub fn told(&self, told: Footing) -> bool {
        let own = || self.followed_footing();
        self.parking().decide(|rest| rest.told(told, own, Instant::now()))
    }

    /// Takes a stream of append requests. With each that it takes this replica wakes. Not before: where openraft has heard
    /// nothing of a leader for long, who ticks stands. The stream ends where this replica has lost what it acknowledged.
    pub fn stream_append(
        &self,
        requests: impl Stream<Item = Appending> + Send + 'static,
    ) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, Fatal<TypeConfig>>> + Send + 'static
    {
        let parking = self.parking().clone();
        let needs = self.log_needs().clone();
        let (log, applied) = (self.log().clone(), self.applied().watch_index());
        let requests = tokio_stream::StreamExt::map_while(requests, move |request| {
            let Appending { raft, needed_from, acknowledged_before } = request;
            let applied = *applied.borrow();
            log.verify_acknowledged(acknowledged_before, applied, &raft.vote).ok()?;
            needs.told(needed_from);
            Some(raft)
        });
        self.raft().stream_append(requests).inspect(move |result| {
            if matches!(result, Ok(Ok(_) | Err(StreamAppendError::Conflict(_)))) {
                parking.wake();
            }
        })
    }

    /// The answer to who asks for a vote, where this replica gives none because it rests: its leader's node was heard
    /// within the lease, which openraft does not know.
    pub(super) async fn refusal_at_rest(
        &self,
        request: &VoteRequest<TypeConfig>,
    ) -> Option<VoteResponse<TypeConfig>> {
        if request.leadership_transfer {
            return None;
        }
        if self.parking().look(Rest::leads) {
            self.parking().rouse().await;
        }
        let stands_on = self.parking().decide(|rest| rest.refuses(Instant::now()))?;
        Some(VoteResponse::new(stands_on.vote, Some(stands_on.last), false))
    }

    /// What a group could rest on that this replica leads: every member has all of it, and nothing is under way.
    fn led_footing(&self) -> Option<AtRest> {
        let _nobody_changes_it = self.changing.try_lock().ok()?;
        // Before the metrics are borrowed: `told` borrows them while the parking is locked.
        let rests = self.parking().look(Rest::leads);
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_applied?;
        let is_level = metrics.running_state.is_ok()
            && metrics.state == ServerState::Leader
            && metrics.last_log_index == Some(last.index)
            && metrics.cluster_committed == Some(last)
            && self.proposals_waiting() == 0;
        let unheard = metrics.last_quorum_acked.map(|acked| acked.into_inner().elapsed());
        let is_followed = unheard.is_some_and(|unheard| unheard < self.timing().lease());
        let membership = metrics.membership_config.membership();
        let is_alone = membership.voter_ids().all(|voter| voter == self.replica());
        // Who rests is not heard. Who was silenced, as one that hands leadership over, does not begin to.
        let leads = rests || is_alone || is_followed;
        let replication = metrics.replication.as_ref()?;
        let mut members: BTreeSet<_> = membership.nodes().map(|(id, _)| *id).collect();
        let is_sole_config = membership.get_joint_config().len() == 1;
        members.remove(&self.replica());
        let has_all = |member: &ReplicaId| replication.get(member) == Some(&Some(last));
        let could_rest = is_level && leads && is_sole_config && members.iter().all(has_all);
        could_rest.then(|| AtRest { footing: Footing { vote: metrics.vote, last }, members })
    }

    /// What this replica rests on, if it follows a leader and has applied its whole log.
    fn followed_footing(&self) -> Option<Footing> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_applied?;
        let follows = metrics.running_state.is_ok()
            && matches!(metrics.state, ServerState::Follower | ServerState::Learner)
            && metrics.vote.committed
            && metrics.last_log_index == Some(last.index);
        follows.then_some(Footing { vote: metrics.vote, last })
    }
}
