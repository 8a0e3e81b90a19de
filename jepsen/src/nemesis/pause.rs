//! SIGSTOP and SIGCONT: a process that wakes up believes that no time has passed.

use std::sync::Arc;

use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{Beside, Nemesis, Struck, World};

/// Longer than lease, election and the clients' patience for an attempt.
const HOLDS_MS: (u64, u64) = (3_000, 8_000);
/// Longer than every timeout: 10 s of a call, 30 s of silence on a stream, and 40 s until a connection that answers no
/// pings is given up. Whoever wakes up finds that the others have closed everything.
const LONG_HOLDS_MS: (u64, u64) = (45_000, 60_000);

const fn nemesis(
    name: &'static str,
    about: &'static str,
    strike: fn(Arc<World>, StdRng) -> futures::future::BoxFuture<'static, anyhow::Result<Struck>>,
) -> Nemesis {
    Nemesis {
        name,
        family: "pause",
        about,
        needs: &[],
        holds_ms: HOLDS_MS,
        mixes: Beside::Any,
        strike,
    }
}

/// A family of its own: who asks for `pause` has a minute for all of them.
const fn long(nemesis: Nemesis) -> Nemesis {
    Nemesis { family: "pause-long", holds_ms: LONG_HOLDS_MS, ..nemesis }
}

pub(super) const NEMESES: &[Nemesis] = &[
    nemesis("pause-one", "SIGSTOP of one node, past lease and election", |world, mut dice| {
        Box::pin(async move { pause(world.some(1, &mut dice), world).await })
    }),
    nemesis("pause-leader", "SIGSTOP of the node that leads the most groups", |world, _| {
        Box::pin(async move { pause(vec![world.leader().await?], world).await })
    }),
    nemesis("pause-majority", "SIGSTOP of the smallest majority", |world, mut dice| {
        Box::pin(async move { pause(world.some(world.minority() + 1, &mut dice), world).await })
    }),
    long(nemesis(
        "pause-long-one",
        "SIGSTOP of one node for 45 to 60 s, past every timeout and keep-alive",
        |world, mut dice| Box::pin(async move { pause(world.some(1, &mut dice), world).await }),
    )),
    long(nemesis(
        "pause-long-leader",
        "the same of the node that leads the most groups",
        |world, _| Box::pin(async move { pause(vec![world.leader().await?], world).await }),
    )),
];

async fn pause(nodes: Vec<u32>, world: Arc<World>) -> anyhow::Result<Struck> {
    for id in &nodes {
        let mut node = world.cluster.node(*id).await;
        if node.is_running() {
            node.pause().await?;
        }
    }
    let begun = Instant::now();
    Ok(Struck::new(nodes.clone(), "SIGSTOP", async move {
        let mut stood = 0;
        let seconds = begun.elapsed().as_secs();
        for id in &nodes {
            let mut node = world.cluster.node(*id).await;
            stood += u32::from(node.state() == Some('T'));
            node.resume();
        }
        Ok((stood > 0).then(|| format!("{stood} processes stood for {seconds} s until SIGCONT")))
    }))
}
