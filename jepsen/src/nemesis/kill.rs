//! SIGKILL.

use std::sync::Arc;

use rand::rngs::StdRng;

use super::{Beside, HOLDS_MS, Nemesis, Struck, World};

const fn nemesis(
    name: &'static str,
    about: &'static str,
    strike: fn(Arc<World>, StdRng) -> futures::future::BoxFuture<'static, anyhow::Result<Struck>>,
) -> Nemesis {
    Nemesis {
        name,
        family: "kill",
        about,
        needs: &[],
        holds_ms: HOLDS_MS,
        mixes: Beside::Any,
        strike,
    }
}

pub(super) const NEMESES: &[Nemesis] = &[
    nemesis("kill-one", "SIGKILL of one node", |world, mut dice| {
        Box::pin(async move { kill(world.some(1, &mut dice), world).await })
    }),
    nemesis("kill-minority", "SIGKILL of the largest minority", |world, mut dice| {
        Box::pin(async move { kill(world.some(world.minority(), &mut dice), world).await })
    }),
    nemesis("kill-majority", "SIGKILL of the smallest majority", |world, mut dice| {
        Box::pin(async move { kill(world.some(world.minority() + 1, &mut dice), world).await })
    }),
    nemesis("kill-all", "SIGKILL of every node at once", |world, _| {
        Box::pin(async move { kill(world.cluster.ids().collect(), world).await })
    }),
    nemesis("kill-leader", "SIGKILL of the node that leads the most groups", |world, _| {
        Box::pin(async move { kill(vec![world.leader().await?], world).await })
    }),
];

async fn kill(nodes: Vec<u32>, world: Arc<World>) -> anyhow::Result<Struck> {
    let mut had_run = 0;
    for id in &nodes {
        had_run += u32::from(world.cluster.node(*id).await.kill().await?);
    }
    Ok(Struck::new(nodes.clone(), "SIGKILL", async move {
        world.revive(&nodes).await?;
        Ok(world.seen_gone(&nodes, had_run).await)
    }))
}
