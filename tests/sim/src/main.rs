//! Simulates whole clusters of the product, each from one seed: on simulated time, network and disks, in one thread.

mod cluster;
mod determinism;
mod faults;
mod ground;
mod record;
mod trace;
mod verdict;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::time::Instant;

use cluster::{Coverage, Outcome};
use trace::Trace;

/// Simulates clusters of the product on simulated time, network and disks.
///
/// A seed decides everything: the cluster, what clients do, what breaks and when, and how long each message and each
/// write takes.
#[derive(Parser)]
#[command(name = "quorate-sim", version, after_help = EXAMPLES)]
struct Arguments {
    /// Simulates this seed; can be given several times
    #[arg(long, value_name = "SEED")]
    seed: Vec<u64>,
    /// Simulates so many fresh seeds
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    seeds: u64,
    /// The first of the fresh seeds; drawn if it is not given
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// A file of seeds, one on each line, that are simulated first; a fresh seed that fails is added to it
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Begins no further seed after so many seconds
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
    /// Writes the log of the simulation to standard error, as far as this filter lets it through
    #[arg(long, value_name = "FILTER")]
    trace: Option<String>,
    /// Simulates each seed twice and compares every byte of its log at trace level
    #[arg(long)]
    twice: bool,
}

const EXAMPLES: &str = "\
Examples:
  quorate-sim --seeds 100                          a hundred fresh seeds
  quorate-sim --seed 42 --trace info               one seed, and what happened in it
  quorate-sim --seed 42 --twice                    that the seed decides everything

Exit codes: 0 nothing found, 1 a seed failed, 2 too little happened to prove anything.";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !cfg!(tokio_unstable) {
        eprintln!("without --cfg tokio_unstable a seed does not decide everything: use `make sim`");
        return ExitCode::from(2);
    }
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// What many seeds came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    failed: Vec<u64>,
    simulated: Duration,
    calls: usize,
    faults: usize,
    seen: Coverage,
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let known = match &arguments.known {
        Some(file) => trace::known_seeds(file)?,
        None => Vec::new(),
    };
    let from = arguments.from.unwrap_or_else(|| rand::random_range(0..1 << 48));
    let fresh = from..from + arguments.seeds;
    let seeds = known.iter().copied().chain(arguments.seed.iter().copied()).chain(fresh);
    let began = Instant::now();
    let mut sum = Sum::default();
    for seed in seeds {
        if arguments.within.is_some_and(|seconds| began.elapsed().as_secs() >= seconds) {
            break;
        }
        let began = Instant::now();
        let (outcome, problems) = simulate(seed, arguments);
        report(&outcome, &problems, began.elapsed());
        sum.add(&outcome);
        if !problems.is_empty() {
            sum.failed.push(seed);
            if let Some(file) = arguments.known.as_ref().filter(|_| !known.contains(&seed)) {
                trace::remember(file, seed)?;
            }
        }
    }
    Ok(sum.report(began.elapsed()))
}

/// Simulates a seed, and once more if that is asked for.
fn simulate(seed: u64, arguments: &Arguments) -> (Outcome, Vec<String>) {
    let trace = match &arguments.trace {
        _ if arguments.twice => Trace::Digest,
        Some(filter) => Trace::Shown(filter.clone()),
        None => Trace::None,
    };
    let (outcome, digest) = trace::on_new_thread(seed, trace.clone());
    let mut problems = verdict::problems(&outcome);
    if arguments.twice {
        let (_, again) = trace::on_new_thread(seed, trace);
        if digest != again {
            problems.push(format!("the seed does not decide everything: {digest:?}, {again:?}"));
        }
        println!("seed {seed}: log of {digest:?}");
    }
    (outcome, problems)
}

fn report(outcome: &Outcome, problems: &[String], took: Duration) {
    println!(
        "seed {}: {} nodes, {} calls, {} faults, {:.0} s simulated in {:.1} s, served {:.2} s after mending{}",
        outcome.seed,
        outcome.nodes,
        verdict::calls(&outcome.events),
        outcome.faults.len(),
        outcome.elapsed.as_secs_f64(),
        took.as_secs_f64(),
        outcome.served_after.unwrap_or_default().as_secs_f64(),
        if problems.is_empty() { "" } else { ": FAILED" },
    );
    for problem in problems {
        println!("  {problem}");
    }
    if !problems.is_empty() {
        println!("  to repeat it: make sim SEED={}", outcome.seed);
    }
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated += outcome.elapsed;
        self.calls += verdict::calls(&outcome.events);
        self.faults += outcome.faults.len();
        self.seen.add(outcome.seen);
    }

    fn report(&self, took: Duration) -> ExitCode {
        let hours = self.simulated.as_secs_f64() / 3_600.0;
        println!(
            "{} seeds, {} failed: {} calls, {} faults; {hours:.2} simulated hours, {:.2} for each minute; \
             {} logs cut short, {} snapshots installed, {} leaders died with appends in flight",
            self.seeds,
            self.failed.len(),
            self.calls,
            self.faults,
            hours / (took.as_secs_f64() / 60.0),
            self.seen.truncations,
            self.seen.installs,
            self.seen.leader_deaths_in_flight,
        );
        if !self.failed.is_empty() {
            return ExitCode::FAILURE;
        }
        let missing = verdict::missing(self.seeds, self.seen);
        for what in &missing {
            println!("this run proves little: {what}");
        }
        if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) }
    }
}
