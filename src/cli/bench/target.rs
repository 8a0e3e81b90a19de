use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use quorate_client::Client;
use quorate_client::proto::{NodeStatus, ReplicaStatus};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::resources::Resources;
use crate::cli::{ConnectArgs, LocalCluster, LocalClusterOptions, Output};

/// `f_type` of a file system in memory, from linux/magic.h.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Nodes flush every 30 seconds unless they are told otherwise.
const FLUSH_DEADLINE: Duration = Duration::from_secs(180);
/// Between two looks at what is flushed.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A cluster of this command's own.
#[derive(Clone, Debug, Args)]
pub(super) struct LocalArgs {
    /// Nodes of the local cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    nodes: u32,

    /// Where the local cluster keeps its data, which is removed at the end [default: the directory for temporary
    /// files; where that is in memory, syncing costs nothing and the figures mean little]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Debug, Args)]
pub(super) struct TargetArgs {
    /// Measure a cluster that this command starts on this machine, and not the one at --endpoints
    #[arg(long)]
    local: bool,

    #[command(flatten)]
    options: LocalArgs,

    /// Wait until the local nodes have flushed everything to disk before their writes are counted
    #[arg(long, requires = "local")]
    flush: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// The cluster that is measured.
pub(super) struct Target {
    connect: ConnectArgs,
    local: Option<Local>,
    flush: bool,
}

/// A cluster on this machine. Its nodes end before its data is removed.
pub(super) struct Local {
    pub(super) cluster: LocalCluster,
    dir: TempDir,
    before: Vec<Resources>,
}

impl TargetArgs {
    pub(super) async fn start(&self, output: Output) -> anyhow::Result<Target> {
        let mut connect = self.connect.clone();
        let mut local = None;
        if self.local {
            let started = self.options.start(output).await?;
            connect.endpoints = started.cluster.endpoints();
            local = Some(started);
        }
        Ok(Target { connect, local, flush: self.flush })
    }
}

impl LocalArgs {
    pub(super) async fn start(&self, output: Output) -> anyhow::Result<Local> {
        let parent = self.data.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new().prefix("quorate-bench-").tempdir_in(&parent);
        let dir =
            dir.with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let options = LocalClusterOptions {
            nodes: self.nodes,
            dir: Some(dir.path().to_owned()),
            quiet: output == Output::Json,
            small: false,
            ..LocalClusterOptions::default()
        };
        let cluster = LocalCluster::start(options).await?;
        let mut local = Local { cluster, dir, before: Vec::new() };
        if local.is_in_memory()? && output == Output::Text {
            eprintln!("{} is in memory: syncing costs nothing there (--data)", parent.display());
        }
        local.before = local.resources()?;
        Ok(local)
    }
}

impl Target {
    /// A client of its own, with connections of its own.
    pub(super) async fn client(&self) -> anyhow::Result<Client> {
        self.connect.client().await
    }

    /// What the nodes used, if they are ours.
    pub(super) async fn used(&self, payload_bytes: u64) -> anyhow::Result<Value> {
        let Some(local) = &self.local else { return Ok(Value::Null) };
        local.used(&self.client().await?, payload_bytes, self.flush).await
    }

    /// Stops what was started.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        match self.local {
            Some(local) => local.stop().await,
            None => Ok(()),
        }
    }
}

impl Local {
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.cluster.stop().await?;
        self.dir.close().context("cannot remove the cluster's directory")
    }

    fn is_in_memory(&self) -> anyhow::Result<bool> {
        Ok(rustix::fs::statfs(self.dir.path())?.f_type as u64 == TMPFS_MAGIC)
    }

    fn resources(&self) -> anyhow::Result<Vec<Resources>> {
        (1..).map_while(|node| self.cluster.pid(node)).map(Resources::of).collect()
    }

    /// What the nodes used since they started; `flushed` waits until the state that is applied now is on disk.
    async fn used(
        &self,
        client: &Client,
        payload_bytes: u64,
        flushed: bool,
    ) -> anyhow::Result<Value> {
        let busy = self.resources()?;
        if flushed {
            wait_flushed(client).await?;
        }
        let after = self.resources()?;
        let nodes: Vec<Value> = (1u32..)
            .zip(self.before.iter().zip(&busy).zip(&after))
            .map(|(node, ((before, busy), after))| {
                let written = after.written_bytes.saturating_sub(before.written_bytes);
                json!({
                    "node_id": node,
                    "resident_bytes_at_start": before.resident_bytes,
                    "resident_bytes": busy.resident_bytes,
                    "resident_bytes_after_flush": flushed.then_some(after.resident_bytes),
                    "written_bytes": written,
                    "written_bytes_per_payload_byte":
                        (payload_bytes > 0).then(|| written as f64 / payload_bytes as f64),
                })
            })
            .collect();
        Ok(json!({ "data_in_memory": self.is_in_memory()?, "flushed": flushed, "nodes": nodes }))
    }
}

/// Waits until every replica has on disk what it has applied now.
async fn wait_flushed(client: &Client) -> anyhow::Result<()> {
    let applied = replicas(client, |replica| replica.applied_index).await?;
    let deadline = Instant::now() + FLUSH_DEADLINE;
    loop {
        let durable = replicas(client, |replica| replica.durable_index).await?;
        let is_behind = |(replica, index): (&(u64, u64), &u64)| durable.get(replica) < Some(index);
        let behind = applied.iter().filter(|replica| is_behind(*replica)).count();
        if behind == 0 {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{behind} replicas did not flush in time");
        sleep(POLL_INTERVAL).await;
    }
}

/// An index of each replica, by node and group.
async fn replicas(
    client: &Client,
    index: impl Fn(&ReplicaStatus) -> u64,
) -> anyhow::Result<BTreeMap<(u64, u64), u64>> {
    let cluster = client.describe_cluster().await?;
    let of_node = |node: &NodeStatus| {
        let id = node.node_id;
        node.replicas.iter().map(|r| ((id, r.group_id), index(r))).collect::<Vec<_>>()
    };
    Ok(cluster.nodes.iter().flat_map(of_node).collect())
}
