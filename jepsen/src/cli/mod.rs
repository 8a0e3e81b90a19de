//! What is typed, and what is printed.

mod list;
mod one;
mod signals;

use std::io::{self, ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::judge::{self, Verdict};
use crate::matrix;
use crate::nodes::sandbox;
use crate::report::index::index;
use crate::run::RunOptions;

/// Runs clusters of the real binary, breaks things around them while clients work, and judges by what was written down
#[derive(Debug, Parser)]
#[command(name = "quorate-jepsen", version, max_term_width = 120)]
#[command(after_help = "\
Exit codes: 0 every guarantee held, 1 one was broken, 2 nothing is known: a run that was not completed, or in which too
little happened. Namespaces, disks and processes of a run are gone when it ends, however it ends.")]
struct Cli {
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value = "text")]
    output: Output,

    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// One JSON value a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One run
    #[command(after_help = "\
Examples:
  quorate-jepsen run --nodes 5 --nemesis kill,partition --time 300s
  quorate-jepsen run --nemesis power,pause --seed 7
  quorate-jepsen run --network loopback --nemesis kill,fsync
  quorate-jepsen run --planted dedup_off --workload append,retry \\
    --binary ~/.cache/quorate/target/debug/quorate-planted")]
    Run(Box<RunOptions>),
    /// A set of runs, positive controls among them
    #[command(after_help = "\
Examples:
  quorate-jepsen matrix ci --planted-binary ~/.cache/quorate/target/debug/quorate-planted
  quorate-jepsen matrix nightly --seed 7
  quorate-jepsen matrix ci --only planted")]
    Matrix(Box<matrix::MatrixOptions>),
    /// Judges a stored run again
    #[command(
        after_help = "Example:\n  quorate-jepsen check runs/kill+partition-20260101T000000Z-7"
    )]
    Check(CheckArgs),
    /// All runs in a folder: one page of them, and their sum, also as summary.json and for a README
    #[command(after_help = "Example:\n  quorate-jepsen index runs")]
    Index(CheckArgs),
    /// Nemeses, workloads, checkers and positive controls, and what this machine lacks for them
    List,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The folder of a run, or of runs
    dir: PathBuf,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => catch_unwind(AssertUnwindSafe(|| runtime.block_on(dispatch(cli))))
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the fault suite itself has failed"))),
        Err(error) => Err(error.into()),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        sandbox::exit_code(Verdict::Unknown)
    })
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let output = cli.output;
    match cli.command {
        Command::Run(options) => {
            let stop = signals::stop(options.stop_with_stdin)?;
            one::run(*options, output, stop).await
        }
        Command::Matrix(options) => {
            let stop: CancellationToken = signals::stop(false)?;
            let json = output == Output::Json;
            matrix::run(&options, json, stop).await.map(|verdict| verdict.exit_code().into())
        }
        Command::Check(args) => {
            let results = judge::judge(&args.dir)?;
            one::print(&results, &args.dir, output)?;
            Ok(results.verdict.exit_code().into())
        }
        Command::Index(args) => {
            let summary = index(&args.dir)?;
            match output {
                Output::Text => print(&summary.markdown())?,
                Output::Json => print(&format!("{}\n", serde_json::json!(summary)))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::List => list::run(output).await,
    }
}

/// Writes to standard output; nothing once nobody reads it any more, as in `quorate-jepsen list | head`.
pub(crate) fn print(lines: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
