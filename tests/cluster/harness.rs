//! Starts clusters of the real binary, sends chat through all nodes, and compares what every replica has with what
//! was acknowledged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate::cli::{LocalCluster, LocalClusterOptions};
use quorate::log::invariants;
use quorate::server::SystemClock;
use quorate::storage::ReadOnlyStorage;
use quorate::types::Clock;
use quorate_client::proto::Message;
use quorate_client::{
    Append, Client, ClientOptions, Consistency, NewMessage, Read, Routing, SessionOptions, Start,
};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Longer than any election on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const RAFT: &str = "
[raft]
heartbeat_interval_ms = 50
election_timeout_min_ms = 300
election_timeout_max_ms = 600
";

/// Seq of each acknowledged message, by client_msg_id.
pub type Acknowledged = BTreeMap<String, u64>;

/// One line of chat.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    pub conversation: String,
    pub sender: String,
    pub client_msg_id: String,
    pub text: String,
}

/// Lines of an NDJSON file.
pub fn read_lines(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Short messages of a few senders to a few conversations.
pub fn generated(count: u32) -> Vec<Line> {
    let line = |number: u32| Line {
        conversation: format!("test/room-{}", number % 17),
        sender: format!("user-{}", number % 29),
        client_msg_id: format!("short-{number}"),
        text: format!("message {number}"),
    };
    (0..count).map(line).collect()
}

/// Messages of some kilobytes.
pub fn large(count: u32, bytes: usize) -> Vec<Line> {
    let line = |number: u32| Line {
        conversation: format!("test/large-{}", number % 7),
        sender: "archivist".to_owned(),
        client_msg_id: format!("large-{number}"),
        text: format!("{number} ").repeat(bytes / 4),
    };
    (0..count).map(line).collect()
}

/// Three nodes.
pub struct Cluster {
    local: Option<LocalCluster>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts three nodes; `storage` are further keys of their `[storage]` tables.
    pub async fn start(storage: &str) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let options = LocalClusterOptions {
            dir: Some(dir.path().to_owned()),
            groups: 6,
            quiet: true,
            settings: format!("{storage}{RAFT}"),
            program: Some(PathBuf::from(env!("CARGO_BIN_EXE_quorate"))),
            ..LocalClusterOptions::default()
        };
        let local = LocalCluster::start(options).await.unwrap();
        Cluster { local: Some(local), dir }
    }

    fn local(&self) -> &LocalCluster {
        self.local.as_ref().unwrap()
    }

    fn local_mut(&mut self) -> &mut LocalCluster {
        self.local.as_mut().unwrap()
    }

    /// A client that asks one node (from 0) and, when that is gone, the others.
    pub async fn client(&self, node: usize) -> Client {
        let mut endpoints = self.local().endpoints();
        endpoints.rotate_left(node);
        self.connect(endpoints, Routing::Proxy).await
    }

    async fn connect(&self, endpoints: Vec<String>, routing: Routing) -> Client {
        let endpoints = endpoints.into_iter().map(|address| format!("http://{address}"));
        let options = ClientOptions::new(endpoints).routing(routing).request_timeout(TIMEOUT);
        Client::connect(options).await.unwrap()
    }

    pub async fn kill(&mut self, node: u32) {
        self.local_mut().kill(node).await.unwrap();
    }

    pub async fn restart(&mut self, node: u32) {
        self.local_mut().restart(node).await.unwrap();
    }

    pub fn spawn(&mut self, node: u32) {
        self.local_mut().spawn(node).unwrap();
    }

    pub async fn restart_all(&mut self) {
        for node in 1..=3 {
            self.spawn(node);
        }
        self.wait_ready().await;
    }

    pub async fn wait_ready(&mut self) {
        self.local_mut().wait_ready().await.unwrap();
    }

    /// Removes a stopped node's data.
    pub fn wipe(&self, node: u32) {
        std::fs::remove_dir_all(self.dir.path().join(node.to_string())).unwrap();
    }

    pub fn log_of(&self, node: u32) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{node}.log"))).unwrap()
    }

    /// Waits until a node answers calls, whether it serves or not.
    pub async fn wait_alive(&self, node: u32) {
        let mut endpoints = self.local().endpoints();
        endpoints.rotate_left(node as usize - 1);
        let address = endpoints[0].clone();
        let connected = async {
            while tokio::net::TcpStream::connect(&address).await.is_err() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::time::timeout(TIMEOUT, connected).await.expect("the node listens");
    }

    /// Waits until some group of a node has purged its log.
    pub async fn wait_purged(&self, node: u64) {
        let client = self.client(node as usize - 1).await;
        let purged = async {
            loop {
                let cluster = client.describe_cluster().await.unwrap();
                let status = cluster.nodes.iter().find(|status| status.node_id == node).unwrap();
                if status.replicas.iter().any(|r| r.group_id > 0 && r.purged_index > 10) {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::time::timeout(TIMEOUT, purged).await.expect("a log is purged");
    }

    /// The leader of the group with the most messages.
    pub async fn busiest_leader(&self, chat: &Chat) -> u32 {
        let client = self.connect(self.local().endpoints(), Routing::Leader).await;
        let mut messages = BTreeMap::<u64, usize>::new();
        for (conversation, lines) in &chat.by_conversation {
            *messages.entry(client.group_of(conversation).unwrap()).or_default() += lines.len();
        }
        let (busiest, _) = messages.into_iter().max_by_key(|(_, count)| *count).unwrap();
        let found = async {
            loop {
                let topology = client.describe_cluster().await.unwrap().topology.unwrap();
                let group = topology.groups.iter().find(|group| group.group_id == busiest).unwrap();
                if group.leader_node_id > 0 {
                    return group.leader_node_id as u32;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::time::timeout(TIMEOUT, found).await.expect("the busiest group has a leader")
    }

    /// Stops all nodes in good order and checks every byte that they left.
    pub async fn check_stopped(mut self) {
        self.local.take().unwrap().stop().await.unwrap();
        let mut digests = Vec::new();
        for node in 1..=3 {
            let storage = ReadOnlyStorage::open(&self.dir.path().join(node.to_string())).unwrap();
            let report = invariants::check(&storage.state, &mut |_| ());
            assert!(report.is_clean(), "node {node}: {:?}", report.violations);
            let of_groups = report.groups.iter().map(|group| (group.group, group.digest));
            digests.push(of_groups.collect::<Vec<_>>());
        }
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    }
}

/// Chat to send, and to find again.
pub struct Chat {
    lines: Vec<Line>,
    pub by_conversation: BTreeMap<String, Vec<Line>>,
    issued_at_us: u64,
}

/// Chat on its way.
pub struct Sending {
    tasks: JoinSet<Acknowledged>,
    count: watch::Receiver<usize>,
}

impl Chat {
    pub fn new(lines: Vec<Line>) -> Self {
        let mut by_conversation = BTreeMap::<String, Vec<Line>>::new();
        for line in &lines {
            by_conversation.entry(line.conversation.clone()).or_default().push(line.clone());
        }
        let issued_at_us = SystemClock.now().0;
        Chat { lines, by_conversation, issued_at_us }
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Sends everything, pipelined, each conversation through one node; the same ids and times at each call.
    pub async fn begin(&self, cluster: &Cluster) -> Sending {
        let (counter, count) = watch::channel(0);
        let mut tasks = JoinSet::new();
        for node in 0..3 {
            let client = cluster.client(node).await;
            let options = SessionOptions { append_timeout: TIMEOUT, ..SessionOptions::default() };
            let session = client.session(options).unwrap();
            let rooms: BTreeMap<_, _> = self.by_conversation.keys().zip(0..).collect();
            let lines = self.lines.iter().filter(|line| rooms[&line.conversation] % 3 == node);
            let (lines, issued_at_us) = (lines.cloned().collect::<Vec<_>>(), self.issued_at_us);
            let (handles, mut pending) = mpsc::channel(8_192);
            tokio::spawn(async move {
                for line in lines {
                    let message = NewMessage::text(line.text)
                        .client_msg_id(line.client_msg_id.clone())
                        .issued_at_us(issued_at_us);
                    let append = Append::new(line.conversation, line.sender, message);
                    let handle = session.append(append).await;
                    handles.send((line.client_msg_id, handle)).await.unwrap();
                }
            });
            let counter = counter.clone();
            tasks.spawn(async move {
                let mut acknowledged = Acknowledged::new();
                while let Some((id, handle)) = pending.recv().await {
                    let appended = handle.await.unwrap_or_else(|error| panic!("{id}: {error}"));
                    acknowledged.insert(id, appended.first_seq);
                    counter.send_modify(|count| *count += 1);
                }
                acknowledged
            });
        }
        Sending { tasks, count }
    }

    /// Reads everything from every node at every level and compares.
    pub async fn verify(&self, cluster: &Cluster, acknowledged: &Acknowledged) {
        let mut total = 0;
        for (conversation, lines) in &self.by_conversation {
            let mut first: Option<Vec<Message>> = None;
            for node in 0..3 {
                let client = cluster.client(node).await;
                for consistency in [
                    Consistency::Linearizable,
                    Consistency::Local,
                    Consistency::AtLeast(lines.len() as u64),
                    Consistency::MaxStalenessMs(60_000),
                ] {
                    let read = Read::new(conversation).start(Start::Seq(1)).limit(100_000);
                    let page = client.read(read.consistency(consistency)).await.unwrap();
                    if consistency == Consistency::Local {
                        let position = page.position.as_ref().unwrap();
                        assert_eq!(position.node_id, node as u64 + 1, "LOCAL is not forwarded");
                    }
                    match &first {
                        None => first = Some(page.messages),
                        Some(first) => assert!(
                            *first == page.messages,
                            "{conversation} differs on node {} at {consistency:?}",
                            node + 1
                        ),
                    }
                }
            }
            let messages = first.unwrap();
            self.compare(conversation, lines, &messages, acknowledged);
            total += messages.len();
        }
        assert_eq!(total, self.len(), "nothing is lost, nothing is there twice");
    }

    fn compare(
        &self,
        conversation: &str,
        lines: &[Line],
        messages: &[Message],
        acknowledged: &Acknowledged,
    ) {
        // One session sent the conversation: its order is the order of the lines.
        assert_eq!(messages.len(), lines.len(), "{conversation}");
        for ((line, message), seq) in lines.iter().zip(messages).zip(1..) {
            assert_eq!(message.seq, seq, "{conversation}");
            assert_eq!(message.client_msg_id, line.client_msg_id, "{conversation} at {seq}");
            assert_eq!(message.sender, line.sender);
            assert_eq!(message.payload, line.text);
            assert_eq!(acknowledged.get(&line.client_msg_id), Some(&seq), "{conversation}");
        }
    }
}

impl Sending {
    /// Waits until so many messages are acknowledged.
    pub async fn wait_for_acknowledged(&self, count: usize) {
        let mut counted = self.count.clone();
        let reached = counted.wait_for(|acknowledged| *acknowledged >= count);
        let reached = tokio::time::timeout(TIMEOUT, reached).await;
        assert!(reached.is_ok(), "{count} messages are acknowledged in time");
    }

    /// Waits for the end.
    pub async fn finish(mut self) -> Acknowledged {
        let mut all = Acknowledged::new();
        while let Some(part) = self.tasks.join_next().await {
            all.extend(part.expect("sending succeeds"));
        }
        all
    }
}
