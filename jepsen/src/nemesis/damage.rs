//! Data that is not what was written: flipped bits, missing ends. The node must notice before it serves or replicates any
//! of it (G11), and is made anew on an empty directory.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::BoxFuture;
use quorate_client::proto::NodeStatus;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::{Beside, Nemesis, Struck, World};
use crate::nodes::files_below;

/// How long a node may take to notice.
const NOTICE_DEADLINE: Duration = Duration::from_secs(12);
/// What `quorate check` says of damage that the node itself has found.
const NOTED: &str = "noted by the node while it ran";

/// Which files, and what is done to them.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub file: &'static str,
    pub is_of: fn(&Path) -> bool,
    pub how: How,
    pub read: Read,
}

/// When a node reads what was harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// All of it before it serves by it: to run on it is to have believed it.
    Before,
    /// When somebody asks for what stands there.
    WhenAsked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    FlipBits,
    Shorten,
}

const fn nemesis(
    name: &'static str,
    about: &'static str,
    strike: fn(Arc<World>, StdRng) -> BoxFuture<'static, Result<Struck>>,
) -> Nemesis {
    Nemesis {
        name,
        family: "damage",
        about,
        needs: &[],
        holds_ms: (200, 500),
        mixes: Beside::Network,
        strike,
    }
}

/// The end of a log that is lost before the watermark had it is missed by its leader alone: while they do not hear each
/// other, its node could vote for one that has not got it either.
const fn of_log(
    name: &'static str,
    about: &'static str,
    strike: fn(Arc<World>, StdRng) -> BoxFuture<'static, Result<Struck>>,
) -> Nemesis {
    Nemesis { mixes: Beside::Nothing, ..nemesis(name, about, strike) }
}

fn is_in(path: &Path, folder: &str) -> bool {
    path.parent().is_some_and(|parent| parent.ends_with(folder))
}
fn ends(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|extension| extension == ending)
}
fn begins(path: &Path, beginning: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning))
}

fn kind(file: &'static str, is_of: fn(&Path) -> bool, how: How) -> Kind {
    let read = if matches!(file, "SST" | "blob") { Read::WhenAsked } else { Read::Before };
    Kind { file, is_of, how, read }
}

const WAL: fn(&Path) -> bool = |path| is_in(path, "log") && ends(path, "log");
const SST: fn(&Path) -> bool = |path| ends(path, "sst") && is_in(path, "state");
const BLOB: fn(&Path) -> bool = |path| ends(path, "blob") && is_in(path, "state");
const MANIFEST: fn(&Path) -> bool = |path| begins(path, "MANIFEST");
const WATERMARK: fn(&Path) -> bool = |path| begins(path, "watermark");

pub(super) const NEMESES: &[Nemesis] = &[
    of_log("flip-wal", "bits of a minority's write-ahead logs are flipped", |world, dice| {
        Box::pin(strike(world, dice, kind("WAL", WAL, How::FlipBits)))
    }),
    of_log(
        "truncate-wal",
        "a minority's write-ahead logs lose their second halves",
        |world, dice| Box::pin(strike(world, dice, kind("WAL", WAL, How::Shorten))),
    ),
    nemesis("flip-sst", "bits of a minority's tables are flipped", |world, dice| {
        Box::pin(strike(world, dice, kind("SST", SST, How::FlipBits)))
    }),
    nemesis("truncate-sst", "a minority's tables are shortened", |world, dice| {
        Box::pin(strike(world, dice, kind("SST", SST, How::Shorten)))
    }),
    nemesis("flip-blob", "bits of a minority's large values are flipped", |world, dice| {
        Box::pin(strike(world, dice, kind("blob", BLOB, How::FlipBits)))
    }),
    nemesis("truncate-blob", "a minority's large values are shortened", |world, dice| {
        Box::pin(strike(world, dice, kind("blob", BLOB, How::Shorten)))
    }),
    nemesis("flip-manifest", "bits of a minority's manifests are flipped", |world, dice| {
        Box::pin(strike(world, dice, kind("MANIFEST", MANIFEST, How::FlipBits)))
    }),
    nemesis("truncate-manifest", "a minority's manifests are shortened", |world, dice| {
        Box::pin(strike(world, dice, kind("MANIFEST", MANIFEST, How::Shorten)))
    }),
    nemesis("flip-watermark", "bits of a minority's watermarks are flipped", |world, dice| {
        Box::pin(strike(world, dice, kind("watermark", WATERMARK, How::FlipBits)))
    }),
    Nemesis {
        name: "truncate-wal-in-turn",
        family: "truncate-wal-in-turn",
        about: "the logs of a majority lose their second halves while the others are away; none is replaced",
        needs: &[],
        holds_ms: (500, 1_000),
        // It kills all nodes, and a majority loses what it has.
        mixes: Beside::Nothing,
        strike: |world, dice| Box::pin(shorten_in_turn(world, dice)),
    },
];

async fn strike(world: Arc<World>, mut dice: StdRng, kind: Kind) -> Result<Struck> {
    let some = world.some(dice.random_range(1..=world.replica_minority().await?), &mut dice);
    let (mut nodes, mut done) = (Vec::new(), Vec::new());
    for id in &some {
        let mut node = world.cluster.node(*id).await;
        node.kill().await?;
        let harmed = harm(&node.disk.data(), kind, &mut dice);
        node.start()?;
        let harmed = harmed?;
        if !harmed.is_empty() {
            nodes.push(*id);
            done.push(format!("node {id}: {harmed}"));
        }
    }
    ensure!(!nodes.is_empty(), "there was no {} to harm", kind.file);
    let what = format!("{}: {:?}: {}", kind.file, kind.how, done.join("; "));
    // Where there was no such file the node was restarted all the same.
    Ok(Struck::new(some, what, async move {
        let noticed = replace_noticed(&world, &nodes, kind.read).await?;
        // A torn tail younger than the watermark is nothing to notice, and shows nothing of how damage is noticed.
        Ok((!noticed.is_empty()).then(|| noticed.join("; ")))
    }))
}

/// Gives nodes time to notice that their data is damaged, lets them read all of it, and makes those anew that do; and those
/// of which `quorate check` says it, so that no damage is left that nothing has read. What was seen of those that noticed.
pub(super) async fn replace_noticed(
    world: &Arc<World>,
    nodes: &[u32],
    read: Read,
) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    for id in nodes {
        let mut noticed = tokio::select! {
            noticed = notice(world, *id, NOTICE_DEADLINE) => noticed,
            never = read_again_and_again(world, *id) => never,
        };
        // One that is still at its start may be about to notice.
        let runs_on = world.cluster.wait_alive(*id, Instant::now()).await.is_ok();
        let mut node = world.cluster.node(*id).await;
        node.kill().await?;
        if noticed.is_none() {
            match node.check().await? {
                None => {
                    node.start()?;
                    continue;
                }
                Some(wrong) if wrong.contains(NOTED) => {
                    noticed = Some(format!("node {id} has noted it: {wrong}"));
                }
                Some(wrong) if runs_on && read == Read::Before => {
                    world.note_unnoticed(*id, wrong).await;
                }
                Some(_) => {}
            }
        }
        node.disk.wipe()?;
        drop(node);
        world.revive(&[*id]).await?;
        let replaced = world.replace(*id).await?;
        if let Some(noticed) = noticed {
            seen.push(format!("{noticed}; `node replace` made {replaced} replicas of it anew"));
        }
    }
    Ok(seen)
}

/// Damage that nobody reads is not noticed.
async fn read_again_and_again(world: &World, node: u32) -> Option<String> {
    loop {
        world.read_all(node).await;
        sleep(Duration::from_millis(500)).await;
    }
}

/// What a sound cluster does not survive, and one that ignores its watermark survives wrongly: while the others are away
/// nobody knows what is missing.
async fn shorten_in_turn(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let nodes = world.some(world.minority() + 1, &mut dice);
    let others: Vec<u32> = world.cluster.ids().filter(|id| !nodes.contains(id)).collect();
    let kind = kind("WAL", WAL, How::Shorten);
    let mut done = Vec::new();
    for id in world.cluster.ids() {
        world.cluster.node(id).await.kill().await?;
    }
    for id in &nodes {
        let mut node = world.cluster.node(*id).await;
        done.push(format!("node {id}: {}", harm(&node.disk.data(), kind, &mut dice)?));
        node.start()?;
    }
    Ok(Struck::new(nodes.clone(), "ends of logs removed, without replace", async move {
        let mut noticed = Vec::new();
        for id in &nodes {
            if let Some(how) = notice(&world, *id, Duration::from_secs(4)).await {
                world.excuse(*id, how.clone()).await;
                noticed.push(how);
            }
        }
        world.revive(&others).await?;
        Ok(Some(format!("{}; {}", done.join("; "), noticed.join("; "))))
    }))
}

/// Harms the two largest files of a kind. What was done; empty if there was no such file.
pub(super) fn harm(data: &Path, kind: Kind, dice: &mut StdRng) -> Result<String> {
    let all = files_below(data);
    let of_kind = all.into_iter().filter(|(path, about)| (kind.is_of)(path) && about.len() > 64);
    let mut files: Vec<(PathBuf, u64)> = of_kind.map(|(path, about)| (path, about.len())).collect();
    files.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let mut done = Vec::new();
    for (path, bytes) in files.into_iter().take(2) {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
        match kind.how {
            How::Shorten => file.set_len(bytes / 2)?,
            How::FlipBits => {
                for _ in 0..8 {
                    let (place, mut byte) = (dice.random_range(0..bytes), [0]);
                    file.read_exact_at(&mut byte, place)?;
                    file.write_all_at(&[byte[0] ^ (1 << dice.random_range(0..8))], place)?;
                }
            }
        }
        file.sync_all()?;
        let name = path.strip_prefix(data).unwrap_or(&path);
        done.push(format!("{} ({bytes} bytes)", name.display()));
    }
    Ok(done.join(", "))
}

/// How a node shows that it has noticed: it ends, or it and others call a replica damaged.
async fn notice(world: &World, id: u32, within: Duration) -> Option<String> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if let Some(how) = world.cluster.node(id).await.wait_for_end(Duration::ZERO).await {
            return Some(format!("node {id} refused to run on ({how})"));
        }
        if let Ok(Some(problem)) = problem_of(world, id).await {
            return Some(format!("a replica of node {id} is reported {problem}"));
        }
        sleep(Duration::from_millis(300)).await;
    }
    None
}

async fn problem_of(world: &World, id: u32) -> Result<Option<String>> {
    let nodes: Vec<NodeStatus> = world.describe().await?.nodes;
    let status = nodes.into_iter().find(|status| status.node_id == u64::from(id));
    let status = status.context("the node is not described")?;
    let bad = status
        .replicas
        .into_iter()
        .find(|replica| matches!(replica.role.as_str(), "damaged" | "missing" | "stopped"));
    Ok(bad.map(|replica| format!("{}: {}", replica.role, replica.problem)))
}
