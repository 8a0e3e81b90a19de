//! Floor 7: the command line. Each subcommand is a file with its arguments and `run`; what an operator does goes
//! through the `Cluster` service, like any other client.

mod bench;
pub mod chat;
mod check;
mod connect;
mod demo;
mod dev;
mod follow;
mod health;
mod init;
mod local_cluster;
mod message;
mod node;
mod outcome;
mod output;
mod read;
mod send;
mod serve;
mod start;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::server::shutdown;

pub use connect::ConnectArgs;
pub use local_cluster::{LocalCluster, LocalClusterOptions};
pub use output::Output;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "quorate",
    version,
    about = "A replicated, strongly consistent message log for conversations",
    after_help = "\
Begin with a cluster of three nodes on this machine:
  quorate dev

or with one node and its configuration:
  quorate serve --config cluster-configs/one-node.toml
  quorate init --node 1=127.0.0.1:7201
  quorate status

Exit codes: 0 success, 1 failure, 2 wrong usage."
)]
pub struct Cli {
    /// How results are written to standard output: for people, or as JSON for programs
    #[arg(long, global = true, value_enum, default_value_t, env = "QUORATE_OUTPUT")]
    output: Output,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Init(init::InitArgs),
    Dev(dev::DevArgs),
    Demo(demo::DemoArgs),
    Status(status::StatusArgs),
    Send(send::SendArgs),
    Read(read::ReadArgs),
    Follow(follow::FollowArgs),
    Outcome(outcome::OutcomeArgs),
    Check(check::CheckArgs),
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    #[command(subcommand)]
    Node(node::NodeCommand),
}

/// Exit code of a node that fails, which may have left databases open: [`ExitCode::FAILURE`] as a number.
const FAILURE: i32 = 1;

/// Parses the arguments, runs the subcommand, and reports what went wrong, once.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = cli.output;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.failure(&anyhow::Error::new(error).context("cannot start")),
    };
    let reads_input = matches!(cli.command, Command::Send(_));
    let is_node = matches!(cli.command, Command::Serve(_));
    let code = match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(error) => {
            let code = output.failure(&error);
            if is_node {
                shutdown::leave_at_once(FAILURE);
            }
            code
        }
    };
    if reads_input {
        // A read of a terminal cannot be cancelled: without this, Ctrl-C would wait for the line to be finished.
        runtime.shutdown_background();
    }
    code
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let output = cli.output;
    match cli.command {
        Command::Serve(args) => serve::run(args, output).await,
        Command::Init(args) => init::run(args, output).await,
        Command::Dev(args) => dev::run(args, output).await,
        Command::Demo(args) => demo::run(args, output).await,
        Command::Status(args) => status::run(args, output).await,
        Command::Send(args) => send::run(args, output).await,
        Command::Read(args) => read::run(args, output).await,
        Command::Follow(args) => follow::run(args, output).await,
        Command::Outcome(args) => outcome::run(args, output).await,
        Command::Check(args) => check::run(args, output).await,
        Command::Bench(command) => bench::run(command, output).await,
        Command::Node(command) => node::run(command, output).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_shows_an_example() {
        fn visit(command: &clap::Command) {
            let leaf = command.get_subcommands().next().is_none();
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                !leaf || examples.contains("quorate "),
                "{} has no example",
                command.get_name()
            );
            command.get_subcommands().for_each(visit);
        }
        visit(&Cli::command());
    }
}
