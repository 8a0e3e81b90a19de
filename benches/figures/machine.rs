//! Where and when figures were taken.

use std::process::Command;

use anyhow::Context;
use quorate::server::SystemClock;
use quorate::types::Clock;

/// Processor, cores, memory and kernel.
pub fn machine() -> anyhow::Result<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = field(&cpus, "model name").unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism()?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let memory_kib = field(&memory, "MemTotal").and_then(|total| total.split(' ').next());
    let memory_kib: u64 = memory_kib.context("no MemTotal")?.parse()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "{model}, {cores} cores, {} GiB of memory, Linux {}",
        memory_kib.div_ceil(1024 * 1024),
        kernel.trim()
    ))
}

/// Of today, in UTC.
pub fn date() -> anyhow::Result<String> {
    let now = i64::try_from(SystemClock.now().0).map(jiff::Timestamp::from_microsecond)??;
    Ok(now.strftime("%Y-%m-%d").to_string())
}

/// How many threads ran or waited to, on average over 1, 5 and 15 minutes.
pub fn load() -> anyhow::Result<String> {
    let averages = std::fs::read_to_string("/proc/loadavg")?;
    Ok(averages.split(' ').take(3).collect::<Vec<_>>().join(", "))
}

/// What is checked out, and whether it was changed since.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let ended = Command::new("git").args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    match git(&["status", "--porcelain", "--untracked-files=no"]).as_deref() {
        Some("") => commit,
        _ => format!("{commit} with changes"),
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}
