//! Kills in the middle of what a snapshot's arrival does to a node.

use std::fs::Metadata;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::{Beside, Nemesis, Struck, World};
use crate::clock;
use crate::nodes::{Node, files_below};

/// How long a node is away, so that what it misses is purged from the others' logs.
pub(super) const AWAY: Duration = Duration::from_secs(9);
const KILLS: u32 = 6;
/// How long a node that came back is watched for a snapshot before it is killed without one.
const WATCHED: Duration = Duration::from_secs(3);
/// It is killed at any time from its arrival on until so many milliseconds later. Sealing the snapshot, marking the
/// group, removing the old state and bringing the new one in take a dozen syncs each.
const TAKEN_IN_MS_MAX: u64 = 1_500;
/// How often a snapshot is looked for: staged files stand for some syncs, each of which is made to take longer.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
const SYNC_DELAY_MS: u32 = 25;

pub(super) const NEMESES: &[Nemesis] = &[Nemesis {
    name: "kill-install",
    family: "install",
    about: "a node that was away so long that it needs snapshots is killed again and again as they come in",
    needs: &[],
    holds_ms: (200, 500),
    // Without the others at work no log is purged, and no snapshot comes; and it sets the delay of syncs, as `slow-disk`.
    mixes: Beside::Nothing,
    strike: |world, dice| Box::pin(strike(world, dice)),
}];

async fn strike(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let id = world.some(1, &mut dice)[0];
    let mut node = world.cluster.node(id).await;
    node.kill().await?;
    sleep(AWAY).await;
    slow_syncs(&node, true)?;
    let (mut killed, mut within) = (0, 0);
    for _ in 0..KILLS {
        let started = clock::now();
        node.start()?;
        let has_arrived = arrives(&node, started, WATCHED).await;
        sleep(Duration::from_millis(dice.random_range(0..TAKEN_IN_MS_MAX))).await;
        killed += u32::from(node.kill().await?);
        within += u32::from(has_arrived);
        if !has_arrived {
            break;
        }
    }
    slow_syncs(&node, false)?;
    drop(node);
    let what = format!("away for {} s, then killed {killed} times on its way back", AWAY.as_secs());
    Ok(Struck::new(vec![id], what, async move {
        world.revive(&[id]).await?;
        let seen =
            format!("{killed} processes were seen to end, {within} with a snapshot on its way in");
        Ok((within > 0).then_some(seen))
    }))
}

/// Where they can be: all that a node does with a snapshot takes longer then.
pub(super) fn slow_syncs(node: &Node, are_slow: bool) -> Result<()> {
    let delay_ms = if are_slow { SYNC_DELAY_MS } else { 0 };
    node.shim.as_ref().map_or(Ok(()), |shim| shim.set_sync_delay_ms(delay_ms))
}

/// Table files in the folder of one transfer.
pub(super) fn is_staged(path: &Path) -> bool {
    let transfer = path.parent();
    let is_staged = transfer.and_then(Path::parent).is_some_and(|all| all.ends_with("staging"));
    is_staged && path.extension().is_some_and(|extension| extension == "sst")
}

/// Whether a snapshot that came since then lies in the node's staging area, whole or in part.
pub(super) fn has_arrived(node: &Node, since: SystemTime) -> bool {
    let staged = files_below(&node.disk.data().join("staging"));
    let is_new = |about: &Metadata| about.modified().is_ok_and(|at| at >= since);
    staged.iter().any(|(path, about)| is_staged(path) && is_new(about) && about.len() > 64)
}

/// Waits until one has. Whether it came to that.
pub(super) async fn arrives(node: &Node, since: SystemTime, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while !has_arrived(node, since) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK_INTERVAL).await;
    }
    true
}
