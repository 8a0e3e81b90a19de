//! The binary as an operator meets it: exit codes, messages, and how a node starts and stops.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// Generous: the machine may be busy with other tests.
const DEADLINE: Duration = Duration::from_secs(60);

/// The binary, without what the tester's environment says.
fn quorate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).kill_on_drop(true);
    command
}

async fn output(arguments: &[&str]) -> Output {
    let run = quorate(arguments).stdin(Stdio::null()).output();
    timeout(DEADLINE, run).await.expect("it ends").expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster-configs").join(name);
    path.to_string_lossy().into_owned()
}

#[tokio::test]
async fn help_version_and_wrong_usage_have_their_exit_codes() {
    let help = output(&["--help"]).await;
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("quorate dev"));
    assert_eq!(output(&["--version"]).await.status.code(), Some(0));
    for wrong in
        [&["nonsense"][..], &[], &["init"], &["init", "--node", "1"], &["node", "replace", "0"]]
    {
        let refused = output(wrong).await;
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
        assert!(!refused.stderr.is_empty());
    }
}

#[tokio::test]
async fn a_configuration_is_checked_without_starting() {
    let path = shipped("five-nodes-three-zones/4.toml");
    let checked = output(&["serve", "--config", &path, "--check-config", "--output", "json"]).await;
    assert_eq!(checked.status.code(), Some(0));
    let result: serde_json::Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!(result["node_id"], 4);
    assert_eq!(result["client"]["advertise"], "quorate-4.internal:7101");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.toml");
    std::fs::write(&path, "node_id = 1\ndata_dir = \"d\"\nnodeid = 2\n").unwrap();
    let path = path.to_string_lossy();
    for check in [&["--check-config"][..], &[]] {
        let refused = output(&[&["serve", "--config", &path][..], check].concat()).await;
        assert_eq!(refused.status.code(), Some(1));
        let message = text(&refused.stderr);
        let expected = format!("quorate: {path} line 3: nodeid: unknown field `nodeid`");
        assert!(message.starts_with(&expected), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_reported_once_and_in_the_form_asked_for() {
    // Free a moment ago: nobody listens there.
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let failed = output(&["status", "--endpoints", &unused]).await;
    assert_eq!(failed.status.code(), Some(1));
    let message = text(&failed.stderr);
    assert!(message.contains(&unused) && message.contains("Connection refused"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");

    let failed = output(&["status", "--endpoints", &unused, "--output", "json"]).await;
    assert_eq!(failed.status.code(), Some(1));
    let error: serde_json::Value = serde_json::from_slice(&failed.stderr).expect("JSON");
    assert!(error["error"].as_str().is_some_and(|error| error.contains(&unused)), "{error}");
}

/// A node of its own on free ports.
struct Node {
    child: Child,
    http: String,
    _folder: TempDir,
}

impl Node {
    async fn start(arguments: &[&str]) -> Node {
        let folder = tempfile::tempdir().unwrap();
        let held: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |at: usize| held[at].local_addr().unwrap().to_string();
        let http = address(2);
        let mut command = quorate(&[&["serve"][..], arguments].concat());
        command
            .env("QUORATE_NODE_ID", "1")
            .env("QUORATE_DATA_DIR", folder.path().join("data"))
            .env("QUORATE_CLIENT__LISTEN", address(0))
            .env("QUORATE_PEER__LISTEN", address(1))
            .env("QUORATE_HTTP__LISTEN", address(2))
            .env("QUORATE_STORAGE__BALLAST_BYTES", "0")
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        drop(held);
        let mut node = Node { child: command.spawn().unwrap(), http, _folder: folder };
        let started = Instant::now();
        while node.get("/livez").await != Some(200) {
            let ended = node.child.try_wait().unwrap();
            assert!(ended.is_none(), "the node ended: {ended:?}");
            assert!(started.elapsed() < DEADLINE, "the node does not live");
            sleep(Duration::from_millis(20)).await;
        }
        node
    }

    /// The status of a page; none if nobody answers.
    async fn get(&self, path: &str) -> Option<u16> {
        let mut stream = TcpStream::connect(&self.http).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    async fn exit_code(mut self) -> Option<i32> {
        timeout(DEADLINE, self.child.wait()).await.expect("it stops").unwrap().code()
    }
}

#[tokio::test]
async fn a_node_without_a_cluster_lives_and_is_not_ready_and_stops_when_asked() {
    for signal in [Signal::TERM, Signal::INT] {
        let node = Node::start(&[]).await;
        assert_eq!(node.get("/readyz").await, Some(503));
        assert_eq!(node.get("/metrics").await, Some(200));
        node.signal(signal);
        assert_eq!(node.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn a_node_that_was_started_by_another_process_does_not_outlive_it() {
    let mut node = Node::start(&["--stop-with-stdin"]).await;
    drop(node.child.stdin.take());
    assert_eq!(node.exit_code().await, Some(0));
}
