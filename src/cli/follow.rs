use std::collections::HashSet;
use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use quorate_client::{Delivery, Follow, Start};
use serde_json::{Value, json};

use super::message;
use super::start::StartArgs;
use super::{ConnectArgs, Output, output};
use crate::server::shutdown;
use crate::types::printable;

/// Follow conversations: what is there, and then what comes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate follow acme/room-42
  quorate follow acme/room-42 acme/lobby --new
  quorate follow acme/room-42 --last 20
  quorate follow acme/room-42 --since 15m --output json
  quorate follow acme/room-42 --until-caught-up --output json > room-42.ndjson

A line is as that of `quorate read`, after the conversation's name where there are several. With --output json each \
line has a `type`: message, gap (messages that can no longer be read) or caught_up (all that was there at the start \
has been shown). Lost connections are made again, without a gap or a repeat. Ctrl-C ends.")]
pub struct FollowArgs {
    /// The conversations; they need not exist yet
    #[arg(required = true)]
    conversations: Vec<String>,

    #[command(flatten)]
    start: StartArgs,

    /// Only what comes from now on
    #[arg(long, conflicts_with_all = ["from", "last", "since"])]
    new: bool,

    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// End when everything that was there at the start has been shown
    #[arg(long)]
    until_caught_up: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: FollowArgs, output: Output) -> anyhow::Result<ExitCode> {
    let client = args.connect.client().await?;
    let interrupted = shutdown::on_signal()?;
    let start = if args.new { Start::Last(0) } else { args.start.start() };
    let follow = client.follow(args.conversations.iter().map(|name| (name.clone(), start)))?;
    let shown = Shown::new(&args, output);
    match interrupted.run_until_cancelled(shown.all(follow)).await {
        Some(ended) => ended?,
        None if output == Output::Text => output::note(""),
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What is on the screen so far, and when to end.
struct Shown {
    output: Output,
    names_shown: bool,
    messages_left: u64,
    /// Conversations whose past has not been shown in full, if that ends it.
    behind: Option<HashSet<String>>,
}

impl Shown {
    fn new(args: &FollowArgs, output: Output) -> Shown {
        Shown {
            output,
            names_shown: args.conversations.len() > 1,
            messages_left: args.limit.unwrap_or(u64::MAX),
            behind: args.until_caught_up.then(|| args.conversations.iter().cloned().collect()),
        }
    }

    async fn all(mut self, mut follow: Follow) -> anyhow::Result<()> {
        while !self.is_enough()
            && let Some(delivery) = follow.next().await
        {
            let lines = self.lines(delivery?);
            if !lines.is_empty() {
                // One write for all messages that came together.
                if !output::write(&lines)? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn is_enough(&self) -> bool {
        self.messages_left == 0 || self.behind.as_ref().is_some_and(HashSet::is_empty)
    }

    /// A delivery as lines; none for what people need not know.
    fn lines(&mut self, delivery: Delivery) -> String {
        let mut lines = String::new();
        match delivery {
            Delivery::Messages { conversation, messages } => {
                for message in messages {
                    if self.messages_left == 0 {
                        break;
                    }
                    self.messages_left -= 1;
                    let fields = || message::to_json(&message);
                    let text = || Some(message::line(&message));
                    self.add(&mut lines, &conversation, "message", text, fields);
                }
            }
            Delivery::Gap { conversation, from_seq, to_seq } => {
                let text = || {
                    let last = to_seq.saturating_sub(1);
                    Some(format!("-- seqs {from_seq} to {last} can no longer be read --"))
                };
                let fields = || fields_of(json!({ "from_seq": from_seq, "to_seq": to_seq }));
                self.add(&mut lines, &conversation, "gap", text, fields);
            }
            Delivery::CaughtUp { conversation, next_seq } => {
                let fields = || fields_of(json!({ "next_seq": next_seq }));
                self.add(&mut lines, &conversation, "caught_up", || None, fields);
                if let Some(behind) = &mut self.behind {
                    behind.remove(&conversation);
                }
            }
            _ => {}
        }
        lines
    }

    fn add(
        &self,
        lines: &mut String,
        conversation: &str,
        kind: &str,
        text: impl FnOnce() -> Option<String>,
        fields: impl FnOnce() -> serde_json::Map<String, Value>,
    ) {
        let written = match self.output {
            Output::Json => {
                let mut fields = fields();
                fields.insert("type".to_owned(), json!(kind));
                fields.insert("conversation".to_owned(), json!(conversation));
                writeln!(lines, "{}", Value::Object(fields))
            }
            Output::Text => match text() {
                Some(text) if self.names_shown => {
                    writeln!(lines, "{} {text}", printable(conversation))
                }
                Some(text) => writeln!(lines, "{text}"),
                None => Ok(()),
            },
        };
        written.expect("String takes all");
    }
}

fn fields_of(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    }
}
