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
        leave_at_once(INTERRUPTED);
    });
    Ok(token)
}

/// From now on a panic of any task or thread ends the whole process, as a crash would. What panicked may have left
/// something half done, and others may wait for it for ever: nothing goes on from there. Whoever starts the process
/// again recovers from what is on disk; the other nodes have gone on.
pub fn crash_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!("a panic is a bug of this program, please report it: the node ends");
        std::process::abort();
    }));
}

/// Ends the process without what it would do at its end: RocksDB waits there for what its threads have under way, and a
/// disk that hangs does not end that.
pub fn leave_at_once(code: i32) -> ! {
    signal_hook::low_level::exit(code)
}
