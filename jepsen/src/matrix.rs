//! Sets of runs: what CI and nights go through. Each run is a process of its own.

mod sets;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use futures::{StreamExt, stream};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

pub use sets::{CONTROLS, Control};

use crate::check::Guarantee;
use crate::cli;
use crate::history::Run;
use crate::judge::{Results, Verdict, judge};
use crate::network::NetworkKind;
use crate::programs;
use sets::{Entry, entries};

/// How long a run may take besides its faults, before it is ended: start, and turns that are taken again because nothing
/// was seen of them. Final read and judging take the longer, the more there is: half as long as the faults.
const OVERHEAD_MAX: Duration = Duration::from_secs(240);
/// How long a run may take to put itself away.
const STOP_DEADLINE: Duration = Duration::from_secs(90);

/// Positive controls that are run side by side.
const CONTROLS_AT_ONCE: usize = 2;

/// Which set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Set {
    /// Minutes
    Ci,
    /// Hours
    Nightly,
}

/// What decides a matrix.
#[derive(Clone, Debug, Args)]
pub struct MatrixOptions {
    /// Which set of runs
    #[arg(value_enum)]
    pub set: Set,

    /// The `quorate` program; by default the one beside this program
    #[arg(
        long,
        env = "JEPSEN_BINARY",
        default_value_os_t = programs::quorate(),
        hide_default_value = true,
        value_name = "PATH"
    )]
    pub binary: PathBuf,

    /// The same, built with the feature `failpoints`; without it there are no positive controls
    #[arg(long, env = "JEPSEN_PLANTED_BINARY", value_name = "PATH")]
    pub planted_binary: Option<PathBuf>,

    /// Only runs with one of these words in their name
    #[arg(long, value_delimiter = ',', value_name = "WORDS")]
    pub only: Vec<String>,

    /// Decides all runs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// How nodes reach each other
    #[arg(long, value_enum, default_value = "namespaces")]
    pub network: NetworkKind,

    /// Where runs are kept
    #[arg(long, default_value = "runs", value_name = "FOLDER")]
    pub store: PathBuf,

    /// Say nothing of what goes on within a run
    #[arg(long, short)]
    pub quiet: bool,
}

/// Goes through a set. Valid if every plain run is, every control was caught, and nothing that belongs to the set was
/// left out, unless that was asked for.
///
/// # Errors
///
/// If no run of the set is wanted, or this program cannot be started again.
pub async fn run(
    options: &MatrixOptions,
    json: bool,
    stop: CancellationToken,
) -> anyhow::Result<Verdict> {
    let begun = Instant::now();
    let mut wanted = entries(options);
    wanted.retain(|entry| is_wanted(options, &entry.name));
    let all = wanted.len();
    anyhow::ensure!(all > 0, "--only {}: no run has that in its name", options.only.join(","));
    let (mut verdict, mut shown) = (Verdict::Valid, Shown::default());
    // Controls are after data, which a busy machine does not change; the others are judged by time, too.
    let (controls, plain): (Vec<_>, Vec<_>) =
        wanted.iter().enumerate().partition(|(_, entry)| entry.control.is_some());
    for (side_by_side, entries) in [(1, plain), (CONTROLS_AT_ONCE, controls)] {
        let runs = entries.into_iter().map(async |(at, entry)| {
            eprintln!("[{}/{all}] {}", at + 1, entry.name);
            anyhow::Ok((entry, run_entry(options, entry, &stop).await?))
        });
        let mut ended = pin!(stream::iter(runs).buffer_unordered(side_by_side));
        while let Some(ended) = ended.next().await {
            let (entry, ran) = ended?;
            report(json, entry, &ran)?;
            verdict = worse(verdict, ran.verdict);
            shown.add(entry, &ran);
        }
        if stop.is_cancelled() {
            return Ok(worse(verdict, Verdict::Unknown));
        }
    }
    let missing = shown.missing(options);
    for what in &missing {
        eprintln!("left out: {what}");
    }
    // Who asks for a part gets a verdict on that part.
    if options.only.is_empty() && options.network != NetworkKind::Loopback && !missing.is_empty() {
        verdict = worse(verdict, Verdict::Unknown);
    }
    eprintln!("{}: {all} entries in {} s", verdict.word(), begun.elapsed().as_secs());
    Ok(verdict)
}

fn worse(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Invalid, _) | (_, Verdict::Invalid) => Verdict::Invalid,
        (Verdict::Unknown, _) | (_, Verdict::Unknown) => Verdict::Unknown,
        _ => Verdict::Valid,
    }
}

fn is_wanted(options: &MatrixOptions, name: &str) -> bool {
    options.only.is_empty() || options.only.iter().any(|word| name.contains(word.as_str()))
}

/// What the runs of a set have shown so far.
#[derive(Default)]
struct Shown {
    /// Guarantees that a plain run without doubts looked at.
    judged: BTreeSet<Guarantee>,
    /// Nemeses that could not be had, and why.
    without: BTreeSet<String>,
}

impl Shown {
    fn add(&mut self, entry: &Entry, ran: &Ran) {
        let Some(Results { judgements, run, .. }) = &ran.results else { return };
        self.without.extend(run.iter().flat_map(|run| run.without.iter().cloned()));
        if entry.control.is_none() {
            let judged = judgements.iter().filter(|one| one.verdict == Verdict::Valid);
            self.judged.extend(judged.map(|one| one.guarantee));
        }
    }

    /// What the whole set would have shown.
    fn missing(&self, options: &MatrixOptions) -> Vec<String> {
        let judgeable = Guarantee::ALL.into_iter().filter(|one| one.beyond().is_none());
        let unjudged = judgeable.filter(|one| !self.judged.contains(one));
        let mut missing: Vec<String> = unjudged
            .map(|one| format!("{one:?} ({}): no valid run has looked at it", one.title()))
            .collect();
        missing.extend(self.without.iter().map(|what| format!("nemesis {what}")));
        if options.planted_binary.is_none() {
            missing.push("positive controls: they need --planted-binary".to_owned());
        }
        missing
    }
}

/// What came of an entry.
struct Ran {
    verdict: Verdict,
    what: String,
    /// Of its last run; none if that did not end.
    results: Option<Results>,
}

/// Runs an entry, a control until it is caught.
async fn run_entry(
    options: &MatrixOptions,
    entry: &Entry,
    stop: &CancellationToken,
) -> anyhow::Result<Ran> {
    if stop.is_cancelled() {
        return Ok(Ran { verdict: Verdict::Unknown, what: "not begun".to_owned(), results: None });
    }
    let Some(control) = entry.control else { return one(options, entry, options.seed, stop).await };
    let mut attempt = 0;
    loop {
        let ran = one(options, entry, options.seed + attempt, stop).await?;
        attempt += 1;
        let caught = ran.results.as_ref().is_some_and(|results| control.is_caught(results));
        let (verdict, what) = match (caught, ran.verdict) {
            (true, _) => (Verdict::Valid, format!("caught by {}; {}", control.caught_by, ran.what)),
            (false, Verdict::Unknown) => (Verdict::Unknown, ran.what),
            (false, _) => {
                (Verdict::Invalid, format!("not caught by {}: {}", control.caught_by, ran.what))
            }
        };
        if caught || stop.is_cancelled() || attempt == control.tries {
            return Ok(Ran { verdict, what, ..ran });
        }
    }
}

/// One run, in a process of its own.
async fn one(
    options: &MatrixOptions,
    entry: &Entry,
    seed: u64,
    stop: &CancellationToken,
) -> anyhow::Result<Ran> {
    let dir = options.store.join(format!("{}-{seed}", entry.name));
    if dir.exists() {
        std::fs::remove_dir_all(&dir)
            .with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run").args(&entry.arguments).arg("--seed").arg(seed.to_string());
    command.arg("--dir").arg(&dir).arg("--stop-with-stdin");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).kill_on_drop(true);
    if options.quiet {
        command.arg("--quiet");
    }
    let mut child = command.spawn().context("cannot start a run")?;
    let input = child.stdin.take();
    let status = tokio::select! {
        status = timeout(entry.time * 3 / 2 + OVERHEAD_MAX, child.wait()) => status.ok().transpose()?,
        () = stop.cancelled() => None,
    };
    let unknown = |why: String| {
        let what = format!("{why}; {}", dir.display());
        Ok(Ran { verdict: Verdict::Unknown, what, results: None })
    };
    if status.is_none() {
        drop(input);
        if timeout(STOP_DEADLINE, child.wait()).await.is_err() {
            child.kill().await?;
        }
        return unknown("it did not end".to_owned());
    }
    let results = match judge(&dir) {
        Ok(results) => results,
        Err(error) => return unknown(format!("{:#}", anyhow::Error::from(error))),
    };
    let what = format!("{}; {}", sentence(&results), dir.display());
    Ok(Ran { verdict: results.verdict, what, results: Some(results) })
}

/// What a run did and what was found, in one line.
fn sentence(results: &Results) -> String {
    let mut parts = vec![format!("{} appends, {} faults", results.acknowledged, results.faults)];
    let found: Vec<String> = results
        .checkers
        .iter()
        .filter(|one| one.findings.violations > 0)
        .map(|one| format!("{} {:?}", one.checker, one.findings.by_guarantee))
        .collect();
    if !found.is_empty() {
        parts.push(format!("found by {}", found.join(", ")));
    }
    parts.extend(results.doubts.iter().cloned());
    if results.verdict != Verdict::Valid {
        parts.extend(results.run.as_ref().and_then(Run::pressure));
    }
    parts.join("; ")
}

fn report(json: bool, entry: &Entry, ran: &Ran) -> io::Result<()> {
    let (name, verdict, what) = (&entry.name, ran.verdict, &ran.what);
    let line = match json {
        true => json!({ "name": name, "verdict": verdict, "what": what }).to_string(),
        false => format!("{name:44} {verdict:?}: {what}"),
    };
    cli::print(&format!("{line}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(planted: bool) -> MatrixOptions {
        MatrixOptions {
            set: Set::Ci,
            binary: PathBuf::new(),
            planted_binary: planted.then(PathBuf::new),
            only: Vec::new(),
            seed: 1,
            network: NetworkKind::Namespaces,
            store: PathBuf::new(),
            quiet: true,
        }
    }

    #[test]
    fn a_set_lacks_what_no_run_has_judged_what_could_not_be_had_and_controls() {
        let judgeable = Guarantee::ALL.into_iter().filter(|one| one.beyond().is_none());
        let mut shown = Shown { judged: judgeable.collect(), ..Shown::default() };
        assert_eq!(shown.missing(&options(true)), Vec::<String>::new());
        assert_eq!(shown.missing(&options(false)).len(), 1);
        shown.judged.remove(&Guarantee::G10);
        shown.without.insert("flood: it needs a C compiler".to_owned());
        let missing = shown.missing(&options(true));
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing[0].starts_with("G10"), "{missing:?}");
    }
}
