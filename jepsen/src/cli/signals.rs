use std::os::fd::AsFd;

use anyhow::Context;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancelled by SIGINT or SIGTERM, or, if asked to, by the end of standard input, which then is a pipe.
pub(super) fn stop(with_stdin: bool) -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind).context("cannot handle signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    if with_stdin {
        let input = std::io::stdin().as_fd().try_clone_to_owned()?;
        let mut input =
            pipe::Receiver::from_owned_fd(input).context("standard input is no pipe")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut ignored = [0; 64];
            while matches!(input.read(&mut ignored).await, Ok(1..)) {}
            stop.cancel();
        });
    }
    Ok(stop)
}
