//! A whole cluster of real processes on this machine, for `dev` and `demo`.
//!
//! The nodes are children of this process: they stop when it asks, when it is dropped, and (through the pipe that is
//! their standard input) also when it dies without a word.

pub(super) mod namespaces;
mod node;
mod ports;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use quorate_client::proto::InitRequest;
use quorate_client::proto::cluster_client::ClusterClient;
use quorate_client::proto::init_request::Node as InitNode;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;

use super::connect::{connect, refusal};
use super::output::note;
use node::Node;

/// How long nodes may take to start, to become a cluster, and to serve again after a restart: elections and the
/// replay of a log, on a slow machine.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How long a node may take to stop when asked.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// Between two looks at whether a node is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct LocalClusterOptions {
    /// How many nodes, from 1.
    pub nodes: u32,
    /// Where the nodes keep their configuration, data and logs. One that a cluster was started in before continues
    /// that cluster. None for a directory that is removed at the end.
    pub dir: Option<PathBuf>,
    /// Ports 7101, 7201, 7301 and up where they are free, so that the command line finds the cluster without
    /// `--endpoints`. Otherwise any ports, so that several clusters can run.
    pub standard_ports: bool,
    /// Raft groups of a new cluster; 0 for the default.
    pub groups: u32,
    /// Say nothing on standard error while waiting.
    pub quiet: bool,
    /// Small memtables and caches, because several nodes share one machine. Otherwise those of a node that is
    /// configured by nobody, as figures need them.
    pub small: bool,
    /// Added to the end of each node's configuration: keys of `[storage]`, then further tables.
    pub settings: String,
    /// The `quorate` program; none for this one.
    pub program: Option<PathBuf>,
    /// Each node in a network namespace of its own, from which its packets can be lost. Only for a process that has
    /// its own namespaces already, and once in it.
    pub namespaces: bool,
}

impl Default for LocalClusterOptions {
    fn default() -> Self {
        LocalClusterOptions {
            nodes: 3,
            dir: None,
            standard_ports: false,
            groups: 0,
            quiet: false,
            small: true,
            settings: String::new(),
            program: None,
            namespaces: false,
        }
    }
}

/// A running cluster. Dropping it kills the nodes.
pub struct LocalCluster {
    // Before `dir`: nodes die before their data is removed.
    nodes: Vec<Node>,
    dir: Directory,
    cluster_id: String,
}

enum Directory {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl LocalCluster {
    /// Starts the nodes, makes them a cluster if they are none, and waits until each of them serves.
    ///
    /// # Errors
    ///
    /// If a node exits, or is not ready within a minute; the error carries the end of its log. Nodes that were
    /// started are killed.
    pub async fn start(options: LocalClusterOptions) -> anyhow::Result<LocalCluster> {
        let dir = match options.dir.clone() {
            Some(dir) => Directory::Kept(dir),
            None => Directory::Temporary(tempfile::Builder::new().prefix("quorate-").tempdir()?),
        };
        let say = |what: &str| {
            if !options.quiet {
                note(what);
            }
        };
        if options.namespaces {
            namespaces::lay(u8::try_from(options.nodes)?).await?;
        }
        let mut nodes = Node::prepare(dir.path(), &options)?;
        say(&format!("starting {} nodes in {}", nodes.len(), dir.path().display()));
        for node in &mut nodes {
            node.spawn()?;
        }
        let mut cluster = LocalCluster { nodes, dir, cluster_id: String::new() };
        cluster.wait_all("/livez").await?;
        cluster.cluster_id = cluster.init(options.groups).await?;
        say("waiting for leaders");
        cluster.wait_all("/readyz").await?;
        Ok(cluster)
    }

    /// The client addresses of all nodes, in order of id, host:port.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(Node::client_address).collect()
    }

    /// The HTTP addresses of all nodes, in order of id, host:port.
    pub fn http_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.http_address().to_string()).collect()
    }

    /// The cluster's id, in hexadecimal.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Where the nodes keep everything: `N.toml`, `N.log` and `N/` for node N.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process of a node, if it runs.
    pub fn pid(&self, node: u32) -> Option<u32> {
        self.nodes.iter().find(|n| n.id() == node).and_then(Node::pid)
    }

    /// Ends a node with SIGKILL, as a crash would, and waits until its process is gone.
    ///
    /// # Errors
    ///
    /// If there is no such node, or the operating system refuses.
    pub async fn kill(&mut self, node: u32) -> anyhow::Result<()> {
        self.node(node)?.kill().await
    }

    /// Stops a node in good order, as SIGTERM does, and waits until its process has ended.
    ///
    /// # Errors
    ///
    /// If there is no such node, or it has failed or had to be killed.
    pub async fn stop_node(&mut self, node: u32) -> anyhow::Result<()> {
        let node = self.node(node)?;
        node.terminate();
        node.wait_for_exit(Instant::now() + STOP_DEADLINE).await
    }

    /// Starts a node again that was killed or stopped, and waits until it serves.
    ///
    /// # Errors
    ///
    /// If there is no such node, or it exits, or is not ready within a minute.
    pub async fn restart(&mut self, node: u32) -> anyhow::Result<()> {
        let node = self.node(node)?;
        node.spawn()?;
        node.wait("/readyz", Instant::now() + READY_DEADLINE).await
    }

    /// Starts a killed node again without waiting for it.
    ///
    /// # Errors
    ///
    /// If there is no such node, or its process does not start.
    pub fn spawn(&mut self, node: u32) -> anyhow::Result<()> {
        self.node(node)?.spawn()
    }

    /// Waits until every node that was started answers that it is ready.
    ///
    /// # Errors
    ///
    /// If one exits, or is not ready within a minute.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        self.wait_all("/readyz").await
    }

    /// Loses every packet to and from a node, without a word to anybody. Only where nodes have namespaces.
    ///
    /// # Errors
    ///
    /// If there is no such node, or the operating system refuses.
    pub async fn cut(&mut self, node: u32) -> anyhow::Result<()> {
        namespaces::cut(self.node(node)?.host()?).await
    }

    /// Loses no more packets of a node, and waits until it serves.
    ///
    /// # Errors
    ///
    /// If there is no such node, the operating system refuses, or the node is not ready within a minute.
    pub async fn mend(&mut self, node: u32) -> anyhow::Result<()> {
        let node = self.node(node)?;
        namespaces::mend(node.host()?).await?;
        node.wait("/readyz", Instant::now() + READY_DEADLINE).await
    }

    /// A node's page of metrics.
    ///
    /// # Errors
    ///
    /// If there is no such node, or it does not answer.
    pub async fn metrics(&self, node: u32) -> anyhow::Result<String> {
        let found = self.nodes.iter().find(|n| n.id() == node);
        found.with_context(|| format!("there is no node {node}"))?.metrics().await
    }

    /// Stops all nodes as [`LocalCluster::stop_nodes`] does, and removes the directory if it is temporary.
    ///
    /// # Errors
    ///
    /// If a node had to be killed or had failed before, or the directory cannot be removed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let stopped = self.stop_nodes().await;
        if let Directory::Temporary(dir) = self.dir {
            dir.close().context("cannot remove the cluster's directory")?;
        }
        stopped
    }

    /// Stops all nodes in good order, those that do not stop in time with SIGKILL.
    ///
    /// # Errors
    ///
    /// If a node had to be killed or had failed before.
    pub async fn stop_nodes(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.terminate();
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        let mut failures = Vec::new();
        for node in &mut self.nodes {
            if let Err(error) = node.wait_for_exit(deadline).await {
                failures.push(format!("node {}: {error:#}", node.id()));
            }
        }
        match failures.is_empty() {
            true => Ok(()),
            false => bail!("{}", failures.join("; ")),
        }
    }

    async fn init(&self, groups: u32) -> anyhow::Result<String> {
        let nodes = self
            .nodes
            .iter()
            .map(|node| InitNode { node_id: node.id().into(), peer_address: node.peer_address() });
        let request = InitRequest { nodes: nodes.collect(), groups, replication_factor: 0 };
        let deadline = Instant::now() + READY_DEADLINE;
        let mut client = self.connect(deadline).await?;
        let call = timeout_at(deadline, client.init(request));
        match call.await.context("no answer in time").and_then(|r| r.map_err(|s| refusal(&s))) {
            Ok(response) => Ok(response.into_inner().cluster_id),
            Err(error) => Err(error.context("the cluster was not initialized")),
        }
    }

    /// The first node's `Cluster` service. A process that lives may still be opening its databases.
    async fn connect(&self, deadline: Instant) -> anyhow::Result<ClusterClient<Channel>> {
        let address = self.nodes[0].client_address();
        loop {
            match connect(&address, None).await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context(format!("{address} does not answer in time")));
                }
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }

    async fn wait_all(&mut self, probe: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_DEADLINE;
        for node in &mut self.nodes {
            node.wait(probe, deadline).await?;
        }
        Ok(())
    }

    fn node(&mut self, id: u32) -> anyhow::Result<&mut Node> {
        let node = self.nodes.iter_mut().find(|node| node.id() == id);
        node.with_context(|| format!("there is no node {id}"))
    }
}

impl Directory {
    fn path(&self) -> &Path {
        match self {
            Directory::Kept(path) => path,
            Directory::Temporary(dir) => dir.path(),
        }
    }
}
