//! The log of a simulation, and the seeds that are remembered.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::cluster::{self, Outcome};
use crate::determinism;

/// What becomes of a simulation's log.
#[derive(Clone)]
pub enum Trace {
    /// Nothing.
    None,
    /// It is shown, as far as a filter lets it through.
    Shown(String),
    /// All of it, down to trace level, is hashed.
    Digest,
}

/// How long a log is, and a hash of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Digest {
    bytes: u64,
    hash: String,
}

/// Simulates a seed on a thread of its own, whose randomness nobody has drawn from.
pub fn on_new_thread(seed: u64, trace: Trace) -> (Outcome, Digest) {
    const STACK_BYTES: usize = 64 << 20;
    let thread = std::thread::Builder::new()
        .name(format!("seed {seed}"))
        .stack_size(STACK_BYTES)
        .spawn(move || traced(seed, trace));
    thread.expect("a thread can be started").join().unwrap_or_else(|panic| {
        println!("seed {seed} panicked; to repeat it: make sim SEED={seed}");
        std::panic::resume_unwind(panic)
    })
}

fn traced(seed: u64, trace: Trace) -> (Outcome, Digest) {
    let lines = tracing_subscriber::fmt().with_ansi(false).with_timer(SimTime);
    match trace {
        Trace::None => (cluster::simulate(seed), Digest::default()),
        Trace::Shown(filter) => {
            let shown = lines.with_env_filter(EnvFilter::new(filter)).with_writer(io::stderr);
            let subscriber = shown.finish();
            let simulate = || cluster::simulate(seed);
            (tracing::subscriber::with_default(subscriber, simulate), Digest::default())
        }
        Trace::Digest => {
            let hashed = Hashed::default();
            let all = lines.with_max_level(tracing::Level::TRACE).with_writer(hashed.clone());
            let simulate = || cluster::simulate(seed);
            let outcome = tracing::subscriber::with_default(all.finish(), simulate);
            let (hasher, bytes) = &*hashed.0.lock().expect("no panic while locked");
            let hash = hasher.finalize().to_hex()[..16].to_owned();
            (outcome, Digest { bytes: *bytes, hash })
        }
    }
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

/// Seeds of a file: one on each line, with `#` before remarks.
pub fn known_seeds(file: &Path) -> anyhow::Result<Vec<u64>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let seeds = lines.filter(|line| !line.is_empty());
    let parse = |seed: &str| {
        seed.parse().with_context(|| format!("{}: {seed:?} is not a seed", file.display()))
    };
    seeds.map(parse).collect()
}

/// Adds a seed to a file.
pub fn remember(file: &Path, seed: u64) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).open(file)?;
    Ok(writeln!(file, "{seed}")?)
}
