//! Clusters of the real binary, killed, restarted and wiped.

mod harness;

use std::collections::BTreeMap;
use std::path::Path;

use harness::{Chat, Cluster, Line};
use quorate_client::proto::ReplaceRequest;
use quorate_client::{Append, Consistency, NewMessage, Read, Start};

/// Everything through all nodes while leaders are killed; then all killed at once; then everything again.
async fn survives_kills(cluster: &mut Cluster, lines: Vec<Line>, kills: u32) {
    let chat = Chat::new(lines);
    let sending = chat.begin(cluster).await;
    for kill in 0..kills {
        let due = chat.len() * (kill as usize + 1) / (kills as usize + 2);
        sending.wait_for_acknowledged(due).await;
        let victim = cluster.busiest_leader(&chat).await;
        cluster.kill(victim).await;
        cluster.restart(victim).await;
    }
    let first = sending.finish().await;
    assert_eq!(first.len(), chat.len(), "every message is acknowledged");
    chat.verify(cluster, &first).await;

    for node in 1..=3 {
        cluster.kill(node).await;
    }
    cluster.restart_all().await;
    chat.verify(cluster, &first).await;

    let second = chat.begin(cluster).await.finish().await;
    assert_eq!(second, first, "each answer is the first outcome");
    chat.verify(cluster, &first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_survives_killed_leaders_and_the_death_of_all_nodes() {
    let mut cluster = Cluster::start("").await;
    survives_kills(&mut cluster, harness::generated(6_000), 3).await;
    cluster.check_stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_chat_survives_killed_leaders() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/chat.ndjson");
    if !path.exists() {
        println!("NOT RUN: there is no {}", path.display());
        return;
    }
    let lines = harness::read_lines(&path);
    assert_eq!(lines.len(), 45_805);
    // Logs are purged behind the durable mark soon, so that the second half runs on purged logs.
    let mut cluster = Cluster::start("flush_interval_ms = 1000\nlog_keep_bytes = 262144\n").await;
    survives_kills(&mut cluster, lines, 3).await;
    cluster.check_stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_missed_too_much_gets_a_snapshot_and_a_wiped_node_is_replaced() {
    let mut cluster = Cluster::start("flush_interval_ms = 200\nlog_keep_bytes = 65536\n").await;
    let chat = Chat::new(harness::generated(2_000));
    let acknowledged = chat.begin(&cluster).await.finish().await;
    cluster.kill(3).await;
    let more = Chat::new(harness::large(600, 4_096));
    let acknowledged_more = more.begin(&cluster).await.finish().await;
    cluster.wait_purged(1).await;
    cluster.restart(3).await;
    chat.verify(&cluster, &acknowledged).await;
    more.verify(&cluster, &acknowledged_more).await;
    assert!(cluster.log_of(3).contains("installed a snapshot"), "node 3 needed a snapshot");

    cluster.kill(2).await;
    cluster.wipe(2);
    cluster.spawn(2);
    let client = cluster.client(0).await;
    cluster.wait_alive(2).await;
    let mut replacement =
        client.replace(ReplaceRequest { node_id: 2, ..ReplaceRequest::default() }).await.unwrap();
    let mut last = None;
    while let Some(progress) = replacement.next().await.unwrap() {
        last = Some(progress);
    }
    let last = last.expect("a replacement reports its progress");
    assert_eq!(last.groups_done, last.groups_total, "{last:?}");
    cluster.wait_ready().await;
    chat.verify(&cluster, &acknowledged).await;
    more.verify(&cluster, &acknowledged_more).await;
    cluster.check_stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_and_changes_nothing() {
    let cluster = Cluster::start("").await;
    let client = cluster.client(0).await;
    let message = |id: &str, text: &str| NewMessage::text(text).client_msg_id(id);
    let first = client.append(Append::new("room", "ann", message("1", "hello"))).await.unwrap();
    assert_eq!((first.first_seq, first.duplicate), (1, false));
    // A retry, through another node.
    let again = cluster.client(1).await;
    let again = again.append(Append::new("room", "ann", message("1", "hello"))).await.unwrap();
    assert_eq!((again.first_seq, again.duplicate), (1, true));
    assert_eq!(again.commit_time_us, first.commit_time_us);

    let long = "x".repeat(600);
    let ahead = message("3", "ahead").issued_at_us(u64::MAX / 2);
    let refused: BTreeMap<&str, Append> = BTreeMap::from([
        ("EMPTY_FIELD", Append::new("", "ann", message("9", "x"))),
        ("LIMIT_EXCEEDED", Append::new(long.as_str(), "ann", message("9", "x"))),
        ("ID_CONFLICT", Append::new("room", "ann", message("1", "other"))),
        ("WRONG_TAIL", Append::new("room", "ann", message("9", "x")).expected_tail(7)),
        ("ISSUED_IN_FUTURE", Append::new("room", "ann", ahead)),
    ]);
    for (reason, append) in refused {
        let error = client.append(append).await.expect_err(reason);
        assert!(!error.may_have_taken_effect(), "{reason}: {error}");
        assert!(!error.retryable(), "{reason}: {error}");
        assert_eq!(error.reason(), reason);
    }
    let page = client.read(Read::new("room").start(Start::Seq(1))).await.unwrap();
    assert_eq!(page.messages.len(), 1);
    assert_eq!(page.tail, 2);
    let beyond = client.read(Read::new("room").start(Start::Seq(50))).await.unwrap();
    assert!(beyond.messages.is_empty());
    for node in 0..3 {
        let read = Read::new("room").consistency(Consistency::AtLeast(1));
        let page = cluster.client(node).await.read(read).await.unwrap();
        assert_eq!(page.messages[0].payload, "hello");
    }
}
