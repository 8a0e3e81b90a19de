use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use quorate_client::proto::{NodeStatus, ReplicaStatus};
use quorate_client::{Append, Client, ClientOptions, NewMessage};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::latency::Latencies;
use super::local::{Local, LocalArgs};
use super::message::Names;
use crate::cli::local_cluster::namespaces;
use crate::cli::{LocalClusterOptions, Output};

/// How long one append may take: longer than any election.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long everything may take to go on after a loss.
const RESUME_DEADLINE: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(5);
const LEVEL_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Measure how long nothing is acknowledged when a leader dies
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench failover
  quorate bench failover --rounds 50 --output json
  quorate bench failover --by drop --rounds 50

Starts a cluster on this machine and appends to each conversation without a break, one append at a time, through \
the client library. In each round the node that leads most conversations is lost: killed with SIGKILL, or with --by \
drop cut off, so that every packet to and from it vanishes and nobody is told. It comes back when all have gone on, and \
the next one is lost when its replicas are level again. The pause of a conversation that it led is the longest time \
between two acknowledgements in a row, until it goes on: it includes that the failure is noticed, the election, and \
the client's way to the new leader. The longest of all is over all conversations, those of other leaders too, and \
until the next node is lost: what it costs that the node comes back is in it.

With --by drop each node has a network namespace on a bridge, and the command starts itself again inside: it needs \
Linux, unshare (util-linux), ip (iproute2), and a user who is root or may make namespaces.")]
pub struct FailoverArgs {
    /// How the leader is lost
    #[arg(long, value_enum, default_value_t)]
    by: By,

    /// How many losses
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,

    /// Conversations that are appended to
    #[arg(long, value_name = "C", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    conversations: u64,

    #[command(flatten)]
    local: LocalArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum By {
    /// SIGKILL
    #[default]
    Kill,
    /// Every packet to and from it is dropped
    Drop,
}

/// One conversation's acknowledgements.
#[derive(Default)]
struct Lane {
    last: Option<Instant>,
    /// Between two in a row, in this round until it went on.
    longest: Duration,
    /// The same, until the next round.
    longest_in_all: Duration,
    /// When the leader was surely lost, in this round.
    lost_at: Option<Instant>,
    /// Whether something that was sent after that is acknowledged.
    went_on: bool,
    failed: u64,
}

/// The lanes, by conversation.
type Lanes = BTreeMap<String, Arc<Mutex<Lane>>>;

/// What came of all rounds.
struct Losses {
    /// Of each conversation in each round.
    pauses: Latencies,
    /// The longest of each round.
    longest: Latencies,
    /// The longest of each round over all conversations, until the next begins.
    longest_in_all: Latencies,
    rounds: Vec<Value>,
    failed: u64,
}

impl FailoverArgs {
    /// Runs this program again in namespaces, where that is needed and not done yet; none if this process is to measure.
    pub(super) async fn elsewhere(
        &self,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<ExitCode>> {
        if self.by == By::Kill || namespaces::inside().is_some() {
            return Ok(None);
        }
        // Made here, so that it is removed also if everything inside is killed.
        let data = self.local.make_dir()?;
        let code = namespaces::enter(data.path().canonicalize()?, stop).await?;
        data.close().context("cannot remove the cluster's directory")?;
        Ok(Some(code))
    }
}

pub(super) async fn run(args: FailoverArgs, output: Output) -> anyhow::Result<ExitCode> {
    let data = namespaces::inside().or_else(|| args.local.data.clone());
    let namespaces = args.by == By::Drop;
    let options = LocalClusterOptions { namespaces, ..LocalClusterOptions::default() };
    let local_args = LocalArgs { data, ..args.local.clone() };
    let mut local = local_args.start_with(output, options).await?;
    let losses = lose_leaders(&args, &mut local, output).await?;
    local.stop().await?;
    let failed = losses.failed;
    let by = match args.by {
        By::Kill => "kill",
        By::Drop => "drop",
    };
    output.print(
        || losses.to_text(),
        || {
            json!({
                "bench": "failover",
                "by": by,
                "conversations": args.conversations,
                "result": {
                    "pause_us": losses.pauses.to_json(),
                    "longest_pause_of_a_round_us": losses.longest.to_json(),
                    "longest_pause_of_all_until_the_next_loss_us": losses.longest_in_all.to_json(),
                    "rounds": losses.rounds,
                    "failed_appends": failed,
                },
            })
        },
    )?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn lose_leaders(
    args: &FailoverArgs,
    local: &mut Local,
    output: Output,
) -> anyhow::Result<Losses> {
    let options = ClientOptions::new(local.cluster.endpoints()).request_timeout(REQUEST_TIMEOUT);
    let client = Client::connect(options).await?;
    let names = Names::new(args.conversations);
    let lanes: Lanes = names.all().map(|name| (name, Arc::default())).collect();
    let mut workers = JoinSet::new();
    for (name, lane) in &lanes {
        workers.spawn(append_for_ever(client.clone(), name.clone(), lane.clone()));
    }
    let bar = output.progress(Some(args.rounds.into()), "{bar:30} {pos}/{len} losses, {msg}");
    let mut losses = Losses::new()?;
    wait_until("every conversation to have a message", &lanes, |l| l.last.is_some()).await?;
    wait_level(&client).await?;
    for _ in 0..args.rounds {
        let (victim, led) = most_leading(&client, &lanes).await?;
        bar.set_message(format!("losing node {victim}"));
        lanes.values().for_each(|lane| lock(lane).begin_round());
        match args.by {
            By::Kill => local.cluster.kill(victim).await?,
            By::Drop => local.cluster.cut(victim).await?,
        }
        let lost_at = Instant::now();
        lanes.values().for_each(|lane| lock(lane).lost_at = Some(lost_at));
        wait_until("every conversation to go on", &lanes, |lane| lane.went_on).await?;
        bar.set_message(format!("bringing node {victim} back"));
        match args.by {
            By::Kill => local.cluster.restart(victim).await?,
            By::Drop => local.cluster.mend(victim).await?,
        }
        // A node that is still catching up could lead nothing: with it, the next loss would be two at once.
        wait_level(&client).await?;
        losses.note(victim, &led, &lanes)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    workers.shutdown().await;
    losses.failed = lanes.values().map(|lane| lock(lane).failed).sum();
    Ok(losses)
}

impl Losses {
    fn new() -> anyhow::Result<Losses> {
        Ok(Losses {
            pauses: Latencies::new()?,
            longest: Latencies::new()?,
            longest_in_all: Latencies::new()?,
            rounds: Vec::new(),
            failed: 0,
        })
    }

    /// Notes a round that is over: this node was lost, and led these of the conversations.
    fn note(&mut self, victim: u32, led: &[String], lanes: &Lanes) -> anyhow::Result<()> {
        let mut round = Latencies::new()?;
        led.iter().for_each(|name| round.record(lock(&lanes[name]).longest));
        let longest = led.iter().map(|name| lock(&lanes[name]).longest).max();
        let now = Instant::now();
        let in_all = lanes.values().map(|lane| lock(lane).longest_until(now)).max();
        self.longest.record(longest.unwrap_or_default());
        self.longest_in_all.record(in_all.unwrap_or_default());
        self.pauses.add(&round)?;
        self.rounds.push(json!({
            "victim_node_id": victim,
            "conversations": led.len(),
            "pause_us": round.to_json(),
            "longest_pause_of_all_us": in_all.unwrap_or_default().as_micros() as u64,
        }));
        Ok(())
    }

    fn to_text(&self) -> String {
        let led = self.rounds.iter().filter_map(|round| round["conversations"].as_u64());
        super::table([
            ("leaders lost", self.rounds.len().to_string()),
            ("conversations that they led", led.sum::<u64>().to_string()),
            ("without acknowledgements", self.pauses.to_text()),
            ("the longest of each loss", self.longest.to_text()),
            ("of all, until the next loss", self.longest_in_all.to_text()),
            ("appends that failed for good", self.failed.to_string()),
        ])
    }
}

impl Lane {
    fn begin_round(&mut self) {
        self.longest = Duration::ZERO;
        self.longest_in_all = Duration::ZERO;
        self.lost_at = None;
        self.went_on = false;
    }

    fn acknowledged(&mut self, sent_at: Instant, now: Instant) {
        self.longest_in_all = self.longest_until(now);
        if !self.went_on {
            self.longest = self.longest_in_all;
        }
        self.last = Some(now);
        self.went_on |= self.lost_at.is_some_and(|lost_at| sent_at >= lost_at);
    }

    /// Until now: a pause that lasts counts too.
    fn longest_until(&self, now: Instant) -> Duration {
        self.last.map_or(Duration::ZERO, |last| self.longest_in_all.max(now - last))
    }
}

fn lock(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn append_for_ever(client: Client, name: String, lane: Arc<Mutex<Lane>>) {
    loop {
        let sent_at = Instant::now();
        let append = Append::new(name.as_str(), "bench", NewMessage::new("still there?"));
        let result = client.append(append).await;
        let mut lane = lock(&lane);
        match result {
            Ok(_) => lane.acknowledged(sent_at, Instant::now()),
            Err(_) => lane.failed += 1,
        }
    }
}

/// The node that leads most of the conversations, and those.
async fn most_leading(client: &Client, lanes: &Lanes) -> anyhow::Result<(u32, Vec<String>)> {
    let deadline = Instant::now() + RESUME_DEADLINE;
    loop {
        let topology = client.describe_cluster().await?.topology.context("no topology")?;
        let leaders: BTreeMap<u64, u64> =
            topology.groups.iter().map(|group| (group.group_id, group.leader_node_id)).collect();
        let mut led = BTreeMap::<u64, Vec<String>>::new();
        for name in lanes.keys() {
            let group = client.group_of(name).context("no topology")?;
            led.entry(leaders.get(&group).copied().unwrap_or(0)).or_default().push(name.clone());
        }
        // 0 is a leader that is not known yet.
        let most = led.into_iter().filter(|(node, _)| *node > 0).max_by_key(|(_, l)| l.len());
        match most {
            Some((node, led)) => return Ok((u32::try_from(node)?, led)),
            None => anyhow::ensure!(Instant::now() < deadline, "no group has a leader"),
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits until every replica has applied what any of its group has applied now.
async fn wait_level(client: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + RESUME_DEADLINE;
    let mut marks = BTreeMap::<u64, u64>::new();
    for replica in client.describe_cluster().await?.nodes.iter().flat_map(|node| &node.replicas) {
        let mark = marks.entry(replica.group_id).or_default();
        *mark = replica.applied_index.max(*mark);
    }
    let is_level = |replica: &ReplicaStatus| {
        marks.get(&replica.group_id).is_none_or(|mark| replica.applied_index >= *mark)
    };
    let is_well = |node: &NodeStatus| node.reachable && node.replicas.iter().all(is_level);
    while !client.describe_cluster().await?.nodes.iter().all(is_well) {
        anyhow::ensure!(Instant::now() < deadline, "the replicas do not come level");
        sleep(LEVEL_POLL_INTERVAL).await;
    }
    Ok(())
}

async fn wait_until(
    what: &str,
    lanes: &Lanes,
    is_so: impl Fn(&Lane) -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + RESUME_DEADLINE;
    while !lanes.values().all(|lane| is_so(&lock(lane))) {
        anyhow::ensure!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_with_what_was_sent_after_the_loss() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut lane = Lane::default();
        lane.acknowledged(at(0), at(1));
        lane.begin_round();
        lane.acknowledged(at(1), at(3));
        lane.lost_at = Some(at(10));
        // In flight when the leader was lost, and acknowledged by the next one.
        lane.acknowledged(at(3), at(800));
        assert!(!lane.went_on);
        lane.acknowledged(at(800), at(802));
        assert!(lane.went_on);
        assert_eq!(lane.longest, Duration::from_millis(797));
        // What comes later is in that of all alone, and counts while it lasts.
        assert_eq!(lane.longest_until(at(2_000)), Duration::from_millis(1_198));
        lane.acknowledged(at(802), at(5_000));
        assert_eq!(lane.longest, Duration::from_millis(797));
        assert_eq!(lane.longest_until(at(5_001)), Duration::from_millis(4_198));
        lane.begin_round();
        assert_eq!(lane.longest_until(at(5_001)), Duration::from_millis(1));
    }

    #[test]
    fn the_longest_of_all_counts_conversations_of_other_leaders() {
        let zero = Instant::now();
        let lane = |longest_ms, in_all_ms| {
            let ms = Duration::from_millis;
            let last = Some(zero + ms(600_000));
            Lane { last, longest: ms(longest_ms), longest_in_all: ms(in_all_ms), ..Lane::default() }
        };
        let lanes = [("led", lane(100, 200)), ("other", lane(5, 900))];
        let lanes: Lanes =
            lanes.map(|(name, lane)| (name.to_owned(), Arc::new(Mutex::new(lane)))).into();
        let mut losses = Losses::new().unwrap();
        losses.note(2, &["led".to_owned()], &lanes).unwrap();
        let max = |latencies: &Latencies| latencies.to_json()["max"].as_u64().unwrap() / 1_000;
        assert_eq!((max(&losses.longest), max(&losses.longest_in_all)), (100, 900));
        assert_eq!(losses.rounds[0]["longest_pause_of_all_us"], 900_000);
    }
}
