use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use quorate_client::{Client, Delivery, Start};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::load::{LoadArgs, Names};
use super::target::TargetArgs;
use crate::cli::Output;

/// How long a follower may wait for the next delivery.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Measure how fast history is delivered
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench follow --local --count 200000 --in-flight 512
  quorate bench follow --followers 8 --conversations 1000 --count 100000 --in-flight 512 --output json

Appends first, as `quorate bench append` does (that part is not measured), then lets each follower read all \
conversations from their beginning with one Follow, and takes the time until each has everything. The followers run \
in this process and share its machine.")]
pub struct FollowArgs {
    /// Followers, each with connections of its own, of all conversations
    #[arg(long, value_name = "F", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    followers: u32,

    #[command(flatten)]
    load: LoadArgs,

    #[command(flatten)]
    target: TargetArgs,
}

pub(super) async fn run(args: FollowArgs, output: Output) -> anyhow::Result<ExitCode> {
    let target = args.target.start(output).await?;
    let load = args.load.prepare(&target, output).await?;
    let names = load.names().clone();
    let history = load.run().await?;
    if !history.is_clean() {
        bail!("the history could not be appended: {}", history.to_json()["errors_by_reason"]);
    }
    let messages = history.acknowledged_in_all;
    let mut clients = Vec::new();
    for _ in 0..args.followers {
        clients.push(target.client().await?);
    }
    let began = Instant::now();
    let mut followers = JoinSet::new();
    for client in clients {
        followers.spawn(follow(client, names.clone(), messages));
    }
    while let Some(ended) = followers.join_next().await {
        ended.context("a follower has failed")??;
    }
    let elapsed = began.elapsed();
    target.stop().await?;
    let delivered = messages * u64::from(args.followers);
    let payload_bytes = delivered * u64::from(args.load.size);
    let per_second = |count: u64| count as f64 / elapsed.as_secs_f64().max(1e-6);
    let text = || {
        let bytes = indicatif::BinaryBytes(per_second(payload_bytes) as u64);
        super::table([
            ("messages of history", messages.to_string()),
            ("followers", args.followers.to_string()),
            ("delivered", delivered.to_string()),
            ("took", format!("{:.2} s", elapsed.as_secs_f64())),
            ("deliveries", format!("{:.0} /s", per_second(delivered))),
            ("payload", format!("{bytes}/s")),
        ])
    };
    let json = || {
        json!({
            "bench": "follow",
            "followers": args.followers,
            "load": args.load.to_json(),
            "result": {
                "messages": messages,
                "delivered": delivered,
                "elapsed_seconds": elapsed.as_secs_f64(),
                "deliveries_per_second": per_second(delivered),
                "payload_bytes": payload_bytes,
                "payload_bytes_per_second": per_second(payload_bytes),
            },
        })
    };
    output.print(text, json)?;
    Ok(ExitCode::SUCCESS)
}

/// Follows all conversations until so many messages have come.
async fn follow(client: Client, names: Names, messages: u64) -> anyhow::Result<()> {
    let mut follow = client.follow(names.all().map(|name| (name, Start::Earliest)))?;
    let mut received = 0;
    while received < messages {
        let next = timeout(SILENCE_MAX, follow.next()).await;
        let next = next.with_context(|| format!("{received} of {messages} messages came"))?;
        match next.context("the follow ended")?? {
            Delivery::Messages { messages, .. } => received += messages.len() as u64,
            Delivery::Gap { conversation, .. } => bail!("{conversation} has a gap"),
            _ => {}
        }
    }
    Ok(())
}
