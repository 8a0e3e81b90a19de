//! Snapshots that are damaged on their way in, between the last byte that arrived and the first that is believed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::damage::{How, Kind, Read, harm, replace_noticed};
use super::install::{AWAY, arrives, has_arrived, is_staged, slow_syncs};
use super::{Beside, Need, Nemesis, Struck, World};
use crate::clock;
use crate::nodes::Node;

/// How long a node that came back is watched for a snapshot.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(15);

const fn nemesis(
    name: &'static str,
    about: &'static str,
    strike: fn(Arc<World>, StdRng) -> futures::future::BoxFuture<'static, Result<Struck>>,
) -> Nemesis {
    let needs = &[Need::Shim];
    // No snapshot comes to whom the others do not reach.
    let mixes = Beside::Nothing;
    Nemesis { name, family: "damage", about, needs, holds_ms: (200, 500), mixes, strike }
}

pub(super) const NEMESES: &[Nemesis] = &[
    nemesis("flip-snapshot", "bits of a snapshot are flipped while a node takes it in", |w, d| {
        Box::pin(strike(w, d, How::FlipBits))
    }),
    nemesis("truncate-snapshot", "a snapshot is shortened while a node takes it in", |w, d| {
        Box::pin(strike(w, d, How::Shorten))
    }),
];

fn kind(how: How) -> Kind {
    Kind { file: "snapshot", is_of: is_staged, how, read: Read::Before }
}

/// A node that was away so long that it needs snapshots is stopped while one lies in its staging area. Then it goes on
/// with what has become of it, or dies and finds that when it starts.
async fn strike(world: Arc<World>, mut dice: StdRng, how: How) -> Result<Struck> {
    let kind = kind(how);
    let id = world.some(1, &mut dice)[0];
    let dies = dice.random_bool(0.5);
    let mut node = world.cluster.node(id).await;
    slow_syncs(&node, true)?;
    let mut arrived = stop_at_arrival(&mut node, AWAY).await;
    if arrived.is_err() {
        // Where little was done meanwhile, the others' logs still held what it missed.
        arrived = stop_at_arrival(&mut node, AWAY * 2).await;
    }
    let done = arrived.and_then(|()| harm(&node.disk.data(), kind, &mut dice));
    slow_syncs(&node, false)?;
    let then = match dies {
        true => {
            node.kill().await?;
            node.start()?;
            "killed and started again"
        }
        false => {
            node.resume();
            "it went on"
        }
    };
    drop(node);
    let done = done?;
    ensure!(!done.is_empty(), "what had come in was gone again");
    let what = format!("{} on its way into node {id}: {how:?}: {done}; {then}", kind.file);
    Ok(Struck::new(vec![id], what, async move {
        // A node that took it for damaged and asked for another says nothing of it.
        let noticed = replace_noticed(&world, &[id], kind.read).await?;
        let then = "another one was taken in, for what it has is sound".to_owned();
        Ok(Some(noticed.into_iter().next().unwrap_or(then)))
    }))
}

/// Keeps the node away, starts it, and stops it with staged files in its data.
async fn stop_at_arrival(node: &mut Node, away: Duration) -> Result<()> {
    node.kill().await?;
    sleep(away).await;
    let (started, deadline) = (clock::now(), Instant::now() + ARRIVAL_DEADLINE);
    node.start()?;
    while arrives(node, started, deadline.saturating_duration_since(Instant::now())).await {
        node.pause().await?;
        // It may have been taken in meanwhile.
        if has_arrived(node, started) {
            return Ok(());
        }
        node.resume();
    }
    anyhow::bail!("no snapshot came in")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn only_what_is_staged_is_harmed() {
        let data = tempfile::tempdir().unwrap();
        let (transfer, state) = (data.path().join("staging/group-1-2"), data.path().join("state"));
        for folder in [&transfer, &state] {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join("messages-000000.sst"), [7; 1_000]).unwrap();
        }
        let read = |folder: &Path| std::fs::read(folder.join("messages-000000.sst")).unwrap();
        for (how, bytes) in [(How::FlipBits, 1_000), (How::Shorten, 500)] {
            let kind = kind(how);
            let done = harm(data.path(), kind, &mut StdRng::seed_from_u64(1)).unwrap();
            assert_eq!(done, "staging/group-1-2/messages-000000.sst (1000 bytes)");
            assert!(read(&transfer).len() == bytes && read(&transfer) != [7; 1_000]);
            assert_eq!(read(&state), [7; 1_000]);
        }
    }
}
