use std::process::ExitCode;

use clap::Args;
use quorate_client::proto::{Kind, Message};
use quorate_client::{Consistency, Page, Read, Routing, Start};
use serde_json::{Value, json};

use super::{ConnectArgs, Output};
use crate::server::SystemClock;
use crate::types::Clock;

/// Read messages of one conversation
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate read acme/room-42
  quorate read acme/room-42 --last 20
  quorate read acme/room-42 --from 1000 --limit 100 --output json
  quorate read acme/room-42 --since 15m
  quorate read acme/room-42 --since 2026-01-31T09:00:00Z
  quorate read acme/room-42 --consistency local --endpoints 10.0.0.2:7101

A line is: seq, commit time, sender, text; with --output json one JSON value.")]
pub struct ReadArgs {
    /// The conversation
    conversation: String,

    /// Start at this seq [default: the first that can be read; with --backward, the last]
    #[arg(long, value_name = "SEQ", conflicts_with_all = ["last", "since"],
          value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,

    /// Only the last N messages
    #[arg(long, value_name = "N", conflicts_with_all = ["since", "backward", "limit"],
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    last: Option<u32>,

    /// Start at the first message committed at this time or after: RFC 3339, or how long ago, such as 15m
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,

    /// In descending seq
    #[arg(long)]
    backward: bool,

    /// At most so many messages
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,

    /// How fresh: linearizable, local, at-least:SEQ or max-staleness:MS
    #[arg(long, default_value = "linearizable", value_parser = parse_consistency)]
    consistency: Consistency,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// A point in time as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    At(u64),
    AgoUs(u64),
}

pub(super) async fn run(args: ReadArgs, output: Output) -> anyhow::Result<ExitCode> {
    // What is local depends on the node that is asked, so it is to be the one that was named.
    let routing = match args.consistency {
        Consistency::Local => Routing::Proxy,
        _ => Routing::Leader,
    };
    let client = args.connect.client_routed(routing).await?;
    let mut read = Read::new(&args.conversation)
        .start(start(&args))
        .limit(args.last.unwrap_or(args.limit))
        .consistency(args.consistency);
    if args.backward {
        read = read.backward();
    }
    let page = client.read(read).await?;
    for message in &page.messages {
        output.print(|| line(message), || to_json(message))?;
    }
    if let Some(next) = next_seq(&page, args.backward).filter(|_| output == Output::Text) {
        eprintln!("there is more: --from {next}");
    }
    Ok(ExitCode::SUCCESS)
}

fn start(args: &ReadArgs) -> Start {
    match (args.from, args.last, args.since) {
        (Some(seq), _, _) => Start::Seq(seq),
        (_, Some(count), _) => Start::Last(u64::from(count)),
        (_, _, Some(Since::At(us))) => Start::CommitTimeUs(us),
        (_, _, Some(Since::AgoUs(us))) => Start::CommitTimeUs(SystemClock.now().minus_us(us).0),
        (None, None, None) => Start::Earliest,
    }
}

/// Where the next read goes on, if there was more to read when this one was answered.
fn next_seq(page: &Page, backward: bool) -> Option<u64> {
    let last = page.messages.last()?.seq;
    match backward {
        true => (last > page.first_seq).then(|| last - 1),
        false => (last + 1 < page.tail).then_some(last + 1),
    }
}

fn line(message: &Message) -> String {
    let note = match message.kind() {
        Kind::Redaction => format!("[redacts {}] ", message.target_seq),
        Kind::Replacement => format!("[replaces {}] ", message.target_seq),
        Kind::System => "[system] ".to_owned(),
        Kind::Content | Kind::Unspecified => String::new(),
    };
    let text = match std::str::from_utf8(&message.payload) {
        Ok(text) => printable(text),
        Err(_) => format!("<{} bytes {}>", message.payload.len(), printable(&message.content_type)),
    };
    let (time, sender) = (rfc3339(message.commit_time_us), printable(&message.sender));
    format!("{} {time} {sender} {note}{text}", message.seq)
}

/// One line without control characters: what others wrote must not command this terminal.
fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

/// Microseconds since the Unix epoch as people read them, or the number where no calendar has it.
pub(super) fn rfc3339(us: u64) -> String {
    let time = i64::try_from(us).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    time.map_or_else(|| format!("{us}us"), |time| format!("{time:.6}"))
}

fn to_json(message: &Message) -> Value {
    let headers = message
        .headers
        .iter()
        .map(|header| json!({ "name": header.name, "value": text_or_bytes(&header.value) }));
    json!({
        "seq": message.seq,
        "kind": message.kind().as_str_name().trim_start_matches("KIND_").to_lowercase(),
        "sender": message.sender,
        "client_msg_id": message.client_msg_id,
        "issued_at_us": message.issued_at_us,
        "commit_time_us": message.commit_time_us,
        "content_type": message.content_type,
        "headers": headers.collect::<Vec<_>>(),
        "text": text_or_bytes(&message.payload),
        "target_seq": message.target_seq,
        "digest": hex(&message.digest),
    })
}

/// UTF-8 as a string; anything else as `{"hex": …}`.
fn text_or_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_since(text: &str) -> Result<Since, String> {
    let wrong = || {
        format!("{text:?} is neither a time such as 2026-01-31T09:00:00Z nor one such as 15m ago")
    };
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return u64::try_from(time.as_microsecond()).map(Since::At).map_err(|_| wrong());
    }
    let ago: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    u64::try_from(ago.as_micros()).map(Since::AgoUs).map_err(|_| wrong())
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
    fn a_time_is_absolute_or_ago() {
        assert_eq!(parse_since("1970-01-01T00:00:01Z"), Ok(Since::At(1_000_000)));
        assert_eq!(parse_since("2s"), Ok(Since::AgoUs(2_000_000)));
        for wrong in ["", "yesterday", "-2s", "1969-12-31T00:00:00Z"] {
            assert!(parse_since(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn consistency_levels_have_names() {
        assert_eq!(parse_consistency("local"), Ok(Consistency::Local));
        assert_eq!(parse_consistency("at-least:7"), Ok(Consistency::AtLeast(7)));
        assert_eq!(parse_consistency("max-staleness:50"), Ok(Consistency::MaxStalenessMs(50)));
        for wrong in ["", "at-least", "at-least:x", "local:1", "strong"] {
            assert!(parse_consistency(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_others_wrote_stays_on_its_line() {
        assert_eq!(printable("a\nb\u{1b}[2J ü"), "a\\nb\\u{1b}[2J ü");
    }
}
