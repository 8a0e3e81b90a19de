//! When a leader that hears of no quorum sends no heartbeats: pure, over times that are given.
//!
//! Guarantee at stake: none, but the group would not be served. In a partial partition a leader without a quorum keeps
//! some voters from electing another, for as long as they hear it. So it falls silent for long enough to be replaced, and
//! then speaks again for as long, in turns, until it is heard or is deposed. openraft has the same, and counts the time
//! that a group was parked as time without a quorum: its leader would be silent when it wakes.

use std::time::Duration;

use tokio::time::Instant;

use crate::consensus::RaftTiming;
use crate::consensus::raft_types::RaftVote;

/// Whether a leader speaks.
pub struct Silence {
    lease: Duration,
    /// How long it lasts.
    each: Duration,
    /// Under which vote this replica leads, and since when it has had a reason to be heard.
    began: Option<(RaftVote, Instant)>,
}

impl Silence {
    /// None so far.
    pub fn new(timing: &RaftTiming) -> Self {
        // The others' leases run out, then the longest of their timeouts; and it is looked at once in a while.
        let each = 2 * timing.lease() + timing.rest_interval() + timing.heartbeat_interval();
        Silence { lease: timing.lease(), each, began: None }
    }

    /// The leader wakes: until now nobody was to hear it.
    pub fn wake(&mut self, now: Instant) {
        if let Some((_, since)) = &mut self.began {
            *since = now;
        }
    }

    /// Whether a leader with this vote sends heartbeats, that a quorum has not acknowledged for `unheard`, or never.
    pub fn is_over(&mut self, vote: RaftVote, unheard: Option<Duration>, now: Instant) -> bool {
        let began = match self.began {
            Some((led, since)) if led == vote => since,
            _ => now,
        };
        self.began = Some((vote, began));
        let speaks_for = now.duration_since(began);
        let unheard = unheard.map_or(speaks_for, |unheard| unheard.min(speaks_for));
        let Some(alone) = unheard.checked_sub(self.lease) else { return true };
        (alone.as_nanos() / self.each.as_nanos()) % 2 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::raft_types::to_raft_vote;
    use crate::storage::records::VoteRecord;
    use crate::types::{Incarnation, NodeId, ReplicaId, Term};

    const TIMING: RaftTiming = RaftTiming {
        heartbeat_interval_ms: 100,
        election_timeout_min_ms: 500,
        election_timeout_max_ms: 1_000,
        park_after_ms: 5_000,
    };

    fn vote(term: u64) -> RaftVote {
        let candidate = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
        to_raft_vote(&VoteRecord { term: Term(term), candidate, committed: true })
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_leader_without_a_quorum_is_silent_for_leases_and_an_election_and_then_speaks_as_long() {
        let (mut silence, began) = (Silence::new(&TIMING), Instant::now());
        let silent_for = 2_000 + 250 + 100;
        let mut at = |at| silence.is_over(vote(1), None, began + ms(at));
        assert!(at(0) && at(999));
        assert!(!at(1_000) && !at(999 + silent_for));
        assert!(at(1_000 + silent_for) && at(999 + 2 * silent_for));
        assert!(!at(1_000 + 2 * silent_for));
    }

    #[test]
    fn a_leader_that_is_heard_or_new_or_was_woken_speaks() {
        let (mut silence, began) = (Silence::new(&TIMING), Instant::now());
        silence.is_over(vote(1), None, began);
        let later = began + ms(60_500);
        assert!(silence.is_over(vote(1), Some(ms(999)), later));
        assert!(!silence.is_over(vote(1), Some(ms(1_000)), later));
        silence.wake(later);
        assert!(silence.is_over(vote(1), Some(ms(60_000)), later + ms(999)), "it rested");
        assert!(!silence.is_over(vote(1), Some(ms(61_000)), later + ms(1_000)));
        assert!(silence.is_over(vote(2), None, later + ms(1_000)), "of another term");
    }
}
