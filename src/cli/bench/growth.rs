use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::load::{LoadArgs, Mode};
use super::local::{LocalArgs, wait_flushed};
use super::message::{Names, STAMP_BYTES};
use super::outcome::Outcome;
use super::target::Target;
use crate::cli::connect::parse_timeout;
use crate::cli::{ConnectArgs, Output};
use crate::types::limits::{PAYLOAD_BYTES_MAX, SESSION_IN_FLIGHT_MAX};

/// How long the producers send before measuring.
const WARM_UP: Duration = Duration::from_secs(2);

/// Measure whether many conversations make a cluster slower, and what one costs on disk
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench growth
  quorate bench growth --conversations 10000 --duration 3s --output json

On one cluster on this machine, in this order: appends to a few conversations, pipelined; one message to each of many \
conversations; appends to these in turn, pipelined in the same way, so that each goes to a conversation that was not \
used for long. The ratio is that of the last rate to the first. After the first step and after the second the state \
on disk is counted, flushed: what the messages and what the conversations with their one message take there, on one \
node and before later compactions.")]
pub struct GrowthArgs {
    /// Conversations at the end
    #[arg(long, value_name = "C", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    conversations: u64,

    /// Conversations at the beginning
    #[arg(long, value_name = "C", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    few: u64,

    /// Producers, each with connections of its own
    #[arg(long, value_name = "P", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    producers: u32,

    /// Appends that each producer has in flight
    #[arg(long, value_name = "I", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(1..=(SESSION_IN_FLIGHT_MAX as i64)))]
    in_flight: u32,

    /// Payload bytes of each message; the bytes are random
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range((STAMP_BYTES as i64)..=(PAYLOAD_BYTES_MAX as i64)))]
    size: u32,

    /// How long to measure each rate
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_timeout)]
    duration: Duration,

    #[command(flatten)]
    local: LocalArgs,

    /// How long a call may take, such as 500ms, 10s or 1m
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_timeout)]
    timeout: Duration,
}

pub(super) async fn run(args: GrowthArgs, output: Output) -> anyhow::Result<ExitCode> {
    let local = args.local.start(output).await?;
    let mut target = Target::of(local, &ConnectArgs::with_timeout(args.timeout));
    let empty = state_bytes(&mut target).await?;
    let few = args.measure(Names::new(args.few), &target, output).await?;
    let with_messages = state_bytes(&mut target).await?;
    let names = Names::new(args.conversations);
    let load = LoadArgs::fill(args.conversations, args.size);
    let filled = load.prepare_for(names.clone(), &target, output).await?.run().await?;
    filled.ensure_clean()?;
    let with_conversations = state_bytes(&mut target).await?;
    let many = args.measure(names, &target, output).await?;
    target.stop().await?;
    let each = |more: u64, less: u64, count: u64| more.saturating_sub(less) as f64 / count as f64;
    let message_bytes = each(with_messages, empty, few.acknowledged_in_all);
    let conversation_bytes = each(with_conversations, with_messages, args.conversations);
    let ratio = many.appends_per_second() / few.appends_per_second();
    let text = || {
        let per_second = |outcome: &Outcome| format!("{:.0} /s", outcome.appends_per_second());
        super::table([
            ("appends to few conversations", per_second(&few)),
            ("appends to many conversations", per_second(&many)),
            ("ratio", format!("{ratio:.2}")),
            ("on disk for each message", format!("{message_bytes:.0} bytes")),
            ("for each conversation of one", format!("{conversation_bytes:.0} bytes")),
        ])
    };
    let json = || {
        json!({
            "bench": "growth",
            "conversations_few": args.few,
            "conversations_many": args.conversations,
            "message_bytes": args.size,
            "result": {
                "few": few.to_json(),
                "fill": filled.to_json(),
                "many": many.to_json(),
                "ratio": ratio,
                "state_bytes_per_message": message_bytes,
                "state_bytes_per_conversation_of_one_message": conversation_bytes,
            },
        })
    };
    output.print(text, json)?;
    Ok(ExitCode::SUCCESS)
}

impl GrowthArgs {
    async fn measure(
        &self,
        names: Names,
        target: &Target,
        output: Output,
    ) -> anyhow::Result<Outcome> {
        let load = LoadArgs {
            producers: self.producers,
            in_flight: self.in_flight,
            conversations: names.count(),
            size: self.size,
            mode: Mode::Session,
            proxied: false,
            rate: None,
            duration: self.duration,
            count: None,
            warm_up: WARM_UP,
        };
        let outcome = load.prepare_for(names, target, output).await?.run().await?;
        outcome.ensure_clean()?;
        Ok(outcome)
    }
}

/// What the first node's state takes on disk, once everything is there.
async fn state_bytes(target: &mut Target) -> anyhow::Result<u64> {
    wait_flushed(&target.client().await?).await?;
    let local = target.local().expect("it was started here");
    let (_log, state) = local.on_disk()[&1];
    Ok(state)
}
