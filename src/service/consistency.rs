//! How fresh a read is: G3 and G10.

use std::sync::Arc;
use std::time::Duration;

use quorate_client::proto;
use tokio::time::{Instant, timeout_at};

use super::Api;
use super::errors::CallError;
use super::reads;
use super::validate::{Problem, Violation};
use crate::consensus::{Barrier, Group};
use crate::storage::View;
use crate::storage::records::{ConversationHead, GroupRow};
use crate::types::{Clock, ConversationName, LogIndex, Seq};

/// The longest staleness that can be asked for.
const MAX_STALENESS_MS_MAX: u64 = 3_600_000;
/// What of a bound is left to the read itself at most: until it is answered its confirmation grows older.
const READING_TAKES: Duration = Duration::from_millis(20);

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Holds what was acknowledged before the call.
    Linearizable,
    /// Holds this seq.
    AtLeast(Seq),
    /// Was confirmed by a quorum not longer ago than this.
    MaxStaleness(Duration),
    /// Whatever the node asked has applied.
    Local,
}

impl Level {
    /// The level asked for.
    ///
    /// # Errors
    /// A staleness of nothing or of more than an hour.
    pub fn from_proto(consistency: Option<proto::Consistency>) -> Result<Level, Violation> {
        use proto::consistency::Level as Asked;
        match consistency.and_then(|consistency| consistency.level) {
            None | Some(Asked::Linearizable(_)) => Ok(Level::Linearizable),
            Some(Asked::AtLeast(at_least)) => Ok(Level::AtLeast(Seq(at_least.seq))),
            Some(Asked::Local(_)) => Ok(Level::Local),
            Some(Asked::MaxStaleness(bound)) => match bound.max_staleness_ms {
                0 => Err(Violation::of("max_staleness_ms", Problem::Empty)),
                ms if ms > MAX_STALENESS_MS_MAX => {
                    let problem = Problem::OverLimit(MAX_STALENESS_MS_MAX);
                    Err(Violation::of("max_staleness_ms", problem))
                }
                ms => Ok(Level::MaxStaleness(Duration::from_millis(ms))),
            },
        }
    }
}

/// A conversation at one moment: everything read through `view` agrees with the rest.
#[derive(Clone)]
pub struct ReadPoint {
    /// The state, held.
    pub view: Arc<dyn View>,
    /// The group's row.
    pub row: GroupRow,
    /// The conversation's head; none if it has never had a message.
    pub head: Option<ConversationHead>,
    /// What responses say of it.
    pub origin: Origin,
}

impl ReadPoint {
    /// `[first, tail)` can be read.
    pub fn bounds(&self) -> (Seq, Seq) {
        match &self.head {
            Some(head) => (head.first_seq, head.tail),
            None => (Seq::FIRST, Seq::FIRST),
        }
    }
}

/// Where something was read, and the confirmation behind it, which grows older until the read is answered (G10).
#[derive(Clone, Debug)]
pub struct Origin {
    level: Level,
    /// Its age is left to whoever answers.
    position: proto::Position,
    age: Option<Age>,
}

/// How old a confirmation is.
#[derive(Clone, Copy, Debug)]
struct Age {
    was: Duration,
    /// `Clock::elapsed_us` when it was that old.
    at_us: u64,
}

impl Age {
    fn of(barrier: Barrier) -> Self {
        Age { was: Duration::ZERO, at_us: barrier.confirmed_from_us }
    }

    fn now(self, clock: &dyn Clock) -> Duration {
        self.was + Duration::from_micros(clock.elapsed_us().saturating_sub(self.at_us))
    }
}

impl Origin {
    /// As another node has just told.
    pub fn told(level: Level, position: proto::Position, clock: &dyn Clock) -> Self {
        let at_us = clock.elapsed_us();
        let age = position.age_ms.map(|ms| Age { was: Duration::from_millis(ms), at_us });
        Origin { level, position, age }
    }

    /// What a response says of it that is given now.
    ///
    /// # Errors
    /// TOO_STALE if the confirmation has grown older than the level allows.
    pub fn position(&self, clock: &dyn Clock) -> Result<proto::Position, CallError> {
        let age_ms = self.age.map(|age| whole_ms(age.now(clock)));
        match (self.level, age_ms) {
            (Level::MaxStaleness(bound), Some(age_ms))
                if u128::from(age_ms) > bound.as_millis() =>
            {
                Err(CallError::too_stale(age_ms))
            }
            _ => Ok(proto::Position { age_ms, ..self.position }),
        }
    }
}

/// A conversation on this node's replica, as fresh as `level` asks.
///
/// # Errors
/// Retryable if the level cannot be honoured before the deadline. Cancel safe.
pub async fn open(
    api: &Api,
    group: &Arc<Group>,
    name: &ConversationName,
    level: Level,
    deadline: Instant,
) -> Result<ReadPoint, CallError> {
    if let Level::AtLeast(seq) = level {
        return open_at_least(api, group, name, seq, deadline).await;
    }
    let barrier = confirm(api, group, level, deadline).await?;
    look(api, group, name, level, barrier).await
}

/// The confirmation that a read at `level` rests on. AT_LEAST and LOCAL reads need none.
pub async fn confirm(
    api: &Api,
    group: &Group,
    level: Level,
    deadline: Instant,
) -> Result<Option<Barrier>, CallError> {
    match level {
        Level::AtLeast(_) | Level::Local => Ok(None),
        Level::Linearizable => Ok(Some(group.barrier(deadline).await?)),
        Level::MaxStaleness(bound) => {
            let left = bound - READING_TAKES.min(bound / 2);
            let young = |barrier: &Barrier| Age::of(*barrier).now(api.clock.as_ref()) <= left;
            match group.last_barrier().filter(young) {
                Some(barrier) => Ok(Some(barrier)),
                None => Ok(Some(group.barrier(deadline).await?)),
            }
        }
    }
}

/// A conversation as this node has applied it now: at least as far as `barrier`, if that was awaited before.
///
/// # Errors
/// WRONG_GROUP if the group does not hold the conversation (any more): this is why ranges are checked after the
/// barrier and not when the call is routed. TOO_STALE if the barrier has grown older than `level` allows. Retryable while
/// a snapshot is being installed, and where another replica stands in the place of this one.
pub async fn look(
    api: &Api,
    group: &Arc<Group>,
    name: &ConversationName,
    level: Level,
    barrier: Option<Barrier>,
) -> Result<ReadPoint, CallError> {
    let view = group.pin();
    let (id, own) = (group.id(), group.replica());
    let (pinned, wanted) = (view.clone(), name.clone());
    let found = group.offload(move || -> Result<_, CallError> {
        let row = reads::group_row(pinned.as_ref(), id, own)?;
        Ok((row, reads::head(pinned.as_ref(), &wanted)?))
    });
    let (row, head) = found.await?;
    let placement = name.id().placement();
    if !row.range.is_some_and(|range| range.contains(placement)) {
        return Err(CallError::wrong_group());
    }
    let applied = row.applied.map_or(LogIndex(0), |log_id| log_id.index);
    let position = proto::Position {
        node_id: api.replicas.node().0.into(),
        group_id: id.0,
        applied_index: applied.0,
        age_ms: None,
    };
    let origin = Origin { level, position, age: barrier.map(Age::of) };
    origin.position(api.clock.as_ref())?;
    Ok(ReadPoint { view, row, head, origin })
}

async fn open_at_least(
    api: &Api,
    group: &Arc<Group>,
    name: &ConversationName,
    seq: Seq,
    deadline: Instant,
) -> Result<ReadPoint, CallError> {
    let mut tail_moves = group.tails().watch(name.id());
    loop {
        let point = look(api, group, name, Level::AtLeast(seq), None).await?;
        let (_, tail) = point.bounds();
        if tail > seq {
            return Ok(point);
        }
        drop(point);
        if timeout_at(deadline, tail_moves.changed()).await.is_err() {
            return Err(CallError::seq_not_reached(seq, tail));
        }
    }
}

/// Rounded up: a read is never said to be younger than it is.
fn whole_ms(age: Duration) -> u64 {
    age.as_micros().div_ceil(1_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    fn asked(level: proto::consistency::Level) -> Result<Level, Violation> {
        Level::from_proto(Some(proto::Consistency { level: Some(level) }))
    }

    fn staleness(max_staleness_ms: u64) -> Result<Level, Violation> {
        asked(proto::consistency::Level::MaxStaleness(proto::consistency::MaxStaleness {
            max_staleness_ms,
        }))
    }

    #[test]
    fn nothing_said_means_linearizable() {
        assert_eq!(Level::from_proto(None), Ok(Level::Linearizable));
        let empty = proto::Consistency { level: None };
        assert_eq!(Level::from_proto(Some(empty)), Ok(Level::Linearizable));
    }

    #[test]
    fn staleness_has_bounds() {
        assert_eq!(staleness(1), Ok(Level::MaxStaleness(Duration::from_millis(1))));
        assert_eq!(staleness(0).unwrap_err().problem, Problem::Empty);
        assert_eq!(staleness(3_600_001).unwrap_err().problem, Problem::OverLimit(3_600_000));
    }

    /// Shows this.
    struct At(u64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }

        fn elapsed_us(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn a_read_grows_older_until_it_is_answered_and_fails_once_it_is_too_old() {
        let here = |level| {
            let barrier = Barrier { index: LogIndex(1), confirmed_from_us: 7_000 };
            Origin { level, position: proto::Position::default(), age: Some(Age::of(barrier)) }
        };
        let age = |origin: &Origin, us| origin.position(&At(us)).map(|position| position.age_ms);
        let bounded = Level::MaxStaleness(Duration::from_millis(100));
        assert_eq!(age(&here(bounded), 17_000), Ok(Some(10)));
        assert_eq!(age(&here(bounded), 107_000), Ok(Some(100)));
        assert_eq!(age(&here(bounded), 107_001), Err(CallError::too_stale(101)));
        assert_eq!(age(&here(Level::Linearizable), 107_001), Ok(Some(101)));

        // The node that tells it has been up for longer than this one.
        let position = proto::Position { age_ms: Some(90), ..proto::Position::default() };
        let there = Origin::told(bounded, position, &At(5));
        assert_eq!(age(&there, 5), Ok(Some(90)));
        assert_eq!(age(&there, 10_005), Ok(Some(100)));
        assert_eq!(age(&there, 10_006), Err(CallError::too_stale(101)));
        let unconfirmed = Origin::told(Level::Local, proto::Position::default(), &At(5));
        assert_eq!(age(&unconfirmed, 5), Ok(None));
    }

    #[test]
    fn ages_are_rounded_up() {
        assert_eq!(whole_ms(Duration::from_micros(1)), 1);
        assert_eq!(whole_ms(Duration::from_micros(1_000)), 1);
        assert_eq!(whole_ms(Duration::from_micros(1_001)), 2);
    }
}
