use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use quorate_client::proto::Message;
use quorate_client::{Client, Credit, Start, Subscription};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::acks::Acknowledgements;
use super::latency::Latencies;
use super::load::LoadArgs;
use super::message::{Names, Stamp};
use super::receiving;
use super::target::TargetArgs;
use crate::cli::Output;
use crate::server::SystemClock;
use crate::types::Clock;

/// Measure how long it takes from a commit to its delivery
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench subscribe --local --rate 10000 --in-flight 512
  quorate bench subscribe --subscribers 8 --conversations 50 --rate 5000 --in-flight 256 --output json

Each subscriber subscribes to all conversations; then messages are appended, and each delivery is timed three times: \
from its acknowledgement to the producer, on this process's one clock (zero where the delivery comes first); from the \
message's commit_time, which the leader stamps before it replicates, so that the commit itself is included (two \
clocks: compare machines only as far as their clocks agree); and from when its append was handed in or due. Give a \
rate below what `quorate bench append` reaches: at the limit these are times of queues. Ends when every subscriber \
has every acknowledged message; fails if one does not come.")]
pub struct SubscribeArgs {
    /// Subscribers, each with connections of its own, to all conversations
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    subscribers: u32,

    #[command(flatten)]
    load: LoadArgs,

    #[command(flatten)]
    target: TargetArgs,
}

/// What one subscriber has measured.
struct Delivered {
    messages: u64,
    from_ack: Latencies,
    from_commit: Latencies,
    from_append: Latencies,
}

/// What deliveries are timed from.
#[derive(Clone)]
struct Times {
    epoch: Instant,
    /// What began before belongs to the warm-up.
    from_us: u64,
    acknowledgements: Arc<Acknowledgements>,
}

pub(super) async fn run(args: SubscribeArgs, output: Output) -> anyhow::Result<ExitCode> {
    let target = args.target.start(output).await?;
    let mut subscribed = Vec::new();
    let load_args = &args.load;
    let names = Names::new(load_args.conversations);
    for _ in 0..args.subscribers {
        subscribed.push(subscribe(target.client().await?, &names).await?);
    }
    let mut load = load_args.prepare_for(names, &target, output).await?;
    let times = Times {
        epoch: load.epoch(),
        from_us: (load.measure_from() - load.epoch()).as_micros() as u64,
        acknowledgements: load.note_acknowledgements(),
    };
    let (finished, all) = watch::channel(None);
    let mut subscribers = JoinSet::new();
    for subscription in subscribed {
        subscribers.spawn(receive(subscription, times.clone(), all.clone()));
    }
    let outcome = load.run().await?;
    finished.send_replace(Some(outcome.acknowledged_in_all));
    let mut sum = Delivered::new()?;
    while let Some(ended) = subscribers.join_next().await {
        let delivered = ended.context("a subscriber has failed")??;
        sum.messages += delivered.messages;
        sum.from_ack.add(&delivered.from_ack)?;
        sum.from_commit.add(&delivered.from_commit)?;
        sum.from_append.add(&delivered.from_append)?;
    }
    target.stop().await?;
    let text = || {
        let mut rows = outcome.rows();
        rows.push(("subscribers", args.subscribers.to_string()));
        rows.push(("deliveries", sum.messages.to_string()));
        rows.push(("ACK to delivery", sum.from_ack.to_text()));
        rows.push(("commit to delivery", sum.from_commit.to_text()));
        rows.push(("append to delivery", sum.from_append.to_text()));
        super::table(rows)
    };
    let json = || {
        json!({
            "bench": "subscribe",
            "subscribers": args.subscribers,
            "load": args.load.to_json(),
            "result": {
                "append": outcome.to_json(),
                "deliveries": sum.messages,
                "ack_to_delivery_us": sum.from_ack.to_json(),
                "commit_to_delivery_us": sum.from_commit.to_json(),
                "append_to_delivery_us": sum.from_append.to_json(),
            },
        })
    };
    output.print(text, json)?;
    Ok(if outcome.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A subscription to all conversations that has caught up with each, so that all that follows is live.
async fn subscribe(client: Client, names: &Names) -> anyhow::Result<Subscription> {
    let mut subscription = client.subscribe();
    let mut conversations = 0;
    for name in names.all() {
        subscription.add(name, Start::Earliest, Credit::default()).await?;
        conversations += 1;
    }
    receiving::catch_up(&mut subscription, conversations).await?;
    Ok(subscription)
}

/// Takes deliveries until everything that was acknowledged has come.
async fn receive(
    mut subscription: Subscription,
    times: Times,
    all: watch::Receiver<Option<u64>>,
) -> anyhow::Result<Delivered> {
    let mut delivered = Delivered::new()?;
    let note = |messages: &[Message]| {
        let (now, now_us) = (Instant::now(), SystemClock.now().0);
        let elapsed_us = (now - times.epoch).as_micros() as u64;
        messages.iter().for_each(|m| delivered.note(m, now_us, elapsed_us, &times));
    };
    receiving::receive(&mut subscription, all, note).await?;
    Ok(delivered)
}

impl Delivered {
    fn new() -> anyhow::Result<Delivered> {
        Ok(Delivered {
            messages: 0,
            from_ack: Latencies::new()?,
            from_commit: Latencies::new()?,
            from_append: Latencies::new()?,
        })
    }

    /// Times a message, unless it belongs to the warm-up.
    fn note(&mut self, message: &Message, now_us: u64, elapsed_us: u64, times: &Times) {
        let stamp = Stamp::of(message).filter(|stamp| stamp.began_us >= times.from_us);
        let Some(stamp) = stamp else { return };
        self.messages += 1;
        self.from_ack.record_us(times.acknowledgements.since(stamp, elapsed_us));
        self.from_append.record_us(elapsed_us.saturating_sub(stamp.began_us));
        self.from_commit.record_us(now_us.saturating_sub(message.commit_time_us));
    }
}
