//! Floor 6: configuration, the one wall clock, metrics, HTTP, shutdown, and the wiring of the floors below.

mod clock;
pub mod config;
mod http;
/// What the process writes to standard error.
pub mod logging;
mod metrics;
/// How a process is asked to stop.
pub mod shutdown;

pub use clock::SystemClock;
pub use config::Config;
pub use http::{Readiness, serve as serve_http};
pub use metrics::{Metrics, OpenSubscription, ProposalOutcome, Queue};

use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Runs a node until `shutdown` is cancelled.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let address = config.http.listen;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!(node_id = config.node_id.0, http = %address, "the node is up");
    let readiness = || vec!["the node belongs to no cluster: run `quorate init`".to_owned()];
    serve_http(listener, Arc::new(Metrics::new()), Arc::new(readiness), shutdown).await?;
    tracing::info!("the node has stopped");
    Ok(())
}
