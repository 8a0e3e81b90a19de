//! Sets of runs: what CI and nights go through. Each run is a process of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::check::Guarantee;
use crate::history::Run;
use crate::judge::{Verdict, judge};
use crate::network::NetworkKind;
use crate::programs;
use crate::run::FLUSH_MS;

/// How long a run may take besides its faults, before it is ended: start, final read, judging.
const OVERHEAD_MAX: Duration = Duration::from_secs(240);
/// How long a run may take to put itself away.
const STOP_DEADLINE: Duration = Duration::from_secs(90);

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

/// A planted fault, and what has to find it.
pub struct Control {
    /// Its name in `src/seams.rs`.
    pub planted: &'static str,
    /// What brings it to light.
    pub workload: &'static str,
    /// What brings it to light.
    pub nemesis: &'static str,
    /// How long that takes, in seconds.
    pub time_s: u32,
    /// Of these guarantees at least one has to be found broken.
    pub caught_by: &'static [Guarantee],
    /// Calls a second.
    pub rate: u32,
    /// How many groups.
    pub groups: u32,
    /// How often nodes flush, in milliseconds.
    pub flush_ms: u32,
    /// How many times it is tried, with other seeds, before it counts as missed.
    pub tries: u64,
}

const fn control(
    planted: &'static str,
    workload: &'static str,
    nemesis: &'static str,
    time_s: u32,
    caught_by: &'static [Guarantee],
) -> Control {
    Control {
        planted,
        workload,
        nemesis,
        time_s,
        caught_by,
        rate: 200,
        groups: 3,
        flush_ms: FLUSH_MS,
        tries: 2,
    }
}

use Guarantee::{G1, G2, G3, G4, G6, G8, G10, G11};

/// Every planted fault.
pub const CONTROLS: &[Control] = &[
    control("ack_before_sync", "append,read,retry", "power-all", 12, &[G1, G2, G3]),
    control("dedup_off", "append,retry,outcome", "kill-one", 8, &[G4]),
    control("no_read_index", "append,read", "isolate-leader,pause-leader", 20, &[G3]),
    // What a voter has flushed of a leader that it forgot stops it, and the loss would not be seen.
    Control {
        groups: 1,
        flush_ms: 60_000,
        ..control("vote_not_persisted", "append,read", "deposed-returns", 5, &[G1, G2, G3])
    },
    control("serve_before_term_commit", "append,read", "kill-leader,isolate-leader", 40, &[G3]),
    // A flush that failed would stop the groups before they acknowledge what their log's disk refused.
    Control {
        flush_ms: 60_000,
        ..control("ignore_eio", "append,read,retry", "fsync-error-all", 12, &[G1, G2, G3])
    },
    control("skip_on_resubscribe", "append,follow,subscribe", "kill-one", 12, &[G6]),
    // openraft purges what a flush or two ago was flushed, and the first flushes are not left out.
    Control {
        flush_ms: 200,
        ..control("purge_before_flush", "append,read", "kill-all", 8, &[G1, G2, G3])
    },
    control("flush_single_family", "append,read,retry", "kill-all", 8, &[G1, G2, G3, G4]),
    control("non_atomic_install", "append,read", "kill-install", 45, &[G1, G2, G10, G11]),
    // What a log has lost is not missed where it was flushed as state, and logs end soon behind that.
    Control {
        flush_ms: 60_000,
        ..control(
            "watermark_ignored",
            "append,read,retry",
            "truncate-wal-in-turn",
            8,
            &[G1, G2, G3, G8],
        )
    },
    control("wiped_replica_votes", "append,read,retry", "wipe-voter", 12, &[G1, G2, G3]),
];

/// A run without anything planted.
struct Plain {
    nodes: u32,
    nemesis: &'static str,
    /// None for what is done by default.
    workload: Option<&'static str>,
    time_s: u32,
}

const fn plain(nodes: u32, nemesis: &'static str, time_s: u32) -> Plain {
    Plain { nodes, nemesis, workload: None, time_s }
}

const CI: &[Plain] = &[
    plain(3, "kill,partition", 60),
    plain(3, "power,pause,clock", 45),
    plain(5, "kill-leader,kill-majority,isolate-leader,majorities-ring,bridge,link", 50),
    plain(3, "fsync-error,slow-disk,disk-full,restart,cpu", 40),
    plain(3, "damage,wipe,install,replace", 60),
];

const NIGHTLY: &[Plain] = &[
    plain(3, "none", 120),
    plain(3, "kill", 600),
    plain(5, "kill,partition", 1_200),
    plain(5, "partition,link", 1_200),
    plain(5, "pause,cpu,clock", 900),
    plain(3, "power", 900),
    plain(5, "power,kill,partition", 1_200),
    plain(3, "fsync-error,slow-disk,disk-full,restart", 900),
    plain(5, "damage,wipe,install,replace", 1_200),
    Plain { workload: Some("benchmark"), ..plain(3, "power", 300) },
    plain(5, "all", 3_600),
];

struct Entry<'a> {
    name: String,
    arguments: Vec<String>,
    time: Duration,
    control: Option<&'a Control>,
}

/// Goes through a set. Valid if every plain run is, and every control was caught.
///
/// # Errors
///
/// If this program cannot be started again.
pub async fn run(
    options: &MatrixOptions,
    json: bool,
    stop: CancellationToken,
) -> anyhow::Result<Verdict> {
    let mut worst = Verdict::Valid;
    let begun = Instant::now();
    let entries: Vec<Entry<'_>> =
        entries(options).into_iter().filter(|entry| is_wanted(options, &entry.name)).collect();
    let all = entries.len();
    for (at, entry) in entries.iter().enumerate() {
        eprintln!("[{}/{all}] {}", at + 1, entry.name);
        let (verdict, what) = run_entry(options, entry, &stop).await?;
        report(json, entry, verdict, &what);
        worst = match (worst, verdict) {
            (Verdict::Invalid, _) | (_, Verdict::Invalid) => Verdict::Invalid,
            (Verdict::Unknown, _) | (_, Verdict::Unknown) => Verdict::Unknown,
            _ => Verdict::Valid,
        };
        if stop.is_cancelled() {
            return Ok(Verdict::Unknown);
        }
    }
    if options.planted_binary.is_none() {
        eprintln!("without --planted-binary there were no positive controls");
    }
    eprintln!("{all} entries in {} s", begun.elapsed().as_secs());
    Ok(worst)
}

fn is_wanted(options: &MatrixOptions, name: &str) -> bool {
    options.only.is_empty() || options.only.iter().any(|word| name.contains(word.as_str()))
}

fn entries(options: &MatrixOptions) -> Vec<Entry<'static>> {
    let runs = if options.set == Set::Ci { CI } else { NIGHTLY };
    let network = if options.network == NetworkKind::Loopback { "loopback" } else { "namespaces" };
    let arguments = |nodes: u32, nemesis: &str, time_s: u32, binary: &PathBuf| {
        let mut all = vec!["--nodes".to_owned(), nodes.to_string(), "--nemesis".to_owned()];
        all.extend([nemesis.to_owned(), "--time".to_owned(), format!("{time_s}s")]);
        all.extend(["--network".to_owned(), network.to_owned(), "--binary".to_owned()]);
        all.push(binary.display().to_string());
        all
    };
    let mut entries: Vec<Entry<'static>> = Vec::new();
    for Plain { nodes, nemesis, workload, time_s } in runs {
        let mut name = format!("{nodes}-nodes-{}", nemesis.replace(',', "+"));
        let mut arguments = arguments(*nodes, nemesis, *time_s, &options.binary);
        if let Some(workload) = workload {
            name.push_str(&format!("-{workload}"));
            arguments.extend(["--workload", workload].map(str::to_owned));
        }
        entries.push(Entry {
            name,
            arguments,
            time: Duration::from_secs(u64::from(*time_s)),
            control: None,
        });
    }
    for control in CONTROLS {
        let Some(binary) = &options.planted_binary else { continue };
        let mut arguments = arguments(3, control.nemesis, control.time_s, binary);
        arguments.extend(
            ["--planted", control.planted, "--workload", control.workload].map(str::to_owned),
        );
        arguments.extend(["--rate".to_owned(), control.rate.to_string()]);
        arguments.extend(["--groups".to_owned(), control.groups.to_string()]);
        arguments.extend(["--flush-ms".to_owned(), control.flush_ms.to_string()]);
        entries.push(Entry {
            name: format!("planted-{}", control.planted),
            arguments,
            time: Duration::from_secs(u64::from(control.time_s)),
            control: Some(control),
        });
    }
    entries
}

/// Runs an entry, a control until it is caught.
async fn run_entry(
    options: &MatrixOptions,
    entry: &Entry<'_>,
    stop: &CancellationToken,
) -> anyhow::Result<(Verdict, String)> {
    let Some(control) = entry.control else {
        return one(options, entry, options.seed, stop)
            .await
            .map(|(verdict, what, _)| (verdict, what));
    };
    let mut last = (Verdict::Unknown, String::new());
    for attempt in 0..control.tries {
        let (verdict, what, broken) = one(options, entry, options.seed + attempt, stop).await?;
        let caught: Vec<_> = broken.iter().filter(|one| control.caught_by.contains(one)).collect();
        if !caught.is_empty() {
            return Ok((Verdict::Valid, format!("caught: {caught:?}; {what}")));
        }
        if stop.is_cancelled() {
            return Ok((Verdict::Unknown, what));
        }
        last = match verdict {
            Verdict::Unknown => (Verdict::Unknown, what),
            _ => (Verdict::Invalid, format!("not caught (found {broken:?}): {what}")),
        };
    }
    Ok(last)
}

/// One run, in a process of its own.
async fn one(
    options: &MatrixOptions,
    entry: &Entry<'_>,
    seed: u64,
    stop: &CancellationToken,
) -> anyhow::Result<(Verdict, String, Vec<Guarantee>)> {
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
        status = timeout(entry.time + OVERHEAD_MAX, child.wait()) => status.ok().transpose()?,
        () = stop.cancelled() => None,
    };
    if status.is_none() {
        drop(input);
        if timeout(STOP_DEADLINE, child.wait()).await.is_err() {
            child.kill().await?;
        }
        return Ok((Verdict::Unknown, format!("it did not end; {}", dir.display()), Vec::new()));
    }
    let results = judge(&dir)?;
    let broken = results.broken();
    let mut what = format!("{} appends, {} faults", results.acknowledged, results.faults);
    if !broken.is_empty() {
        what.push_str(&format!("; broken {broken:?}"));
    }
    for doubt in &results.doubts {
        what.push_str(&format!("; {doubt}"));
    }
    let pressure = results.run.as_ref().and_then(Run::pressure);
    if let (Verdict::Invalid | Verdict::Unknown, Some(pressure)) = (results.verdict, pressure) {
        what.push_str(&format!("; {pressure}"));
    }
    Ok((results.verdict, format!("{what}; {}", dir.display()), broken))
}

fn report(json: bool, entry: &Entry<'_>, verdict: Verdict, what: &str) {
    match json {
        true => println!("{}", json!({ "name": entry.name, "verdict": verdict, "what": what })),
        false => println!("{:44} {verdict:?}: {what}", entry.name),
    }
}
