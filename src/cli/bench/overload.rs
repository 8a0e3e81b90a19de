use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use quorate_client::{Client, Read, Start};
use serde_json::{Value, json};

use super::flood::Flood;
use super::local::LocalArgs;
use super::message::{Messages, Names, STAMP_BYTES, Stamp};
use super::offered::Offered;
use super::outcome::counts;
use super::target::Target;
use crate::cli::connect::parse_timeout;
use crate::cli::{ConnectArgs, Output};
use crate::types::limits::{
    APPEND_CALLS_BYTES_MAX, PAYLOAD_BYTES_MAX, PROPOSALS_BYTES_MAX, PROPOSALS_WAITING_MAX,
    REQUESTS_BYTES_MAX,
};

/// The first rate that is tried, and by what it grows while it is sustained.
const FIRST_RATE: f64 = 250.0;
const GROWTH: f64 = 4.0;
/// How often the way to the first that is not sustained is halved: the rate is found to a tenth.
const HALVINGS: u32 = 4;
/// What 99 of 100 appends take at most at a rate that is sustained. More, and they pile up.
const SUSTAINED_WITHIN: Duration = Duration::from_millis(250);
/// Messages of one page when all is read again, and conversations that are read at a time.
const PAGE_MESSAGES: u32 = 10_000;
const READ_AT_ONCE: usize = 16;
/// Of a node that holds next to nothing beside its databases: README's figure of one at rest, and what they may cache.
const RESIDENT_BYTES_ANYWAY: usize = 512 * 1024 * 1024;
/// That, and all that appends may take of a node.
const RESIDENT_BYTES_MAX: usize =
    RESIDENT_BYTES_ANYWAY + APPEND_CALLS_BYTES_MAX + PROPOSALS_BYTES_MAX + REQUESTS_BYTES_MAX;

/// Offer a cluster more than it can do, and see what becomes of it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench overload --groups 3
  quorate bench overload --factor 3 --duration 5s --output json

Looks first for the highest rate that a cluster on this machine sustains in an open loop: all is accepted, and 99 of \
100 within 250 ms, in one of two tries. Then offers --factor times that. Appends go to their leader when they are due, \
on sessions whose lanes have one append each at a time, without the client library: nothing is tried again and nobody \
waits. What is due while all lanes are busy is not sent, and counted. Afterwards every conversation is read and \
compared with what was acknowledged.

Latency is from sending to acknowledgement, or to refusal. Ahead of one that is accepted are those that its group was \
heard to accept between the two: a group has a bound for how many may wait, and how long that is depends on how many it \
does a second. What has not been read by the node yet waits before that, as the refused do. The generator shares the \
machine: what it could not send in time, it says. Exits with 1 if something \
acknowledged is not there.")]
pub struct OverloadArgs {
    /// How many times the sustainable load
    #[arg(long, value_name = "X", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    factor: u32,

    /// Sessions with each node that leads [default: for half as many appends again as wait there at most, 64 at most]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=256))]
    sessions: Option<u32>,

    /// Conversations, each a lane of every session with its leader
    #[arg(long, value_name = "C", default_value_t = 12_000, value_parser = clap::value_parser!(u64).range(1..=16_000))]
    conversations: u64,

    /// Payload bytes of each message; the bytes are random
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range((STAMP_BYTES as i64)..=(PAYLOAD_BYTES_MAX as i64)))]
    size: u32,

    /// How long to try each rate
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_timeout)]
    step: Duration,

    /// How long to offer too much
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = parse_timeout)]
    duration: Duration,

    #[command(flatten)]
    local: LocalArgs,

    /// How long an append may take, such as 500ms, 10s or 1m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    timeout: Duration,
}

/// What came of it all.
struct Overload {
    sustained: f64,
    offered: Offered,
    groups: usize,
    elapsed: Duration,
    /// The most memory that each node used, by id.
    peaks: BTreeMap<u32, u64>,
    lost: u64,
}

pub(super) async fn run(args: OverloadArgs, output: Output) -> anyhow::Result<ExitCode> {
    let local = args.local.start(output).await?;
    let mut target = Target::of(local, &ConnectArgs::with_timeout(args.timeout));
    let client = target.client().await?;
    let local = target.local().expect("it was started here");
    let bar = output.progress(None, "{spinner} {msg}");
    let messages = Messages::new(Names::new(args.conversations), args.size as usize);
    let endpoints = local.cluster.endpoints();
    let flood = Flood::connect(messages, &client, &endpoints, args.sessions, args.timeout).await?;
    let flood = Arc::new(flood);
    let mut acknowledged = Vec::new();
    let sustained = highest(async |rate| {
        bar.set_message(format!("trying {rate:.0} appends/s"));
        let mut offered = flood.run(rate, args.step).await?;
        acknowledged.append(&mut offered.acknowledged);
        Ok(offered.is_sustained(SUSTAINED_WITHIN))
    })
    .await?;
    let rate = sustained * f64::from(args.factor);
    bar.set_message(format!("offering {rate:.0} appends/s"));
    let mut offered = flood.run(rate, args.duration).await?;
    let used = local.resources()?.into_iter();
    let peaks = used.map(|(node, used)| (node, used.resident_bytes_peak)).collect();
    bar.set_message("reading everything again");
    acknowledged.append(&mut offered.acknowledged);
    let lost = lost(&client, flood.names(), &acknowledged).await?;
    bar.finish_and_clear();
    let (groups, elapsed) = (flood.groups(), args.duration);
    drop(flood);
    target.stop().await?;
    let overload = Overload { sustained, offered, groups, elapsed, peaks, lost };
    output.print(|| overload.to_text(), || overload.to_json(&args))?;
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The highest rate that is sustained. One that is not is tried again: a single stall would make it too low, and a
/// multiple of it would be easily offered.
async fn highest(
    mut is_sustained: impl AsyncFnMut(f64) -> anyhow::Result<bool>,
) -> anyhow::Result<f64> {
    let (mut low, mut high) = (None, None);
    let mut halvings = 0;
    while halvings < HALVINGS {
        let rate = match (low, high) {
            (None, None) => FIRST_RATE,
            (Some(low), None) => low * GROWTH,
            (Some(low), Some(high)) => f64::sqrt(low * high),
            (None, Some(high)) if high >= 1.0 => high / GROWTH,
            (None, Some(high)) => anyhow::bail!("not even {high:.2} appends/s are sustained"),
        };
        halvings += u32::from(low.is_some() && high.is_some());
        let is_sustained = is_sustained(rate).await? || is_sustained(rate).await?;
        *(if is_sustained { &mut low } else { &mut high }) = Some(rate);
    }
    low.context("no rate is sustained")
}

impl Overload {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    fn accepted_per_second(&self) -> f64 {
        self.per_second(self.offered.accepted_in_time)
    }

    /// What was offered, in what the cluster can do: what it sustained, or accepted where that is more.
    fn factor_offered(&self) -> f64 {
        self.per_second(self.offered.sent) / self.sustained.max(self.accepted_per_second())
    }

    /// How long a group takes for as many as may wait, where all groups are equally fast.
    fn queue_seconds(&self) -> f64 {
        (PROPOSALS_WAITING_MAX * self.groups) as f64 / self.accepted_per_second()
    }

    fn to_text(&self) -> String {
        let offered = &self.offered;
        let rate = |rate: f64| format!("{rate:.0} appends/s");
        let peak = |bytes: &u64| indicatif::BinaryBytes(*bytes).to_string();
        super::table([
            ("sustained", rate(self.sustained)),
            ("due", rate(self.per_second(offered.due))),
            ("offered", rate(self.per_second(offered.sent))),
            ("of what it can do", format!("{:.1} ×", self.factor_offered())),
            ("not offered for want of room", (offered.due - offered.sent).to_string()),
            ("accepted", rate(self.accepted_per_second())),
            ("refused", counts(&offered.refused)),
            ("latency of the refused", offered.refused_after.to_text()),
            ("refused for good", offered.refused_for_good.to_string()),
            ("latency of the accepted", offered.latencies.to_text()),
            ("a full queue takes", format!("{:.2} s", self.queue_seconds())),
            ("ahead of 99 in 100 at most", offered.ahead_p99().to_string()),
            ("wait in a group at most", PROPOSALS_WAITING_MAX.to_string()),
            (
                "most memory of each node",
                self.peaks.values().map(peak).collect::<Vec<_>>().join(", "),
            ),
            ("acknowledged and lost", self.lost.to_string()),
        ])
    }

    fn to_json(&self, args: &OverloadArgs) -> Value {
        let offered = &self.offered;
        json!({
            "bench": "overload",
            "factor": args.factor,
            "message_bytes": args.size,
            "conversations": args.conversations,
            "result": {
                "sustained_appends_per_second": self.sustained,
                "due_appends_per_second": self.per_second(offered.due),
                "offered_appends_per_second": self.per_second(offered.sent),
                "accepted_appends_per_second": self.accepted_per_second(),
                "factor_offered": self.factor_offered(),
                "refused": offered.refusals(),
                "refused_by_reason": offered.refused,
                "refused_latency_us": offered.refused_after.to_json(),
                "refused_for_good": offered.refused_for_good,
                "latency_us": offered.latencies.to_json(),
                "full_queue_seconds": self.queue_seconds(),
                "appends_ahead_p99": offered.ahead_p99(),
                "appends_waiting_max": PROPOSALS_WAITING_MAX,
                "resident_bytes_peak_by_node": self.peaks,
                "resident_bytes_max": RESIDENT_BYTES_MAX,
                "acknowledged_lost": self.lost,
            },
        })
    }
}

/// How many of the acknowledged messages are not where they were acknowledged.
async fn lost(
    client: &Client,
    names: &Names,
    acknowledged: &[(u64, u64, u64)],
) -> anyhow::Result<u64> {
    let mut due: HashMap<u64, HashMap<u64, u64>> = HashMap::new();
    let mut overwritten = 0;
    for (conversation, seq, number) in acknowledged {
        let before = due.entry(*conversation).or_default().insert(*seq, *number);
        overwritten += u64::from(before.is_some());
    }
    let reads = due.iter().map(|(number, due)| missing(client, names.get(*number), due));
    let missing: Vec<u64> =
        stream::iter(reads).buffer_unordered(READ_AT_ONCE).try_collect().await?;
    Ok(overwritten + missing.iter().sum::<u64>())
}

/// How many of the messages of a conversation, by seq, are not there.
async fn missing(client: &Client, name: String, due: &HashMap<u64, u64>) -> anyhow::Result<u64> {
    let mut missing = due.len() as u64;
    let mut next = 1;
    while missing > 0 {
        let read = Read::new(name.as_str()).start(Start::Seq(next)).limit(PAGE_MESSAGES);
        let page = client.read(read).await?;
        for message in &page.messages {
            let number = Stamp::of(message).map(|stamp| stamp.number);
            missing -= u64::from(number.is_some() && due.get(&message.seq) == number.as_ref());
        }
        match page.messages.last() {
            Some(last) if last.seq + 1 < page.tail => next = last.seq + 1,
            _ => break,
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overload(sustained: f64, accepted: u64, sent: u64) -> Overload {
        let mut offered = Offered::new().unwrap();
        (offered.sent, offered.accepted_in_time) = (sent, accepted);
        let (elapsed, peaks) = (Duration::from_secs(2), BTreeMap::new());
        Overload { sustained, offered, groups: 3, elapsed, peaks, lost: 0 }
    }

    #[tokio::test]
    async fn a_single_stall_makes_no_rate_too_low() {
        let (mut tries, limit) = (0, 9_000.0);
        let found = highest(async |rate| {
            tries += 1;
            // Each second try stalls.
            Ok(rate <= limit && tries % 2 == 0)
        });
        let found = found.await.unwrap();
        assert!((limit * 0.85..=limit).contains(&found), "{found}");
    }

    #[tokio::test]
    async fn a_cluster_that_sustains_nothing_is_an_error() {
        assert!(highest(async |_| Ok(false)).await.is_err());
    }

    #[test]
    fn what_is_offered_counts_against_the_most_that_was_done() {
        assert_eq!(overload(1_000.0, 1_000, 20_000).factor_offered(), 10.0);
        assert_eq!(overload(1_000.0, 4_000, 20_000).factor_offered(), 5.0);
    }
}
