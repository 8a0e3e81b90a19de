//! Nodes as real processes, as those who operate them see them: metrics, logs, who may connect.

mod certificates;
mod connections;
mod logs;
mod metrics;
mod peers;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use quorate::cli::{LocalCluster, LocalClusterOptions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Generous: the machine may be busy with other tests.
const TIMEOUT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A cluster; `settings` are further tables of each node's configuration.
async fn cluster(nodes: u32, settings: &str) -> LocalCluster {
    let options = LocalClusterOptions {
        nodes,
        groups: 3,
        quiet: true,
        settings: settings.to_owned(),
        program: Some(PathBuf::from(env!("CARGO_BIN_EXE_quorate"))),
        ..LocalClusterOptions::default()
    };
    LocalCluster::start(options).await.unwrap()
}

/// Status and body of a page.
async fn get(address: &str, path: &str) -> (u16, String) {
    get_over(TcpStream::connect(address).await.unwrap(), path).await.unwrap()
}

/// The same over a connection that may be encrypted.
async fn get_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
) -> std::io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    let page = status.zip(body);
    page.ok_or_else(|| std::io::Error::other(format!("not a page: {answer:?}")))
}

/// Looks again and again until something is there.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= deadline => panic!("{what}: not in time\n{seen}"),
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}
