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

use crate::consensus::raft_types::{RaftLogId, RaftVote};

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

    /// Whether it rests as a follower.
    pub fn follows(&self) -> bool {
        matches!(self.state, State::Follows { .. })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::raft_types::{to_raft_log_id, to_raft_vote};
    use crate::storage::records::{LogId, VoteRecord};
    use crate::types::{Incarnation, LogIndex, NodeId, ReplicaId, Term};

    const SECOND: Duration = Duration::from_secs(1);
    const PARK_AFTER: Duration = Duration::from_secs(5);
    const LEADER: ReplicaId = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };

    fn footing(term: u64, index: u64) -> Footing {
        let (term, index) = (Term(term), LogIndex(index));
        Footing {
            vote: to_raft_vote(&VoteRecord { term, candidate: LEADER, committed: true }),
            last: to_raft_log_id(&LogId { term, leader: LEADER, index }),
        }
    }

    fn awake() -> Rest {
        Rest::new(Some(PARK_AFTER), SECOND)
    }

    /// A leader whose followers have agreed, and when.
    fn leading() -> (Rest, Footing, Instant) {
        let (mut rest, on, began) = (awake(), footing(1, 7), Instant::now());
        assert_eq!(rest.tell(Some(on), began), None);
        let now = began + PARK_AFTER;
        assert_eq!(rest.tell(Some(on), now), Some(on));
        rest.answered(on, Answered::Agreed, Some(on), now);
        (rest, on, now)
    }

    /// A follower that has agreed, and when.
    fn following() -> (Rest, Footing, Instant) {
        let (mut rest, on, now) = (awake(), footing(1, 7), Instant::now());
        assert!(rest.told(on, || Some(on), now));
        (rest, on, now)
    }

    #[test]
    fn a_leader_asks_once_nothing_has_changed_for_long_enough() {
        let (mut rest, began) = (awake(), Instant::now());
        let at = |seconds| began + seconds * SECOND;
        assert_eq!(rest.tell(Some(footing(1, 7)), at(0)), None);
        assert_eq!(rest.tell(Some(footing(1, 8)), at(4)), None, "an entry came");
        assert_eq!(rest.tell(Some(footing(1, 8)), at(8)), None);
        assert_eq!(rest.tell(None, at(9)), None, "something is under way");
        assert_eq!(rest.tell(Some(footing(1, 8)), at(10)), None);
        assert!(!rest.rouse(), "a read; the leader has its lease");
        assert_eq!(rest.tell(Some(footing(1, 8)), at(11)), None);
        assert_eq!(rest.tell(Some(footing(1, 8)), at(15)), None);
        assert_eq!(rest.tell(Some(footing(1, 8)), at(16)), Some(footing(1, 8)));
        assert!(rest.is_awake(), "nobody has agreed");

        let mut never = Rest::new(None, SECOND);
        assert_eq!(never.tell(Some(footing(1, 7)), at(0)), None);
        assert_eq!(never.tell(Some(footing(1, 7)), at(1_000_000)), None);
        assert!(!never.told(footing(1, 7), || Some(footing(1, 7)), at(0)));
    }

    #[test]
    fn a_leader_rests_once_all_have_agreed_to_what_still_holds() {
        let on = footing(1, 7);
        for (answered, still, expected) in [
            (Answered::Agreed, Some(on), true),
            (Answered::Agreed, Some(footing(1, 8)), false),
            (Answered::Agreed, None, false),
            (Answered::Unreached, Some(on), false),
            (Answered::Refused, Some(on), false),
        ] {
            let (mut rest, began) = (awake(), Instant::now());
            rest.tell(Some(on), began);
            let now = began + PARK_AFTER;
            assert_eq!(rest.tell(Some(on), now), Some(on));
            rest.answered(on, answered, still, now);
            assert_eq!(!rest.is_awake(), expected, "{answered:?} {still:?}");
            if !expected {
                let soon = now + SECOND;
                assert_eq!(rest.tell(Some(on), soon), None, "it is not asked again at once");
            }
        }
        let (mut rest, began) = (awake(), Instant::now());
        rest.tell(Some(on), began);
        rest.tell(Some(on), began + PARK_AFTER);
        rest.rouse();
        rest.answered(on, Answered::Agreed, Some(on), began + PARK_AFTER);
        assert!(rest.is_awake(), "a read began while they were asked");
    }

    #[test]
    fn a_leader_at_rest_wakes_where_a_follower_does_not_rest_and_not_where_one_is_silent() {
        let (mut rest, on, now) = leading();
        assert_eq!(rest.tell(Some(on), now + SECOND), Some(on));
        rest.answered(on, Answered::Unreached, Some(on), now + SECOND);
        assert!(!rest.is_awake());
        rest.answered(on, Answered::Refused, Some(on), now + SECOND);
        assert!(rest.is_awake());
    }

    #[test]
    fn a_leader_at_rest_wakes_where_what_it_rests_on_is_gone() {
        for gone in [None, Some(footing(1, 8)), Some(footing(2, 7))] {
            let (mut rest, _, now) = leading();
            assert_eq!(rest.tell(gone, now), None);
            assert!(rest.is_awake(), "{gone:?}");
        }
    }

    #[test]
    fn a_roused_leader_has_no_lease_until_it_is_heard() {
        let (mut rest, _, _) = leading();
        assert!(rest.rouse());
        assert!(rest.is_awake() && rest.rouse(), "whoever comes next waits too");
        rest.is_heard();
        assert!(!rest.rouse());
        let (mut rest, on, now) = leading();
        rest.answered(on, Answered::Refused, Some(on), now);
        assert!(rest.rouse(), "it was woken, and is not heard yet");
    }

    #[test]
    fn a_follower_agrees_to_what_it_stands_on_itself() {
        let (mut rest, on, now) = (awake(), footing(1, 7), Instant::now());
        assert!(!rest.told(on, || None, now), "it has not applied all, or follows nobody");
        assert!(!rest.told(on, || Some(footing(1, 8)), now), "an entry came");
        assert!(!rest.told(on, || Some(footing(2, 7)), now), "it follows another leader");
        assert!(rest.is_awake());
        assert!(rest.told(on, || Some(on), now));
        assert!(!rest.is_awake());
        assert!(!rest.told(footing(2, 7), || Some(on), now), "whoever says so has another vote");
        assert!(rest.told(footing(2, 7), || Some(footing(2, 7)), now));
    }

    #[test]
    fn a_follower_is_not_woken_by_what_only_a_leader_does() {
        let (mut rest, on, now) = following();
        assert!(!rest.rouse() && !rest.is_awake());
        assert_eq!(rest.tell(None, now), None);
        rest.answered(on, Answered::Refused, None, now);
        assert!(!rest.is_awake());
        rest.wake();
        assert!(rest.is_awake());
    }

    #[test]
    fn a_follower_gives_no_vote_while_its_leader_counts_as_heard_and_then_mistrusts_its_rest() {
        let (mut rest, on, began) = following();
        let at = |tenths: u32| began + tenths * SECOND / 10;
        assert!(rest.told(on, || None, at(5)), "what it stands on is not looked at again");
        assert_eq!(rest.refuses(at(14)), Some(on));
        assert_eq!(rest.missed_since(at(14)), None);
        assert!(!rest.told(on, || Some(on), at(14)), "its leader is to answer for itself");
        assert!(!rest.is_awake(), "who ticks would stand");
        assert_eq!(rest.refuses(at(23)), Some(on), "it was heard all the same");
        assert_eq!(rest.refuses(at(24)), None);
        assert_eq!(rest.missed_since(at(30)), Some(at(24)));
        rest.wake();
        assert!(rest.told(on, || Some(on), at(31)), "it is trusted again");
        assert_eq!(awake().refuses(began), None, "openraft knows whom it has heard");
    }

    #[test]
    fn a_dead_leader_does_not_count_as_heard_unless_it_says_something() {
        let (mut rest, on, began) = following();
        let now = began + SECOND / 2;
        rest.leader_died(now);
        assert_eq!(rest.refuses(now), None);
        assert_eq!(rest.missed_since(now), Some(now));
        assert!(rest.told(on, || None, now));
        assert_eq!(rest.refuses(now), Some(on));
        assert_eq!(rest.last_heard(), Some(now));
    }
}
