use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal: 128 + SIGINT, as shells report it.
const INTERRUPTED: i32 = 130;

/// A token that SIGINT or SIGTERM cancels: whoever holds it finishes what it does and returns. A second signal ends
/// the process at once, which loses nothing: what was acknowledged is on disk.
///
/// Must be called within a runtime. Fails if the operating system refuses the handlers.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            }
        };
        let signal = next().await;
        tracing::info!(signal, "stopping; a second signal stops at once");
        cancelled.cancel();
        let signal = next().await;
        tracing::warn!(signal, "stopped at once");
        leave_at_once();
    });
    Ok(token)
}

#[expect(clippy::exit, reason = "the second signal asks for exactly this")]
fn leave_at_once() {
    std::process::exit(INTERRUPTED);
}
