//! SIGSTOP, past every timeout, and SIGCONT: a process that wakes up believes that no time has passed.

use std::sync::Arc;

use rand::rngs::StdRng;

use super::{Nemesis, Struck, World};

/// Longer than lease, election and the clients' patience for an attempt.
const HOLDS_MS: (u64, u64) = (3_000, 8_000);

const fn nemesis(
    name: &'static str,
    about: &'static str,
    strike: fn(Arc<World>, StdRng) -> futures::future::BoxFuture<'static, anyhow::Result<Struck>>,
) -> Nemesis {
    Nemesis { name, family: "pause", about, needs: &[], holds_ms: HOLDS_MS, mixes: true, strike }
}

pub(super) const NEMESES: &[Nemesis] = &[
    nemesis("pause-one", "SIGSTOP of one node, past every timeout", |world, mut dice| {
        Box::pin(async move { pause(world.some(1, &mut dice), world).await })
    }),
    nemesis("pause-leader", "SIGSTOP of the node that leads the most groups", |world, _| {
        Box::pin(async move { pause(vec![world.leader().await?], world).await })
    }),
    nemesis("pause-majority", "SIGSTOP of the smallest majority", |world, mut dice| {
        Box::pin(async move { pause(world.some(world.minority() + 1, &mut dice), world).await })
    }),
];

async fn pause(nodes: Vec<u32>, world: Arc<World>) -> anyhow::Result<Struck> {
    for id in &nodes {
        let mut node = world.cluster.node(*id).await;
        if node.is_running() {
            node.pause().await?;
        }
    }
    Ok(Struck::new(nodes.clone(), "SIGSTOP", async move {
        let mut stood = 0;
        for id in &nodes {
            let mut node = world.cluster.node(*id).await;
            stood += u32::from(node.state() == Some('T'));
            node.resume();
        }
        Ok((stood > 0).then(|| format!("{stood} processes stood until SIGCONT")))
    }))
}
