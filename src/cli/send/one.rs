use std::process::ExitCode;

use anyhow::anyhow;
use quorate_client::proto::{AppendResponse, NewMessage};
use quorate_client::{Error, reason};
use serde_json::{Value, json};

use super::SendArgs;
use super::outgoing::Outgoing;
use crate::cli::Output;
use crate::cli::message::rfc3339;

/// Sends one message and shows where it stands.
pub(super) async fn send(
    message: Outgoing,
    args: &SendArgs,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let message = message.seal()?;
    let client = args.connect.client().await?;
    match client.append(message.append()).await {
        Ok(appended) => {
            output.print(|| text(&message, &appended), || to_json(&message, &appended))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.may_have_taken_effect() => {
            let next = how_to_know(&message, &error);
            Err(anyhow!(
                "it is not known whether the message was committed: {error}\n  next: {next}"
            ))
        }
        Err(error) => Err(anyhow!(error).context("the message was not sent")),
    }
}

/// The command that tells what became of a message.
fn how_to_know(message: &Outgoing, error: &Error) -> String {
    let (room, sender) = (message.conversation(), message.sender());
    let NewMessage { client_msg_id: id, issued_at_us, .. } = message.message();
    match error.reason() {
        // Its outcome is not kept any more.
        reason::TOO_OLD => format!("quorate read '{room}'"),
        _ => format!("quorate outcome '{room}' '{sender}' '{id}' --issued-at-us {issued_at_us}"),
    }
}

/// Where a message stands, for people.
pub(super) fn text(message: &Outgoing, appended: &AppendResponse) -> String {
    let (room, seq) = (message.conversation(), appended.first_seq);
    let already = if appended.duplicate { "already there, " } else { "" };
    let id = &message.message().client_msg_id;
    format!("{room} seq {seq}, {already}committed {}, id {id}", rfc3339(appended.commit_time_us))
}

/// Where a message stands, for programs.
pub(super) fn to_json(message: &Outgoing, appended: &AppendResponse) -> Value {
    json!({
        "conversation": message.conversation(),
        "sender": message.sender(),
        "client_msg_id": message.message().client_msg_id,
        "issued_at_us": message.message().issued_at_us,
        "seq": appended.first_seq,
        "commit_time_us": appended.commit_time_us,
        "duplicate": appended.duplicate,
        "digest": hex::encode(&appended.digest),
    })
}
