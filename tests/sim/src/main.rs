//! Simulates whole clusters, each from one seed.

mod cluster;
mod determinism;
mod faults;
mod ground;
mod record;
mod workload;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use tracing_subscriber::EnvFilter;

use cluster::{Coverage, Outcome};

/// Simulates clusters of the product on simulated time, network and disks.
#[derive(Parser)]
#[command(name = "quorate-sim", version)]
struct Arguments {
    /// Simulates this seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Vec<u64>,
    /// Simulates so many seeds, from a random one on.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first of them.
    #[arg(long)]
    from: Option<u64>,
    /// Writes the log of the simulation to standard error, as far as this filter lets it through.
    #[arg(long, value_name = "FILTER")]
    trace: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !cfg!(tokio_unstable) {
        eprintln!("built without --cfg tokio_unstable, a seed does not decide everything: use `make sim`");
        return ExitCode::from(2);
    }
    let seeds: Vec<u64> = if arguments.seed.is_empty() {
        let from = arguments.from.unwrap_or_else(|| rand::random_range(0..1 << 48));
        (from..from + arguments.seeds).collect()
    } else {
        arguments.seed.clone()
    };
    let began = Instant::now();
    let mut simulated = Duration::ZERO;
    let mut seen = Coverage::default();
    let mut failed = 0;
    for seed in &seeds {
        let filter = arguments.trace.clone();
        let outcome = on_new_thread(*seed, filter);
        simulated += outcome.elapsed;
        seen.truncations += outcome.seen.truncations;
        seen.installs += outcome.seen.installs;
        seen.leader_deaths_in_flight += outcome.seen.leader_deaths_in_flight;
        report(&outcome);
        failed += u64::from(!outcome.problems.is_empty());
    }
    let took = began.elapsed();
    println!(
        "{} seeds, {failed} failed; {:.2} simulated hours per minute; {seen:?}",
        seeds.len(),
        simulated.as_secs_f64() / 3_600.0 / (took.as_secs_f64() / 60.0),
    );
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn on_new_thread(seed: u64, filter: Option<String>) -> Outcome {
    let simulate = move || {
        let Some(filter) = filter else { return cluster::simulate(seed) };
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .with_timer(SimTime)
            .finish();
        tracing::subscriber::with_default(subscriber, || cluster::simulate(seed))
    };
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(simulate);
    thread.expect("a thread can be started").join().expect("a simulation does not panic")
}

struct SimTime;

impl tracing_subscriber::fmt::time::FormatTime for SimTime {
    fn format_time(
        &self,
        writer: &mut tracing_subscriber::fmt::format::Writer<'_>,
    ) -> std::fmt::Result {
        write!(writer, "{:>9.3}", determinism::elapsed().as_secs_f64())
    }
}

fn report(outcome: &Outcome) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(
        out,
        "seed {}: {} nodes, {} events, {} faults, {:?} simulated, served after {:?}, {:?}{}",
        outcome.seed,
        outcome.nodes,
        outcome.events.len(),
        outcome.faults.len(),
        outcome.elapsed,
        outcome.served_after,
        outcome.seen,
        if outcome.problems.is_empty() { "" } else { ": FAILED" },
    );
    for problem in &outcome.problems {
        let _ = writeln!(out, "  {problem}");
    }
}
