//! A node whose disk hangs ends, and does not wait for what RocksDB's threads are at: G9.

use std::fs;
use std::path::Path;
use std::time::Duration;

use quorate::cli::{LocalCluster, LocalClusterOptions};
use quorate::server::SystemClock;
use quorate::types::Clock;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::{AppendRequest, NewMessage};
use tokio::time::{Instant, sleep};

use crate::faultfs::Disk;

/// 20 s until the disk counts as hanging, 27 s for an orderly end, and a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// What is applied is soon on its way into a file.
const SETTINGS: &str = "flush_interval_ms = 100\n";

fn has_ended(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_that_gives_up_on_a_disk_which_hangs_ends_before_the_disk_answers() {
    let disk = Disk::new();
    let options = LocalClusterOptions {
        nodes: 1,
        groups: 1,
        dir: Some(disk.data()),
        quiet: true,
        small: true,
        settings: SETTINGS.to_owned(),
        program: Some(disk.under(Path::new(env!("CARGO_BIN_EXE_quorate")))),
        ..LocalClusterOptions::default()
    };
    let cluster = LocalCluster::start(options).await.unwrap();
    let endpoint = format!("http://{}", cluster.endpoints()[0]);
    let mut client = MessageLogClient::connect(endpoint).await.unwrap();
    let append = |id: &str| AppendRequest {
        conversation: "acme/room".to_owned(),
        sender: "ann".to_owned(),
        messages: vec![NewMessage {
            client_msg_id: id.to_owned(),
            issued_at_us: SystemClock.now().0,
            payload: "hello".into(),
            ..NewMessage::default()
        }],
        expected_tail: None,
    };
    client.append(append("applied, and on its way into a file")).await.unwrap();
    disk.hang();
    let pid = cluster.pid(1).expect("it runs");
    let under_way = tokio::spawn(async move { client.append(append("on no disk")).await });
    let deadline = Instant::now() + ENDS_WITHIN;
    while !has_ended(pid) {
        assert!(Instant::now() < deadline, "it waits for the disk");
        sleep(POLL_INTERVAL).await;
    }
    let log = fs::read_to_string(disk.data().join("1.log")).unwrap();
    assert!(log.contains("the disk hangs"), "{log}");
    assert!(under_way.await.unwrap().is_err(), "what is on no disk is not acknowledged");
}
