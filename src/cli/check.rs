use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::Output;
use crate::log::invariants::{self, Report};
use crate::storage::{DataDirError, GroupRecovery, OpenError, ReadOnlyStorage};

/// Verify everything that a stopped node has on its disk
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate check --data /var/lib/quorate
  quorate check --data ./dev-data/node-1 --output json | jq '.groups[] | [.group_id, .applied_index, .digest]'

Reads only. Every digest is recomputed from the stored bytes. Two nodes that show the same applied index for a \
group must show the same digest. Exits with 1 when anything is wrong, also when the node has noted damage before, \
on which it does not start. Meanwhile no node starts on this data.")]
pub struct CheckArgs {
    /// The data directory of a node that is stopped
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Findings that people are shown.
const FINDINGS_SHOWN: usize = 10;

/// Everything one check found.
struct Checked {
    node_id: Option<u64>,
    report: Report,
    /// What the node has noted as damaged while it ran: it does not start on this data.
    damage: Option<String>,
    /// Groups whose log cannot be relied on, with the reason.
    damaged_logs: Vec<(u64, String)>,
}

impl Checked {
    fn is_clean(&self) -> bool {
        self.report.is_clean() && self.damage.is_none() && self.damaged_logs.is_empty()
    }
}

pub(super) async fn run(args: CheckArgs, output: Output) -> anyhow::Result<ExitCode> {
    // Nothing else runs in this process: the check may block it.
    let checked = check(&args.data, output)?;
    output.print(|| text(&checked), || to_json(&checked))?;
    Ok(if checked.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(data: &std::path::Path, output: Output) -> anyhow::Result<Checked> {
    let progress = output
        .progress(None, "{spinner} {msg} {pos} rows, {per_sec}")
        .with_message("reading the logs:");
    progress.tick();
    let storage = ReadOnlyStorage::open(data).map_err(|error| {
        let what = match &error {
            OpenError::DataDir(DataDirError::Locked { .. }) => "stop the node first".to_owned(),
            _ => format!("cannot open the data in {}", data.display()),
        };
        anyhow::Error::new(error).context(what)
    })?;
    progress.set_message("checking the state:");
    let report = invariants::check(&storage.state, &mut |rows| progress.set_position(rows));
    progress.finish_and_clear();
    let damaged_logs = storage.groups.iter().filter_map(|(group, recovery)| match recovery {
        GroupRecovery::Damaged { reason } => Some((group.0, reason.clone())),
        GroupRecovery::Healthy(_) => None,
    });
    Ok(Checked {
        node_id: storage.dir.identity.as_ref().map(|identity| u64::from(identity.node.0)),
        damage: storage.dir.damage,
        damaged_logs: damaged_logs.collect(),
        report,
    })
}

fn text(checked: &Checked) -> String {
    let counts = &checked.report.counts;
    let node =
        checked.node_id.map_or("a node without identity".to_owned(), |n| format!("node {n}"));
    let verdict = if checked.is_clean() { "every invariant holds" } else { "NOT SOUND" };
    let mut lines = vec![format!("{node}: {verdict}")];
    lines.extend(findings(checked));
    lines.push(format!(
        "{} conversations, {} messages, {} message bytes, {} dedup rows, {} names",
        counts.conversations,
        counts.messages,
        counts.message_bytes,
        counts.dedup_rows,
        counts.names
    ));
    for group in &checked.report.groups {
        let applied = group.applied.map_or("–".to_owned(), |id| id.index.to_string());
        lines.push(format!(
            "group {:<4} applied {applied:<10} conversations {:<8} digest {}",
            group.group,
            group.conversations,
            hex::encode(group.digest)
        ));
    }
    lines.join("\n")
}

/// What is wrong, the first of it, and what to do about it: one damaged block breaks many conversations.
fn findings(checked: &Checked) -> Vec<String> {
    if checked.is_clean() {
        return Vec::new();
    }
    let noted = checked.damage.iter().map(|why| format!("noted by the node while it ran: {why}"));
    let logs =
        checked.damaged_logs.iter().map(|(group, why)| format!("log of group {group}: {why}"));
    let violations = checked.report.violations.iter().map(|v| format!("{}: {}", v.place, v.what));
    let noted_total = u64::from(checked.damage.is_some());
    let total = noted_total + checked.damaged_logs.len() as u64 + checked.report.violations_total;
    let found = noted.chain(logs).chain(violations).take(FINDINGS_SHOWN);
    let mut lines: Vec<String> = found.map(|finding| format!("  {finding}")).collect();
    match total - lines.len() as u64 {
        0 => {}
        more => lines.push(format!("  and {more} more (--output json lists the first of them)")),
    }
    let id = checked.node_id.map_or("ID".to_owned(), |id| id.to_string());
    let start = match checked.damage {
        Some(_) => "move the data directory away, start the node with an empty one",
        None => "start the node",
    };
    lines.push(format!("next: {start}, then quorate node replace {id}"));
    lines
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
                "digest": hex::encode(group.digest),
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
        "damage": checked.damage,
        "damaged_logs": damaged_logs,
    })
}
