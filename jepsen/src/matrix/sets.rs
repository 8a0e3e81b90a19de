//! What the sets consist of: plain runs, and positive controls.

use std::path::Path;
use std::time::Duration;

use super::{MatrixOptions, Set};
use crate::judge::Results;
use crate::network::NetworkKind;
use crate::run::FLUSH_MS;

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
    /// The checker that is meant to find it, and has to.
    pub caught_by: &'static str,
    /// Calls a second.
    pub rate: u32,
    /// How many groups.
    pub groups: u32,
    /// How often nodes flush, in milliseconds.
    pub flush_ms: u32,
    /// How many times it is tried, with other seeds, before it counts as missed.
    pub tries: u64,
}

impl Control {
    /// Whether the checker that is meant for it found it in a run.
    pub fn is_caught(&self, results: &Results) -> bool {
        let meant = results.checkers.iter().find(|one| one.checker == self.caught_by);
        meant.is_some_and(|one| one.findings.violations > 0)
    }
}

const fn control(
    planted: &'static str,
    workload: &'static str,
    nemesis: &'static str,
    time_s: u32,
    caught_by: &'static str,
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

/// Every planted fault.
pub const CONTROLS: &[Control] = &[
    control("ack_before_sync", "append,read,retry", "power-all", 12, "lost-write"),
    control("dedup_off", "append,retry,outcome", "kill-one", 8, "duplicate"),
    control("no_read_index", "append,read", "isolate-leader,pause-leader", 20, "linearizable"),
    // What a voter has flushed of a leader that it forgot stops it, and the loss would not be seen.
    Control {
        groups: 1,
        flush_ms: 60_000,
        ..control("vote_not_persisted", "append,read", "deposed-returns", 5, "lost-write")
    },
    control(
        "serve_before_term_commit",
        "append,read",
        "kill-leader,isolate-leader",
        40,
        "linearizable",
    ),
    // A flush that failed would stop the groups before they acknowledge what their log's disk refused.
    Control {
        flush_ms: 60_000,
        ..control("ignore_eio", "append,read,retry", "fsync-error-all", 12, "lost-write")
    },
    control("skip_on_resubscribe", "append,stream", "kill-one", 12, "delivery"),
    // openraft purges what a flush or two ago was flushed, and the first flushes are not left out.
    Control {
        flush_ms: 200,
        ..control("purge_before_flush", "append,read", "kill-all", 8, "lost-write")
    },
    control("flush_single_family", "append,read,retry", "kill-all", 8, "lost-write"),
    control("non_atomic_install", "append,read", "kill-install", 45, "position"),
    // What a log has lost is not missed where it was flushed as state, and logs end soon behind that.
    Control {
        flush_ms: 60_000,
        ..control("watermark_ignored", "append,read,retry", "truncate-wal-in-turn", 8, "lost-write")
    },
    control("wiped_replica_votes", "append,read,retry", "wipe-voter", 12, "lost-write"),
];

/// A run without anything planted.
struct Plain {
    nodes: u32,
    nemesis: &'static str,
    /// None for what is done by default.
    workload: Option<&'static str>,
    /// None for as many as there are by default.
    conversations: Option<u32>,
    time_s: u32,
    /// Whether every round breaks two things at once.
    in_pairs: bool,
    /// Replicas of each group; 0 for one on each node. Where not every node has one, calls are handed on. Not beside what
    /// takes the data of a minority of the nodes, which may be a majority of a group.
    replication: u32,
}

const fn plain(nodes: u32, nemesis: &'static str, time_s: u32) -> Plain {
    Plain {
        nodes,
        nemesis,
        workload: None,
        conversations: None,
        time_s,
        in_pairs: false,
        replication: 0,
    }
}

const CI: &[Plain] = &[
    plain(3, "kill,partition,deposed-returns", 60),
    plain(3, "power,pause,clock", 45),
    Plain {
        replication: 3,
        ..plain(5, "kill-leader,kill-majority,isolate-leader,majorities-ring,bridge,link", 50)
    },
    plain(3, "fsync,slow-disk,disk-full,disk-exhausted,restart,cpu,flood", 40),
    plain(3, "damage,wipe,wipe-voter,install,replace", 60),
    Plain {
        in_pairs: true,
        ..plain(3, "kill-all,power-all,pause-leader,isolate-leader,loss,clock-bump,slow-disk", 60)
    },
];

const NIGHTLY: &[Plain] = &[
    plain(3, "kill", 600),
    Plain { replication: 3, ..plain(5, "kill,partition", 1_200) },
    plain(5, "partition,link", 1_200),
    Plain { replication: 3, ..plain(5, "pause,cpu,clock", 900) },
    Plain { replication: 3, ..plain(5, "pause-long", 600) },
    plain(3, "power", 900),
    plain(5, "power,kill,partition", 1_200),
    Plain { in_pairs: true, ..plain(5, "replace,kill,partition", 900) },
    plain(3, "fsync,slow-disk,disk-full,disk-exhausted,restart,flood", 900),
    plain(5, "damage,wipe,wipe-voter,install,replace", 1_200),
    // What a minority has stored, while others do not hear each other, or late.
    Plain { in_pairs: true, ..plain(5, "flip-sst,truncate-sst,one-way,delay", 600) },
    // As many as the figures are made with.
    Plain { workload: Some("benchmark"), conversations: Some(64), ..plain(3, "power", 300) },
    plain(5, "all", 3_600),
];

/// A run of a set.
pub(super) struct Entry {
    pub name: String,
    pub arguments: Vec<String>,
    pub time: Duration,
    pub control: Option<&'static Control>,
}

/// All of a set; without positive controls where there is no binary for them.
pub(super) fn entries(options: &MatrixOptions) -> Vec<Entry> {
    let runs = if options.set == Set::Ci { CI } else { NIGHTLY };
    let plain = runs.iter().map(|run| of_plain(options, run));
    let controls = CONTROLS.iter().filter_map(|control| {
        let binary = options.planted_binary.as_ref()?;
        Some(of_control(options, control, binary))
    });
    plain.chain(controls).collect()
}

fn of_plain(options: &MatrixOptions, run: &Plain) -> Entry {
    let Plain { nodes, nemesis, workload, conversations, time_s, in_pairs, replication } = run;
    let mut name = format!("{nodes}-nodes-{}", nemesis.replace(',', "+"));
    let mut arguments = arguments(options, *nodes, nemesis, *time_s, &options.binary);
    if let Some(workload) = workload {
        name.push_str(&format!("-{workload}"));
        arguments.extend(["--workload", workload].map(str::to_owned));
    }
    if let Some(conversations) = conversations {
        arguments.extend(["--conversations".to_owned(), conversations.to_string()]);
    }
    if *replication > 0 {
        name.push_str(&format!("-of-{replication}"));
        arguments.extend(["--replication".to_owned(), replication.to_string()]);
    }
    if *in_pairs {
        name.push_str("-in-pairs");
        arguments.push("--in-pairs".to_owned());
    }
    Entry { name, arguments, time: seconds(*time_s), control: None }
}

fn of_control(options: &MatrixOptions, control: &'static Control, binary: &Path) -> Entry {
    let mut arguments = arguments(options, 3, control.nemesis, control.time_s, binary);
    let more = ["--planted", control.planted, "--workload", control.workload];
    arguments.extend(more.map(str::to_owned));
    arguments.extend(["--rate".to_owned(), control.rate.to_string()]);
    arguments.extend(["--groups".to_owned(), control.groups.to_string()]);
    arguments.extend(["--flush-ms".to_owned(), control.flush_ms.to_string()]);
    Entry {
        name: format!("planted-{}", control.planted),
        arguments,
        time: seconds(control.time_s),
        control: Some(control),
    }
}

fn arguments(
    options: &MatrixOptions,
    nodes: u32,
    nemesis: &str,
    time_s: u32,
    binary: &Path,
) -> Vec<String> {
    let network = if options.network == NetworkKind::Loopback { "loopback" } else { "namespaces" };
    let mut all = vec!["--nodes".to_owned(), nodes.to_string(), "--nemesis".to_owned()];
    all.extend([nemesis.to_owned(), "--time".to_owned(), format!("{time_s}s")]);
    all.extend(["--network".to_owned(), network.to_owned(), "--binary".to_owned()]);
    all.push(binary.display().to_string());
    all
}

fn seconds(time_s: u32) -> Duration {
    Duration::from_secs(u64::from(time_s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::CHECKERS;
    use crate::{nemesis, workload};

    /// What is held for longer is for nights: a run of CI has a minute for all that it breaks.
    const CI_HOLDS_MS_MAX: u64 = 30_000;

    #[test]
    fn what_the_sets_name_is_there() {
        let plain = CI.iter().chain(NIGHTLY);
        let of_plain = plain.map(|run| (run.nemesis, run.workload));
        let of_controls = CONTROLS.iter().map(|one| (one.nemesis, Some(one.workload)));
        for (nemeses, workloads) in of_plain.chain(of_controls) {
            for name in nemeses.split(',').filter(|name| !["none", "all"].contains(name)) {
                assert!(!nemesis::named(name).is_empty(), "there is no nemesis {name}");
            }
            for name in workloads.into_iter().flat_map(|all| all.split(',')) {
                assert!(workload::named(name).is_some(), "there is no workload {name}");
            }
        }
        for Control { planted, caught_by, .. } in CONTROLS {
            let is_there = CHECKERS.iter().any(|checker| checker.name() == *caught_by);
            assert!(is_there, "{planted}: there is no checker {caught_by}");
        }
    }

    #[test]
    fn each_set_has_every_nemesis_that_a_sound_cluster_survives_and_that_it_has_time_for() {
        for (set, holds_ms_max) in [(CI, CI_HOLDS_MS_MAX), (NIGHTLY, u64::MAX)] {
            let has_time = |one: &nemesis::Nemesis| one.holds_ms.1 <= holds_ms_max;
            let has = |one: &nemesis::Nemesis| {
                // A name that is a family's too means the one, not the family.
                let brings = |name| nemesis::named(name).iter().any(|named| named.name == one.name);
                set.iter()
                    .flat_map(|run| run.nemesis.split(','))
                    .any(|name| name == "all" || brings(name))
            };
            let wrong: Vec<&str> = nemesis::all()
                .filter(|one| !crate::run::FATAL.contains(&one.name))
                .filter(|one| has(one) != has_time(one))
                .map(|one| one.name)
                .collect();
            assert!(wrong.is_empty(), "{wrong:?}");
        }
    }
}
