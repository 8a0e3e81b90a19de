use std::process::ExitCode;

use clap::Args;
use quorate_client::{Consistency, Page, Read, Routing};
use serde_json::Value;

use super::start::StartArgs;
use super::{ConnectArgs, Output, message, output};

/// Read messages of one conversation
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate read acme/room-42
  quorate read acme/room-42 --last 20
  quorate read acme/room-42 --from 1000 --limit 100 --output json
  quorate read acme/room-42 --since 15m
  quorate read acme/room-42 --since 2026-01-31T09:00:00Z
  quorate read acme/room-42 --backward --limit 5
  quorate read acme/room-42 --consistency local --endpoints 10.0.0.2:7101

A line is: seq, commit time, sender, text; with --output json one JSON value. A conversation that has no message, \
or that nobody ever wrote to, has no lines.")]
pub struct ReadArgs {
    /// The conversation
    conversation: String,

    #[command(flatten)]
    start: StartArgs,

    /// In descending seq, from the last message unless a start is given
    #[arg(long, conflicts_with = "last")]
    backward: bool,

    /// At most so many messages
    #[arg(long, value_name = "N", default_value_t = 1_000, conflicts_with = "last",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,

    /// How fresh: linearizable, local, at-least:SEQ or max-staleness:MS
    #[arg(long, value_name = "LEVEL", default_value = "linearizable", value_parser = parse_consistency)]
    consistency: Consistency,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: ReadArgs, output: Output) -> anyhow::Result<ExitCode> {
    // What is local depends on the node that is asked, so it is to be the one that was named.
    let routing = match args.consistency {
        Consistency::Local => Routing::Proxy,
        _ => Routing::Leader,
    };
    let client = args.connect.client_routed(routing).await?;
    let mut read = Read::new(&args.conversation)
        .start(args.start.start())
        .limit(args.start.last.unwrap_or(args.limit))
        .consistency(args.consistency);
    if args.backward {
        read = read.backward();
    }
    let page = client.read(read).await?;
    for message in &page.messages {
        let is_read = output.print_if_read(
            || message::line(message),
            || Value::Object(message::to_json(message)),
        )?;
        if !is_read {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if let Some(next) = next_seq(&page, args.backward).filter(|_| output == Output::Text) {
        output::note(&format!("there is more: --from {next}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the next read goes on, if there was more to read when this one was answered.
fn next_seq(page: &Page, backward: bool) -> Option<u64> {
    let last = page.messages.last()?.seq;
    match backward {
        true => (last > page.first_seq).then(|| last - 1),
        false => (last + 1 < page.tail).then_some(last + 1),
    }
}

fn parse_consistency(text: &str) -> Result<Consistency, String> {
    let number = |digits: &str| {
        digits.parse::<u64>().map_err(|_| format!("{digits:?} in {text:?} is not a number"))
    };
    match text.split_once(':') {
        None if text == "linearizable" => Ok(Consistency::Linearizable),
        None if text == "local" => Ok(Consistency::Local),
        Some(("at-least", seq)) => number(seq).map(Consistency::AtLeast),
        Some(("max-staleness", ms)) => number(ms).map(Consistency::MaxStalenessMs),
        _ => Err("expected linearizable, local, at-least:SEQ or max-staleness:MS".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consistency_levels_have_names() {
        assert_eq!(parse_consistency("local"), Ok(Consistency::Local));
        assert_eq!(parse_consistency("at-least:7"), Ok(Consistency::AtLeast(7)));
        assert_eq!(parse_consistency("max-staleness:50"), Ok(Consistency::MaxStalenessMs(50)));
        for wrong in ["", "at-least", "at-least:x", "local:1", "strong"] {
            assert!(parse_consistency(wrong).is_err(), "{wrong}");
        }
    }
}
