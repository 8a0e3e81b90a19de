//! More connections than a node may have: it turns them away, lives, and hears the other nodes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use quorate::cli::{LocalCluster, LocalClusterOptions};
use quorate::server::{ConnectionsMax, TooFewFiles};
use quorate::storage::Tuning;
use quorate_client::{Append, Client, ClientOptions, NewMessage};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{eventually, get};

/// Connections that clients may have to one node.
const PLACES: u64 = 40;
const ROOMS: usize = 12;
/// The preface and empty settings: the connection then stays.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// With how many open files a node starts.
fn files_min() -> u64 {
    let database_files_max = Tuning::default().open_files_max_in_all();
    let TooFewFiles { files_min, .. } =
        ConnectionsMax::within(0, database_files_max).expect_err("too few for anything");
    files_min
}

/// The program, as a process that begins with few files and may have `files_max`.
fn limited(folder: &Path, files_max: u64) -> PathBuf {
    let script = folder.join("limited");
    let program = env!("CARGO_BIN_EXE_quorate");
    let text =
        format!("#!/bin/sh\nulimit -Sn 256\nulimit -Hn {files_max}\nexec {program} \"$@\"\n");
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    script
}

async fn start(nodes: u32, files_max: u64, folder: &Path) -> anyhow::Result<LocalCluster> {
    let options = LocalClusterOptions {
        nodes,
        groups: 3,
        quiet: true,
        // Files are opened all the time.
        settings: "flush_interval_ms = 100\n".to_owned(),
        program: Some(limited(folder, files_max)),
        ..LocalClusterOptions::default()
    };
    LocalCluster::start(options).await
}

/// A connection that is kept; none if it is refused.
async fn connect(address: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A port that refuses may be gone already, and one that serves answers with its settings.
    let _ = stream.write_all(GREETING).await;
    let length = stream.read(&mut [0]).await.unwrap_or(0);
    (length > 0).then_some(stream)
}

/// Appends to every group.
async fn append(client: &Client, number: usize) {
    for room in 0..ROOMS {
        let message = NewMessage::text(format!("message {number}"));
        client.append(Append::new(format!("room-{room}"), "ann", message)).await.unwrap();
    }
}

async fn refused(cluster: &LocalCluster, port: &str) -> u64 {
    let (_, page) = get(&cluster.http_addresses()[0], "/metrics").await;
    let name = format!("quorate_connections_refused_total{{port=\"{port}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&name));
    value.expect("it is measured").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_turns_connections_away_before_its_databases_have_no_files() {
    let own = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: own, maximum: own }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files_max = files_min() - 1 + PLACES;
    let mut cluster = start(3, files_max, folder.path()).await.unwrap();
    let client = Client::connect(ClientOptions::new(cluster.endpoints())).await.unwrap();
    append(&client, 0).await;
    let pid = cluster.pid(1);

    let address = cluster.endpoints()[0].clone();
    let mut kept = Vec::new();
    let tried = files_max + PLACES;
    for _ in 0..tried {
        kept.extend(connect(&address).await);
    }
    let served = kept.len() as u64;
    assert!((1..PLACES).contains(&served), "{served} beside the client's own");
    assert_eq!(refused(&cluster, "client").await, tried - served);

    // Whom it has is served, and another node comes back to it.
    append(&client, 1).await;
    cluster.kill(2).await.unwrap();
    cluster.restart(2).await.unwrap();
    cluster.wait_ready().await.unwrap();
    append(&client, 2).await;
    assert_eq!(refused(&cluster, "peer").await, 0);
    assert_eq!(cluster.pid(1), pid, "it has stopped");
    let log = fs::read_to_string(cluster.dir().join("1.log")).unwrap();
    let lines = log.lines().filter(|line| line.contains("has all connections that it may have"));
    assert!(lines.count() >= 1, "{log}");

    drop(kept);
    eventually("a place is free again", async || {
        connect(&address).await.map(drop).ok_or_else(|| "refused".to_owned())
    })
    .await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_could_open_too_few_files_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let files_max = files_min() - 1;
    let error = match start(1, files_max, folder.path()).await {
        Ok(_) => panic!("it has started"),
        Err(error) => format!("{error:#}"),
    };
    let reason = TooFewFiles { files_max, files_min: files_min() }.to_string();
    assert!(error.contains(&reason), "{error}");
}
