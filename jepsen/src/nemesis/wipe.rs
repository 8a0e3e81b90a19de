//! Nodes that lose everything they kept.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::time::sleep;

use super::{Beside, Nemesis, Struck, World};

/// How long the others work while some are away.
const WORKS_WITHOUT: Duration = Duration::from_secs(4);

pub(super) const NEMESES: &[Nemesis] = &[
    Nemesis {
        name: "wipe",
        family: "wipe",
        about: "one node loses all its data, and is made anew with `node replace`",
        needs: &[],
        holds_ms: (1_500, 4_000),
        mixes: Beside::Network,
        strike: |world, dice| Box::pin(strike(world, dice)),
    },
    Nemesis {
        name: "wipe-voter",
        family: "wipe",
        about: "one node is away while the others work; then it meets one of them that has lost all but IDENTITY",
        needs: &[],
        holds_ms: (5_000, 6_000),
        // It is a matter of who is alive when.
        mixes: Beside::Nothing,
        strike: |world, dice| Box::pin(wipe_voter(world, dice)),
    },
];

async fn strike(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let id = world.some(1, &mut dice)[0];
    let mut node = world.cluster.node(id).await;
    node.kill().await?;
    let bytes = node.disk.wipe()?;
    node.start()?;
    drop(node);
    let what = format!("all {bytes} bytes of node {id} removed; started empty");
    Ok(Struck::new(vec![id], what, async move {
        world.revive(&[id]).await?;
        let done = world.replace(id).await?;
        let effect = format!("{bytes} bytes were gone; `node replace` made {done} replicas anew");
        Ok((bytes > 0).then_some(effect))
    }))
}

/// A majority is there of which nobody knows what was acknowledged last: it must not elect a leader.
async fn wipe_voter(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let mut nodes = world.some(world.cluster.count(), &mut dice);
    nodes.shuffle(&mut dice);
    let (away, workers) = nodes.split_at(world.minority() as usize);
    let (away, workers) = (away.to_vec(), workers.to_vec());
    for id in &away {
        world.cluster.node(*id).await.kill().await?;
    }
    sleep(WORKS_WITHOUT).await;
    for id in &workers {
        world.cluster.node(*id).await.kill().await?;
    }
    let wiped = workers[0];
    let bytes = world.cluster.node(wiped).await.disk.wipe_but_identity()?;
    for id in away.iter().chain([&wiped]) {
        world.cluster.node(*id).await.start()?;
    }
    let what = format!("nodes {away:?} missed what {workers:?} knew; then node {wiped} forgot it");
    Ok(Struck::new(nodes.clone(), what, async move {
        world.revive(&nodes).await?;
        let done = world.replace(wiped).await?;
        let effect =
            format!("{bytes} bytes were gone; `node replace` went through {done} replicas");
        Ok((bytes > 0).then_some(effect))
    }))
}
