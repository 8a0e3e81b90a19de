use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use quorate_client::proto::{ReplaceRequest, ReplaceResponse};
use serde_json::json;

use super::connect::refusal;
use super::{ConnectArgs, Output};

/// Work on one node of the cluster
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    Replace(ReplaceArgs),
}

/// Make the replicas of a wiped or damaged node anew, from their peers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate node replace 2
  quorate node replace 2 --peer-address 10.0.0.9:7201
  quorate node replace 2 --output json

The node has to run, with an empty or a damaged data directory. Each of its replicas is removed from its group, added \
again as a learner, and made a voter once it has caught up; the cluster serves meanwhile. What it waits for stands \
behind `waiting`: other nodes that are being replaced, that are away, that lag or have no room. A group that cannot be \
repaired now, other than the meta group, keeps no other from it; it is named, with the reason, and the command fails. Then, or interrupted, the same \
command takes the work up again.")]
pub struct ReplaceArgs {
    /// The node_id of the node
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node_id: u64,

    /// Where the node now listens for peers, if that has changed
    #[arg(long, value_name = "HOST:PORT")]
    peer_address: Option<String>,

    /// Replace replicas that are healthy, too
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(command: NodeCommand, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        NodeCommand::Replace(args) => replace(args, output).await,
    }
}

async fn replace(args: ReplaceArgs, output: Output) -> anyhow::Result<ExitCode> {
    let mut cluster = args.connect.cluster().await?;
    let request = ReplaceRequest {
        node_id: args.node_id,
        peer_address: args.peer_address.clone().unwrap_or_default(),
        all: args.all,
    };
    let mut steps = args
        .connect
        .within(cluster.replace(request))
        .await
        .with_context(|| format!("node {} was not replaced", args.node_id))?;
    let mut progress = Progress::begin(output);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let step = tokio::select! {
            step = steps.message() => step,
            _ = &mut interrupted => bail!("interrupted; the same command takes the work up again"),
        };
        match step {
            Ok(Some(step)) => progress.step(&step)?,
            Ok(None) => break,
            Err(status) => {
                let how = if progress.done > 0 { "is not fully" } else { "was not" };
                progress.give_up(args.node_id)?;
                let error = refusal(&status);
                return Err(error.context(format!("node {} {how} replaced", args.node_id)));
            }
        }
    }
    progress.end(args.node_id)?;
    Ok(ExitCode::SUCCESS)
}

/// A bar for people, a line for each step for programs.
struct Progress {
    output: Output,
    bar: ProgressBar,
    done: u32,
    total: u32,
    /// Of those done: healthy, and left as they were.
    skipped: u32,
    /// Groups that could not be repaired, and why.
    failed: Vec<(u64, String)>,
}

impl Progress {
    fn begin(output: Output) -> Progress {
        let bar = output.progress(Some(0), "{bar:30} {pos}/{len} replicas  {msg}");
        Progress { output, bar, done: 0, total: 0, skipped: 0, failed: Vec::new() }
    }

    fn step(&mut self, step: &ReplaceResponse) -> anyhow::Result<()> {
        self.done = step.groups_done;
        self.total = step.groups_total;
        self.skipped += u32::from(step.step == "skipped");
        self.bar.set_length(step.groups_total.into());
        self.bar.set_position(step.groups_done.into());
        let group = named(step.group_id);
        if step.step == "failed" {
            self.failed.push((step.group_id, step.reason.clone()));
        }
        self.bar.set_message(match step.step.as_str() {
            "catching_up" => {
                format!("{group}: entry {} of {}", step.applied_index, step.target_index)
            }
            other if step.reason.is_empty() => format!("{group}: {}", other.replace('_', " ")),
            other => format!("{group}: {other}: {}", step.reason),
        });
        if self.output == Output::Json {
            let line = || {
                json!({
                    "group_id": step.group_id,
                    "step": step.step,
                    "applied_index": step.applied_index,
                    "target_index": step.target_index,
                    "groups_done": step.groups_done,
                    "groups_total": step.groups_total,
                    "reason": step.reason,
                })
            };
            self.output.print(String::new, line)?;
        }
        Ok(())
    }

    /// Names every group that could not be repaired: the error names a few of many.
    fn give_up(self, node: u64) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        let text = || {
            let line = |(group, reason): &(u64, String)| {
                format!("{}: not made anew: {reason}\n", named(*group))
            };
            self.failed.iter().map(line).collect()
        };
        let json = || {
            let failed = self.failed.iter();
            let failed: Vec<_> = failed
                .map(|(group, reason)| json!({ "group_id": group, "reason": reason }))
                .collect();
            json!({ "node_id": node, "complete": false, "groups_done": self.done, "failed": failed })
        };
        if self.output == Output::Json || !self.failed.is_empty() {
            self.output.print(text, json)?;
        }
        Ok(())
    }

    fn end(self, node: u64) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        let (done, total) = (self.done, self.total);
        ensure!(
            done == total,
            "node {node} is not fully replaced: {done} of {total} replicas are done"
        );
        let replaced = self.done.saturating_sub(self.skipped);
        let text = || match replaced {
            0 => format!("nothing to replace: the replicas of node {node} are healthy"),
            count => format!("node {node}: {count} replicas made anew\nnext: quorate status"),
        };
        let json = || json!({ "node_id": node, "complete": true, "groups_done": self.done, "replaced": replaced });
        self.output.print(text, json)?;
        Ok(())
    }
}

fn named(group: u64) -> String {
    match group {
        0 => "meta group".to_owned(),
        group => format!("group {group}"),
    }
}
