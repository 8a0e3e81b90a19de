//! `make bench`: takes the figures of README's table, one command after another with the program that QUORATE names,
//! and writes them with the machine, the date and the commit to `benches/RESULTS.md`. A command that fails has a row
//! that says so, and fails the whole at the end.
//!
//! `make bench ARGS=failover` takes those whose name has this word, and shows them without writing.

#[path = "figures/cases.rs"]
mod cases;
#[path = "figures/judge.rs"]
mod judge;
#[path = "figures/machine.rs"]
mod machine;
#[path = "figures/peers.rs"]
mod peers;
#[path = "figures/run.rs"]
mod run;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};

use cases::{FIGURES, Figure};
use peers::Peers;
use run::Run;

/// What the page says.
struct Page {
    machine: String,
    /// When the first row was begun.
    date: String,
    commit: String,
    load_at_start: String,
    peers: Peers,
    rows: String,
    bounds: String,
    commands: String,
    has_failed: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs this too, without the word.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("not measured: this is for `make bench`");
        return Ok(ExitCode::SUCCESS);
    }
    let quorate = std::env::var_os("QUORATE")
        .context("QUORATE does not name the program, as `make bench` has it do")?;
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let is_wanted = |figure: &&Figure| wanted.iter().all(|word| figure.name.contains(*word));
    let mut page = Page::begin()?;
    for figure in FIGURES.iter().filter(is_wanted) {
        eprintln!("{}: quorate bench {}", figure.name, figure.arguments);
        page.add(figure, run::median(figure, &quorate).await);
    }
    ensure!(!page.rows.is_empty(), "no figure has {wanted:?} in its name");
    let text = page.text()?;
    if wanted.is_empty() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
        std::fs::write(&path, text)?;
        eprintln!("written: {}", path.display());
    } else {
        println!("{text}");
    }
    Ok(if page.has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Page {
    fn begin() -> anyhow::Result<Page> {
        Ok(Page {
            machine: machine::machine()?,
            date: machine::date()?,
            commit: machine::commit(),
            load_at_start: machine::load()?,
            peers: Peers::read()?,
            rows: String::new(),
            bounds: String::new(),
            commands: String::new(),
            has_failed: false,
        })
    }

    fn add(&mut self, figure: &Figure, run: anyhow::Result<Run>) {
        let peers = &self.peers;
        let (shown, verdict, bound) = match run {
            Ok(Run { case, is_success: true }) => {
                let bound = if figure.bound.is_empty() { "Not explained." } else { figure.bound };
                (figure.shown(&case, peers), figure.verdict(&case, peers), bound)
            }
            Ok(Run { case, is_success: false }) => {
                self.has_failed = true;
                let shown = format!("{}; the command failed", figure.shown(&case, peers));
                (shown, "no", FAILED)
            }
            Err(error) => {
                self.has_failed = true;
                (format!("failed: {error:#}").replace('|', "\\|"), "no", FAILED)
            }
        };
        let by = figure.judged_by(peers, &self.commit);
        eprintln!("  {shown}: {verdict}{by}");
        let Figure { name, target, arguments, .. } = figure;
        self.rows += &format!("| {name} | {target} | {shown} | {verdict}{by} |\n");
        if verdict == "no" {
            self.bounds += &format!("- **{name}.** {bound}\n");
        }
        self.commands += &format!("quorate bench {arguments}\n");
    }

    fn text(&self) -> anyhow::Result<String> {
        let Page { machine, date, commit, load_at_start, rows, bounds, commands, .. } = self;
        let load_at_end = machine::load()?;
        let reasons = match bounds.as_str() {
            "" => String::new(),
            _ => format!(
                "Where the time goes in rows that stay below their target, and why; docs/performance.md has the \
                 figures behind it, and says of which commit they are:\n\n{bounds}\n"
            ),
        };
        Ok(format!(
            "\
# Figures

Made by `make bench`, which writes this file. Three nodes, the producers and the subscribers share one machine and its
disk; messages of 256 random bytes unless said otherwise; settings of a node that is configured by nobody. Latency is
that of acknowledged appends, from handing in to acknowledgement, through the client library. The loops are closed
(`quorate bench append --help` says what that means) except those with a rate. Short cases are the median of three runs.
{GROUPS}
An ACK to delivery of 0.00 ms means that the delivery came before the producer had handled its ACK.
What targets say of other systems is judged by PEERS.md, which has all of one run: the commit and the date behind its
name are those of that run, and not of the row.

- machine: {machine}
- date: {date}
- commit: {commit}
- load average over 1, 5 and 15 minutes: {load_at_start} at the start, {load_at_end} at the end

| case | target | reached | met |
|---|---|---|---|
{rows}
{reasons}```sh
{commands}```
"
        ))
    }
}

/// The reason of a row whose command failed.
const FAILED: &str = "The command failed.";
/// Which rows have how many groups.
const GROUPS: &str = "\
Rows whose command below has `--groups 3` (appends, ACK to delivery, overload) have three groups, as `quorate init
--groups 3` makes them, which took least processor time on the machine of docs/performance.md; the others have what a
cluster of three has by default, twelve, and the one at rest 256.";
