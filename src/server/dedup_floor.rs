//! Raises the dedup floor of the groups that this node leads, while a majority's clocks agree with its own, so that
//! idempotency is bounded in cost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::consensus::Replicas;
use crate::log::Command;
use crate::types::Clock;

const MINUTE_US: u64 = 60 * 1_000_000;
/// The floor moves in steps of this at least, so that a group without traffic does not write for it.
const STEP_US: u64 = 60 * MINUTE_US;
/// How often it is looked whether a step is due. Short: a group that is new, or has a new leader after a long time
/// without one, takes messages below the horizon until its floor is raised.
const INTERVAL: Duration = Duration::from_secs(1);
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub async fn run(replicas: Arc<Replicas>, clock: Arc<dyn Clock>, horizon_us: u64) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let floor = clock.now().minus_us(horizon_us);
        for group in replicas.all() {
            let due = group.row().dedup_floor.plus_us(STEP_US) <= floor;
            // A clock that runs ahead would declare ids too old that may still be retried.
            let trusted = group.fitness().clocks_agree;
            if group.id().is_meta() || !group.is_leader() || !due || !trusted {
                continue;
            }
            let command = Command::RaiseDedupFloor { floor };
            if let Err(error) = group.propose(command, Instant::now() + PROPOSE_TIMEOUT).await {
                tracing::debug!(group = %group.id(), %error, "the dedup floor was not raised yet");
            }
        }
    }
}
