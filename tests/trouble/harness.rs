//! Clusters of the real binary that are killed, misled and damaged.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use quorate::cli::{LocalCluster, LocalClusterOptions};
use quorate::types::ConversationName;
use quorate_client::proto::cluster_client::ClusterClient;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::{
    AppendRequest, AppendResponse, Consistency, Conversation, DescribeClusterRequest,
    DescribeClusterResponse, DescribeRequest, ListRequest, Message, NewMessage, ReadRequest,
    ReplicaStatus, consistency,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::wire::PATIENCE;

/// How long anything may take that has to happen in the end: elections and restarts, on a busy machine.
pub const EVENTUALLY: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Short elections, so that tests need not wait for them.
const RAFT: &str = "
[raft]
heartbeat_interval_ms = 50
election_timeout_min_ms = 300
election_timeout_max_ms = 600
";

/// The binary, without what the tester's environment says.
pub fn quorate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a subcommand to its end.
pub async fn run(arguments: &[&str]) -> Output {
    let output = quorate(arguments).output();
    timeout(EVENTUALLY, output).await.expect("it ends").expect("it starts")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `look` finds something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < EVENTUALLY, "it does not come to pass: {what}");
        sleep(POLL_INTERVAL).await;
    }
}

pub struct Cluster {
    local: Option<LocalCluster>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts nodes; `storage` are further keys of their `[storage]` tables.
    pub async fn start(nodes: u32, storage: &str) -> Cluster {
        Cluster::start_in(tempfile::tempdir().unwrap(), nodes, storage).await
    }

    pub async fn start_in(dir: tempfile::TempDir, nodes: u32, storage: &str) -> Cluster {
        let options = LocalClusterOptions {
            nodes,
            dir: Some(dir.path().to_owned()),
            groups: 6,
            quiet: true,
            settings: format!("{storage}{RAFT}"),
            program: Some(PathBuf::from(env!("CARGO_BIN_EXE_quorate"))),
            ..LocalClusterOptions::default()
        };
        Cluster { local: Some(LocalCluster::start(options).await.unwrap()), dir }
    }

    fn local(&self) -> &LocalCluster {
        self.local.as_ref().unwrap()
    }

    fn local_mut(&mut self) -> &mut LocalCluster {
        self.local.as_mut().unwrap()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where a node keeps its data.
    pub fn data(&self, node: u32) -> PathBuf {
        self.dir.path().join(node.to_string())
    }

    pub fn address(&self, node: u32) -> String {
        self.local().endpoints()[node as usize - 1].clone()
    }

    pub fn http_address(&self, node: u32) -> String {
        self.local().http_addresses()[node as usize - 1].clone()
    }

    pub fn cluster_id(&self) -> String {
        self.local().cluster_id().to_owned()
    }

    pub fn pid(&self, node: u32) -> Option<u32> {
        self.local().pid(node)
    }

    /// A connection to a node's client port, made when it is first used.
    pub fn channel(&self, node: u32) -> Channel {
        connect_lazily(&self.address(node))
    }

    pub fn messages(&self, node: u32) -> MessageLogClient<Channel> {
        MessageLogClient::new(self.channel(node))
    }

    pub async fn describe(&self, node: u32) -> Result<DescribeClusterResponse, Status> {
        let mut client = ClusterClient::new(self.channel(node));
        let call = client.describe_cluster(DescribeClusterRequest {});
        Ok(timeout(PATIENCE, call).await.expect("an answer in time")?.into_inner())
    }

    /// The peer address of a node.
    pub async fn peer_address(&self, node: u32) -> String {
        let topology = self.describe(node).await.unwrap().topology.unwrap();
        let found = topology.nodes.iter().find(|known| known.node_id == u64::from(node));
        found.unwrap().peer_address.clone()
    }

    /// A conversation in a group that this node leads.
    pub async fn conversation_led_by(&self, node: u32) -> String {
        eventually("the node leads a group", async || {
            let described = self.describe(node).await.ok()?;
            let topology = described.topology?;
            let led = topology.groups.iter().filter(|g| g.leader_node_id == u64::from(node));
            let led: Vec<_> = led.map(|group| (group.range_start, group.range_end)).collect();
            (0..10_000).map(|number| format!("led/{node}-{number}")).find(|name| {
                let hash = ConversationName(name.clone()).id().placement().0;
                led.iter().any(|(from, to)| *from <= hash && to.is_none_or(|to| hash < to))
            })
        })
        .await
    }

    pub async fn kill(&mut self, node: u32) {
        self.local_mut().kill(node).await.unwrap();
    }

    pub fn spawn(&mut self, node: u32) {
        self.local_mut().spawn(node).unwrap();
    }

    /// Starts a killed node again and waits until it serves.
    pub async fn restart(&mut self, node: u32) {
        self.local_mut().restart(node).await.unwrap();
    }

    pub async fn wait_ready(&mut self) {
        self.local_mut().wait_ready().await.unwrap();
    }

    /// Sends a signal to a node's process.
    pub fn signal(&self, node: u32, signal: Signal) {
        let pid = self.pid(node).and_then(|pid| Pid::from_raw(pid as i32)).expect("it runs");
        kill_process(pid, signal).unwrap();
    }

    /// Runs a killed node outside of the cluster's care until it ends by itself. Its status, and what it wrote.
    pub async fn run_to_its_end(&self, node: u32) -> (ExitStatus, String) {
        let config = self.dir().join(format!("{node}.toml"));
        let output = run(&["serve", "--config", &config.to_string_lossy()]).await;
        (output.status, text(&output.stderr))
    }

    /// Changes one key of a node's configuration file; it counts from the next start on.
    pub fn configure(&self, node: u32, key: &str, value: u64) {
        let path = self.dir().join(format!("{node}.toml"));
        let before = std::fs::read_to_string(&path).unwrap();
        let is_key = |line: &str| line.split('=').next().is_some_and(|name| name.trim() == key);
        assert_eq!(before.lines().filter(|line| is_key(line)).count(), 1, "{key} in {before}");
        let after: String = before
            .lines()
            .map(
                |line| {
                    if is_key(line) { format!("{key} = {value}\n") } else { format!("{line}\n") }
                },
            )
            .collect();
        std::fs::write(path, after).unwrap();
    }

    /// What a node has written to its log so far.
    pub fn log_of(&self, node: u32) -> String {
        let path = self.dir().join(format!("{node}.log"));
        text(&std::fs::read(path).unwrap_or_default())
    }

    /// How many lines a node has logged.
    pub fn log_lines(&self, node: u32) -> usize {
        self.log_of(node).lines().count()
    }

    /// Status and body of a page.
    pub async fn page(&self, node: u32, path: &str) -> Option<(u16, String)> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.http_address(node)).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Waits until a node that was spawned answers.
    pub async fn wait_alive(&self, node: u32) {
        eventually("the node lives", async || {
            let (status, _) = self.page(node, "/livez").await?;
            (status == 200).then_some(())
        })
        .await;
    }

    /// Waits until everything that a node has applied is in files.
    pub async fn wait_durable(&self, node: u32) {
        eventually("all of it is in files", async || {
            let described = self.describe(node).await.ok()?;
            let node = described.nodes.iter().find(|found| found.node_id == u64::from(node))?;
            let is_durable = |r: &ReplicaStatus| r.durable_index == r.applied_index;
            node.replicas.iter().all(is_durable).then_some(())
        })
        .await;
    }

    /// Resident memory of a node's process, in bytes.
    pub fn resident_bytes(&self, node: u32) -> u64 {
        self.memory(node, "VmRSS:")
    }

    /// The most that it had at any time.
    pub fn resident_bytes_peak(&self, node: u32) -> u64 {
        self.memory(node, "VmHWM:")
    }

    fn memory(&self, node: u32, which: &str) -> u64 {
        let pid = self.pid(node).expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(which)).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// Stops all nodes in good order; whatever ended in another way fails the test.
    pub async fn stop(mut self) {
        self.local.take().unwrap().stop().await.unwrap();
    }

    /// Nothing may have panicked.
    pub fn assert_no_panic(&self, nodes: u32) {
        for node in 1..=nodes {
            let log = self.log_of(node);
            assert!(!log.contains("panicked"), "node {node}:\n{log}");
        }
    }
}

pub fn connect_lazily(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// Microseconds since the Unix epoch.
pub fn now_us() -> u64 {
    use quorate::types::Clock;
    quorate::server::SystemClock.now().0
}

pub fn message(id: &str, payload: impl Into<bytes::Bytes>) -> NewMessage {
    NewMessage {
        client_msg_id: id.to_owned(),
        issued_at_us: now_us(),
        payload: payload.into(),
        ..NewMessage::default()
    }
}

pub fn append(conversation: &str, messages: Vec<NewMessage>) -> AppendRequest {
    AppendRequest {
        conversation: conversation.to_owned(),
        sender: "ann".to_owned(),
        messages,
        expected_tail: None,
    }
}

/// Appends, and asks again as long as it is told to.
pub async fn append_surely(
    client: &mut MessageLogClient<Channel>,
    request: AppendRequest,
) -> AppendResponse {
    eventually("the append is acknowledged", async || match client.append(request.clone()).await {
        Ok(response) => Some(response.into_inner()),
        Err(status) => {
            let refusal = super::wire::Refusal::of(&status);
            assert!(refusal.retryable, "{refusal:?}");
            None
        }
    })
    .await
}

pub fn at(level: consistency::Level) -> Option<Consistency> {
    Some(Consistency { level: Some(level) })
}

pub fn local() -> Option<Consistency> {
    at(consistency::Level::Local(consistency::Local {}))
}

/// A whole conversation, read in one call.
pub async fn read_all(
    client: &mut MessageLogClient<Channel>,
    conversation: &str,
    consistency: Option<Consistency>,
) -> Result<Vec<Message>, Status> {
    let request = ReadRequest {
        conversation: conversation.to_owned(),
        limit: 100_000,
        consistency,
        ..ReadRequest::default()
    };
    let mut responses = client.read(request).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(response) = responses.message().await? {
        messages.extend(response.messages);
    }
    Ok(messages)
}

/// Everything that a caller can see of a cluster: to be compared before and after what must change nothing.
#[derive(Debug, PartialEq)]
pub struct Everything {
    conversations: Vec<Conversation>,
    messages: Vec<Vec<Message>>,
}

impl Everything {
    /// What a node shows, once its list has caught up with the conversations that there are.
    pub async fn of(client: &mut MessageLogClient<Channel>, names: &[&str]) -> Everything {
        let listed = eventually("all conversations are listed", async || {
            let request = ListRequest { page_size: 1_000, ..ListRequest::default() };
            let page = client.list(request).await.ok()?.into_inner();
            assert!(page.next_page_token.is_empty(), "one page holds them all");
            let has = |name: &&str| page.conversations.iter().any(|found| found.name == *name);
            names.iter().all(has).then_some(page.conversations)
        })
        .await;
        let (mut conversations, mut messages) = (Vec::new(), Vec::new());
        for Conversation { name, .. } in listed {
            let request = DescribeRequest { conversation: name.clone(), consistency: None };
            let described = client.describe(request).await.unwrap().into_inner();
            conversations.extend(described.conversation);
            messages.push(read_all(client, &name, None).await.unwrap());
        }
        Everything { conversations, messages }
    }
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
