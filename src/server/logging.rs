use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::config::{LogConfig, LogFormat};

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter does not parse.
    #[error("log.filter {filter:?} is not a log filter")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process logs already.
    #[error("logging has begun already")]
    Begun(#[source] TryInitError),
}

/// Begins writing the process's log to standard error. Once for each process.
pub fn begin(config: &LogConfig) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|source| LoggingError::Filter { filter: config.filter.clone(), source })?;
    // What cannot be written is lost. Else it would be told by `eprintln!`, which panics where nobody reads standard error
    // any more, or the disk that it goes to is full.
    let builder = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    }
    .map_err(LoggingError::Begun)
}
