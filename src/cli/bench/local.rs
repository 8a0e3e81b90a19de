//! A cluster of the command's own, whose memory, processor time and writes are counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use quorate_client::Client;
use quorate_client::proto::ReplicaStatus;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::probe;
use super::resources::{Resources, disk_bytes};
use super::writes::FileBytes;
use crate::cli::output::note;
use crate::cli::{LocalCluster, LocalClusterOptions, Output};
use crate::server::SystemClock;
use crate::types::Clock;
use crate::types::limits::GROUPS_MAX;

/// `f_type` of a file system in memory, from linux/magic.h.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// What drops clean pages, entries and inodes from memory; only root may write to it.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
/// Nodes flush every 30 seconds unless they are told otherwise.
const FLUSH_DEADLINE: Duration = Duration::from_secs(180);
/// Between two looks at what is flushed.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// What the log writer handed to its write-ahead log.
const WAL_METRIC: &str = "quorate_log_batch_bytes_sum ";

/// A cluster of this command's own.
#[derive(Clone, Debug, Args)]
pub(super) struct LocalArgs {
    /// Nodes of the local cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    pub(super) nodes: u32,

    /// Raft groups of the local cluster [default: as many as of any new cluster]
    #[arg(long, value_name = "G", value_parser = clap::value_parser!(u32).range(1..=(GROUPS_MAX as i64)))]
    pub(super) groups: Option<u32>,

    /// A key of [storage] in the configuration of the local nodes, such as flush_interval_ms=1000; repeatable
    /// [default: the product's settings]
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub(super) storage: Vec<String>,

    /// Where the local cluster keeps its data, which is removed at the end [default: the directory for temporary
    /// files; where that is in memory, syncing costs nothing and the figures mean little]
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
}

/// A cluster on this machine. Its nodes end before its data is removed.
pub(super) struct Local {
    pub(super) cluster: LocalCluster,
    dir: TempDir,
    before: BTreeMap<u32, Resources>,
}

/// What is known of a cluster that has nothing in memory.
pub(super) struct Cold {
    /// Of a file in sequence, while no node ran.
    pub(super) disk_bytes_per_second: f64,
    /// False if this user has no right to it, so that files may still be in memory.
    pub(super) page_cache_dropped: bool,
}

impl LocalArgs {
    pub(super) async fn start(&self, output: Output) -> anyhow::Result<Local> {
        self.start_with(output, LocalClusterOptions::default()).await
    }

    /// With further options than those that these arguments and a bench decide.
    pub(super) async fn start_with(
        &self,
        output: Output,
        options: LocalClusterOptions,
    ) -> anyhow::Result<Local> {
        let dir = self.make_dir()?;
        let options = LocalClusterOptions {
            nodes: self.nodes,
            groups: self.groups.unwrap_or(0),
            dir: Some(dir.path().to_owned()),
            settings: self.storage.concat(),
            quiet: output == Output::Json,
            small: false,
            ..options
        };
        let cluster = LocalCluster::start(options).await?;
        let mut local = Local { cluster, dir, before: BTreeMap::new() };
        if local.is_in_memory()? && output == Output::Text {
            note("the data is in memory, where syncing costs nothing (--data)");
        }
        local.before = local.resources()?;
        Ok(local)
    }

    /// A new directory for the data, removed when it is dropped.
    pub(super) fn make_dir(&self) -> anyhow::Result<TempDir> {
        let parent = self.data.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new().prefix("quorate-bench-").tempdir_in(&parent);
        dir.with_context(|| format!("cannot make a directory in {}", parent.display()))
    }
}

impl Local {
    /// Where everything is kept.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The processes of the nodes that run, by id.
    pub(super) fn pids(&self) -> impl Iterator<Item = (u32, u32)> {
        (1..).map_while(|node| Some((node, self.cluster.pid(node)?)))
    }

    /// The resources of the nodes that run, by id.
    pub(super) fn resources(&self) -> anyhow::Result<BTreeMap<u32, Resources>> {
        self.pids().map(|(node, pid)| Ok((node, Resources::of(pid)?))).collect()
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.cluster.stop().await?;
        self.dir.close().context("cannot remove the cluster's directory")
    }

    /// Stops the nodes in good order, has the system forget the files that it keeps in memory, and starts the nodes
    /// again. The disk is timed in between, when nobody else uses it.
    pub(super) async fn make_cold(&mut self, client: &Client) -> anyhow::Result<Cold> {
        wait_flushed(client).await?;
        self.cluster.stop_nodes().await?;
        rustix::fs::sync();
        let disk_bytes_per_second = probe::sequential_read(self.dir())?;
        let page_cache_dropped = std::fs::write(DROP_CACHES, "3").is_ok();
        for node in self.before.keys() {
            self.cluster.spawn(*node)?;
        }
        self.cluster.wait_ready().await?;
        Ok(Cold { disk_bytes_per_second, page_cache_dropped })
    }

    /// What the databases of each node have on disk: the log and the state, in bytes.
    pub(super) fn on_disk(&self) -> BTreeMap<u32, (u64, u64)> {
        let of = |node: u32, database| disk_bytes(&self.data_dir(node).join(database));
        self.before.keys().map(|node| (*node, (of(*node, "log"), of(*node, "state")))).collect()
    }

    /// Stops the nodes and says what they used; `flushed` waits first until the state that is applied now is on disk.
    pub(super) async fn finish(
        self,
        client: &Client,
        payload_bytes: u64,
        flushed: bool,
    ) -> anyhow::Result<Value> {
        let busy = self.resources()?;
        if flushed {
            wait_flushed(client).await?;
        }
        let (after, until_us) = (self.resources()?, SystemClock.now().0);
        let on_disk = self.on_disk();
        let mut wal = BTreeMap::new();
        for node in self.before.keys() {
            wal.insert(*node, metric(&self.cluster.metrics(*node).await?, WAL_METRIC));
        }
        let in_memory = self.is_in_memory()?;
        let data_dirs: Vec<PathBuf> = self.before.keys().map(|n| self.data_dir(*n)).collect();
        self.cluster.stop().await?;
        let mut nodes = Vec::new();
        for ((node, before), data_dir) in self.before.iter().zip(data_dirs) {
            let (busy, after) = (busy[node], after[node]);
            let written = after.written_bytes.saturating_sub(before.written_bytes);
            let files = FileBytes::of_node(&data_dir, until_us)?;
            let early = written.saturating_sub(files.compacted);
            let ratio =
                |bytes: u64| (payload_bytes > 0).then(|| bytes as f64 / payload_bytes as f64);
            nodes.push(json!({
                "node_id": node,
                "resident_bytes_at_start": before.resident_bytes,
                "resident_bytes": busy.resident_bytes,
                // The kernel notes its peak now and then.
                "resident_bytes_peak": after.resident_bytes_peak.max(busy.resident_bytes),
                "resident_bytes_after_flush": flushed.then_some(after.resident_bytes),
                "cpu_seconds": after.cpu.saturating_sub(before.cpu).as_secs_f64(),
                "written_bytes": written,
                "written_bytes_per_payload_byte": ratio(written),
                "written_bytes_before_compaction_per_payload_byte": ratio(early),
                "wal_bytes": wal[node],
                "wal_bytes_per_payload_byte": wal[node].and_then(ratio),
                "flushed_bytes": files.flushed,
                "flushed_bytes_per_payload_byte": ratio(files.flushed),
                "compacted_bytes": files.compacted,
                "compacted_bytes_per_payload_byte": ratio(files.compacted),
                "log_bytes_on_disk": on_disk[node].0,
                "state_bytes_on_disk": on_disk[node].1,
            }));
        }
        self.dir.close().context("cannot remove the cluster's directory")?;
        Ok(json!({ "data_in_memory": in_memory, "flushed": flushed, "nodes": nodes }))
    }

    fn is_in_memory(&self) -> anyhow::Result<bool> {
        Ok(rustix::fs::statfs(self.dir.path())?.f_type as u64 == TMPFS_MAGIC)
    }

    fn data_dir(&self, node: u32) -> PathBuf {
        self.dir.path().join(node.to_string())
    }
}

/// Waits until every replica has on disk what any replica of its group has applied now.
pub(super) async fn wait_flushed(client: &Client) -> anyhow::Result<()> {
    let mut due = BTreeMap::new();
    for replica in replicas(client).await? {
        let index = due.entry(replica.group_id).or_insert(0);
        *index = replica.applied_index.max(*index);
    }
    let deadline = Instant::now() + FLUSH_DEADLINE;
    loop {
        let is_behind = |replica: &&ReplicaStatus| {
            due.get(&replica.group_id).is_some_and(|due| replica.durable_index < *due)
        };
        let behind = replicas(client).await?.iter().filter(is_behind).count();
        if behind == 0 {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{behind} replicas did not flush in time");
        sleep(POLL_INTERVAL).await;
    }
}

/// All replicas of all nodes.
async fn replicas(client: &Client) -> anyhow::Result<Vec<ReplicaStatus>> {
    let cluster = client.describe_cluster().await?;
    Ok(cluster.nodes.into_iter().flat_map(|node| node.replicas).collect())
}

/// A line of a configuration.
fn parse_setting(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok(format!("{text}\n")),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

/// A value of a page of metrics.
fn metric(page: &str, name: &str) -> Option<u64> {
    let value = page.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok().map(|value: f64| value as u64)
}
