use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use quorate_client::{Client, Consistency, Delivery, Read, Routing, Start};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::load::LoadArgs;
use super::message::Names;
use super::target::{Target, TargetArgs};
use crate::cli::output::note;
use crate::cli::{ConnectArgs, Output};

/// How long a follower may wait for the next delivery.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Payload bytes of one read, and the most messages that one may return.
const PAGE_BYTES: u64 = 4 * 1024 * 1024;
const PAGE_MESSAGES: u32 = 100_000;

/// Measure how fast history is delivered
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench follow --local --count 200000 --in-flight 512
  quorate bench follow --followers 8 --conversations 1000 --count 100000 --in-flight 512 --output json
  quorate bench follow --local --by read --followers 4 --cold --size 4096 --count 262144 --in-flight 512

Appends first, as `quorate bench append` does (that part is not measured), then lets each follower take all \
conversations from their beginning, and takes the time until each has everything: with one Follow, from the leaders, \
or with --by read by reads of 4 MiB at the LOCAL level, all from the first node, a conversation at a time and the \
conversations divided among the followers. The followers run in this process and share its machine.

With --cold the nodes flush and start again, and the system drops the files that it keeps in memory, before anything \
is read; the last needs root, and page_cache_dropped says whether it was done. How fast the disk reads a file in \
sequence is measured then too, while no node runs. Give a --count that makes several times the memory of a node.")]
pub struct FollowArgs {
    /// Followers, each with connections of its own
    #[arg(long, value_name = "F", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    followers: u32,

    /// The call that takes history
    #[arg(long, value_enum, default_value_t)]
    by: By,

    /// Start from the disk: nothing of the history is in memory
    #[arg(long, requires = "local")]
    cold: bool,

    #[command(flatten)]
    load: LoadArgs,

    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum By {
    #[default]
    Follow,
    Read,
}

pub(super) async fn run(args: FollowArgs, output: Output) -> anyhow::Result<ExitCode> {
    let mut target = args.target.start(output).await?;
    let load = args.load.prepare(&target, output).await?;
    let names = load.names().clone();
    let history = load.run().await?;
    history.ensure_clean()?;
    let messages = history.acknowledged_in_all;
    let cold = if args.cold { make_cold(&mut target, output).await? } else { Value::Null };
    let bar = output.progress(None, "{spinner} taking the history");
    let (elapsed, delivered) = match args.by {
        By::Follow => follow_all(&target, args.followers, &names, messages).await?,
        By::Read => read_all(target.connect(), args.followers, &names, messages).await?,
    };
    bar.finish_and_clear();
    target.stop().await?;
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
            "by": match args.by { By::Follow => "follow", By::Read => "read" },
            "load": args.load.to_json(),
            "cold": cold,
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

/// Has nothing of the history in memory, and says how fast the disk is.
async fn make_cold(target: &mut Target, output: Output) -> anyhow::Result<Value> {
    let client = target.client().await?;
    let local = target.local().context("--cold needs --local")?;
    let cold = local.make_cold(&client).await?;
    if !cold.page_cache_dropped && output == Output::Text {
        note("not root: the files may still be in memory, so this is no figure of the disk");
    }
    Ok(json!({
        "page_cache_dropped": cold.page_cache_dropped,
        "disk_sequential_read_bytes_per_second": cold.disk_bytes_per_second,
    }))
}

/// Each follower takes everything, by one Follow.
async fn follow_all(
    target: &Target,
    followers: u32,
    names: &Names,
    messages: u64,
) -> anyhow::Result<(Duration, u64)> {
    let mut clients = Vec::new();
    for _ in 0..followers {
        clients.push(target.client().await?);
    }
    let began = Instant::now();
    let mut following = JoinSet::new();
    for client in clients {
        following.spawn(follow(client, names.clone(), messages));
    }
    while let Some(ended) = following.join_next().await {
        ended.context("a follower has failed")??;
    }
    Ok((began.elapsed(), messages * u64::from(followers)))
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

/// The followers share the conversations, and read them from the first node.
async fn read_all(
    connect: &ConnectArgs,
    followers: u32,
    names: &Names,
    messages: u64,
) -> anyhow::Result<(Duration, u64)> {
    let first = connect.endpoints.iter().take(1).cloned().collect();
    let connect = ConnectArgs { endpoints: first, ..connect.clone() };
    let mut shares = vec![Vec::new(); followers as usize];
    for (number, name) in names.all().enumerate() {
        shares[number % followers as usize].push(name);
    }
    let mut clients = Vec::new();
    for share in shares {
        clients.push((connect.client_routed(Routing::Proxy).await?, share));
    }
    let began = Instant::now();
    let mut reading = JoinSet::new();
    for (client, share) in clients {
        reading.spawn(read(client, share));
    }
    let mut read = 0;
    while let Some(ended) = reading.join_next().await {
        read += ended.context("a reader has failed")??;
    }
    anyhow::ensure!(read == messages, "{read} of {messages} messages were read");
    Ok((began.elapsed(), read))
}

/// Reads conversations to their ends, and counts their messages.
async fn read(client: Client, names: Vec<String>) -> anyhow::Result<u64> {
    let mut read = 0;
    for name in names {
        let mut next = 1;
        loop {
            let page = Read::new(name.as_str())
                .start(Start::Seq(next))
                .limit(PAGE_MESSAGES)
                .limit_bytes(PAGE_BYTES)
                .consistency(Consistency::Local);
            let page = client.read(page).await?;
            read += page.messages.len() as u64;
            match page.messages.last() {
                Some(last) if last.seq + 1 < page.tail => next = last.seq + 1,
                _ => break,
            }
        }
    }
    Ok(read)
}
