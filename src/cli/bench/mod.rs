//! Measures a cluster: appends, deliveries, history, growth, rest, overload, failover.
//!
//! What is measured is said with each figure. Only acknowledged appends count. The load is a closed loop (a producer
//! sends its next append when one of its appends has its outcome, so that a slow cluster is asked less) unless a rate
//! is given: then it is an open loop, and the time of an append counts from when it was due, so that a stall counts
//! for every append that it delayed. Payloads are random bytes, which do not compress.

mod acks;
mod append;
mod cost;
mod failover;
mod fan_out;
mod flood;
mod follow;
mod growth;
mod idle;
mod latency;
mod load;
mod local;
mod message;
mod offered;
mod outcome;
mod overload;
mod probe;
mod receiving;
mod resources;
mod subscribe;
mod target;
mod writes;

use std::process::ExitCode;

use clap::Subcommand;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use super::Output;
use crate::server::shutdown;

/// Measure a cluster
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    Append(append::AppendArgs),
    Follow(follow::FollowArgs),
    Subscribe(subscribe::SubscribeArgs),
    FanOut(fan_out::FanOutArgs),
    Idle(idle::IdleArgs),
    Growth(growth::GrowthArgs),
    Overload(overload::OverloadArgs),
    Failover(failover::FailoverArgs),
}

pub(super) async fn run(command: BenchCommand, output: Output) -> anyhow::Result<ExitCode> {
    let interrupted = shutdown::on_signal()?;
    if let BenchCommand::Failover(args) = &command
        && let Some(code) = args.elsewhere(&interrupted).await?
    {
        return Ok(code);
    }
    let measuring = async {
        match command {
            BenchCommand::Append(args) => append::run(args, output).await,
            BenchCommand::Follow(args) => follow::run(args, output).await,
            BenchCommand::Subscribe(args) => subscribe::run(args, output).await,
            BenchCommand::FanOut(args) => fan_out::run(args, output).await,
            BenchCommand::Idle(args) => idle::run(args, output).await,
            BenchCommand::Growth(args) => growth::run(args, output).await,
            BenchCommand::Overload(args) => overload::run(args, output).await,
            BenchCommand::Failover(args) => failover::run(args, output).await,
        }
    };
    // Dropping it kills the nodes of a local cluster and removes their data.
    let ended = interrupted.run_until_cancelled(measuring).await;
    ended.unwrap_or_else(|| anyhow::bail!("interrupted: nothing was measured"))
}

/// Names and values, one pair a line.
fn table(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}
