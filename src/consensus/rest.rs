//! What parking a group means, as one of its replicas decides it: pure, over times that are given.
//!
//! A group in which nothing happens is parked: none of its replicas ticks, and its leader sends no heartbeats. In their
//! place the leader's node tells each other node, in one call for all such groups, on which footing each of them rests:
//! its leader's vote and the end of its log. A replica agrees if its own vote and applied log are the same, and turns its
//! ticks off. Once every member has agreed to the same footing the leader turns its own off.
//!
//! Guarantees at stake: none by what is stored. Parking changes who ticks, never a vote or a log (G1, G2), and reads are
//! confirmed by rounds (G3, `leadership.rs`). What has to hold is peace (G9) and that nobody sleeps without a leader:
//!
//! - What the leader's node says stands for a heartbeat: while it was heard within a lease, a parked follower gives no
//!   vote. It then mistrusts its rest, and does not agree the next time, so that the leader wakes the group and answers
//!   for itself.
//! - A follower of which the leader's node says nothing for a lease is like one that hears no heartbeats.
//! - Whatever a replica is sent of Raft wakes it; a follower that does not agree any more, or anything that the leader
//!   has to do, wakes the leader, whose heartbeats wake the others. So whatever was lost on the way is repaired by what is
//!   said next, a fraction of a lease later: nothing else is remembered of who has agreed.

use std::time::Duration;

use tokio::time::Instant;

use super::raft_types::{RaftLogId, RaftVote};

/// On what a group rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footing {
    /// Its leader's vote.
    pub vote: RaftVote,
    /// The last entry, which every member has, and has applied.
    pub last: RaftLogId,
}

/// What became of what a leader has told the other members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answered {
    /// All of them rest on the same footing.
    Agreed,
    /// Some were not reached. Nobody has refused.
    Unreached,
    /// One does not rest.
    Refused,
}

/// Whether a replica rests, and what it decides by that.
#[derive(Debug)]
pub struct Rest {
    /// How long nothing has to happen; none if nothing is ever parked.
    park_after: Option<Duration>,
    lease: Duration,
    state: State,
    /// As a leader, it has rested, and no quorum has been heard of since: it has no lease.
    is_unheard: bool,
}

#[derive(Debug)]
enum State {
    Awake {
        /// As a leader: the footing that the group could rest on, and since when.
        still: Option<(Footing, Instant)>,
    },
    Leads(Footing),
    Follows {
        on: Footing,
        /// Until when the leader counts as heard.
        heard_until: Instant,
        /// Somebody has asked for a vote.
        is_mistrusted: bool,
    },
}

const AWAKE: State = State::Awake { still: None };

impl Rest {
    /// Awake. A group is parked after so long without any change; never, if there is no time.
    pub fn new(park_after: Option<Duration>, lease: Duration) -> Self {
        Rest { park_after, lease, state: AWAKE, is_unheard: false }
    }

    /// Whether it ticks.
    pub fn is_awake(&self) -> bool {
        matches!(self.state, State::Awake { .. })
    }

    /// What a leader tells the other members now: that they can rest, or that they rest. `footing` is what the group
    /// could rest on; none if this replica does not lead, or anything is under way.
    pub fn tell(&mut self, footing: Option<Footing>, now: Instant) -> Option<Footing> {
        let park_after = self.park_after?;
        match self.state {
            State::Leads(on) if footing == Some(on) => return footing,
            State::Follows { .. } if footing.is_none() => return None,
            State::Awake { still: Some((on, since)) } if footing == Some(on) => {
                return footing.filter(|_| now.duration_since(since) >= park_after);
            }
            _ => {}
        }
        self.wake();
        self.state = State::Awake { still: footing.map(|footing| (footing, now)) };
        None
    }

    /// What became of that. `footing` as above, looked at again.
    pub fn answered(
        &mut self,
        told: Footing,
        answered: Answered,
        footing: Option<Footing>,
        now: Instant,
    ) {
        match &self.state {
            State::Awake { still: Some((on, _)) } if *on == told => {
                self.state = match answered {
                    Answered::Agreed if footing == Some(told) => State::Leads(told),
                    // Those who agreed are woken by the next heartbeat, and asked again after another while.
                    _ => State::Awake { still: Some((told, now)) },
                };
            }
            State::Leads(on) if *on == told && answered == Answered::Refused => {
                self.wake();
            }
            _ => {}
        }
    }

    /// The leader's node says that the group rests on this. Whether this replica agrees: then it rests. `own` is the
    /// footing of a follower; none if it is no follower, or has not applied its whole log.
    pub fn told(
        &mut self,
        told: Footing,
        own: impl FnOnce() -> Option<Footing>,
        now: Instant,
    ) -> bool {
        let until = now + self.lease;
        match &mut self.state {
            State::Follows { on, heard_until, is_mistrusted } if *on == told => {
                *heard_until = until;
                !*is_mistrusted
            }
            _ if self.park_after.is_some() && own() == Some(told) => {
                self.state = State::Follows { on: told, heard_until: until, is_mistrusted: false };
                true
            }
            _ => false,
        }
    }

    /// A leader is to do something. True if it has no lease, because it rested until now: it has to be heard first.
    pub fn rouse(&mut self) -> bool {
        match self.state {
            // Its leader is not woken by that, and would be deposed.
            State::Follows { .. } => false,
            State::Awake { .. } | State::Leads(_) => {
                self.wake();
                self.is_unheard
            }
        }
    }

    /// What rests is over, whatever this replica is.
    pub fn wake(&mut self) {
        self.is_unheard |= self.leads();
        self.state = AWAKE;
    }

    /// A leader was heard since it was roused, or waits for that no longer.
    pub fn is_heard(&mut self) {
        self.is_unheard = false;
    }

    /// Whether it leads a group that rests.
    pub fn leads(&self) -> bool {
        matches!(self.state, State::Leads(_))
    }

    /// Somebody asks for a vote. A follower refuses it while its leader counts as heard: then this is what it stands on.
    pub fn refuses(&mut self, now: Instant) -> Option<Footing> {
        match &mut self.state {
            State::Follows { on, heard_until, is_mistrusted } if now < *heard_until => {
                *is_mistrusted = true;
                Some(*on)
            }
            _ => None,
        }
    }

    /// Since when a follower at rest has missed its leader.
    pub fn missed_since(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Follows { heard_until, .. } => Some(heard_until).filter(|until| *until <= now),
            _ => None,
        }
    }

    /// The leader was last heard of then, as far as a follower at rest knows.
    pub fn last_heard(&self) -> Option<Instant> {
        match self.state {
            State::Follows { heard_until, .. } => heard_until.checked_sub(self.lease),
            _ => None,
        }
    }

    /// The leader is known to be dead: it does not count as heard any more, until it says something.
    pub fn leader_died(&mut self, now: Instant) {
        if let State::Follows { heard_until, .. } = &mut self.state {
            *heard_until = now.min(*heard_until);
        }
    }
}
