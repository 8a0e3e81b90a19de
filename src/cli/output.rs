use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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
        let mut result = match self {
            Output::Text => text(),
            Output::Json => json().to_string(),
        };
        if !result.ends_with('\n') {
            result.push('\n');
        }
        write(&result)
    }

    /// Progress on standard error, where that is a terminal and the results are for people; `total` is unknown for a
    /// spinner.
    pub(super) fn progress(self, total: Option<u64>, template: &str) -> ProgressBar {
        let bar = match self {
            Output::Text => ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr()),
            Output::Json => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template(template);
        bar.with_style(style.expect("templates are constants"))
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

/// Writes finished lines to standard output, together.
pub(super) fn write(lines: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(lines.as_bytes())?;
    stdout.flush()
}
