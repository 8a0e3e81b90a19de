use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::{AppendRequest, AppendResponse, Kind, NewMessage};
use quorate_client::{Client, Read, Start};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::latency::Latencies;
use super::load::{LoadArgs, Mode};
use super::local::{Local, LocalArgs};
use super::message::{Messages, Names, STAMP_BYTES, Stamp};
use super::outcome::counts;
use super::target::Target;
use crate::cli::connect::parse_timeout;
use crate::cli::{ConnectArgs, Output};
use crate::server::SystemClock;
use crate::types::Clock;
use crate::types::limits::PAYLOAD_BYTES_MAX;

/// How long the rate that can be sustained is measured, and before that not.
const SUSTAINED_FOR: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_secs(2);
/// Connections to each node: one carries 4,096 calls at a time.
const CONNECTIONS: usize = 8;
/// Between two looks at what is due, and at what the nodes use.
const PACE: Duration = Duration::from_millis(1);
const SAMPLES_APART: Duration = Duration::from_millis(250);
/// Messages of one page when all is read again.
const PAGE_MESSAGES: u32 = 10_000;

/// Offer a cluster more than it can do, and see what becomes of it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench overload
  quorate bench overload --factor 3 --duration 5s --output json

Measures on a cluster on this machine what --producers reach in a closed loop of unary appends; then offers --factor \
times that in an open loop: each append is one call to its leader when it is due, without the client library, so that \
nothing is tried again and nobody waits. What is due while --outstanding calls have no answer is not sent, and \
counted. Afterwards every conversation is read and compared with what was acknowledged. Latency is that of accepted \
appends, from sending to acknowledgement. The generator shares the machine: what it could not send in time, it says. \
Exits with 1 if something acknowledged is not there.")]
pub struct OverloadArgs {
    /// How many times the sustainable load
    #[arg(long, value_name = "X", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    factor: u32,

    /// Calls without an answer at most
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=90_000))]
    outstanding: u32,

    /// Producers of the sustainable load, each with connections of its own
    #[arg(long, value_name = "P", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    producers: u32,

    /// Conversations, which get messages in turn
    #[arg(long, value_name = "C", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    conversations: u64,

    /// Payload bytes of each message; the bytes are random
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range((STAMP_BYTES as i64)..=(PAYLOAD_BYTES_MAX as i64)))]
    size: u32,

    /// How long to offer too much
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = parse_timeout)]
    duration: Duration,

    #[command(flatten)]
    local: LocalArgs,

    /// How long a call may take, such as 500ms, 10s or 1m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    timeout: Duration,
}

/// What is offered, and to whom.
struct Offer {
    messages: Messages,
    /// The leader's connections, by conversation.
    leaders: Vec<Vec<MessageLogClient<Channel>>>,
    epoch: Instant,
    timeout: Duration,
    seen: Mutex<Seen>,
}

/// What came of the calls.
struct Seen {
    /// The number of the message at each seq, by conversation.
    acknowledged: Vec<HashMap<u64, u64>>,
    accepted: u64,
    refused: BTreeMap<String, u64>,
    latencies: Latencies,
}

pub(super) async fn run(args: OverloadArgs, output: Output) -> anyhow::Result<ExitCode> {
    let local = args.local.start(output).await?;
    let mut target = Target::of(local, &ConnectArgs::with_timeout(args.timeout));
    let sustained = args.sustained().prepare(&target, output).await?.run().await?;
    sustained.ensure_clean()?;
    let rate = sustained.appends_per_second() * f64::from(args.factor);
    let client = target.client().await?;
    let local = target.local().expect("it was started here");
    let offer = Arc::new(Offer::new(&args, &client, local).await?);
    let bar = output.progress(None, "{spinner} {msg}");
    bar.set_message(format!("offering {rate:.0} appends/s"));
    let enough = CancellationToken::new();
    let offering = async {
        let offered = offer.clone().run(rate, args.outstanding, args.duration).await;
        enough.cancel();
        offered
    };
    let (offered, peaks) = tokio::join!(offering, peaks(local, &enough));
    let ((sent, not_sent, elapsed), peaks) = (offered?, peaks?);
    bar.set_message("reading everything again");
    let seen = Arc::into_inner(offer).context("a call has not ended")?.into_parts();
    let (messages, seen) = seen;
    let lost = lost(&client, messages.names(), &seen.acknowledged).await?;
    bar.finish_and_clear();
    target.stop().await?;
    let per_second = |count: u64| count as f64 / elapsed.as_secs_f64();
    let text = || {
        let peak = |bytes: &u64| indicatif::BinaryBytes(*bytes).to_string();
        super::table([
            ("sustained", format!("{:.0} appends/s", sustained.appends_per_second())),
            ("offered", format!("{rate:.0} appends/s")),
            ("sent", format!("{:.0} appends/s", per_second(sent))),
            ("not sent for want of room", not_sent.to_string()),
            ("accepted", format!("{:.0} appends/s", per_second(seen.accepted))),
            ("refused", counts(&seen.refused)),
            ("latency of the accepted", seen.latencies.to_text()),
            ("most memory of each node", peaks.values().map(peak).collect::<Vec<_>>().join(", ")),
            ("acknowledged and lost", lost.to_string()),
        ])
    };
    let json = || {
        json!({
            "bench": "overload",
            "factor": args.factor,
            "outstanding_max": args.outstanding,
            "message_bytes": args.size,
            "conversations": args.conversations,
            "result": {
                "sustained": sustained.to_json(),
                "offered_appends_per_second": rate,
                "sent_appends_per_second": per_second(sent),
                "not_sent": not_sent,
                "accepted": seen.accepted,
                "accepted_appends_per_second": per_second(seen.accepted),
                "refused_by_reason": seen.refused,
                "latency_us": seen.latencies.to_json(),
                "resident_bytes_peak_by_node": peaks,
                "acknowledged_lost": lost,
            },
        })
    };
    output.print(text, json)?;
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl OverloadArgs {
    fn sustained(&self) -> LoadArgs {
        LoadArgs {
            producers: self.producers,
            in_flight: 1,
            conversations: self.conversations,
            size: self.size,
            mode: Mode::Unary,
            rate: None,
            duration: SUSTAINED_FOR,
            count: None,
            warm_up: WARM_UP,
        }
    }
}

impl Offer {
    async fn new(args: &OverloadArgs, client: &Client, local: &Local) -> anyhow::Result<Offer> {
        let mut nodes = BTreeMap::new();
        for (node, address) in (1u64..).zip(local.cluster.endpoints()) {
            let mut connections = Vec::new();
            for _ in 0..CONNECTIONS {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
                let channel = endpoint.tcp_nodelay(true).connect().await?;
                connections.push(MessageLogClient::new(channel));
            }
            nodes.insert(node, connections);
        }
        let topology = client.describe_cluster().await?.topology.context("no topology")?;
        let names = Names::new(args.conversations);
        let leader = |name: String| {
            let group = client.group_of(&name)?;
            let group = topology.groups.iter().find(|one| one.group_id == group)?;
            nodes.get(&group.leader_node_id).cloned()
        };
        let leaders = names.all().map(leader).collect::<Option<Vec<_>>>();
        Ok(Offer {
            messages: Messages::new(names, args.size as usize),
            leaders: leaders.context("not every group has a leader")?,
            epoch: Instant::now(),
            timeout: args.timeout,
            seen: Mutex::new(Seen {
                acknowledged: vec![HashMap::new(); args.conversations as usize],
                accepted: 0,
                refused: BTreeMap::new(),
                latencies: Latencies::new()?,
            }),
        })
    }

    /// Sends what is due, and waits for all answers: how many were sent, how many not, and in what time.
    async fn run(
        self: Arc<Self>,
        rate: f64,
        outstanding: u32,
        duration: Duration,
    ) -> anyhow::Result<(u64, u64, Duration)> {
        let room = Arc::new(Semaphore::new(outstanding as usize));
        let mut calls = JoinSet::new();
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut due, mut sent) = (0, 0);
        while self.epoch.elapsed() < duration {
            ticks.tick().await;
            let until = (self.epoch.elapsed().min(duration).as_secs_f64() * rate) as u64;
            for _ in std::mem::replace(&mut due, until)..until {
                let Ok(place) = room.clone().try_acquire_owned() else { continue };
                let (offer, number) = (self.clone(), sent);
                sent += 1;
                calls.spawn(async move {
                    offer.call(number).await;
                    drop(place);
                });
            }
            while calls.try_join_next().is_some() {}
        }
        let elapsed = self.epoch.elapsed();
        while calls.join_next().await.is_some() {}
        Ok((sent, due - sent, elapsed))
    }

    /// One append, tried once.
    async fn call(&self, number: u64) {
        let conversation = (number % self.leaders.len() as u64) as usize;
        let connections = &self.leaders[conversation];
        let mut log = connections[number as usize / self.leaders.len() % connections.len()].clone();
        let began = Instant::now();
        let began_us = (began - self.epoch).as_micros() as u64;
        let stamp = Stamp { began_us, number };
        let message = NewMessage {
            client_msg_id: number.to_string(),
            issued_at_us: SystemClock.now().0,
            kind: Kind::Content.into(),
            payload: self.messages.payload(stamp),
            ..NewMessage::default()
        };
        let mut request = Request::new(AppendRequest {
            conversation: self.messages.names().get(number),
            sender: "producer".to_owned(),
            messages: vec![message],
            expected_tail: None,
        });
        request.set_timeout(self.timeout);
        let result = log.append(request).await;
        let took = began.elapsed();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(response) => {
                let response: AppendResponse = response.into_inner();
                seen.accepted += 1;
                seen.latencies.record(took);
                seen.acknowledged[conversation].insert(response.last_seq, number);
            }
            Err(status) => *seen.refused.entry(reason(&status)).or_default() += 1,
        }
    }

    fn into_parts(self) -> (Messages, Seen) {
        (self.messages, self.seen.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a call was refused.
fn reason(status: &Status) -> String {
    match status.get_error_details().error_info() {
        Some(info) => info.reason.clone(),
        None => format!("{:?}", status.code()),
    }
}

/// The most memory that each node was seen to use.
async fn peaks(local: &Local, enough: &CancellationToken) -> anyhow::Result<BTreeMap<u32, u64>> {
    let mut peaks = BTreeMap::new();
    let mut ticks = interval(SAMPLES_APART);
    while enough.run_until_cancelled(ticks.tick()).await.is_some() {
        for (node, used) in local.resources()? {
            let peak = peaks.entry(node).or_insert(0);
            *peak = used.resident_bytes.max(*peak);
        }
    }
    Ok(peaks)
}

/// How many of the acknowledged messages are not where they were acknowledged.
async fn lost(
    client: &Client,
    names: &Names,
    acknowledged: &[HashMap<u64, u64>],
) -> anyhow::Result<u64> {
    let mut missing = 0;
    for (name, due) in names.all().zip(acknowledged) {
        let mut missing_here = due.len() as u64;
        let mut next = 1;
        while missing_here > 0 {
            let read = Read::new(name.as_str()).start(Start::Seq(next)).limit(PAGE_MESSAGES);
            let page = client.read(read).await?;
            for message in &page.messages {
                let number = Stamp::of(message).map(|stamp| stamp.number);
                missing_here -=
                    u64::from(number.is_some() && due.get(&message.seq) == number.as_ref());
            }
            match page.messages.last() {
                Some(last) if last.seq + 1 < page.tail => next = last.seq + 1,
                _ => break,
            }
        }
        missing += missing_here;
    }
    Ok(missing)
}
