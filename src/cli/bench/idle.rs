use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::load::LoadArgs;
use super::local::{Local, LocalArgs, wait_flushed};
use super::message::STAMP_BYTES;
use super::target::Target;
use crate::cli::connect::{parse_duration, parse_timeout};
use crate::cli::{ConnectArgs, Output};
use crate::types::limits::PAYLOAD_BYTES_MAX;

/// Raft groups where none are asked for.
const GROUPS_DEFAULT: u32 = 256;

/// Measure what a cluster costs that has much and does nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench idle
  quorate bench idle --groups 64 --conversations 10000 --settle 5s --window 10s --output json

Starts a cluster on this machine with 256 groups unless --groups says otherwise, appends one message to each \
conversation, waits until all is flushed, leaves the nodes alone for --settle so that groups can be parked and the \
memory of the log, which is flushed when an interval has brought nothing, is free, and then takes the processor time \
that each node uses within --window, and its resident memory at the end. Nobody is connected meanwhile.")]
pub struct IdleArgs {
    /// Conversations of one message each
    #[arg(long, value_name = "C", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    conversations: u64,

    /// Payload bytes of each message
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range((STAMP_BYTES as i64)..=(PAYLOAD_BYTES_MAX as i64)))]
    size: u32,

    /// How long nothing is done before it is measured
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_duration)]
    settle: Duration,

    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_timeout)]
    window: Duration,

    #[command(flatten)]
    local: LocalArgs,

    /// How long a call may take, such as 500ms, 10s or 1m
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_timeout)]
    timeout: Duration,
}

pub(super) async fn run(args: IdleArgs, output: Output) -> anyhow::Result<ExitCode> {
    let groups = args.local.groups.unwrap_or(GROUPS_DEFAULT);
    let local = LocalArgs { groups: Some(groups), ..args.local.clone() }.start(output).await?;
    let mut target = Target::of(local, &ConnectArgs::with_timeout(args.timeout));
    let load = LoadArgs::fill(args.conversations, args.size);
    let filled = load.prepare(&target, output).await?.run().await?;
    filled.ensure_clean()?;
    wait_flushed(&target.client().await?).await?;
    let local = target.local().expect("it was started here");
    let nodes = watch(local, &args, output).await?;
    target.stop().await?;
    let text = || {
        let of_nodes =
            |show: &dyn Fn(&Value) -> String| nodes.iter().map(show).collect::<Vec<_>>().join(", ");
        let number = |node: &Value, name: &str| node[name].as_f64().unwrap_or(f64::NAN);
        let cpu = |node: &Value| format!("{:.2} %", number(node, "cpu_percent_of_one_core"));
        let memory = |node: &Value| {
            indicatif::BinaryBytes(number(node, "resident_bytes") as u64).to_string()
        };
        super::table([
            ("groups", groups.to_string()),
            ("conversations", args.conversations.to_string()),
            ("measured for", format!("{:.0} s", args.window.as_secs_f64())),
            ("of one core, each node", of_nodes(&cpu)),
            ("resident memory of each node", of_nodes(&memory)),
        ])
    };
    let json = || {
        json!({
            "bench": "idle",
            "groups": groups,
            "conversations": args.conversations,
            "message_bytes": args.size,
            "fill": filled.to_json(),
            "settle_seconds": args.settle.as_secs_f64(),
            "result": { "window_seconds": args.window.as_secs_f64(), "nodes": nodes },
        })
    };
    output.print(text, json)?;
    Ok(ExitCode::SUCCESS)
}

/// What each node uses while nothing is done.
async fn watch(local: &Local, args: &IdleArgs, output: Output) -> anyhow::Result<Vec<Value>> {
    let bar = output.progress(None, "{spinner} {msg}");
    bar.set_message(format!("letting it settle for {:?}", args.settle));
    sleep(args.settle).await;
    bar.set_message(format!("measuring for {:?}", args.window));
    let (before, began) = (local.resources()?, Instant::now());
    sleep(args.window).await;
    let (after, elapsed) = (local.resources()?, began.elapsed());
    bar.finish_and_clear();
    let on_disk = local.on_disk();
    let used = |(node, before): (&u32, &super::resources::Resources)| {
        let cpu = after[node].cpu.saturating_sub(before.cpu);
        json!({
            "node_id": node,
            "cpu_percent_of_one_core": 100.0 * cpu.as_secs_f64() / elapsed.as_secs_f64(),
            "resident_bytes": after[node].resident_bytes,
            "log_bytes_on_disk": on_disk[node].0,
            "state_bytes_on_disk": on_disk[node].1,
        })
    };
    Ok(before.iter().map(used).collect())
}
