//! Wall clocks that jump. Monotonic clocks stay right, as they do on a machine whose time is set.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{Beside, HOLDS_MS, Need, Nemesis, Struck, World, end};

const NEEDS: &[Need] = &[Need::Shim];

pub(super) const NEMESES: &[Nemesis] = &[
    Nemesis {
        name: "clock-bump",
        family: "clock",
        about: "the wall clock of some nodes jumps, by tenths of a second or by months",
        needs: NEEDS,
        holds_ms: HOLDS_MS,
        mixes: Beside::Any,
        strike: |world, dice| Box::pin(bump(world, dice)),
    },
    Nemesis {
        name: "clock-strobe",
        family: "clock",
        about: "the wall clock of one node jumps to and fro, ten times a second",
        needs: NEEDS,
        holds_ms: HOLDS_MS,
        mixes: Beside::Any,
        strike: |world, dice| Box::pin(strobe(world, dice)),
    },
];

async fn set(world: &World, node: u32, ahead_ms: i64) -> Result<()> {
    let node = world.cluster.node(node).await;
    node.shim.as_ref().context("there is no shim")?.set_clock_ahead_ms(ahead_ms)
}

async fn reads_ahead(world: &World, nodes: &[u32]) -> Result<u64> {
    let mut all = 0;
    for id in nodes {
        let node = world.cluster.node(*id).await;
        all += node.shim.as_ref().context("there is no shim")?.counts()?.clock_reads_ahead;
    }
    Ok(all)
}

async fn mend(world: &World, nodes: &[u32], before: u64) -> Result<Option<String>> {
    for id in nodes {
        set(world, *id, 0).await?;
    }
    let seen = reads_ahead(world, nodes).await? - before;
    Ok((seen > 0).then(|| format!("{seen} looks at the clock were answered with another time")))
}

async fn bump(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let count = dice.random_range(1..=world.cluster.count());
    let nodes = world.some(count, &mut dice);
    let before = reads_ahead(&world, &nodes).await?;
    let mut bumps = Vec::new();
    for id in &nodes {
        let size = 10_i64.pow(dice.random_range(2..=10)) + dice.random_range(0..20_000);
        let ahead_ms = if dice.random_bool(0.5) { size } else { -size };
        set(&world, *id, ahead_ms).await?;
        bumps.push(format!("node {id} by {ahead_ms} ms"));
    }
    let what = format!("wall clock: {}", bumps.join(", "));
    Ok(Struck::new(nodes.clone(), what, async move { mend(&world, &nodes, before).await }))
}

async fn strobe(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let nodes = world.some(1, &mut dice);
    let before = reads_ahead(&world, &nodes).await?;
    let size: i64 = dice.random_range(200..30_000);
    let (id, strobing) = (nodes[0], world.clone());
    let task = tokio::spawn(async move {
        for turn in 0_u64.. {
            set(&strobing, id, if turn % 2 == 0 { size } else { 0 }).await?;
            sleep(Duration::from_millis(50)).await;
        }
        Ok::<(), anyhow::Error>(())
    });
    let what = format!("wall clock of node {id}: {size} ms to and fro every 50 ms");
    Ok(Struck::new(nodes.clone(), what, async move {
        let strobed = end(task).await;
        let effect = mend(&world, &nodes, before).await?;
        strobed.map(|()| effect)
    }))
}
