//! Disks that fill up.

use std::sync::Arc;

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;

use super::{Need, Nemesis, Struck, World};

pub(super) const NEMESES: &[Nemesis] = &[Nemesis {
    name: "disk-full",
    family: "disk-full",
    about: "the disk of one node, or of all, fills up until appends or also replication are refused",
    needs: &[Need::Disk],
    holds_ms: (4_000, 8_000),
    mixes: true,
    strike: |world, dice| Box::pin(strike(world, dice)),
}];

async fn strike(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let count = if dice.random_bool(0.7) { 1 } else { world.cluster.count() };
    let nodes = world.some(count, &mut dice);
    let leave_bytes = dice.random_range(20..80) * 1024 * 1024;
    let mut left_free = Vec::new();
    for id in &nodes {
        let left = world.cluster.node(*id).await.disk.fill(leave_bytes).await?;
        left_free.push(format!("node {id} has {} MiB left", left / 1024 / 1024));
    }
    let what = "disk filled";
    Ok(Struck::new(nodes.clone(), what, async move {
        let marked = marked(&world, &nodes).await;
        for id in &nodes {
            world.cluster.node(*id).await.disk.empty()?;
        }
        world.revive(&nodes).await?;
        let marked = marked?;
        let effect = format!("{}; {}", left_free.join("; "), marked.join("; "));
        Ok((!marked.is_empty()).then_some(effect))
    }))
}

/// Those of these nodes that say that their disks are too full, and how full.
async fn marked(world: &World, nodes: &[u32]) -> Result<Vec<String>> {
    let all = world.describe().await?.nodes.into_iter();
    let full = all.filter(|node| nodes.iter().any(|id| u64::from(*id) == node.node_id));
    let full = full.filter(|node| node.disk_mark == "SOFT" || node.disk_mark == "HARD");
    Ok(full
        .map(|node| format!("node {} is past its mark {}", node.node_id, node.disk_mark))
        .collect())
}
