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
use serde_json::json;
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

/// Measure one conversation delivered to many subscribers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench fan-out --local
  quorate bench fan-out --local --silent 1
  quorate bench fan-out --subscribers 100 --size 1024 --duration 30s --output json

All subscribers subscribe to one conversation, each with a connection of its own. One session appends to it, and goes \
on as fast as subscribers take: so many messages as --ahead says are on their way to them at most, on average over \
the subscribers. Counted is what they take from the end of the warm-up on until they have all that was appended. With \
--silent there are further subscribers that subscribe and never read: they are to slow nobody. Each delivery is timed \
from when its append was handed in. The subscribers run in this process and share its machine.")]
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

    /// How long to append and measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    duration: Duration,

    /// How long to append before measuring
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

pub(super) async fn run(args: FanOutArgs, output: Output) -> anyhow::Result<ExitCode> {
    let target = args.target.start(output).await?;
    let messages = Messages::new(Names::new(1), args.size as usize);
    let client = target.client().await?;
    let bar = output.progress(None, "{spinner} {msg}");
    bar.set_message(format!("subscribing {} times", args.subscribers + args.silent));
    let subscribed = subscribe(&client, &messages, args.subscribers).await?;
    // Kept to the end, and never asked for anything again.
    let silent = subscribe(&client, &messages, args.silent).await?;
    bar.set_message("appending");
    let fan = Arc::new(Fan::new(&args)?);
    let (finished, all) = watch::channel(None);
    let mut subscribers = JoinSet::new();
    for subscription in subscribed {
        subscribers.spawn(receive(subscription, fan.clone(), all.clone()));
    }
    let appended = append(&client, &messages, &fan, &args).await?;
    finished.send_replace(Some(appended));
    while let Some(ended) = subscribers.join_next().await {
        ended.context("a subscriber has failed")??;
    }
    let elapsed = fan.measure_from.elapsed();
    drop(silent);
    bar.finish_and_clear();
    let used = target.finish(appended * u64::from(args.size), false).await?;
    let measured = fan.measured.load(Ordering::Relaxed);
    let per_second = measured as f64 / elapsed.as_secs_f64();
    let latencies = fan.latencies.lock().unwrap_or_else(PoisonError::into_inner);
    let text = || {
        super::table([
            ("subscribers", args.subscribers.to_string()),
            ("subscribers that do not read", args.silent.to_string()),
            ("messages", appended.to_string()),
            ("deliveries measured", measured.to_string()),
            ("deliveries", format!("{per_second:.0} /s")),
            ("append to delivery", latencies.to_text()),
        ])
    };
    let json = || {
        json!({
            "bench": "fan-out",
            "subscribers": args.subscribers,
            "silent_subscribers": args.silent,
            "messages_ahead_max": args.ahead,
            "message_bytes": args.size,
            "result": {
                "messages": appended,
                "deliveries": measured,
                "elapsed_seconds": elapsed.as_secs_f64(),
                "deliveries_per_second": per_second,
                "append_to_delivery_us": latencies.to_json(),
            },
            "local": used,
        })
    };
    output.print(text, json)?;
    Ok(ExitCode::SUCCESS)
}

/// Subscriptions to the conversation that have caught up, so that all that follows is live.
async fn subscribe(
    client: &Client,
    messages: &Messages,
    count: u32,
) -> anyhow::Result<Vec<Subscription>> {
    let mut subscriptions = Vec::new();
    for _ in 0..count {
        let mut subscription = client.subscribe();
        let name = messages.names().get(0);
        subscription.add(name, Start::Earliest, Credit::default()).await?;
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
) -> anyhow::Result<u64> {
    let in_flight_max = args.ahead as usize;
    let session = client.session(SessionOptions { in_flight_max, ..SessionOptions::default() })?;
    let until = fan.measure_from + args.duration;
    let mut outcomes = FuturesUnordered::new();
    let mut number = 0;
    while let Ok(place) = timeout_at(until, fan.ahead.acquire()).await {
        place?.forget();
        let stamp = Stamp { began_us: fan.elapsed_us(), number };
        outcomes.push(session.append(messages.append(stamp, "producer")).await);
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
