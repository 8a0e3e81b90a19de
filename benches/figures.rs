//! `make bench`: takes the figures of README's table, one command after another with the program that QUORATE names, and
//! writes them with the machine, the date and the commit to `benches/RESULTS.md`.
//!
//! `make bench ARGS=failover` takes those whose name has this word, and shows them without writing.

#[path = "figures/cases.rs"]
mod cases;
#[path = "figures/machine.rs"]
mod machine;
#[path = "figures/peers.rs"]
mod peers;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use cases::{Case, FIGURES, Figure};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs this too, without the word.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("not measured: this is for `make bench`");
        return Ok(());
    }
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let is_wanted = |figure: &&Figure| wanted.iter().all(|word| figure.name.contains(*word));
    let peers = peers::Peers::read()?;
    let mut rows = String::new();
    let mut bounds = String::new();
    let mut commands = String::new();
    for figure in FIGURES.iter().filter(is_wanted) {
        eprintln!("{}: quorate bench {}", figure.name, figure.arguments);
        let result = median(figure)?;
        let (shown, verdict) = (figure.shown(&result, &peers), figure.verdict(&result, &peers));
        eprintln!("  {shown}: {verdict}");
        writeln!(rows, "| {} | {} | {shown} | {verdict} |", figure.name, figure.target)?;
        if verdict == "no" {
            let bound = if figure.bound.is_empty() { "Not explained." } else { figure.bound };
            writeln!(bounds, "- **{}.** {bound}", figure.name)?;
        }
        writeln!(commands, "quorate bench {}", figure.arguments)?;
    }
    ensure!(!rows.is_empty(), "no figure has {wanted:?} in its name");
    let page = page(&rows, &bounds, &commands)?;
    if !wanted.is_empty() {
        println!("{page}");
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
    std::fs::write(&path, page)?;
    eprintln!("written: {}", path.display());
    Ok(())
}

/// The run whose main value is the median of all runs.
fn median(figure: &Figure) -> anyhow::Result<Value> {
    let mut results = Vec::new();
    for run in 1..=figure.runs {
        let result = measure(figure)?;
        eprintln!("  run {run} of {}: {}", figure.runs, (figure.show)(&result));
        results.push(result);
    }
    results.sort_by(|a, b| (figure.main)(a).total_cmp(&(figure.main)(b)));
    Ok(results.swap_remove((results.len() - 1) / 2))
}

/// Runs one command; the nodes keep their data where Cargo builds, which is a disk.
fn measure(figure: &Figure) -> anyhow::Result<Case> {
    let quorate = std::env::var_os("QUORATE")
        .context("QUORATE does not name the program, as `make bench` has it do")?;
    let mut command = Command::new(quorate);
    command.arg("bench").args(figure.arguments.split(' '));
    command.args(["--output", "json", "--data", env!("CARGO_TARGET_TMPDIR")]);
    let ended = command.output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{}: {}{said}", figure.name, ended.status);
    let result: Value = serde_json::from_slice(&ended.stdout).context("it gave no JSON")?;
    ensure!(
        result["local"]["data_in_memory"] != true,
        "the data is in memory: set CARGO_TARGET_DIR"
    );
    Ok(result)
}

fn page(rows: &str, bounds: &str, commands: &str) -> anyhow::Result<String> {
    let reasons = match bounds {
        "" => String::new(),
        _ => format!(
            "Where the time goes in rows that stay below their target, and why; docs/performance.md has the figures behind \
             it:\n\n{bounds}\n"
        ),
    };
    Ok(format!(
        "\
# Figures

Made by `make bench`, which writes this file. Three nodes, the producers and the subscribers share one machine and its
disk; messages of 256 random bytes unless said otherwise; settings of a node that is configured by nobody. Latency is
that of acknowledged appends, from handing in to acknowledgement, through the client library. The loops are closed
(`quorate bench append --help` says what that means) except those with a rate. Short cases are the median of three runs.
What targets say of other systems is judged by PEERS.md, which has all of one run: the commit and the date behind its name
are those of that run, and not of the row.

- machine: {}
- date: {}
- commit: {}

| case | target | reached | met |
|---|---|---|---|
{rows}
{reasons}```sh
{commands}```
",
        machine::machine()?,
        machine::date()?,
        machine::commit(),
    ))
}
