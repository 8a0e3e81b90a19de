use std::process::ExitCode;

use serde_json::json;

use super::Output;
use crate::check::CHECKERS;
use crate::matrix::CONTROLS;
use crate::nodes::sandbox;
use crate::programs::{FOR_DISKS, missing};
use crate::{nemesis, workload};

/// Prints everything that there is, each with what this machine lacks for it.
pub(super) async fn run(output: Output) -> anyhow::Result<ExitCode> {
    let no_namespaces = sandbox::obstacle().await;
    let lacking = missing(FOR_DISKS);
    let has_switch = no_namespaces.is_none();
    let has_disks = has_switch && lacking.is_empty() && rustix::process::geteuid().is_root();
    let has_shim = !lacking.iter().any(|program| program.starts_with("cc "));
    let mut rows: Vec<(&str, &str, String, Option<String>)> = Vec::new();
    for one in nemesis::all() {
        let obstacle = nemesis::obstacle(one, has_switch, has_disks, has_shim);
        let about = format!("{} [family {}]", one.about, one.family);
        rows.push(("nemesis", one.name, about, obstacle.map(str::to_owned)));
    }
    for one in workload::ALL {
        rows.push(("workload", one.name, one.about.to_owned(), None));
    }
    for one in CHECKERS {
        rows.push(("checker", one.name(), format!("{:?} {}", one.guarantees(), one.rule()), None));
    }
    for one in CONTROLS {
        let about = format!("caught by {}: {} under {}", one.caught_by, one.workload, one.nemesis);
        rows.push(("control", one.planted, about, None));
    }
    let line = |(kind, name, about, obstacle): (&str, &str, String, Option<String>)| match output {
        Output::Text => {
            let lacks = obstacle.map(|why| format!(" (not here: {why})")).unwrap_or_default();
            format!("{kind:9} {name:22} {about}{lacks}\n")
        }
        Output::Json => {
            let row = json!({ "kind": kind, "name": name, "about": about, "obstacle": obstacle });
            format!("{row}\n")
        }
    };
    let mut lines: String = rows.into_iter().map(line).collect();
    if let (Some(why), Output::Text) = (no_namespaces, output) {
        lines.push_str(&format!("\nNodes cannot have network namespaces here: {why}\n"));
    }
    super::print(&lines)?;
    Ok(ExitCode::SUCCESS)
}
