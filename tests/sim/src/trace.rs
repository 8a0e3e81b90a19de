//! One simulation in a process of its own, with or without its log.
//!
//! A process of its own, because what a process draws once, at first use, would be drawn by whichever seed is first.

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use tracing::Dispatch;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, registry};

use crate::cluster;
use crate::determinism;
use crate::summary::Summary;
use crate::traffic::Traffic;

/// What becomes of a simulation's log.
#[derive(Clone, Debug, clap::ValueEnum)]
pub enum Log {
    /// Nothing.
    None,
    /// All of it, down to trace level, is hashed.
    Digest,
}

/// Simulates a seed in this process, and prints its summary as a line of JSON.
pub fn simulate_here(seed: u64, log: &Log, shown: Option<String>) -> anyhow::Result<()> {
    const STACK_BYTES: usize = 64 << 20;
    let log = log.clone();
    let thread = std::thread::Builder::new()
        .name(format!("seed {seed}"))
        .stack_size(STACK_BYTES)
        .spawn(move || traced(seed, &log, shown))?;
    let Ok(summary) = thread.join() else { anyhow::bail!("the simulation panicked") };
    println!("{}", serde_json::to_string(&summary)?);
    Ok(())
}

/// Simulates a seed in a new process. Its log, if it is shown, goes to standard error.
pub fn simulate_apart(seed: u64, log: &str, shown: Option<&str>) -> anyhow::Result<Summary> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--seed", &seed.to_string(), "--here", log]).stderr(Stdio::inherit());
    if let Some(filter) = shown {
        command.args(["--trace", filter]);
    }
    let output = command.output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let last = printed.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| {
        format!("seed {seed} ended without a summary ({}): make sim SEED={seed}", output.status)
    })
}

fn traced(seed: u64, log: &Log, shown: Option<String>) -> Summary {
    determinism::enter(seed);
    let traffic = Traffic::default();
    let simulate = |dispatch: Dispatch| {
        tracing::dispatcher::with_default(&dispatch, || cluster::simulate(seed, traffic.clone()))
    };
    let reader = traffic.reader();
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_timer(SimTime);
    if let Some(filter) = shown {
        // Not EnvFilter: it makes hash maps, and their keys are drawn from what the simulation draws from.
        let targets: Targets = filter.parse().expect("checked where it was given");
        let shown = lines.with_writer(io::stderr).with_filter(targets);
        let outcome = simulate(registry().with(reader).with(shown).into());
        return Summary::of(&outcome, None);
    }
    let Log::Digest = log else {
        return Summary::of(&simulate(registry().with(reader).into()), None);
    };
    let hashed = Hashed::default();
    let all = lines.with_writer(hashed.clone());
    let outcome = simulate(registry().with(reader).with(all).into());
    let (hasher, bytes) = &*hashed.0.lock().expect("no panic while locked");
    let hash = hasher.finalize().to_hex()[..16].to_owned();
    Summary::of(&outcome, Some((hash, *bytes)))
}

/// Hashes what is written to it.
#[derive(Clone, Default)]
struct Hashed(Arc<Mutex<(blake3::Hasher, u64)>>);

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (hasher, count) = &mut *self.0.lock().expect("no panic while locked");
        hasher.update(bytes);
        *count += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Hashed {
    type Writer = Hashed;

    fn make_writer(&'a self) -> Hashed {
        self.clone()
    }
}

struct SimTime;

impl FormatTime for SimTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{:>9.3}", determinism::elapsed().as_secs_f64())
    }
}
