//! Three nodes of the real binary.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate::cli::{LocalCluster, LocalClusterOptions};
use quorate_client::proto::{DescribeClusterResponse, NodeStatus, ReplaceRequest, ReplicaStatus};
use quorate_client::{Client, ClientOptions, Routing};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::Command;

use super::links::Links;
use super::{Acknowledged, Chat, NODES, TIMEOUT, eventually};

/// The program under test.
const QUORATE: &str = env!("CARGO_BIN_EXE_quorate");

/// Groups of conversations. More than nodes, so that each node leads some.
pub const GROUPS: u32 = 6;

/// Three nodes, as patient in elections as by default: a busy machine must not be taken for a dead leader.
pub struct Cluster {
    local: Option<LocalCluster>,
    links: Option<Links>,
    dir: tempfile::TempDir,
}

/// Who leads which group: by node, what the newest term says.
pub type Leaders = BTreeMap<u32, BTreeSet<u64>>;

impl Cluster {
    /// Starts three nodes; `storage` are further keys of their `[storage]` tables.
    pub async fn start(storage: &str) -> Cluster {
        Self::start_in(tempfile::tempdir().unwrap(), storage, None).await
    }

    /// Starts three nodes that reach each other through links which a test can break.
    pub async fn start_with_links() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::lay(dir.path()).await;
        Self::start_in(dir, "", Some(links)).await
    }

    async fn start_in(dir: tempfile::TempDir, storage: &str, links: Option<Links>) -> Cluster {
        let local = start(dir.path(), storage).await;
        Cluster { local: Some(local), links, dir }
    }

    fn local(&self) -> &LocalCluster {
        self.local.as_ref().unwrap()
    }

    fn local_mut(&mut self) -> &mut LocalCluster {
        self.local.as_mut().unwrap()
    }

    /// The links between the nodes.
    pub fn links(&self) -> &Links {
        self.links.as_ref().expect("the cluster was started with links")
    }

    /// The client address of a node.
    pub fn endpoint(&self, node: u32) -> String {
        self.local().endpoints()[node as usize - 1].clone()
    }

    /// A client that asks this node and, when that is gone, the others.
    pub async fn client(&self, node: u32) -> Client {
        connect(self.endpoints_from(node), Routing::Proxy, TIMEOUT).await
    }

    /// A client that goes straight to leaders, of which it learns from this node while that answers.
    pub async fn client_of_leaders_by(&self, node: u32) -> Client {
        connect(self.endpoints_from(node), Routing::Leader, TIMEOUT).await
    }

    fn endpoints_from(&self, node: u32) -> Vec<String> {
        let mut endpoints = self.local().endpoints();
        endpoints.rotate_left(node as usize - 1);
        endpoints
    }

    /// A client that knows this node only.
    pub async fn client_of(&self, node: u32) -> Client {
        self.impatient_client_of(node, TIMEOUT).await
    }

    /// A client that knows this node only and tries for no longer than this.
    pub async fn impatient_client_of(&self, node: u32, timeout: Duration) -> Client {
        connect(vec![self.endpoint(node)], Routing::Proxy, timeout).await
    }

    /// A client that knows these nodes and stays with one of them while it can.
    pub async fn client_among(&self, nodes: &[u32]) -> Client {
        let endpoints = nodes.iter().map(|node| self.endpoint(*node)).collect();
        connect(endpoints, Routing::Proxy, TIMEOUT).await
    }

    /// A client that goes straight to leaders.
    pub async fn client_of_leaders(&self) -> Client {
        connect(self.local().endpoints(), Routing::Leader, TIMEOUT).await
    }

    /// SIGKILL to all of these at once, and the end of their processes.
    pub async fn kill(&mut self, nodes: &[u32]) {
        for node in nodes {
            let pid = self.local().pid(*node).expect("the node runs");
            kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
        }
        for node in nodes {
            self.local_mut().kill(*node).await.unwrap();
        }
    }

    /// Stops a node in good order, and waits for the end of its process.
    pub async fn stop(&mut self, node: u32) {
        self.local_mut().stop_node(node).await.unwrap();
    }

    /// Starts killed nodes again without waiting.
    pub fn spawn(&mut self, nodes: &[u32]) {
        for node in nodes {
            self.local_mut().spawn(*node).unwrap();
        }
    }

    /// Starts killed nodes again and waits until every node serves.
    pub async fn restart(&mut self, nodes: &[u32]) {
        self.spawn(nodes);
        self.wait_ready().await;
    }

    /// Waits until every node serves.
    pub async fn wait_ready(&mut self) {
        self.local_mut().wait_ready().await.unwrap();
    }

    /// Kills a node, removes all of its data, starts it and has it replaced.
    pub async fn wipe_and_replace(&mut self, node: u32) {
        let before = self.incarnations(node).await;
        self.kill(&[node]).await;
        std::fs::remove_dir_all(self.dir.path().join(node.to_string())).unwrap();
        self.spawn(&[node]);
        self.wait_listening(node).await;
        let request = ReplaceRequest { node_id: node.into(), ..ReplaceRequest::default() };
        let others: Vec<u32> = NODES.into_iter().filter(|other| *other != node).collect();
        let client = self.client_among(&others).await;
        let mut replacement = client.replace(request).await.unwrap();
        let mut last = None;
        while let Some(progress) = replacement.next().await.unwrap() {
            last = Some(progress);
        }
        let last = last.expect("a replacement reports its progress");
        assert_eq!(last.groups_done, last.groups_total, "{last:?}");
        self.wait_ready().await;
        let after = self.incarnations(node).await;
        for (group, old) in before {
            assert!(
                after[&group] > old,
                "the replica of group {group} came back as {old}: it forgot"
            );
        }
    }

    /// Incarnations of a node's replicas, by group.
    async fn incarnations(&self, node: u32) -> BTreeMap<u64, u64> {
        let described = self.client(node).await.describe_cluster().await.unwrap();
        let replicas = replicas_of(&described, node);
        replicas.iter().map(|r| (r.group_id, r.incarnation.into())).collect()
    }

    /// Waits until a node takes connections, whether it serves or not.
    pub async fn wait_listening(&self, node: u32) {
        let address = self.endpoint(node);
        eventually("the node listens", async || {
            tokio::net::TcpStream::connect(&address).await.ok()
        })
        .await;
    }

    /// What a node has written to its log since it was first started.
    pub fn log_of(&self, node: u32) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{node}.log"))).unwrap()
    }

    /// Waits until these groups have purged logs on a node.
    pub async fn wait_purged(&self, node: u32, groups: &BTreeSet<u64>) {
        let client = self.client(node).await;
        eventually("the logs are purged", async || {
            let replicas = replicas_of(&client.describe_cluster().await.unwrap(), node);
            let purged = |group| replicas.iter().any(|r| r.group_id == group && r.purged_index > 1);
            groups.iter().all(|group| purged(*group)).then_some(())
        })
        .await;
    }

    /// The last index in each group's log, of the longest among these nodes.
    pub async fn last_indexes(&self, nodes: &[u32]) -> BTreeMap<u64, u64> {
        let client = self.client_among(nodes).await;
        let described = client.describe_cluster().await.unwrap();
        let mut last = BTreeMap::<u64, u64>::new();
        for replica in nodes.iter().flat_map(|node| replicas_of(&described, *node)) {
            let longest = last.entry(replica.group_id).or_default();
            *longest = replica.last_index.max(*longest);
        }
        last
    }

    /// Waits until each of these nodes has purged one and the same group beyond the index given for it.
    pub async fn wait_purged_beyond(&self, nodes: &[u32], indexes: &BTreeMap<u64, u64>) {
        let client = self.client_among(nodes).await;
        eventually("a log is purged beyond what was reached", async || {
            let described = client.describe_cluster().await.unwrap();
            let purged = |node, group, index| {
                let replicas = replicas_of(&described, node);
                replicas.iter().any(|r| r.group_id == group && r.purged_index > index)
            };
            let everywhere =
                |(group, index): (&u64, &u64)| nodes.iter().all(|n| purged(*n, *group, *index));
            indexes.iter().any(everywhere).then_some(())
        })
        .await;
    }

    /// Waits until every group has one leader that all nodes agree on, asked through these nodes.
    pub async fn leaders(&self, asked: &[u32]) -> Leaders {
        let client = self.client_among(asked).await;
        eventually("every group has a leader", async || {
            leaders(&client.describe_cluster().await.unwrap())
        })
        .await
    }

    /// Waits until nothing ticks: every replica is parked, that of the meta group too.
    pub async fn wait_parked(&self) {
        let client = self.client(1).await;
        eventually("all replicas are parked", async || {
            let described = client.describe_cluster().await.unwrap();
            let rests = |node: &NodeStatus| {
                !node.replicas.is_empty() && node.replicas.iter().all(|replica| replica.parked)
            };
            described.nodes.iter().all(rests).then_some(())
        })
        .await;
    }

    /// The newest term of each group.
    pub async fn terms(&self) -> BTreeMap<u64, u64> {
        let described = self.client(1).await.describe_cluster().await.unwrap();
        let mut terms = BTreeMap::<u64, u64>::new();
        for replica in NODES.iter().flat_map(|node| replicas_of(&described, *node)) {
            let newest = terms.entry(replica.group_id).or_default();
            *newest = replica.term.max(*newest);
        }
        terms
    }

    /// Waits until every replica has applied the same, while nothing is sent.
    pub async fn wait_level(&self) {
        let client = self.client(1).await;
        eventually("all replicas have applied the same", async || {
            let described = client.describe_cluster().await.unwrap();
            let applied = |node| -> Option<BTreeMap<u64, u64>> {
                let replicas = replicas_of(&described, node);
                (!replicas.is_empty())
                    .then(|| replicas.iter().map(|r| (r.group_id, r.applied_index)).collect())
            };
            let first = applied(1)?;
            NODES.iter().all(|node| applied(*node).as_ref() == Some(&first)).then_some(())
        })
        .await;
    }

    /// The groups that hold some of it.
    pub async fn groups_of(&self, chat: &Chat) -> BTreeSet<u64> {
        chat.by_group(&self.client_of_leaders().await).into_keys().collect()
    }

    /// The leader of the group with the most messages.
    pub async fn busiest_leader(&self, chat: &Chat) -> u32 {
        let messages = chat.by_group(&self.client_of_leaders().await);
        let (busiest, _) = messages.into_iter().max_by_key(|(_, count)| *count).unwrap();
        let leaders = self.leaders(&NODES).await;
        leaders.into_iter().find(|(_, groups)| groups.contains(&busiest)).unwrap().0
    }

    /// Sends a file of chat from a process of its own, which knows nothing but the file and one node.
    pub async fn send_file(&self, file: &Path) -> Acknowledged {
        let mut command = Command::new(QUORATE);
        command.args(["send", "--each", "--output", "json", "--timeout", "90s", "--endpoints"]);
        command.arg(self.endpoint(1)).arg("--file").arg(file);
        let output = command.output().await.unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaints}{}", printed.lines().last().unwrap_or(""));
        let lines = printed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        // The last line is the sum.
        let answers = lines.filter(|line| line.get("seq").is_some());
        answers
            .map(|answer| {
                assert_eq!(answer["duplicate"], true, "{answer}");
                let id = answer["client_msg_id"].as_str().unwrap();
                (id.to_owned(), answer["seq"].as_u64().unwrap())
            })
            .collect()
    }

    /// Stops all nodes in good order and has every byte that they left checked, by the command that does so.
    pub async fn stop_and_check(&mut self) {
        self.wait_level().await;
        self.local.take().unwrap().stop().await.unwrap();
        let checks = NODES.map(|node| check(self.dir.path().join(node.to_string())));
        let digests = futures::future::join_all(checks).await;
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    }

    /// Starts all nodes again, as they were.
    pub async fn start_again(&mut self) {
        self.local = Some(start(self.dir.path(), "").await);
    }
}

impl Drop for Cluster {
    /// What the nodes left is evidence if the test fails.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("what the nodes left is in {}", self.dir.path().display());
        }
    }
}

async fn start(dir: &Path, storage: &str) -> LocalCluster {
    let options = LocalClusterOptions {
        dir: Some(dir.to_owned()),
        groups: GROUPS,
        quiet: true,
        settings: storage.to_owned(),
        program: Some(PathBuf::from(QUORATE)),
        ..LocalClusterOptions::default()
    };
    LocalCluster::start(options).await.unwrap()
}

/// Runs `quorate check`; returns the digest of each group.
async fn check(data: PathBuf) -> BTreeMap<u64, String> {
    let mut command = Command::new(QUORATE);
    command.args(["check", "--output", "json", "--data"]).arg(&data);
    let output = command.output().await.unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && found["clean"] == true, "{}: {found}", data.display());
    let groups = found["groups"].as_array().unwrap().iter();
    let digest = |group: &Value| {
        (group["group_id"].as_u64().unwrap(), group["digest"].as_str().unwrap().to_owned())
    };
    groups.map(digest).collect()
}

async fn connect(endpoints: Vec<String>, routing: Routing, timeout: Duration) -> Client {
    let options = ClientOptions::new(endpoints).routing(routing).request_timeout(timeout);
    Client::connect(options).await.unwrap()
}

/// The replicas of conversation groups on a node; none if it did not answer.
fn replicas_of(described: &DescribeClusterResponse, node: u32) -> Vec<ReplicaStatus> {
    let status = described.nodes.iter().find(|status| status.node_id == u64::from(node));
    let replicas = status.into_iter().flat_map(|status| status.replicas.iter());
    replicas.filter(|replica| replica.group_id > 0).cloned().collect()
}

/// The leader of each group is the replica that says so in the highest term. None while a group has none.
fn leaders(described: &DescribeClusterResponse) -> Option<Leaders> {
    let mut newest = BTreeMap::<u64, (u64, u32)>::new();
    for node in NODES {
        for replica in replicas_of(described, node).iter().filter(|r| r.role == "leader") {
            let claim = newest.entry(replica.group_id).or_default();
            *claim = (*claim).max((replica.term, node));
        }
    }
    let mut leaders: Leaders = NODES.iter().map(|node| (*node, BTreeSet::new())).collect();
    for (group, (_, node)) in &newest {
        leaders.get_mut(node)?.insert(*group);
    }
    (newest.len() == GROUPS as usize).then_some(leaders)
}
