use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use super::Output;
use crate::server::{Config, config, logging, shutdown};
use crate::service::AllowAll;

/// Run one node
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate serve --config cluster-configs/one-node.toml
  quorate serve --config node.toml --check-config
  QUORATE_NODE_ID=2 QUORATE_DATA_DIR=/data quorate serve

Every key can be overridden by a variable: QUORATE_RAFT__HEARTBEAT_INTERVAL_MS=200
SIGINT or SIGTERM stops the node; a second one stops it at once. Neither loses anything.")]
pub struct ServeArgs {
    /// Configuration file; without one, QUORATE_… variables and defaults
    #[arg(long, value_name = "FILE", env = "QUORATE_CONFIG")]
    config: Option<PathBuf>,

    /// Check the configuration and do nothing else
    #[arg(long)]
    check_config: bool,

    /// Stop when standard input ends: a node that another process started must not outlive it
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

pub(super) async fn run(args: ServeArgs, output: Output) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.config.as_deref())?;
    if args.check_config {
        output.print(|| summary(&config), || summary_json(&config))?;
        return Ok(ExitCode::SUCCESS);
    }
    logging::begin(&config.log)?;
    shutdown::crash_on_panic();
    let shutdown = shutdown::on_signal().context("cannot handle signals")?;
    if args.stop_with_stdin {
        cancel_at_end_of_input(shutdown.clone()).context("standard input is not a pipe")?;
    }
    crate::server::run(config, Arc::new(AllowAll), shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the pipe without a thread: a blocking read could not be ended when the node stops for another reason.
fn cancel_at_end_of_input(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut input = pipe::Receiver::from_owned_fd(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    tokio::spawn(async move {
        let mut ignored = [0; 64];
        while matches!(input.read(&mut ignored).await, Ok(1..)) {}
        tracing::info!("standard input has ended: stopping");
        shutdown.cancel();
    });
    Ok(())
}

fn summary(config: &Config) -> String {
    let listener = |listener: &config::Listener| match listener.advertised() {
        advertised if advertised == listener.listen.to_string() => advertised,
        advertised => format!("{} (advertised as {advertised})", listener.listen),
    };
    format!(
        "valid: node {}\n  data    {}\n  client  {}\n  peer    {}\n  http    {}\n",
        config.node_id,
        config.data_dir.display(),
        listener(&config.client),
        listener(&config.peer),
        listener(&config.http),
    )
}

fn summary_json(config: &Config) -> serde_json::Value {
    let listener = |listener: &config::Listener| serde_json::json!({ "listen": listener.listen, "advertise": listener.advertised() });
    serde_json::json!({
        "valid": true,
        "node_id": config.node_id.0,
        "zone": config.zone,
        "data_dir": config.data_dir,
        "client": listener(&config.client),
        "peer": listener(&config.peer),
        "http": listener(&config.http),
    })
}
