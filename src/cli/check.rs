use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::Output;
use crate::log::digest::Digest;
use crate::log::invariants::{self, Report};
use crate::storage::{GroupRecovery, ReadOnlyStorage};

/// Verify everything that a stopped node has on its disk
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate check --data /var/lib/quorate
  quorate check --data ./dev-data/node-1 --output json | jq '.groups[] | [.group_id, .applied_index, .digest]'

Reads only. Every digest is recomputed from the stored bytes. Two nodes that show the same applied index for a
group must show the same digest. Exits with 1 when anything is wrong.")]
pub struct CheckArgs {
    /// The data directory of a node that is stopped
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Everything one check found.
struct Checked {
    node_id: Option<u64>,
    report: Report,
    /// Groups whose log cannot be relied on, with the reason.
    damaged_logs: Vec<(u64, String)>,
}

impl Checked {
    fn is_clean(&self) -> bool {
        self.report.is_clean() && self.damaged_logs.is_empty()
    }
}

pub(super) async fn run(args: CheckArgs, output: Output) -> anyhow::Result<ExitCode> {
    // Nothing else runs in this process: the check may block it.
    let checked = check(&args.data)?;
    output.print(|| text(&checked), || to_json(&checked))?;
    Ok(if checked.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(data: &std::path::Path) -> anyhow::Result<Checked> {
    // indicatif draws on standard error, and only where that is a terminal.
    let progress = ProgressBar::new_spinner()
        .with_style(ProgressStyle::with_template("{spinner} {msg} {pos} rows, {per_sec}")?)
        .with_message("reading the logs:");
    progress.tick();
    let storage = ReadOnlyStorage::open(data)
        .with_context(|| format!("cannot open the data in {}", data.display()))?;
    progress.set_message("checking the state:");
    let report = invariants::check(&storage.state, &mut |rows| progress.set_position(rows));
    progress.finish_and_clear();
    let damaged_logs = storage.groups.iter().filter_map(|(group, recovery)| match recovery {
        GroupRecovery::Damaged { reason } => Some((group.0, reason.clone())),
        GroupRecovery::Healthy(_) => None,
    });
    Ok(Checked {
        node_id: storage.identity.as_ref().map(|identity| u64::from(identity.node.0)),
        damaged_logs: damaged_logs.collect(),
        report,
    })
}

fn text(checked: &Checked) -> String {
    let mut page = String::new();
    let counts = &checked.report.counts;
    let node =
        checked.node_id.map_or("a node without identity".to_owned(), |n| format!("node {n}"));
    let verdict = if checked.is_clean() { "every invariant holds" } else { "NOT SOUND" };
    writeln!(page, "{node}: {verdict}").expect("String takes all");
    writeln!(
        page,
        "{} conversations, {} messages, {} message bytes, {} dedup rows, {} names\n",
        counts.conversations,
        counts.messages,
        counts.message_bytes,
        counts.dedup_rows,
        counts.names
    )
    .expect("String takes all");
    for group in &checked.report.groups {
        let applied = group.applied.map_or("–".to_owned(), |id| id.index.to_string());
        writeln!(
            page,
            "group {:<4} applied {applied:<10} conversations {:<8} digest {}",
            group.group,
            group.conversations,
            hex(&group.digest)
        )
        .expect("String takes all");
    }
    for (group, reason) in &checked.damaged_logs {
        writeln!(page, "log of group {group}: {reason}").expect("String takes all");
    }
    for violation in &checked.report.violations {
        writeln!(page, "{}: {}", violation.place, violation.what).expect("String takes all");
    }
    match checked.report.violations_total - checked.report.violations.len() as u64 {
        0 => {}
        further => writeln!(page, "and {further} further violations").expect("String takes all"),
    }
    page
}

fn to_json(checked: &Checked) -> Value {
    let Report { counts, groups, violations, violations_total } = &checked.report;
    let groups: Vec<Value> = groups
        .iter()
        .map(|group| {
            json!({
                "group_id": group.group.0,
                "range": group.range.map(|range| range.to_string()),
                "applied_term": group.applied.map(|id| id.term.0),
                "applied_index": group.applied.map(|id| id.index.0),
                "dedup_floor_us": group.dedup_floor.0,
                "conversations": group.conversations,
                "digest": hex(&group.digest),
            })
        })
        .collect();
    let violations: Vec<Value> =
        violations.iter().map(|v| json!({ "place": v.place, "what": v.what })).collect();
    let damaged_logs: Vec<Value> = checked
        .damaged_logs
        .iter()
        .map(|(group, reason)| json!({ "group_id": group, "reason": reason }))
        .collect();
    json!({
        "clean": checked.is_clean(),
        "node_id": checked.node_id,
        "conversations": counts.conversations,
        "messages": counts.messages,
        "message_bytes": counts.message_bytes,
        "dedup_rows": counts.dedup_rows,
        "names": counts.names,
        "groups": groups,
        "violations": violations,
        "violations_total": violations_total,
        "damaged_logs": damaged_logs,
    })
}

fn hex(digest: &Digest) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}
