//! What nemeses act on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::{join_all, select_ok};
use quorate_client::proto::{DescribeClusterResponse, Group, ReplaceRequest};
use quorate_client::reason::NOT_FOUND;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use super::RESTART_DEADLINE;
use crate::history::{Consistency, ReadCall};
use crate::network::Switch;
use crate::nodes::Cluster;
use crate::workload::Floor;

const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
const REPLACE_TIMEOUT: Duration = Duration::from_secs(60);

/// The cluster, and what is known of the harm done to it.
pub struct World {
    /// The nodes.
    pub cluster: Cluster,
    /// What clients do, for faults that are calls.
    pub floor: Arc<Floor>,
    /// Nodes that must not be read at the end, and why.
    excused: Mutex<Vec<(u32, String)>>,
    /// Nodes that were to be made anew and were not in time, and why.
    unreplaced: Mutex<BTreeMap<u32, String>>,
    /// Nodes that ran on damaged data without a word, and what was wrong with it.
    unnoticed: Mutex<Vec<(u32, String)>>,
}

impl World {
    /// A world that is whole.
    pub fn new(cluster: Cluster, floor: Arc<Floor>) -> World {
        let (excused, unreplaced, unnoticed) = Default::default();
        World { cluster, floor, excused, unreplaced, unnoticed }
    }

    /// The switch.
    ///
    /// # Errors
    ///
    /// If nodes are on loopback.
    pub fn switch(&self) -> anyhow::Result<&Switch> {
        self.cluster.network().switch().context("there is no switch: nodes are on loopback")
    }

    /// Some of the nodes, at random.
    pub fn some(&self, count: u32, dice: &mut StdRng) -> Vec<u32> {
        let mut ids: Vec<u32> = self.cluster.ids().collect();
        ids.shuffle(dice);
        ids.truncate(count as usize);
        ids.sort_unstable();
        ids
    }

    /// The most nodes that may be gone while a quorum is left.
    pub fn minority(&self) -> u32 {
        (self.cluster.count() - 1) / 2
    }

    /// The most nodes that may lose what they have while each group keeps a quorum; one in any case.
    ///
    /// # Errors
    ///
    /// If no node describes the cluster.
    pub async fn replica_minority(&self) -> anyhow::Result<u32> {
        let smallest = self.replicas().await?.into_values().map(|nodes| nodes.len()).min();
        Ok((smallest.unwrap_or(0).saturating_sub(1) as u32 / 2).max(1))
    }

    /// The cluster as the first node that answers describes it.
    ///
    /// # Errors
    ///
    /// If none does.
    pub async fn describe(&self) -> anyhow::Result<DescribeClusterResponse> {
        let mut answers =
            join_all(self.cluster.ids().map(|id| self.described_by(id))).await.into_iter();
        answers.find_map(Result::ok).context("no node describes the cluster")
    }

    /// Which nodes have a replica of each group.
    ///
    /// # Errors
    ///
    /// If no node describes the cluster.
    pub async fn replicas(&self) -> anyhow::Result<BTreeMap<u64, Vec<u32>>> {
        let groups = self.describe().await?.topology.unwrap_or_default().groups;
        let nodes = |group: &Group| {
            let ids = group.replicas.iter().map(|replica| u32::try_from(replica.node_id));
            ids.collect::<Result<Vec<u32>, _>>()
        };
        groups.iter().map(|group| Ok((group.group_id, nodes(group)?))).collect()
    }

    async fn described_by(&self, id: u32) -> anyhow::Result<DescribeClusterResponse> {
        let client = self.cluster.client(id, DESCRIBE_TIMEOUT).await?;
        Ok(client.describe_cluster().await?)
    }

    /// Whether this node sees every group led by another than `deposed`.
    pub async fn sees_deposed(&self, id: u32, deposed: u32) -> bool {
        let Ok(described) = self.described_by(id).await else { return false };
        let groups = described.topology.unwrap_or_default().groups;
        let unled = [0, u64::from(deposed)];
        !groups.is_empty() && groups.iter().all(|group| !unled.contains(&group.leader_node_id))
    }

    /// The node that leads the most groups, and how many.
    ///
    /// # Errors
    ///
    /// If nobody is known to lead.
    pub async fn leader(&self) -> anyhow::Result<u32> {
        let described = self.describe().await?;
        let mut led: HashMap<u64, u32> = HashMap::new();
        for group in described.topology.unwrap_or_default().groups {
            *led.entry(group.leader_node_id).or_default() += 1;
        }
        led.remove(&0);
        let most = led.into_iter().max_by_key(|(node, groups)| (*groups, *node));
        let (node, _) = most.context("nobody is known to lead")?;
        Ok(u32::try_from(node)?)
    }

    /// Starts nodes that do not run, and gives them time to serve. A node that does not is left to those who judge.
    ///
    /// # Errors
    ///
    /// If a process cannot be started.
    pub async fn revive(&self, nodes: &[u32]) -> anyhow::Result<()> {
        for id in nodes {
            self.cluster.node(*id).await.start()?;
        }
        let deadline = Instant::now() + RESTART_DEADLINE;
        join_all(nodes.iter().map(|id| self.cluster.wait_alive(*id, deadline))).await;
        Ok(())
    }

    /// Makes the replicas of a node anew, as an operator would with `quorate node replace`.
    ///
    /// # Errors
    ///
    /// If no node does that in time. Then nothing else may be broken: see [`World::unreplaced`].
    pub async fn replace(&self, node: u32) -> anyhow::Result<u32> {
        let replaced = self.replace_in_time(node).await;
        if let Err(error) = &replaced {
            self.unreplaced.lock().await.insert(node, format!("{error:#}"));
        }
        replaced
    }

    /// Nodes that had to be made anew and were not in time, and why. What is broken next could take the last of a majority.
    pub async fn unreplaced(&self) -> BTreeMap<u32, String> {
        self.unreplaced.lock().await.clone()
    }

    /// Notes that a node ran on data that it has to read before it serves, and that is damaged.
    pub async fn note_unnoticed(&self, node: u32, wrong: String) {
        self.unnoticed.lock().await.push((node, wrong));
    }

    /// Nodes that did, and what `quorate check` said of the data.
    pub async fn unnoticed(&self) -> Vec<(u32, String)> {
        self.unnoticed.lock().await.clone()
    }

    async fn replace_in_time(&self, node: u32) -> anyhow::Result<u32> {
        let deadline = Instant::now() + REPLACE_TIMEOUT;
        let mut last = anyhow::anyhow!("node {node} was not replaced in time");
        loop {
            let once = async {
                let through = self.who_knows(node).await?;
                self.replace_once(through, node, false).await
            };
            match timeout_at(deadline, once).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => last = error,
                Err(_) => return Err(last),
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// The first to answer of the other nodes that know the cluster.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub async fn who_knows(&self, node: u32) -> anyhow::Result<u32> {
        let others = self.cluster.ids().filter(|id| *id != node);
        let asked = others.map(|id| {
            Box::pin(async move {
                let described = self.described_by(id).await?;
                described.topology.context("it belongs to no cluster")?;
                anyhow::Ok(id)
            })
        });
        let (first, _) = select_ok(asked).await.context("no other node knows the cluster")?;
        Ok(first)
    }

    /// The same once, through another node, of sound replicas too if `all`. How many were made anew. What it has begun
    /// stays begun if it is dropped.
    ///
    /// # Errors
    ///
    /// If the node that is asked does not do it.
    pub async fn replace_once(&self, through: u32, node: u32, all: bool) -> anyhow::Result<u32> {
        let client = self.cluster.client(through, REPLACE_TIMEOUT).await?;
        let request = ReplaceRequest { node_id: node.into(), all, ..ReplaceRequest::default() };
        let mut steps = client.replace(request).await?;
        let (mut done, mut total, mut skipped) = (0, 0, 0);
        while let Some(step) = steps.next().await? {
            (done, total) = (step.groups_done, step.groups_total);
            skipped += u32::from(step.step == "skipped");
        }
        ensure!(done == total, "{done} of {total} replicas of node {node} are done");
        Ok(done - skipped)
    }

    /// Reads everything that a node has, up to the first that it cannot read.
    pub async fn read_all(&self, node: u32) {
        let Some(mut caller) = self.floor.caller(Some(node)).await else { return };
        for conversation in &self.floor.conversations {
            let mut from_seq = 1;
            loop {
                let call = ReadCall {
                    conversation: conversation.clone(),
                    consistency: Consistency::Local,
                    from_seq,
                    limit: 1_000,
                    of_the_end: false,
                    is_final: false,
                };
                match caller.read(call).await {
                    Ok(page) if page.next < page.tail => from_seq = page.next,
                    Ok(_) => break,
                    Err(error) if error.reason() == NOT_FOUND => break,
                    // What cannot be read takes long to say so.
                    Err(_) => return,
                }
            }
        }
    }

    /// Notes that a node cannot be read at the end.
    pub async fn excuse(&self, node: u32, why: String) {
        self.excused.lock().await.push((node, why));
    }

    /// Nodes that cannot be read at the end.
    pub async fn excused(&self) -> Vec<(u32, String)> {
        self.excused.lock().await.clone()
    }

    /// Whether every one of these processes is gone; says so.
    pub async fn seen_gone(self: &Arc<Self>, nodes: &[u32], had_run: u32) -> Option<String> {
        (had_run > 0).then(|| format!("{had_run} of {} processes were seen to end", nodes.len()))
    }
}
