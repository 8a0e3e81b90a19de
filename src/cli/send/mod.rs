//! Sending messages: one from the arguments, lines from standard input, or a file of chat.
//!
//! What is at stake: exactly once (G4) and sender order (G5). A message keeps its id over all attempts, so that the
//! same file can be sent again and again; messages are handed to one session in the order of the lines, and a
//! conversation stops at its first message that fails, so that what is there is always a beginning of what was to be
//! sent, without a hole.

mod one;
mod outgoing;
mod pipeline;
mod report;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::chat::{ChatLine, NumberedLines};
use super::{ConnectArgs, Output, output};
use outgoing::{Outgoing, Source, parse_header};
use pipeline::Pipeline;

const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// Send messages: one, the lines of standard input, or a file of chat
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate send acme/room-42 --sender alice 'hello, world'
  quorate send acme/room-42 --sender alice --client-msg-id m1 --header lang=en 'hello'
  quorate send acme/room-42 --sender alice --expected-tail 1 'I am the first'
  make 2>&1 | quorate send ci/build-7 --sender make --client-msg-id build-7
  quorate send --file chat.ndjson
  zcat chat.ndjson.gz | quorate send --file -

Without TEXT, each line of standard input is a message; with --client-msg-id their ids are that and the line number. \
The file has one JSON object a line: conversation, sender, client_msg_id, text, and sent_at (RFC 3339) if it is \
known, which becomes a header. It is checked as a whole before anything is sent, unless it is a pipe.

An id that stands already, with the same content, is not sent twice: the same command can be given again after \
any failure, for as long as the cluster keeps ids (30 days). Each conversation keeps the order of the lines, and \
stops at its first message that fails. Exits with 1 unless every message is acknowledged.")]
pub struct SendArgs {
    /// The conversation
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    conversation: Option<String>,

    /// The message [default: each line of standard input is one]
    text: Option<String>,

    /// Who sends
    #[arg(long, value_name = "NAME", required_unless_present = "file", conflicts_with = "file")]
    sender: Option<String>,

    /// Chat to send, as NDJSON; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// The idempotency key, to make a repeat safe [default: a random UUID]
    #[arg(long, value_name = "ID", conflicts_with = "file")]
    client_msg_id: Option<String>,

    /// When the first attempt was made, microseconds since the Unix epoch [default: now]
    #[arg(long, value_name = "N", requires = "client_msg_id", conflicts_with = "file",
          value_parser = clap::value_parser!(u64).range(1..))]
    issued_at_us: Option<u64>,

    /// A header; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,

    /// Media type of the messages
    #[arg(long, value_name = "TYPE", default_value = CONTENT_TYPE)]
    content_type: String,

    /// Send only if the conversation's next seq is this; 1 for one that is new
    #[arg(long, value_name = "SEQ", requires = "text",
          value_parser = clap::value_parser!(u64).range(1..))]
    expected_tail: Option<u64>,

    /// Show each acknowledgement, not only the sum
    #[arg(long)]
    each: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: SendArgs, output: Output) -> anyhow::Result<ExitCode> {
    let (source, total) = match (&args.file, &args.conversation, &args.sender) {
        (Some(path), _, _) => open(path, &args).await?,
        (None, Some(conversation), Some(sender)) => {
            let message = Outgoing::of(&args, conversation, sender);
            if let Some(text) = &args.text {
                return one::send(message.with_text(text), &args, output).await;
            }
            if std::io::stdin().is_terminal() && output == Output::Text {
                output::note("each line is a message; Ctrl-D ends");
            }
            (Source::text(NumberedLines::stdin(), message), None)
        }
        _ => anyhow::bail!("a conversation and a sender, or --file, are needed"),
    };
    let client = args.connect.client().await?;
    Pipeline { output, each: args.each, total, timeout: args.connect.timeout }
        .run(&client, source)
        .await
}

/// Refuses a line of a file that would not be sent, in the same words.
pub(super) fn check(line: &ChatLine) -> Result<(), String> {
    Outgoing::plain(CONTENT_TYPE).seal_chat(line.clone()).map(drop)
}

/// A source of chat, and how many messages it has if that can be known. A regular file is read twice: everything in
/// it is checked before anything is sent.
async fn open(path: &Path, args: &SendArgs) -> anyhow::Result<(Source, Option<u64>)> {
    let template = Outgoing::of(args, "", "");
    if path.as_os_str() == "-" {
        return Ok((Source::chat(NumberedLines::stdin(), template), None));
    }
    let metadata = tokio::fs::metadata(path).await.with_context(|| path.display().to_string())?;
    let mut total = None;
    if metadata.is_file() {
        let lines = NumberedLines::open(path).await?;
        let mut checked = Source::chat(lines, template.clone());
        let mut count = 0;
        while checked.next().await.context("nothing was sent")?.is_some() {
            count += 1;
        }
        total = Some(count);
    }
    Ok((Source::chat(NumberedLines::open(path).await?, template), total))
}
