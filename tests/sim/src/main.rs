//! Simulates whole clusters of the product, each from one seed: on simulated time, network and disks, in one thread.

mod cluster;
mod crew;
mod determinism;
mod disk;
mod faults;
mod ground;
mod keeper;
mod known;
mod leaders;
mod ledger;
mod links;
mod memberships;
mod node;
mod operator;
mod record;
mod summary;
mod trace;
mod traffic;
mod verdict;
mod work;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use tokio::time::Instant;

use summary::{Sum, Summary};
use trace::Log;

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
    /// A file of seeds, one on each line, that are simulated first, all of them; a fresh seed that fails is added to it
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Begins no further seed after so many seconds, unless known ones are left or what is rare was not met yet
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
    /// How many are simulated at a time; as many as there are cores by default
    #[arg(long, value_name = "COUNT")]
    jobs: Option<usize>,
    /// Writes the log of the simulation to standard error, as far as this filter lets it through
    #[arg(long, value_name = "FILTER", value_parser = is_filter)]
    trace: Option<String>,
    /// Simulates each seed twice and compares every byte of its log at trace level
    #[arg(long)]
    twice: bool,
    /// Simulates the seed in this process
    #[arg(long, hide = true, value_name = "LOG")]
    here: Option<Log>,
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

fn is_filter(text: &str) -> Result<String, String> {
    match text.parse::<tracing_subscriber::filter::Targets>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; a filter is like info or info,quorate=debug")),
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let (Some(log), [seed]) = (&arguments.here, &arguments.seed[..]) {
        trace::simulate_here(*seed, log, arguments.trace.clone())?;
        return Ok(ExitCode::SUCCESS);
    }
    let known = arguments.known.as_deref().map(known::read).transpose()?.unwrap_or_default();
    let from = arguments.from.unwrap_or_else(|| rand::random_range(0..1 << 48));
    let fresh = from..from + arguments.seeds;
    let seeds: Vec<u64> =
        known.iter().copied().chain(arguments.seed.iter().copied()).chain(fresh).collect();
    let began = Instant::now();
    let mut sum = simulate_all(&seeds, &known, arguments, began)?;
    println!("{}", sum.describe(began.elapsed()));
    if !sum.failed.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    let missing = sum.missing(!known.is_empty());
    for what in &missing {
        println!("this run proves little: {what}");
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Simulates seeds side by side, until all are done or the time is up.
fn simulate_all(
    seeds: &[u64],
    known: &[u64],
    arguments: &Arguments,
    began: Instant,
) -> anyhow::Result<Sum> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(cores).max(1);
    let (next, sum) = (AtomicUsize::new(0), Mutex::new(Sum::default()));
    let work = || -> anyhow::Result<()> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(seed) = seeds.get(at) else { return Ok(()) };
            let is_over = arguments.within.is_some_and(|most| began.elapsed().as_secs() >= most);
            if is_over && may_stop(at, known, &sum.lock().expect("no panic while locked")) {
                return Ok(());
            }
            let began = Instant::now();
            let simulated = simulate(*seed, arguments);
            let summary =
                simulated.unwrap_or_else(|error| Summary::cut_short(*seed, format!("{error:#}")));
            let mut sum = sum.lock().expect("no panic while locked");
            report(&summary, began.elapsed());
            sum.add(&summary);
            // At once: the run may be cut off before its end.
            if let (Some(file), false) = (&arguments.known, known.contains(seed))
                && !summary.problems.is_empty()
            {
                known::remember(file, *seed)?;
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    Ok(sum.into_inner().expect("no panic while locked"))
}

/// Whether a run whose time is up may stop before the seed at this place. Known seeds are all simulated, and fresh ones
/// after them until what is rare was met: a slow machine takes longer, it does not prove less. There is an end to it,
/// since as many seeds as that takes are as many as have to have met it.
fn may_stop(at: usize, known: &[u64], sum: &Sum) -> bool {
    let is_proof = at >= verdict::SEEDS_FOR_COVERAGE || sum.missing(true).is_empty();
    known.is_empty() || (at >= known.len() && is_proof)
}

/// Simulates a seed, and once more if that is asked for.
fn simulate(seed: u64, arguments: &Arguments) -> anyhow::Result<Summary> {
    let shown = arguments.trace.as_deref();
    if !arguments.twice {
        return trace::simulate_apart(seed, "none", shown);
    }
    // And once without a log: whether somebody looks must not matter either.
    let mut summary = trace::simulate_apart(seed, "digest", None)?;
    let again = trace::simulate_apart(seed, "digest", None)?;
    let unseen = trace::simulate_apart(seed, "none", None)?;
    if summary.log != again.log || summary.history != unseen.history {
        summary.problems.push(format!(
            "the seed does not decide everything: logs {:?} and {:?}, histories {} and {}",
            summary.log, again.log, summary.history, unseen.history
        ));
    }
    println!("seed {seed}: log {:?}, history {}", summary.log, summary.history);
    Ok(summary)
}

fn report(summary: &Summary, took: Duration) {
    println!(
        "seed {}: {} nodes, {} calls, {} appends acknowledged, {} faults, {:.0} s simulated in {:.1} s, served {:.2} s after mending{}",
        summary.seed,
        summary.nodes,
        summary.calls,
        summary.acknowledged,
        summary.faults.len(),
        summary.elapsed.as_secs_f64(),
        took.as_secs_f64(),
        summary.served_after.unwrap_or_default().as_secs_f64(),
        if summary.problems.is_empty() { "" } else { ": FAILED" },
    );
    for problem in &summary.problems {
        println!("  {problem}");
    }
    if !summary.problems.is_empty() {
        println!("  to repeat it: make sim SEED={}", summary.seed);
    }
}
