use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;

use crate::nemesis::{self, Nemesis};
use crate::network::NetworkKind;
use crate::programs;
use crate::workload::{self, Workload};

/// How often nodes flush unless a run says otherwise, in milliseconds: often, so that logs are purged within seconds.
pub const FLUSH_MS: u32 = 1_500;

/// What decides a run.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// How many nodes, 1 to 99
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub nodes: u32,

    /// How many groups
    #[arg(long, default_value_t = 3)]
    pub groups: u32,

    /// Replicas of each group; 0 for one on each node, or on all but one where the number of nodes is even
    #[arg(long, default_value_t = 0)]
    pub replication: u32,

    /// What is broken: names or families, separated by commas; `all` for everything but what no cluster survives
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub nemesis: Vec<String>,

    /// What clients do; everything but `benchmark` by default
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub workload: Vec<String>,

    /// How long things are broken: 90s, 5m
    #[arg(long, default_value = "60s", value_parser = seconds)]
    pub time: Duration,

    /// Break two things at once in every round; by default each is broken alone first
    #[arg(long)]
    pub in_pairs: bool,

    /// Calls a second, all clients together
    #[arg(long, default_value_t = 200)]
    pub rate: u32,

    /// How many conversations there are, a sixth of them hot
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub conversations: u32,

    /// How often nodes flush what they have applied, in milliseconds
    #[arg(long, default_value_t = FLUSH_MS)]
    pub flush_ms: u32,

    /// Decides workload and faults; 0 for one that nobody has chosen
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// How nodes reach each other
    #[arg(long, value_enum, default_value = "namespaces")]
    pub network: NetworkKind,

    /// The `quorate` program; by default the one beside this program
    #[arg(
        long,
        env = "JEPSEN_BINARY",
        default_value_os_t = programs::quorate(),
        hide_default_value = true,
        value_name = "PATH"
    )]
    pub binary: PathBuf,

    /// A planted fault; --binary has to have been built with the feature `failpoints`
    #[arg(long, value_name = "NAME")]
    pub planted: Option<String>,

    /// Where runs are kept, one folder each
    #[arg(long, default_value = "runs", value_name = "FOLDER")]
    pub store: PathBuf,

    /// The folder of this run, instead of one in the store
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,

    /// Keep a copy of what the nodes stored
    #[arg(long)]
    pub keep_data: bool,

    /// Say nothing while it runs
    #[arg(long, short)]
    pub quiet: bool,

    /// Stop when standard input ends
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// What no sound cluster serves after, so that only positive controls use it: a majority has lost the ends of its logs, and
/// with them what only that majority had.
pub const FATAL: [&str; 1] = ["truncate-wal-in-turn"];

impl RunOptions {
    /// The nemeses asked for.
    ///
    /// # Errors
    ///
    /// If there is none of a name.
    pub fn nemeses(&self) -> anyhow::Result<Vec<&'static Nemesis>> {
        let mut all: Vec<&'static Nemesis> = Vec::new();
        for name in self.nemesis.iter().filter(|name| *name != "none") {
            let found = match name.as_str() {
                "all" => nemesis::all().filter(|one| !FATAL.contains(&one.name)).collect(),
                name => nemesis::named(name),
            };
            ensure!(!found.is_empty(), "there is no nemesis {name}: see quorate-jepsen list");
            all.extend(found.into_iter().filter(|one| {
                // A family does not bring what kills the cluster for good.
                *name == one.name || !FATAL.contains(&one.name)
            }));
        }
        Ok(all)
    }

    /// The workloads asked for.
    ///
    /// # Errors
    ///
    /// If there is none of a name.
    pub fn workloads(&self) -> anyhow::Result<Vec<&'static Workload>> {
        if self.workload.is_empty() {
            return Ok(workload::by_default().collect());
        }
        let find = |name: &String| {
            let found = workload::named(name);
            found.with_context(|| format!("there is no workload {name}: see quorate-jepsen list"))
        };
        self.workload.iter().map(find).collect()
    }

    /// What the run is called.
    pub fn name(&self) -> String {
        match (&self.planted, self.nemesis.is_empty()) {
            (Some(planted), _) => format!("planted-{planted}"),
            (None, true) => "calm".to_owned(),
            (None, false) => self.nemesis.join("+"),
        }
    }

    /// The command that repeats the run.
    pub fn command(&self) -> String {
        let mut words = vec!["quorate-jepsen run".to_owned()];
        let mut add = |name: &str, value: String| words.push(format!("--{name} {value}"));
        add("nodes", self.nodes.to_string());
        add("groups", self.groups.to_string());
        add("replication", self.replication.to_string());
        if !self.nemesis.is_empty() {
            add("nemesis", self.nemesis.join(","));
        }
        if !self.workload.is_empty() {
            add("workload", self.workload.join(","));
        }
        add("time", format!("{}s", self.time.as_secs()));
        add("rate", self.rate.to_string());
        add("conversations", self.conversations.to_string());
        add("flush-ms", self.flush_ms.to_string());
        add("seed", self.seed.to_string());
        if self.network == NetworkKind::Loopback {
            add("network", "loopback".to_owned());
        }
        if let Some(planted) = &self.planted {
            add("planted", planted.clone());
        }
        add("binary", self.binary.display().to_string());
        if self.in_pairs {
            words.push("--in-pairs".to_owned());
        }
        words.join(" ")
    }
}

/// 90, 90s, 5m or 2h.
fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("a time is like 90s, 5m or 2h".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "a time is like 90s, 5m or 2h".to_owned())?;
    Ok(Duration::from_secs(number * unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(seconds("7"), Ok(Duration::from_secs(7)));
        assert!(seconds("5d").is_err() && seconds("5sm").is_err() && seconds("").is_err());
    }
}
