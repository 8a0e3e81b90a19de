//! The binary, told by its environment: what can only be seen from outside.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use quorate::cli::{LocalCluster, LocalClusterOptions};
use quorate::types::Clock;
use quorate_client::proto::delivery::Kind;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::{AppendRequest, FollowRequest, FollowStart, NewMessage, Start, start};
use tokio::process::Command;
use tokio::time::timeout;

use crate::node::EVENTUALLY;

/// A node of a cluster of its own, started through a script that sets its switches.
struct Node {
    local: LocalCluster,
    dir: tempfile::TempDir,
}

/// Tells the node's next start of its switches.
fn write_program(dir: &Path, switches: &str) -> PathBuf {
    let path = dir.join("node.sh");
    let binary = env!("CARGO_BIN_EXE_quorate");
    let script = format!("#!/bin/sh\nFAILPOINTS='{switches}' exec '{binary}' \"$@\"\n");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

impl Node {
    async fn start(switches: &str) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let program = write_program(dir.path(), switches);
        let options = LocalClusterOptions {
            nodes: 1,
            dir: Some(dir.path().to_owned()),
            groups: 1,
            quiet: true,
            program: Some(program),
            ..LocalClusterOptions::default()
        };
        Node { local: LocalCluster::start(options).await.unwrap(), dir }
    }

    fn client(&self) -> MessageLogClient<tonic::transport::Channel> {
        let address = format!("http://{}", self.local.endpoints()[0]);
        let endpoint = tonic::transport::Endpoint::from_shared(address).unwrap();
        MessageLogClient::new(endpoint.connect_lazy())
    }

    async fn append(&self, count: usize) {
        let message = |number| NewMessage {
            client_msg_id: format!("message-{number}"),
            issued_at_us: quorate::server::SystemClock.now().0,
            payload: "text".into(),
            ..NewMessage::default()
        };
        let request = AppendRequest {
            conversation: "acme/room".to_owned(),
            sender: "ann".to_owned(),
            messages: (0..count).map(message).collect(),
            expected_tail: None,
        };
        self.client().append(request).await.unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("1.log")).unwrap_or_default()
    }
}

/// The first seq that a follow yields that starts here.
async fn first_followed(node: &Node, from: u64) -> u64 {
    let start = Start { at: Some(start::At::Seq(from)) };
    let follow = FollowStart { conversation: "acme/room".to_owned(), start: Some(start) };
    let request = FollowRequest { conversations: vec![follow], heartbeat_ms: 0 };
    let mut responses = node.client().follow(request).await.unwrap().into_inner();
    loop {
        let next = timeout(EVENTUALLY, responses.message()).await.expect("something comes");
        let delivery = next.unwrap().expect("it goes on").delivery.unwrap();
        if let Some(Kind::Messages(messages)) = delivery.kind {
            return messages.messages[0].seq;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skip_on_resubscribe_skips_one() {
    for (switches, expected) in [("", 3), ("planted::skip_on_resubscribe=return", 4)] {
        let node = Node::start(switches).await;
        node.append(5).await;
        assert_eq!(first_followed(&node, 1).await, 1, "{switches}: a start is no resumption");
        assert_eq!(first_followed(&node, 3).await, expected, "{switches}");
        node.local.stop().await.unwrap();
    }
}

/// The node alone has a group, so that a blank replica knows no leader; what counts is that it stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wiped_replica_votes_makes_what_was_lost() {
    let missing = "a replica is missing";
    for (switches, is_missing) in [("", true), ("planted::wiped_replica_votes=return", false)] {
        let mut node = Node::start(switches).await;
        node.local.kill(1).await.unwrap();
        let data = node.dir.path().join("1");
        for lost in ["log", "state"] {
            std::fs::remove_dir_all(data.join(lost)).unwrap();
        }
        std::fs::remove_file(data.join("watermark")).unwrap();
        node.local.spawn(1).unwrap();
        let up = async {
            let mut ticks = tokio::time::interval(std::time::Duration::from_millis(20));
            while node.log().matches("the node is up").count() < 2 {
                ticks.tick().await;
            }
        };
        timeout(EVENTUALLY, up).await.expect("it starts");
        assert_eq!(node.log().contains(missing), is_missing, "{switches}: {}", node.log());
        node.local.kill(1).await.unwrap();
    }
}

/// One thread of many panics; left to itself the node would say that its log writer has ended, and close its storage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_the_process() {
    let mut node = Node::start("").await;
    node.append(5).await;
    node.local.kill(1).await.unwrap();
    write_program(node.dir.path(), "crash::log_gathered=panic");
    let ended = node.local.restart(1).await.unwrap_err().to_string();
    assert!(ended.contains("SIGABRT") && ended.contains("please report it"), "{ended}");
    assert!(node.log().contains("panicked at"), "{}", node.log());
    write_program(node.dir.path(), "");
    node.local.restart(1).await.unwrap();
    assert_eq!(first_followed(&node, 5).await, 5);
    node.local.stop().await.unwrap();
}

#[tokio::test]
async fn a_switch_that_there_is_not_is_refused() {
    for (switches, fine) in [
        ("planted::dedup_of=return", false),
        ("dedup_off=return", false),
        ("crash::log_synced", false),
        ("planted::dedup_off=return;crash::log_synced=7*off->return", true),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.arg("--version").env("FAILPOINTS", switches).stdin(Stdio::null());
        let output = timeout(EVENTUALLY, command.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), fine, "{switches}: {said}");
        assert!(said.contains("FAILPOINTS") || said.contains("failpoint"), "{switches}: {said}");
    }
}
