//! Real chat, sent through all nodes while leaders are killed; found again; and sent again by somebody who knows
//! nothing of the first time.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::harness::{Chat, Cluster, NODES, read_lines};

const MESSAGES: usize = 45_805;
const KILLS: usize = 3;

/// The file, if it is there. It is not part of the repository.
fn file() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/chat.ndjson");
    if !path.exists() {
        // Not kept back, as what a passing test prints is.
        let mut log = std::io::stderr();
        writeln!(log, "NOT RUN: there is no {}", path.display()).unwrap();
        return None;
    }
    Some(path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_chat_survives_killed_leaders() {
    let Some(path) = file() else { return };
    let chat = Chat::new(read_lines(&path));
    assert_eq!(chat.len(), MESSAGES);
    // Logs are purged behind the durable mark soon, so that the second half runs on purged logs.
    let storage = "flush_interval_ms = 1000\nlog_keep_bytes = 262144\n";
    let mut cluster = Cluster::start(storage).await;
    let first = {
        let sending = chat.begin(&cluster).await;
        for kill in 1..=KILLS {
            sending.wait_for_acknowledged(MESSAGES * kill / (KILLS + 1)).await;
            let victim = [cluster.busiest_leader(&chat).await];
            cluster.kill(&victim).await;
            cluster.restart(&victim).await;
        }
        sending.finish().await
    };
    assert_eq!(first.len(), MESSAGES, "every message is acknowledged");
    chat.verify(&cluster, &first).await;
    cluster.stop_and_check().await;
    cluster.start_again().await;

    // Their logs are purged, and one comes back from a snapshot alone.
    let groups = cluster.groups_of(&chat).await;
    for node in NODES {
        cluster.wait_purged(node, &groups).await;
    }
    cluster.wipe_and_replace(2).await;
    let installed = cluster.log_of(2).matches("installed a snapshot").count();
    assert!(installed >= groups.len(), "node 2 has {installed} of {groups:?} from snapshots");

    let second = cluster.send_file(&path).await;
    assert_eq!(second, first, "each answer is the first outcome");
    chat.verify(&cluster, &first).await;
    cluster.stop_and_check().await;
}
