//! Cuts of power: processes die and what was not synced is lost.

use std::sync::Arc;

use anyhow::Result;
use futures::future::{BoxFuture, join_all};
use rand::rngs::StdRng;

use super::{Beside, HOLDS_MS, Need, Nemesis, Struck, World};

const fn nemesis(
    name: &'static str,
    about: &'static str,
    strike: fn(Arc<World>, StdRng) -> BoxFuture<'static, Result<Struck>>,
) -> Nemesis {
    let needs = &[Need::DiskOrShim];
    Nemesis { name, family: "power", about, needs, holds_ms: HOLDS_MS, mixes: Beside::Any, strike }
}

pub(super) const NEMESES: &[Nemesis] = &[
    nemesis("power-one", "one node loses power and what it had not synced", |world, mut dice| {
        Box::pin(async move { lose(world.some(1, &mut dice), world).await })
    }),
    nemesis("power-minority", "the largest minority loses power at once", |world, mut dice| {
        Box::pin(async move { lose(world.some(world.minority(), &mut dice), world).await })
    }),
    nemesis("power-all", "all nodes lose power at once", |world, _| {
        Box::pin(async move { lose(world.cluster.ids().collect(), world).await })
    }),
];

async fn lose(nodes: Vec<u32>, world: Arc<World>) -> Result<Struck> {
    // All at once: none may hear of another's end and sync what it has.
    let kill = |id: u32| {
        let world = world.clone();
        async move { world.cluster.node(id).await.kill().await }
    };
    let killed = join_all(nodes.iter().copied().map(kill)).await;
    let had_run = killed.into_iter().collect::<Result<Vec<bool>>>()?;
    let (mut lost, mut lost_bytes) = (Vec::new(), 0);
    for id in &nodes {
        let mut node = world.cluster.node(*id).await;
        let node = &mut *node;
        let bytes = node.disk.lose_power(node.shim.as_ref()).await?;
        lost_bytes += bytes;
        lost.push(format!("node {id} lost {bytes} bytes of its files"));
    }
    // A cut that takes nothing does what a kill does.
    let has_effect = had_run.contains(&true) && lost_bytes > 0;
    let effect = has_effect.then(|| lost.join("; "));
    Ok(Struck::new(nodes.clone(), "power cut", async move {
        world.revive(&nodes).await?;
        Ok(effect)
    }))
}
