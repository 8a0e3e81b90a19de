//! What the tests share: clusters of the real binary, load on them, and witnesses of what they answer.

mod chat;
mod cluster;
mod links;
mod load;
mod readers;
mod wires;
mod witness;

use std::time::Duration;

pub use chat::{Acknowledged, Chat, generated, large, read_lines};
pub use cluster::{Cluster, Leaders};
pub use links::{Direction, Heal, Loss};
pub use load::{Lane, Load, Pace, Way};
pub use readers::Readers;
pub use witness::Witness;

/// Longer than any election on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(90);
/// Between two looks at a condition.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Nodes of a cluster here.
pub const NODES: [u32; 3] = [1, 2, 3];

/// Polls until `condition` yields something, for no longer than [`TIMEOUT`].
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let met = async {
        loop {
            if let Some(met) = condition().await {
                return met;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let met = tokio::time::timeout(TIMEOUT, met).await;
    met.unwrap_or_else(|_| panic!("not within {TIMEOUT:?}: {what}"))
}
