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
    /// Writes one result to standard output in the form asked for. Only that form is made. That nobody reads it any more
    /// is no error: what a command has begun it finishes, and its exit code says how that went.
    pub fn print(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> serde_json::Value,
    ) -> io::Result<()> {
        self.print_if_read(text, json).map(drop)
    }

    /// As [`Output::print`]; false if nobody reads any more, so that what only reads may end.
    pub(super) fn print_if_read(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> serde_json::Value,
    ) -> io::Result<bool> {
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
        match self {
            Output::Text => note(&format!("quorate: {error:#}")),
            Output::Json => note(&serde_json::json!({ "error": format!("{error:#}") }).to_string()),
        }
        ExitCode::FAILURE
    }
}

/// Writes finished lines to standard output, together; false if nobody reads it any more, as in `quorate read … | head`.
pub(super) fn write(lines: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a line to standard error. A failure is ignored; `eprintln!` would panic, and end what the command does.
pub(super) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
