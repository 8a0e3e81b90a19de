//! The namespaces that a run has to itself: of network, mounts and processes. The kernel removes everything in them when
//! their first process ends, however it ends; so nothing is left behind even by a run that was killed.
//!
//! The process that the user started stays outside. It starts itself again inside, hands on what the user wants, and ends
//! what is inside when it is ended itself: the pipe that is the inner one's standard input closes.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::judge::Verdict;
use crate::programs;

/// What a process opens to make a network device.
const TUN: &str = "/dev/net/tun";
const INSIDE: &str = "JEPSEN_INSIDE";
/// How long the inner process may take to put everything away.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// The inner process adds this to its exit code. `unshare` has codes of its own, 1 among them where what it ran was
/// killed, and a panic is 101: neither must be taken for a promise that was broken.
const VERDICTS_INSIDE: u8 = 110;

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

/// The exit code that says a verdict.
pub fn exit_code(verdict: Verdict) -> ExitCode {
    let inside = if is_inside() { VERDICTS_INSIDE } else { 0 };
    ExitCode::from(inside + verdict.exit_code())
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
    let alone = programs::run("unshare", arguments().into_iter().chain(["true"])).await;
    if let Err(error) = alone {
        return Some(format!("there are no namespaces for this user: {error:#}"));
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open(TUN) {
        return Some(format!(
            "this user cannot open {TUN}, which network devices are made with: {error}"
        ));
    }
    let device = ["ip", "tuntap", "add", "dev", "quorate", "mode", "tun"];
    let made = programs::run("unshare", arguments().into_iter().chain(device)).await;
    made.err().map(|error| format!("no network device can be made: {error:#}"))
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
    let mut command = programs::command("unshare");
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
    match code.and_then(|code| code.checked_sub(VERDICTS_INSIDE)) {
        Some(verdict @ 0..=2) => Ok(ExitCode::from(verdict)),
        // It was killed, or panicked: that is no verdict.
        _ => anyhow::bail!("the run did not come to an end: {status}"),
    }
}
