use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use quorate_client::proto::Message;
use quorate_client::{Client, Credit, SessionOptions, Start, Subscription};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::latency::Latencies;
use super::message::{Messages, Names, STAMP_BYTES, Stamp};
use super::receiving;
use super::target::TargetArgs;
use crate::cli::Output;
use crate::cli::connect::{parse_duration, parse_timeout};
use crate::types::limits::{PAYLOAD_BYTES_MAX, SESSION_IN_FLIGHT_MAX};

/// Turns where some do not read: with them or without, in pairs, so that both have the same of what changes meanwhile.
const TURNS: [bool; 6] = [false, true, true, false, false, true];

/// Measure one conversation delivered to many subscribers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench fan-out --local
  quorate bench fan-out --local --silent 1
  quorate bench fan-out --subscribers 100 --size 1024 --duration 30s --output json

All subscribers subscribe to one conversation, each with a connection of its own. One session appends to it, and goes \
on as fast as subscribers take: so many messages as --ahead says are on their way to them at most, on average over \
the subscribers. Counted is what they take from the end of the warm-up on until they have all that was appended. Each \
delivery is timed from when its append was handed in. The subscribers run in this process and share its machine.

With --silent there are further subscribers that subscribe and never read: they are to slow nobody. Then there are six \
turns, three with them and three without, and what is shown is the median of those with them, and its ratio to that of \
those without.")]
pub struct FanOutArgs {
    /// Subscribers that read
    #[arg(long, value_name = "S", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    subscribers: u32,

    /// Further subscribers that do not read
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    silent: u32,

    /// Messages that may be on their way to the subscribers
    #[arg(long, value_name = "A", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(1..=(SESSION_IN_FLIGHT_MAX as i64)))]
    ahead: u32,

    /// Payload bytes of each message; the bytes are random
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range((STAMP_BYTES as i64)..=(PAYLOAD_BYTES_MAX as i64)))]
    size: u32,

    /// How long to append and measure, each time
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    duration: Duration,

    /// How long to append before measuring, each time
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    warm_up: Duration,

    #[command(flatten)]
    target: TargetArgs,
}

/// What the producer and the subscribers share.
struct Fan {
    epoch: Instant,
    measure_from: Instant,
    subscribers: u64,
    /// To all subscribers so far.
    delivered: AtomicU64,
    /// Of these, from the end of the warm-up on.
    measured: AtomicU64,
    /// Places for messages on their way: one is free again when as many deliveries were taken as there are subscribers.
    ahead: Semaphore,
    latencies: Mutex<Latencies>,
}

/// What one turn has measured.
struct Turn {
    /// Subscribers that did not read.
    silent: u32,
    messages: u64,
    deliveries: u64,
    elapsed: Duration,
    latencies: Latencies,
}

pub(super) async fn run(args: FanOutArgs, output: Output) -> anyhow::Result<ExitCode> {
    let target = args.target.start(output).await?;
    let messages = Messages::new(Names::new(1), args.size as usize);
    let client = target.client().await?;
    let bar = output.progress(None, "{spinner} {msg}");
    let mut turns = Vec::new();
    let mut appended = 0;
    for with_silent in turns_of(args.silent) {
        let silent = if *with_silent { args.silent } else { 0 };
        bar.set_message(format!("{} subscribers", args.subscribers + silent));
        let turn = turn(&client, &messages, &args, silent, 1 + appended).await?;
        appended += turn.messages;
        turns.push(turn);
    }
    bar.finish_and_clear();
    let used = target.finish(appended * u64::from(args.size), false).await?;
    let compared = Compared::of(&turns).context("nothing was measured")?;
    output.print(|| to_text(&args, &compared), || to_json(&args, &turns, &compared, &used))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether each turn has those that do not read, if there are to be any.
fn turns_of(silent: u32) -> &'static [bool] {
    if silent == 0 { &[false] } else { &TURNS }
}

/// One measurement, of the messages from this seq on, with subscriptions and a sender of its own.
async fn turn(
    client: &Client,
    messages: &Messages,
    args: &FanOutArgs,
    silent: u32,
    from: u64,
) -> anyhow::Result<Turn> {
    let subscribed = subscribe(client, messages, args.subscribers, from).await?;
    // Kept to the end of the turn, and never asked for anything again.
    let unread = subscribe(client, messages, silent, from).await?;
    let fan = Arc::new(Fan::new(args)?);
    let (finished, all) = watch::channel(None);
    let mut subscribers = JoinSet::new();
    for subscription in subscribed {
        subscribers.spawn(receive(subscription, fan.clone(), all.clone()));
    }
    let appended = append(client, messages, &fan, args, &format!("producer-{from}")).await?;
    finished.send_replace(Some(appended));
    while let Some(ended) = subscribers.join_next().await {
        ended.context("a subscriber has failed")??;
    }
    let elapsed = fan.measure_from.elapsed();
    drop(unread);
    let fan = Arc::into_inner(fan).context("a subscriber is still there")?;
    Ok(Turn {
        silent,
        messages: appended,
        deliveries: fan.measured.into_inner(),
        elapsed,
        latencies: fan.latencies.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

/// The turns whose rates are the medians of their kind.
struct Compared<'a> {
    /// With those that do not read, if there are any.
    median: &'a Turn,
    /// Without them, where there are some otherwise.
    without: Option<&'a Turn>,
}

impl<'a> Compared<'a> {
    fn of(turns: &'a [Turn]) -> Option<Compared<'a>> {
        let median = |with_silent: bool| {
            let mut turns: Vec<&Turn> =
                turns.iter().filter(|turn| (turn.silent > 0) == with_silent).collect();
            turns.sort_by(|a, b| a.per_second().total_cmp(&b.per_second()));
            turns.get(turns.len() / 2).copied()
        };
        match (median(true), median(false)) {
            (Some(median), without) => Some(Compared { median, without }),
            (None, Some(median)) => Some(Compared { median, without: None }),
            (None, None) => None,
        }
    }

    /// What is left of the rate beside those that do not read.
    fn ratio(&self) -> Option<f64> {
        Some(self.median.per_second() / self.without?.per_second())
    }
}

impl Turn {
    fn per_second(&self) -> f64 {
        self.deliveries as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }

    fn to_json(&self) -> Value {
        json!({
            "silent_subscribers": self.silent,
            "messages": self.messages,
            "deliveries": self.deliveries,
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "deliveries_per_second": self.per_second(),
            "append_to_delivery_us": self.latencies.to_json(),
        })
    }
}

fn to_text(args: &FanOutArgs, compared: &Compared<'_>) -> String {
    let turn = compared.median;
    let mut rows = vec![
        ("subscribers", args.subscribers.to_string()),
        ("subscribers that do not read", args.silent.to_string()),
        ("messages", turn.messages.to_string()),
        ("deliveries measured", turn.deliveries.to_string()),
        ("deliveries", format!("{:.0} /s", turn.per_second())),
        ("append to delivery", turn.latencies.to_text()),
    ];
    if let Some((without, ratio)) = compared.without.zip(compared.ratio()) {
        rows.push(("deliveries if all read", format!("{:.0} /s", without.per_second())));
        rows.push(("ratio", format!("{ratio:.2}")));
    }
    super::table(rows)
}

fn to_json(args: &FanOutArgs, turns: &[Turn], compared: &Compared<'_>, used: &Value) -> Value {
    json!({
        "bench": "fan-out",
        "subscribers": args.subscribers,
        "silent_subscribers": args.silent,
        "messages_ahead_max": args.ahead,
        "message_bytes": args.size,
        "result": compared.median.to_json(),
        "without_silent": compared.without.map(Turn::to_json),
        "ratio_to_without_silent": compared.ratio(),
        "turns": turns.iter().map(Turn::to_json).collect::<Vec<_>>(),
        "local": used,
    })
}

/// Subscriptions to the conversation from this seq on that have caught up, so that all that follows is live.
async fn subscribe(
    client: &Client,
    messages: &Messages,
    count: u32,
    from: u64,
) -> anyhow::Result<Vec<Subscription>> {
    let mut subscriptions = Vec::new();
    for _ in 0..count {
        let mut subscription = client.subscribe();
        let name = messages.names().get(0);
        subscription.add(name, Start::Seq(from), Credit::default()).await?;
        subscriptions.push(subscription);
    }
    for subscription in &mut subscriptions {
        receiving::catch_up(subscription, 1).await?;
    }
    Ok(subscriptions)
}

/// Appends for as long as asked, never further ahead of the subscribers than allowed; how many messages.
async fn append(
    client: &Client,
    messages: &Messages,
    fan: &Fan,
    args: &FanOutArgs,
    sender: &str,
) -> anyhow::Result<u64> {
    let in_flight_max = args.ahead as usize;
    let session = client.session(SessionOptions { in_flight_max, ..SessionOptions::default() })?;
    let until = fan.measure_from + args.duration;
    let mut outcomes = FuturesUnordered::new();
    let mut number = 0;
    while let Ok(place) = timeout_at(until, fan.ahead.acquire()).await {
        place?.forget();
        let stamp = Stamp { began_us: fan.elapsed_us(), number };
        outcomes.push(session.append(messages.append(stamp, sender)).await);
        number += 1;
        while let Some(Some(outcome)) = outcomes.next().now_or_never() {
            outcome?;
        }
    }
    while let Some(outcome) = outcomes.next().await {
        outcome?;
    }
    Ok(number)
}

/// Takes deliveries until all that was appended has come.
async fn receive(
    mut subscription: Subscription,
    fan: Arc<Fan>,
    all: watch::Receiver<Option<u64>>,
) -> anyhow::Result<()> {
    receiving::receive(&mut subscription, all, |messages| fan.note(messages)).await
}

impl Fan {
    fn new(args: &FanOutArgs) -> anyhow::Result<Fan> {
        let epoch = Instant::now();
        Ok(Fan {
            epoch,
            measure_from: epoch + args.warm_up,
            subscribers: args.subscribers.into(),
            delivered: AtomicU64::new(0),
            measured: AtomicU64::new(0),
            ahead: Semaphore::new(args.ahead as usize),
            latencies: Mutex::new(Latencies::new()?),
        })
    }

    fn elapsed_us(&self) -> u64 {
        self.epoch.elapsed().as_micros() as u64
    }

    /// Counts what one subscriber took, and makes room for what that completes.
    fn note(&self, messages: &[Message]) {
        let taken = messages.len() as u64;
        let before = self.delivered.fetch_add(taken, Ordering::Relaxed);
        let complete = (before + taken) / self.subscribers - before / self.subscribers;
        self.ahead.add_permits(complete as usize);
        if Instant::now() < self.measure_from {
            return;
        }
        self.measured.fetch_add(taken, Ordering::Relaxed);
        let now_us = self.elapsed_us();
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        for stamp in messages.iter().filter_map(Stamp::of) {
            latencies.record_us(now_us.saturating_sub(stamp.began_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(silent: u32, deliveries: u64) -> Turn {
        let latencies = Latencies::new().unwrap();
        Turn { silent, messages: 1, deliveries, elapsed: Duration::from_secs(1), latencies }
    }

    #[test]
    fn medians_of_turns_with_and_without_silent_ones_are_compared() {
        let turns = [(0, 90), (3, 80), (3, 95), (0, 100), (0, 200), (3, 10)];
        let turns = turns.map(|(silent, deliveries)| turn(silent, deliveries));
        let compared = Compared::of(&turns).unwrap();
        assert_eq!((compared.median.deliveries, compared.median.silent), (80, 3));
        assert_eq!(compared.without.map(|turn| turn.deliveries), Some(100));
        assert_eq!(compared.ratio(), Some(0.8));
    }

    #[test]
    fn without_silent_ones_there_is_one_turn_and_no_ratio() {
        assert_eq!(turns_of(0), [false]);
        let turns = [turn(0, 90)];
        let compared = Compared::of(&turns).unwrap();
        assert_eq!((compared.median.deliveries, compared.ratio()), (90, None));
    }

    #[test]
    fn as_many_turns_have_silent_ones_and_none_is_always_first() {
        let turns = turns_of(1);
        let with = turns.iter().filter(|with_silent| **with_silent).count();
        assert_eq!(with * 2, turns.len());
        assert!(turns.chunks(2).all(|pair| pair[0] != pair[1]));
        assert!(turns.chunks(2).any(|pair| pair[0]) && !turns[0]);
    }
}
