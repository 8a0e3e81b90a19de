//! Kills in the middle of what a snapshot's arrival does to a node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{Nemesis, Struck, World};

/// How long a node is away, so that what it misses is purged from the others' logs.
pub(super) const AWAY: Duration = Duration::from_secs(9);
const KILLS: u32 = 6;

pub(super) const NEMESES: &[Nemesis] = &[Nemesis {
    name: "kill-install",
    family: "install",
    about: "a node that was away so long that it needs snapshots is killed again and again as they come in",
    needs: &[],
    holds_ms: (200, 500),
    mixes: false,
    strike: |world, dice| Box::pin(strike(world, dice)),
}];

async fn strike(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let id = world.some(1, &mut dice)[0];
    world.cluster.node(id).await.kill().await?;
    sleep(AWAY).await;
    let mut killed = 0;
    for _ in 0..KILLS {
        world.cluster.node(id).await.start()?;
        sleep(Duration::from_millis(dice.random_range(150..1_200))).await;
        killed += u32::from(world.cluster.node(id).await.kill().await?);
    }
    let what = format!("away for {} s, then killed {KILLS} times on its way back", AWAY.as_secs());
    Ok(Struck::new(vec![id], what, async move {
        world.revive(&[id]).await?;
        Ok((killed > 0).then(|| format!("{killed} processes were seen to end")))
    }))
}
