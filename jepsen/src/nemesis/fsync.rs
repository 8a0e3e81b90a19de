//! Disks that fail to sync, or take long.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Beside, HOLDS_MS, Need, Nemesis, Struck, World};

/// How long a node may go on after its disk has failed it.
const STOP_DEADLINE: Duration = Duration::from_secs(8);

pub(super) const NEMESES: &[Nemesis] = &[
    Nemesis {
        name: "fsync-error",
        family: "fsync",
        about: "every sync of one node fails with an input/output error: the node has to stop",
        needs: &[Need::Shim],
        holds_ms: (200, 500),
        mixes: Beside::Network,
        strike: |world, dice| {
            Box::pin(async move {
                let mut dice = dice;
                fail(world.some(1, &mut dice), world).await
            })
        },
    },
    Nemesis {
        name: "fsync-error-all",
        family: "fsync",
        about: "every sync of every node fails for a while, and then all lose power",
        needs: &[Need::Shim, Need::DiskOrShim],
        holds_ms: (200, 500),
        // All nodes stop: anything else would meet nobody.
        mixes: Beside::Nothing,
        strike: |world, _| {
            Box::pin(async move { fail(world.cluster.ids().collect(), world).await })
        },
    },
    Nemesis {
        name: "slow-disk",
        family: "slow-disk",
        about: "every sync of a minority takes 50 to 300 ms longer",
        needs: &[Need::Shim],
        holds_ms: HOLDS_MS,
        mixes: Beside::Any,
        strike: |world, dice| Box::pin(slow(world, dice)),
    },
];

async fn fail(nodes: Vec<u32>, world: Arc<World>) -> Result<Struck> {
    let before = failed(&world, &nodes).await?;
    for id in &nodes {
        let node = world.cluster.node(*id).await;
        node.shim.as_ref().context("there is no shim")?.set_syncs_fail(true)?;
    }
    Ok(Struck::new(nodes.clone(), "every sync fails with EIO", async move {
        let mut endings = Vec::new();
        for id in &nodes {
            let mut node = world.cluster.node(*id).await;
            let ended = node.wait_for_end(STOP_DEADLINE).await;
            let ended = ended.unwrap_or_else(|| "it went on, and lost power".to_owned());
            endings.push(format!("node {id}: {ended}"));
        }
        let failed = failed(&world, &nodes).await? - before;
        // What the disk refused is not there after a cut of power, whatever the node believes.
        for id in &nodes {
            let mut node = world.cluster.node(*id).await;
            let node = &mut *node;
            node.kill().await?;
            node.disk.lose_power(node.shim.as_ref()).await?;
            node.shim.as_ref().context("there is no shim")?.mend()?;
        }
        world.revive(&nodes).await?;
        Ok((failed > 0).then(|| format!("{failed} syncs failed; {}", endings.join("; "))))
    }))
}

async fn failed(world: &World, nodes: &[u32]) -> Result<u64> {
    let mut all = 0;
    for id in nodes {
        let node = world.cluster.node(*id).await;
        all += node.shim.as_ref().context("there is no shim")?.counts()?.failed;
    }
    Ok(all)
}

async fn slow(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let nodes = world.some(world.minority(), &mut dice);
    let delay_ms = dice.random_range(50..300);
    let delayed = async |world: &World, nodes: &[u32], delay_ms: u32| {
        let mut all = 0;
        for id in nodes {
            let node = world.cluster.node(*id).await;
            let shim = node.shim.as_ref().context("there is no shim")?;
            shim.set_sync_delay_ms(delay_ms)?;
            all += shim.counts()?.delayed;
        }
        Ok::<u64, anyhow::Error>(all)
    };
    let before = delayed(&world, &nodes, delay_ms).await?;
    let what = format!("every sync takes {delay_ms} ms longer");
    Ok(Struck::new(nodes.clone(), what, async move {
        let mut after = 0;
        for id in &nodes {
            let node = world.cluster.node(*id).await;
            let shim = node.shim.as_ref().context("there is no shim")?;
            shim.set_sync_delay_ms(0)?;
            after += shim.counts()?.delayed;
        }
        let count = after - before;
        Ok((count > 0).then(|| format!("{count} syncs were delayed")))
    }))
}
