//! Disks that fill up.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::{Instant, sleep};

use super::{Beside, Need, Nemesis, Struck, World};
use crate::nodes::WhyDown;

/// How often what has become free on a disk that is to have no room is taken again: a node that gives up a file must
/// not live on it.
const FILLED_EVERY: Duration = Duration::from_millis(50);
/// How long a node may take to start with little room.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// What a node says of a write for which its disk had no room.
const NO_SPACE: &str = "No space left on device";

pub(super) const NEMESES: &[Nemesis] = &[
    Nemesis {
        name: "disk-full",
        family: "disk-full",
        about: "the disk of one node, or of all, fills up until appends or also replication are refused",
        needs: &[Need::Disk],
        holds_ms: (4_000, 8_000),
        mixes: Beside::Any,
        strike: |world, dice| Box::pin(strike(world, dice)),
    },
    Nemesis {
        name: "disk-exhausted",
        family: "disk-exhausted",
        about: "one disk fills up to the last byte: the node has to stop, and is started in the room of its ballast",
        needs: &[Need::Disk],
        holds_ms: (4_000, 8_000),
        mixes: Beside::Any,
        strike: |world, dice| Box::pin(exhaust(world, dice)),
    },
];

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

/// Starts a node whose disk is full but for what its ballast took, and says whether it can: nobody is promised that.
async fn starts_in_little_room(world: &World, id: u32) -> Result<&'static str> {
    world.cluster.node(id).await.start()?;
    let deadline = Instant::now() + START_DEADLINE;
    Ok(match world.cluster.wait_alive(id, deadline).await {
        Ok(()) => "it runs",
        Err(_) => "it does not run",
    })
}

async fn exhaust(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let id = world.some(1, &mut dice)[0];
    let said_before = world.cluster.node(id).await.said(NO_SPACE);
    let filling = world.clone();
    let (done, mut is_done) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let (mut looks, mut exhausted) = (0, 0);
        while is_done.try_recv() == Err(TryRecvError::Empty) {
            // It fails where another fault has taken the disk away meanwhile.
            if let Ok(free_bytes) = filling.cluster.node(id).await.disk.fill_up() {
                looks += 1;
                exhausted += u32::from(free_bytes == 0);
            }
            sleep(FILLED_EVERY).await;
        }
        (looks, exhausted)
    });
    let what = format!("no byte is left to node {id}");
    Ok(Struck::new(vec![id], what, async move {
        // Dropped unsent it says the same.
        let _ = done.send(());
        let (looks, exhausted) = task.await?;
        let mut node = world.cluster.node(id).await;
        let refused = node.said(NO_SPACE) - said_before;
        let ends_itself = matches!(node.why_down(), WhyDown::ByItself(_)) && !node.is_running();
        // A node that something else had ended all the while wrote nothing.
        let has_met = refused > 0 || ends_itself;
        let ended = match (node.is_running(), node.why_down()) {
            (true, _) => "it still ran then".to_owned(),
            (false, WhyDown::ByItself(how)) => format!("it ended by itself ({how})"),
            (false, _) => "something else had ended it".to_owned(),
        };
        let given_up = node.disk.give_up_ballast();
        drop(node);
        let started = starts_in_little_room(&world, id).await;
        // First: whatever came of that, the disk is to have room again.
        world.cluster.node(id).await.disk.empty()?;
        world.revive(&[id]).await?;
        let (ballast_bytes, in_that_room) = (given_up?, started?);
        let effect = format!(
            "no byte was free at {exhausted} of {looks} looks; {refused} lines of its log tell of it; {ended}; \
             its ballast gave back {ballast_bytes} bytes, and in that room {in_that_room}"
        );
        Ok((exhausted > 0 && has_met).then_some(effect))
    }))
}
