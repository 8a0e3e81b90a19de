//! One run: a cluster is made, clients work, things break and are mended, everything is read once more, and what was
//! written down is judged.

mod faults;
mod leaders;
mod options;
mod pressure;
mod served;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use options::{FATAL, FLUSH_MS, RunOptions};

use crate::history::Run;
use crate::nemesis::{self, World};
use crate::nodes::{Cluster, ClusterOptions};
use crate::programs;
use crate::record::Recorder;
use crate::workload::{Caller, Crew, Floor, read_everything};
use crate::{clock, say};
use pressure::Pressure;

/// How long clients work before the first fault.
const CALM_BEFORE: Duration = Duration::from_secs(3);
/// How long they work after the last: streams have to be complete only after
/// [`DELIVERED_WITHIN`](crate::check::DELIVERED_WITHIN) of it.
const CALM_AFTER: Duration = Duration::from_secs(12);
/// The same in positive controls, whose faults show earlier.
const CALM_AFTER_PLANTED: Duration = Duration::from_secs(3);
/// How often nodes are asked for what they take of memory.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);
/// How long nodes may take until everything can be read from each.
const FINAL_DEADLINE: Duration = Duration::from_secs(45);

/// Runs, writes everything down in `dir`, and puts the cluster away whatever happens.
///
/// # Errors
///
/// If the harness fails or is told to stop: nothing is known then.
pub async fn run(options: &RunOptions, dir: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let version = programs::run(&options.binary.to_string_lossy(), ["--version"]).await;
    let version = version.context("--binary or JEPSEN_BINARY has to name a quorate")?;
    say!(options, "starting {} nodes", options.nodes);
    let cluster_options = cluster_options(options);
    let cluster = tokio::select! {
        cluster = Cluster::start(dir, &cluster_options) => cluster?,
        () = stop.cancelled() => bail!("interrupted"),
    };
    let recorder = Recorder::create(dir)?;
    let endpoints = cluster.ids().map(|id| cluster.client_address(id)).collect();
    let names = (0..options.conversations).map(|number| format!("room-{number}")).collect();
    let floor = Arc::new(Floor::new(recorder, names, endpoints));
    let _leaders = leaders::watch(&floor);
    let world = Arc::new(World::new(cluster, floor));
    let outcome = tokio::select! {
        outcome = work_and_break(options, &world, version.trim()) => outcome,
        never = watch_memory(&world) => never,
        () = stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    let problems = world.cluster.stop(options.keep_data).await;
    if !problems.is_empty() {
        say!(options, "putting away: {}", problems.join("; "));
    }
    outcome
}

fn cluster_options(options: &RunOptions) -> ClusterOptions {
    ClusterOptions {
        nodes: options.nodes,
        groups: options.groups,
        replication: options.replication,
        network: options.network,
        binary: options.binary.clone(),
        failpoints: options.planted.as_ref().map(|name| format!("planted::{name}=return")),
        flush_ms: options.flush_ms,
        seed: options.seed,
    }
}

async fn work_and_break(
    options: &RunOptions,
    world: &Arc<World>,
    version: &str,
) -> anyhow::Result<()> {
    let (started, pressure) = (clock::now_text(), Pressure::begin());
    let floor = &world.floor;
    let recorder = floor.recorder.clone();
    // Now, for a client that connects learns the topology first, and later it may be lost.
    let mut readers = Vec::new();
    for id in world.cluster.ids() {
        let reader = floor.caller(Some(id)).await;
        readers.push(reader.with_context(|| format!("node {id} does not answer"))?);
    }
    let kinds = options.workloads()?;
    let crew = Crew::start(floor, &kinds, options.rate, options.seed);
    sleep(CALM_BEFORE).await;
    anyhow::ensure!(floor.acknowledged() > 0, "nothing was acknowledged before the first fault");

    let Usable { chosen, without } = usable(options, world)?;
    faults::make(options, world, &chosen).await?;
    let healed_at = recorder.now();
    floor.healed.cancel();
    say!(options, "healed; {} appends acknowledged", floor.acknowledged());
    sleep(if options.planted.is_some() { CALM_AFTER_PLANTED } else { CALM_AFTER }).await;
    crew.stop().await?;

    let excused = world.excused().await;
    let replicas = read_at_end(options, world, readers, &excused).await?;
    let mut memory_bytes_max = BTreeMap::new();
    for id in world.cluster.ids() {
        let bytes = world.cluster.node(id).await.memory_bytes_max();
        if bytes > 0 {
            memory_bytes_max.insert(id, bytes);
        }
    }
    let stored = check_stored(options, world, &excused).await?;
    faults::note_ends(options, world).await;
    let mut panics = BTreeMap::new();
    for id in world.cluster.ids() {
        panics.extend(world.cluster.node(id).await.first_panic().map(|panic| (id, panic)));
    }
    let run = Run {
        name: options.name(),
        started,
        seed: options.seed,
        nodes: options.nodes,
        workloads: kinds.iter().map(|kind| kind.name.to_owned()).collect(),
        nemeses: chosen.iter().map(|nemesis| nemesis.name.to_owned()).collect(),
        duration_s: options.time.as_secs(),
        version: version.to_owned(),
        without,
        planted: options.planted.clone(),
        command: options.command(),
        healed_at: Some(healed_at),
        replicas,
        memory_bytes_max,
        panics,
        stored,
        unreplaced: world.unreplaced().await,
        unnoticed: world.unnoticed().await,
        excused,
        waited_for_processor: pressure.share(),
    };
    recorder.finish(&run).context("the run was not written down")
}

/// Reads everything from every node that runs and is not excused. Which nodes have a replica of which group.
async fn read_at_end(
    options: &RunOptions,
    world: &World,
    mut readers: Vec<Caller>,
    excused: &[(u32, String)],
) -> anyhow::Result<BTreeMap<u64, Vec<u32>>> {
    let deadline = Instant::now() + FINAL_DEADLINE;
    // Nobody starts a node any more: one that has ended is waited for in vain, and those who judge miss it.
    let mut away: Vec<u32> = excused.iter().map(|(node, _)| *node).collect();
    for id in world.cluster.ids() {
        if !world.cluster.node(id).await.is_running() {
            away.push(id);
        }
    }
    readers.retain(|reader| !reader.node().is_some_and(|id| away.contains(&id)));
    say!(options, "reading everything from every node");
    let replicas = world.replicas().await?;
    for problem in read_everything(readers, &replicas, deadline).await {
        say!(options, "{problem}");
    }
    Ok(replicas)
}

/// Looks at what nodes take of memory, again and again: who ends by itself cannot be asked any more.
async fn watch_memory(world: &World) -> ! {
    loop {
        sleep(MEMORY_INTERVAL).await;
        for id in world.cluster.ids() {
            world.cluster.node(id).await.memory_bytes_max();
        }
    }
}

/// Kills all nodes, and looks at what is left of each, as an operator would with `quorate check`.
async fn check_stored(
    options: &RunOptions,
    world: &World,
    excused: &[(u32, String)],
) -> anyhow::Result<BTreeMap<u32, Option<String>>> {
    say!(options, "checking what every node has stored");
    let mut stored = BTreeMap::new();
    for id in world.cluster.ids() {
        world.cluster.node(id).await.kill().await?;
    }
    for id in world.cluster.ids().filter(|id| !excused.iter().any(|(node, _)| node == id)) {
        stored.insert(id, world.cluster.node(id).await.check().await?);
    }
    Ok(stored)
}

/// The nemeses asked for.
struct Usable {
    /// Those that can be had here.
    chosen: Vec<&'static nemesis::Nemesis>,
    /// The others, and why.
    without: Vec<String>,
}

fn usable(options: &RunOptions, world: &World) -> anyhow::Result<Usable> {
    let cluster = &world.cluster;
    let has_switch = cluster.network().switch().is_some();
    let asked = options.nemeses()?;
    let (mut chosen, mut without) = (Vec::new(), Vec::new());
    for nemesis in asked.iter().copied() {
        match nemesis::obstacle(nemesis, has_switch, cluster.has_disks(), cluster.has_shim()) {
            None => chosen.push(nemesis),
            Some(why) => {
                let what = format!("{}: {why}", nemesis.name);
                say!(options, "without {what}");
                without.push(what);
            }
        }
    }
    anyhow::ensure!(
        !chosen.is_empty() || asked.is_empty(),
        "none of the nemeses asked for can be had here"
    );
    Ok(Usable { chosen, without })
}

/// The folder of a run in the store.
pub fn folder(store: &Path, options: &RunOptions) -> PathBuf {
    let when = clock::now_text().replace(['-', ':'], "");
    store.join(format!("{}-{when}-{}", options.name(), options.seed))
}
