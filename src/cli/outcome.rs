use std::process::ExitCode;

use clap::Args;
use quorate_client::proto::get_outcome_response::State;
use quorate_client::proto::{GetOutcomeRequest, GetOutcomeResponse};
use serde_json::json;

use super::message::rfc3339;
use super::{ConnectArgs, Output};

/// Say what became of a message whose append was not answered
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate outcome acme/room-42 alice m1 --issued-at-us 1767225600000000
  quorate outcome acme/room-42 alice m1 --issued-at-us 1767225600000000 --settle
  quorate outcome acme/room-42 alice 0b6d7a52-5d0e-4f4e-9a55-8f3c1a1f2b10

The answer is linearizable. With --settle it is also final: an id that was not committed never will be. Without \
--issued-at-us \"not committed\" says nothing of a message that is older than what is kept (30 days by default); the \
answer then names that time. Exits with 0 whatever the answer is, and with 1 when there is none.")]
pub struct OutcomeArgs {
    /// The conversation
    conversation: String,

    /// Who sent the message
    sender: String,

    /// Its idempotency key
    client_msg_id: String,

    /// When its sender first tried, microseconds since the Unix epoch
    #[arg(long, value_name = "N", required_if_eq("settle", "true"))]
    issued_at_us: Option<u64>,

    /// Make the answer final
    #[arg(long)]
    settle: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: OutcomeArgs, output: Output) -> anyhow::Result<ExitCode> {
    let client = args.connect.client().await?;
    let request = GetOutcomeRequest {
        conversation: args.conversation,
        sender: args.sender,
        client_msg_id: args.client_msg_id,
        issued_at_us: args.issued_at_us.unwrap_or(0),
        settle: args.settle,
    };
    let response = client.outcome(request).await?;
    let state = response.state();
    anyhow::ensure!(
        state != State::Unspecified,
        "the node sent an outcome this version cannot read"
    );
    output.print(
        || text(&response),
        || {
            let committed = state == State::Committed;
            json!({
                "state": name(state),
                "seq": committed.then_some(response.seq),
                "commit_time_us": committed.then_some(response.commit_time_us),
                "dedup_floor_us": response.dedup_floor_us,
            })
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

fn text(response: &GetOutcomeResponse) -> String {
    let answer = match response.state() {
        State::Committed => {
            format!("committed at seq {}, {}", response.seq, rfc3339(response.commit_time_us))
        }
        State::NotCommitted => "not committed so far; an attempt in flight may still commit it \
                                (--settle prevents that)"
            .to_owned(),
        State::Burnt => "not committed, and never will be".to_owned(),
        State::Unspecified => "unknown".to_owned(),
    };
    // Whoever settles has said when.
    let hint = match response.state() {
        State::Burnt => "",
        _ => " (say when with --issued-at-us)",
    };
    match response.dedup_floor_us {
        None => answer,
        Some(floor) => format!(
            "{answer}\n  that it was not is known if it was issued at or after {}: what became of older messages is \
             not kept{hint}",
            rfc3339(floor)
        ),
    }
}

fn name(state: State) -> &'static str {
    match state {
        State::Committed => "committed",
        State::NotCommitted => "not_committed",
        State::Burnt => "burnt",
        State::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_committed_is_said_with_the_time_from_which_that_is_known() {
        for state in [State::NotCommitted, State::Burnt] {
            let mut response = GetOutcomeResponse::default();
            response.set_state(state);
            assert!(!text(&response).contains("issued"));
            response.dedup_floor_us = Some(1_767_225_600_000_000);
            assert!(text(&response).contains("issued at or after 2026-01-01T00:00:00"));
        }
    }
}
