//! Runs the commands, each in a time.

use std::ffi::OsStr;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::time::timeout;

use crate::cases::{Case, Figure};

/// Far more than any case takes.
const TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// How long a command that took longer may take to end its nodes.
const END_MAX: Duration = Duration::from_secs(60);

/// What a command printed, and whether it said that all went well.
pub struct Run {
    pub case: Case,
    pub is_success: bool,
}

/// The run whose main value is the median of all runs. One that did not go well stands for all.
pub async fn median(figure: &Figure, quorate: &OsStr) -> anyhow::Result<Run> {
    let mut runs = Vec::new();
    for number in 1..=figure.runs {
        let run = measure(figure, quorate).await?;
        eprintln!("  run {number} of {}: {}", figure.runs, (figure.show)(&run.case));
        if !run.is_success {
            return Ok(run);
        }
        runs.push(run);
    }
    runs.sort_by(|a, b| (figure.main)(&a.case).total_cmp(&(figure.main)(&b.case)));
    Ok(runs.swap_remove((runs.len() - 1) / 2))
}

/// Runs one command; the nodes keep their data where Cargo builds, which is a disk. What fails may have printed a
/// result: that something was lost is one.
async fn measure(figure: &Figure, quorate: &OsStr) -> anyhow::Result<Run> {
    let mut command = Command::new(quorate);
    command.arg("bench").args(figure.arguments.split(' '));
    command.args(["--output", "json", "--data", env!("CARGO_TARGET_TMPDIR")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().with_context(|| format!("cannot run {}", quorate.display()))?;
    let id = child.id().and_then(|id| Pid::from_raw(id as i32));
    let mut ending = pin!(child.wait_with_output());
    let Ok(ended) = timeout(TIME_MAX, &mut ending).await else {
        // It ends its nodes and removes their data; if it does not, it is killed when it is dropped.
        kill_process(id.context("it has ended")?, Signal::TERM)?;
        let _ = timeout(END_MAX, &mut ending).await;
        bail!("it took more than {} minutes", TIME_MAX.as_secs() / 60);
    };
    let ended = ended?;
    let said = String::from_utf8_lossy(&ended.stderr);
    eprint!("{said}");
    let Ok(case) = serde_json::from_slice::<Case>(&ended.stdout) else {
        let why = said.lines().next().unwrap_or("it gave no JSON");
        bail!("{why} ({})", ended.status);
    };
    ensure!(case["local"]["data_in_memory"] != true, "the data is in memory: set CARGO_TARGET_DIR");
    Ok(Run { case, is_success: ended.status.success() })
}
