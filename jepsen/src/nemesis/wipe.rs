//! Nodes that lose everything they kept.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{Nemesis, Struck, World};

pub(super) const NEMESES: &[Nemesis] = &[
    Nemesis {
        name: "wipe",
        family: "wipe",
        about: "one node loses all its data, and is made anew with `node replace`",
        needs: &[],
        holds_ms: (1_500, 4_000),
        mixes: false,
        strike: |world, dice| Box::pin(strike(world, dice)),
    },
    Nemesis {
        name: "wipe-in-turn",
        family: "wipe-in-turn",
        about: "a majority of nodes loses its data but IDENTITY, one after another, and nobody replaces them",
        needs: &[],
        holds_ms: (500, 1_000),
        mixes: false,
        strike: |world, dice| Box::pin(wipe_in_turn(world, dice)),
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

/// What only a node that forgets its votes survives wrongly. A sound cluster does not serve after this.
async fn wipe_in_turn(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let nodes = world.some(world.minority() + 1, &mut dice);
    let mut bytes = 0;
    for id in &nodes {
        let mut node = world.cluster.node(*id).await;
        node.kill().await?;
        bytes += node.disk.wipe_but_identity()?;
        node.start()?;
        drop(node);
        sleep(Duration::from_secs(4)).await;
    }
    let what = "everything but IDENTITY removed, one node after another, without replace";
    Ok(Struck::new(nodes.clone(), what, async move {
        for id in &nodes {
            world.excuse(*id, "wiped, and not replaced".to_owned()).await;
        }
        Ok((bytes > 0).then(|| format!("{bytes} bytes were gone")))
    }))
}
