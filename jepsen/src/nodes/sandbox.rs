//! The namespaces that a run has to itself: of network, mounts and processes. The kernel removes everything in them when
//! their first process ends, however it ends; so nothing is left behind even by a run that was killed.
//!
//! The process that the user started stays outside. It starts itself again inside, hands on what the user wants, and ends
//! what is inside when it is ended itself: the pipe that is the inner one's standard input closes.

use std::ffi::OsString;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::programs;

const INSIDE: &str = "JEPSEN_INSIDE";
/// How long the inner process may take to put everything away.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

const AS_ROOT: &str = "root";
const AS_MAPPED: &str = "mapped";

/// Whether this process is the inner one.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Whether it is root also for disks, and not only in a user namespace of its own.
pub fn is_really_root() -> bool {
    std::env::var(INSIDE).is_ok_and(|how| how == AS_ROOT)
}

fn arguments() -> Vec<&'static str> {
    let mut all = vec!["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    all.extend(["--propagation", "private"]);
    if !rustix::process::geteuid().is_root() {
        all.extend(["--user", "--map-root-user"]);
    }
    all
}

/// Why nodes cannot have network namespaces here; none if they can.
pub async fn obstacle() -> Option<String> {
    let missing = programs::missing(programs::FOR_NAMESPACES);
    if !missing.is_empty() {
        return Some(format!("programs are missing: {}", missing.join(", ")));
    }
    let device = "/dev/net/tun";
    let try_it = ["ip", "tuntap", "add", "dev", "quorate", "mode", "tun"];
    let tried = programs::run("unshare", arguments().into_iter().chain(try_it)).await;
    match tried {
        Ok(_) => None,
        Err(error) => Some(format!("no namespaces, or no use of {device}: {error:#}")),
    }
}

/// Starts this program again inside namespaces of its own, with these arguments, and waits for its end. Cancelled, it
/// lets the inner one put things away first.
///
/// # Errors
///
/// If it cannot be started.
pub async fn enter(
    arguments_inside: Vec<OsString>,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let mut command = Command::new("unshare");
    command.args(arguments()).arg(program).args(arguments_inside);
    let how = if rustix::process::geteuid().is_root() { AS_ROOT } else { AS_MAPPED };
    command.env(INSIDE, how).stdin(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().context("cannot run unshare")?;
    let input = child.stdin.take();
    let status = tokio::select! {
        status = child.wait() => status?,
        () = stop.cancelled() => {
            drop(input);
            match timeout(STOP_DEADLINE, child.wait()).await {
                Ok(status) => status?,
                Err(_) => {
                    child.kill().await?;
                    anyhow::bail!("the run did not stop in time and was killed");
                }
            }
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::from(2), ExitCode::from))
}
