//! Restarts in good order, one node after another, as an upgrade does.

use std::time::Duration;

use tokio::time::Instant;

use super::{Beside, Nemesis, RESTART_DEADLINE, Struck, World};

const STOP_DEADLINE: Duration = Duration::from_secs(20);

pub(super) const NEMESES: &[Nemesis] = &[Nemesis {
    name: "rolling-restart",
    family: "restart",
    about: "SIGTERM and a new start of every node, one after another",
    needs: &[],
    holds_ms: (100, 500),
    // Each node is waited for until it serves, which another fault would keep it from.
    mixes: Beside::Nothing,
    strike: |world, _| Box::pin(async move { strike(&world).await }),
}];

async fn strike(world: &World) -> anyhow::Result<Struck> {
    let nodes: Vec<u32> = world.cluster.ids().collect();
    let mut endings = Vec::new();
    for id in &nodes {
        let ended = world.cluster.node(*id).await.terminate(STOP_DEADLINE).await?;
        endings.push(format!("node {id}: {ended}"));
        world.cluster.node(*id).await.start()?;
        // One that does not serve in time is seen by those who judge.
        world.cluster.wait_ready(*id, Instant::now() + RESTART_DEADLINE).await.ok();
    }
    let effect = endings.join(", ");
    Ok(Struck::new(nodes, "SIGTERM and start, in turn", async { Ok(Some(effect)) }))
}
