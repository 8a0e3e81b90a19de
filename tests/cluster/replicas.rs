//! Replicas that fell behind, lost everything, or all stopped at once.

use crate::harness::{Chat, Cluster, NODES, generated, large};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_survives_the_death_of_all_nodes() {
    let mut cluster = Cluster::start("").await;
    let chat = Chat::new(generated(6_000));
    let sending = chat.begin(&cluster).await;
    sending.wait_for_acknowledged(chat.len() / 2).await;
    cluster.kill(&NODES).await;
    cluster.restart(&NODES).await;
    let first = sending.finish().await;
    assert_eq!(first.len(), chat.len(), "every message is acknowledged");
    chat.verify(&cluster, &first).await;

    let second = chat.begin(&cluster).await.finish().await;
    assert_eq!(second, first, "each answer is the first outcome");
    chat.verify(&cluster, &first).await;
    cluster.stop_and_check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_missed_too_much_gets_a_snapshot_and_a_wiped_node_is_replaced() {
    let mut cluster = Cluster::start("flush_interval_ms = 200\nlog_keep_bytes = 65536\n").await;
    let chat = Chat::new(generated(2_000));
    let acknowledged = chat.begin(&cluster).await.finish().await;
    cluster.kill(&[3]).await;
    let reached = cluster.last_indexes(&[1, 2]).await;
    let more = Chat::new(large(600, 4_096));
    let acknowledged_more = more.begin(&cluster).await.finish().await;
    // Again, since the newest entry of a log is kept however large it is.
    assert_eq!(more.begin(&cluster).await.finish().await, acknowledged_more);
    // Whoever leads that group when node 3 is back has nothing else to give it.
    cluster.wait_purged_beyond(&[1, 2], &reached).await;
    cluster.restart(&[3]).await;
    chat.verify(&cluster, &acknowledged).await;
    more.verify(&cluster, &acknowledged_more).await;
    assert!(cluster.log_of(3).contains("installed a snapshot"), "node 3 needed a snapshot");

    cluster.wipe_and_replace(2).await;
    chat.verify(&cluster, &acknowledged).await;
    more.verify(&cluster, &acknowledged_more).await;
    cluster.stop_and_check().await;
}
