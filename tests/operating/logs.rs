use std::os::unix::fs::PermissionsExt;

use quorate::cli::{LocalCluster, LocalClusterOptions};

use super::get;

/// Standard error on a disk that is full, as a node's log may be; that of a reader who is gone fails in the same way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("node.sh");
    let binary = env!("CARGO_BIN_EXE_quorate");
    std::fs::write(&program, format!("#!/bin/sh\nexec '{binary}' \"$@\" 2> /dev/full\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let options = LocalClusterOptions {
        nodes: 1,
        groups: 1,
        quiet: true,
        program: Some(program),
        ..LocalClusterOptions::default()
    };
    let cluster = LocalCluster::start(options).await.unwrap();
    let (status, page) = get(&cluster.http_addresses()[0], "/readyz").await;
    assert_eq!(status, 200, "{page}");
    // Leaving is what it has most to say of.
    cluster.stop().await.unwrap();
}
