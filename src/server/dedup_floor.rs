//! Raises the dedup floor of the groups that this node leads, while a majority's clocks agree with its own, so that
//! idempotency is bounded in cost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::consensus::{Group, Replicas};
use crate::log::Command;

const MINUTE_US: u64 = 60 * 1_000_000;
/// The floor moves in steps of this at least, so that a group without traffic does not write for it.
const STEP_US: u64 = 60 * MINUTE_US;
/// How often it is looked whether a step is due. Short: a group that is new, or has a new leader after a long time
/// without one, takes messages below the horizon until its floor is raised.
const INTERVAL: Duration = Duration::from_secs(1);
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub async fn run(replicas: Arc<Replicas>, horizon_us: u64) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        for group in replicas.all().into_iter().filter(|group| !group.id().is_meta()) {
            raise(&group, horizon_us).await;
        }
    }
}

async fn raise(group: &Group, horizon_us: u64) {
    // By a clock that runs ahead ids would be too old for good that may still be retried: never by one that was set since
    // it was compared with the others'.
    let Some(now) = group.agreed_now() else { return };
    let floor = now.minus_us(horizon_us);
    if !group.is_leader() || group.row().dedup_floor.plus_us(STEP_US) > floor {
        return;
    }
    let command = Command::RaiseDedupFloor { floor };
    if let Err(error) = group.propose(command, Instant::now() + PROPOSE_TIMEOUT).await {
        tracing::debug!(group = %group.id(), %error, "the dedup floor was not raised yet");
    }
}

#[cfg(test)]
mod tests {
    use crate::consensus::solitary::{Disks, NODE, NOW};
    use crate::consensus::{ClockReading, ClockSkew, Sighting};
    use crate::storage::DiskMark;
    use crate::types::{GroupId, HashRange, Incarnation, PlacementHash, ReplicaId, Timestamp};

    use super::*;

    /// A floor that is too high would refuse what is new, and never be lowered.
    #[tokio::test]
    async fn a_clock_that_was_set_forward_raises_no_floor() {
        let disks = Disks::default();
        let process = disks.start().await;
        let own = ReplicaId { node: NODE, incarnation: Incarnation(1) };
        let range = HashRange { start: PlacementHash(0), end: None };
        let group = process.leading(GroupId(1), own, range).await;
        let seen = Sighting { clock: ClockSkew::NONE, disk: DiskMark::Ok };
        raise(&group, 0).await;
        assert_eq!(group.row().dedup_floor, Timestamp(0), "the clock was never compared");

        let an_hour_ago = ClockReading { wall: NOW.wall.minus_us(STEP_US), ..NOW };
        group.weigh(&[(NODE, seen)].into(), an_hour_ago);
        raise(&group, 0).await;
        assert_eq!(group.row().dedup_floor, Timestamp(0), "it was set forward by an hour since");

        group.weigh(&[(NODE, seen)].into(), NOW);
        raise(&group, STEP_US).await;
        assert_eq!(group.row().dedup_floor, NOW.wall.minus_us(STEP_US));
        raise(&group, 1).await;
        assert_eq!(group.row().dedup_floor, NOW.wall.minus_us(STEP_US), "it moves in steps");
        disks.crash(process).await;
    }
}
