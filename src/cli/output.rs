use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::ValueEnum;

/// How a subcommand writes its results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON value for each line, for programs.
    Json,
}

impl Output {
    /// Writes one result to standard output in the form asked for. Only that form is made.
    pub fn print(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> serde_json::Value,
    ) -> io::Result<()> {
        let result = match self {
            Output::Text => text(),
            Output::Json => json().to_string(),
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(result.as_bytes())?;
        if !result.ends_with('\n') {
            stdout.write_all(b"\n")?;
        }
        stdout.flush()
    }

    /// Writes why a subcommand failed, with all its causes, to standard error.
    pub(super) fn failure(self, error: &anyhow::Error) -> ExitCode {
        // `quorate read … | head`: the reader has seen enough, and nothing failed.
        let is_closed_pipe = |cause: &(dyn std::error::Error + 'static)| {
            cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
        };
        if error.chain().any(is_closed_pipe) {
            return ExitCode::SUCCESS;
        }
        match self {
            Output::Text => eprintln!("quorate: {error:#}"),
            Output::Json => eprintln!("{}", serde_json::json!({ "error": format!("{error:#}") })),
        }
        ExitCode::FAILURE
    }
}
