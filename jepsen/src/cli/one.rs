use std::ffi::OsString;
use std::fmt::Write;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use rand::Rng;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Output;
use crate::judge::{self, Results, Verdict};
use crate::network::NetworkKind;
use crate::nodes::{self, sandbox};
use crate::run::{self, RunOptions};
use crate::say;

/// Violations of one checker that are printed; the report has more.
const VIOLATIONS_SHOWN: usize = 3;

/// Runs and judges, inside namespaces of its own if nodes are to have theirs.
pub(super) async fn run(
    mut options: RunOptions,
    output: Output,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    options.nemeses()?;
    options.workloads()?;
    if options.seed == 0 {
        options.seed = rand::rng().random_range(1..1_000_000_000);
    }
    if options.network == NetworkKind::Namespaces && !sandbox::is_inside() {
        if let Some(obstacle) = sandbox::obstacle().await {
            anyhow::bail!(
                "nodes cannot have network namespaces here: {obstacle}\n\
                 With --network loopback they share 127.0.0.1. What still works then:\n  {}",
                works_on_loopback()
            );
        }
        let folder = run::folder(&options.store, &options);
        let dir = options.dir.clone().unwrap_or(folder);
        let inside = inside_arguments(&options, &dir, output);
        let ended = sandbox::enter(inside, stop).await;
        nodes::remove_images(&dir);
        return ended;
    }
    let dir = options.dir.clone().unwrap_or_else(|| run::folder(&options.store, &options));
    std::fs::create_dir_all(&dir)?;
    say!(options, "{} seed {} in {}", options.name(), options.seed, dir.display());
    if let Err(error) = run::run(&options, &dir, stop).await {
        eprintln!("the run was not completed: {error:#}\nrepeat it with: {}", options.command());
        // It may have been told to stop before there was a cluster to put away.
        nodes::remove_images(&dir);
        return Ok(sandbox::exit_code(Verdict::Unknown));
    }
    let results = judge::judge(&dir)?;
    print(&results, &dir, output)?;
    if results.verdict != Verdict::Valid {
        eprintln!("repeat it with: {}", options.command());
    }
    Ok(sandbox::exit_code(results.verdict))
}

/// This process' arguments, with what was decided here made explicit.
fn inside_arguments(options: &RunOptions, dir: &Path, output: Output) -> Vec<OsString> {
    let mut all: Vec<OsString> = Vec::new();
    let command = options.command();
    all.extend(command.split(' ').skip(1).map(OsString::from));
    all.extend(["--dir".into(), dir.into(), "--stop-with-stdin".into()]);
    if options.keep_data {
        all.push("--keep-data".into());
    }
    if options.quiet {
        all.push("--quiet".into());
    }
    if output == Output::Json {
        all.extend(["--output".into(), "json".into()]);
    }
    all
}

fn works_on_loopback() -> String {
    let works = crate::nemesis::all()
        .filter(|one| crate::nemesis::obstacle(one, false, false, true).is_none());
    works.map(|one| one.name).collect::<Vec<_>>().join(", ")
}

/// Prints what became of a run.
pub(super) fn print(results: &Results, dir: &Path, output: Output) -> io::Result<()> {
    match output {
        Output::Text => super::print(&text(results, dir)),
        Output::Json => {
            let line = json!({ "dir": dir, "verdict": results.verdict, "broken": results.broken(),
                "doubts": results.doubts, "violations": results.violations,
                "acknowledged": results.acknowledged, "faults": results.faults });
            super::print(&format!("{line}\n"))
        }
    }
}

fn text(results: &Results, dir: &Path) -> String {
    let mut text = String::new();
    for checked in results.checkers.iter().filter(|one| one.findings.violations > 0) {
        let _ = writeln!(text, "{}: {} violations", checked.checker, checked.findings.violations);
        for violation in checked.findings.kept.iter().take(VIOLATIONS_SHOWN) {
            let _ = writeln!(text, "  {:?}: {}", violation.guarantee, violation.what);
            for evidence in &violation.evidence {
                let _ = writeln!(text, "    line {}: {}", evidence.line, evidence.shows);
            }
        }
    }
    for doubt in &results.doubts {
        let _ = writeln!(text, "doubt: {doubt}");
    }
    let Results { acknowledged, faults, operations, .. } = results;
    let _ =
        writeln!(text, "{operations} calls, {acknowledged} acknowledged appends, {faults} faults");
    let _ = writeln!(text, "{}: {}", results.verdict.word(), dir.display());
    text
}
