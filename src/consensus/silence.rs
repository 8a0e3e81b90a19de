//! When a leader that hears of no quorum sends no heartbeats: pure, over times that are given.
//!
//! Guarantee at stake: none, but the group would not be served. In a partial partition a leader without a quorum keeps
//! some voters from electing another, for as long as they hear it. So it falls silent for long enough to be replaced, and
//! then speaks again for as long, in turns, until it is heard or is deposed. openraft has the same, and counts the time
//! that a group was parked as time without a quorum: its leader would be silent when it wakes.

use std::time::Duration;

use tokio::time::Instant;

use super::config::RaftTiming;
use super::raft_types::RaftVote;

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
