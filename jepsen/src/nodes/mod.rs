//! Nodes as processes: where they run, what their data lies on, and how they are started and ended.

mod configuration;
mod disk;
mod node;
pub mod sandbox;
mod shim;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use quorate_client::proto::InitRequest;
use quorate_client::proto::cluster_client::ClusterClient;
use quorate_client::proto::init_request::Node as InitNode;
use quorate_client::{Client, ClientOptions, Routing};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

pub use disk::{Disk, files_below, remove_images};
pub use node::{Node, WhyDown};
pub use shim::{Shim, ShimCounts};

use crate::network::{Network, NetworkKind};
use crate::programs;

/// How long nodes may take to start and to become a cluster.
const READY_DEADLINE: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many nodes.
    pub nodes: u32,
    /// How many groups.
    pub groups: u32,
    /// Replicas of each group; 0 for as many as there are nodes.
    pub replication: u32,
    /// How nodes reach each other.
    pub network: NetworkKind,
    /// The `quorate` program.
    pub binary: PathBuf,
    /// What is planted, in the words of `FAILPOINTS`.
    pub failpoints: Option<String>,
    /// How often a node flushes what it has applied, in milliseconds.
    pub flush_ms: u32,
    /// Decides what the network does by chance.
    pub seed: u64,
}

/// The nodes of a run.
pub struct Cluster {
    nodes: Vec<Arc<Mutex<Node>>>,
    network: Arc<Network>,
    has_shim: bool,
    has_disks: bool,
}

impl Cluster {
    /// Makes network, disks and configuration below `dir`, starts the nodes and makes them a cluster.
    ///
    /// # Errors
    ///
    /// If something cannot be made, or the nodes do not become a cluster in time.
    pub async fn start(dir: &Path, options: &ClusterOptions) -> anyhow::Result<Cluster> {
        let dir = dir.join("nodes");
        std::fs::create_dir_all(&dir)?;
        let dir = dir.canonicalize()?;
        let binary = options.binary.canonicalize();
        let binary = binary.with_context(|| format!("there is no {}", options.binary.display()))?;
        let network = Network::make(options.network, options.nodes, options.seed).await?;
        let network = Arc::new(network);
        let compiled = match programs::missing(&programs::FOR_DISKS[3..]).is_empty() {
            true => Some(shim::compile(&dir).await?),
            false => None,
        };
        let own_disks = options.network == NetworkKind::Namespaces
            && compiled.is_some()
            && programs::missing(programs::FOR_DISKS).is_empty()
            && rustix::process::getuid().is_root()
            && sandbox::is_really_root();
        let mut nodes = Vec::new();
        for id in 1..=options.nodes {
            let folder = dir.join(id.to_string());
            let disk = match &compiled {
                Some(compiled) if own_disks => Disk::mounted(folder, compiled).await?,
                _ => Disk::plain(folder)?,
            };
            let shim = compiled.as_ref();
            let shim = shim.map(|c| Shim::new(c, dir.join(format!("{id}.shim")))).transpose()?;
            let node = Node::prepare(id, &dir, disk, shim, &network, &binary, options)?;
            nodes.push(Arc::new(Mutex::new(node)));
        }
        let has_shim = compiled.is_some();
        let cluster = Cluster { nodes, network, has_shim, has_disks: own_disks };
        for id in cluster.ids() {
            cluster.node(id).await.start()?;
        }
        if let Err(error) = cluster.init(options).await {
            cluster.stop(false).await;
            return Err(error);
        }
        Ok(cluster)
    }

    async fn init(&self, options: &ClusterOptions) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_DEADLINE;
        for id in self.ids() {
            self.wait_alive(id, deadline).await?;
        }
        let node = |id: u32| InitNode {
            node_id: id.into(),
            peer_address: format!(
                "{}:{}",
                self.network.addresses(id).ip,
                self.network.addresses(id).peer
            ),
        };
        let replication_factor = match options.replication {
            0 => options.nodes - (options.nodes + 1) % 2,
            given => given,
        };
        let nodes = self.ids().map(node).collect();
        let request = InitRequest { nodes, groups: options.groups, replication_factor };
        // Not through the client library, which waits for a topology: there is none yet.
        let address = format!("http://{}", self.client_address(1));
        let mut client = ClusterClient::connect(address).await.context("node 1 does not answer")?;
        client.init(request).await.context("no cluster was made")?;
        for id in self.ids() {
            self.wait_ready(id, deadline).await?;
        }
        Ok(())
    }

    /// The ids of all nodes.
    pub fn ids(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.nodes.len() as u32
    }

    /// How many nodes there are.
    pub fn count(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// A node, for the one who holds it.
    pub async fn node(&self, id: u32) -> MutexGuard<'_, Node> {
        self.nodes[id as usize - 1].lock().await
    }

    /// How nodes reach each other.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Whether something is preloaded into the nodes.
    pub fn has_shim(&self) -> bool {
        self.has_shim
    }

    /// Whether each node has a file system of its own.
    pub fn has_disks(&self) -> bool {
        self.has_disks
    }

    /// host:port of a node's client listener.
    pub fn client_address(&self, id: u32) -> String {
        let addresses = self.network.addresses(id);
        format!("{}:{}", addresses.ip, addresses.client)
    }

    /// A client that asks this node and no other.
    ///
    /// # Errors
    ///
    /// If the address is none.
    pub async fn client(&self, id: u32, request_timeout: Duration) -> anyhow::Result<Client> {
        let options = ClientOptions::new([self.client_address(id)]);
        Ok(Client::connect(options.routing(Routing::Proxy).request_timeout(request_timeout))
            .await?)
    }

    /// Waits until a node's process answers.
    ///
    /// # Errors
    ///
    /// If it ends, or does not answer in time.
    pub async fn wait_alive(&self, id: u32, deadline: Instant) -> anyhow::Result<()> {
        self.wait(id, "/livez", deadline).await
    }

    /// Waits until a node serves.
    ///
    /// # Errors
    ///
    /// If it ends, or does not serve in time.
    pub async fn wait_ready(&self, id: u32, deadline: Instant) -> anyhow::Result<()> {
        self.wait(id, "/readyz", deadline).await
    }

    async fn wait(&self, id: u32, probe: &str, deadline: Instant) -> anyhow::Result<()> {
        let addresses = self.network.addresses(id);
        loop {
            let answer = node::probe((addresses.ip, addresses.http).into(), probe).await;
            if matches!(answer, Ok(200)) {
                return Ok(());
            }
            let mut node = self.node(id).await;
            if !node.is_running() {
                bail!("node {id} ended:\n{}", node.end_of_log());
            }
            if Instant::now() >= deadline {
                let last = match answer {
                    Ok(status) => format!("{probe} answered {status}"),
                    Err(error) => format!("{probe}: {error:#}"),
                };
                bail!("node {id} is not ready in time ({last}):\n{}", node.end_of_log());
            }
            drop(node);
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Ends all nodes and takes their disks away, keeping a copy of the data if asked to. Goes through to the end
    /// whatever fails on the way, and says what did.
    pub async fn stop(&self, keep_data: bool) -> Vec<String> {
        let mut problems = Vec::new();
        for id in self.ids() {
            let mut node = self.node(id).await;
            let mut note = |what: anyhow::Result<()>| {
                if let Err(error) = what {
                    problems.push(format!("node {id}: {error:#}"));
                }
            };
            note(node.kill().await.map(|_| ()));
            if keep_data {
                note(node.disk.keep().await);
            }
            note(node.disk.remove().await);
            note(node.shim.as_ref().map_or(Ok(()), Shim::remove));
        }
        problems
    }
}
