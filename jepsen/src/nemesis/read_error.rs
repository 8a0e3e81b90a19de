//! Disks that fail to read what they hold.

use std::sync::Arc;

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;

use super::damage::{Read, replace_noticed};
use super::{Beside, Need, Nemesis, Struck, World};

pub(super) const NEMESES: &[Nemesis] = &[Nemesis {
    name: "read-error",
    family: "damage",
    about: "every read of what a minority has stored fails with an input/output error; it is made anew if it says so",
    needs: &[Need::Shim],
    holds_ms: (1_000, 2_500),
    // Clients have to reach the node and read all of it while its reads fail.
    mixes: Beside::Nothing,
    strike: |world, dice| Box::pin(strike(world, dice)),
}];

async fn strike(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let nodes = world.some(dice.random_range(1..=world.replica_minority().await?), &mut dice);
    let before = failed(&world, &nodes).await?;
    for id in &nodes {
        // What it has in memory it would not read.
        world.cluster.node(*id).await.kill().await?;
    }
    world.revive(&nodes).await?;
    set(&world, &nodes, true).await?;
    for id in &nodes {
        world.read_all(*id).await;
    }
    Ok(Struck::new(nodes.clone(), "every read of stored data fails with EIO", async move {
        let count = failed(&world, &nodes).await? - before;
        set(&world, &nodes, false).await?;
        // Nothing was harmed: what is wrong now the node has made wrong.
        let noticed = replace_noticed(&world, &nodes, Read::Before).await?;
        Ok((count > 0).then(|| format!("{count} reads failed; {}", noticed.join("; "))))
    }))
}

async fn set(world: &World, nodes: &[u32], fail: bool) -> Result<()> {
    for id in nodes {
        let node = world.cluster.node(*id).await;
        node.shim.as_ref().context("there is no shim")?.set_reads_fail(fail)?;
    }
    Ok(())
}

async fn failed(world: &World, nodes: &[u32]) -> Result<u64> {
    let mut all = 0;
    for id in nodes {
        let node = world.cluster.node(*id).await;
        all += node.shim.as_ref().context("there is no shim")?.counts()?.reads_failed;
    }
    Ok(all)
}
