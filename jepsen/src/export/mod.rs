//! The history for Jepsen's own tools: the Kafka workload's form, and Elle's list-append.
//!
//! Both name calls and answers by what they are here: a conversation is the key, and where Kafka's form says offset it
//! gets our seq. A message's value is its number in this run, so that values are unique and small.

mod edn;
mod kafka;
mod list_append;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::history::{Nanos, Process};
use crate::judge::JudgeError;
use crate::model::{Ending, Model, Span};

/// In the form of `jepsen.tests.kafka`.
pub const KAFKA: &str = "history.edn";
/// In the form of Elle's list-append.
pub const LIST_APPEND: &str = "list-append.edn";

/// Writes both files.
pub fn write(dir: &Path, model: &Model) -> Result<(), JudgeError> {
    type Export = fn(&Model, &mut dyn Write) -> io::Result<()>;
    let exports: [(&str, Export); 2] = [(KAFKA, kafka::write), (LIST_APPEND, list_append::write)];
    for (name, export) in exports {
        let path = dir.join(name);
        let written = File::create(&path).and_then(|file| {
            let mut file = BufWriter::new(file);
            export(model, &mut file)?;
            file.flush()
        });
        written.map_err(|source| JudgeError { path, source })?;
    }
    Ok(())
}

/// How an operation began or ended, in Jepsen's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Type {
    Invoke,
    Ok,
    Fail,
    Info,
}

impl Type {
    fn word(self) -> &'static str {
        match self {
            Type::Invoke => ":invoke",
            Type::Ok => ":ok",
            Type::Fail => ":fail",
            Type::Info => ":info",
        }
    }

    fn of<T>(ending: &Ending<T>) -> Type {
        match ending {
            Ending::Ok(_) => Type::Ok,
            Ending::Failed(_) => Type::Fail,
            Ending::Unknown(_) | Ending::Open => Type::Info,
        }
    }
}

/// A beginning or an end, to be put in the order of time.
struct Entry {
    at: Nanos,
    line: u64,
    what: Type,
    process: Process,
    /// Which operation, as the form knows it.
    operation: Operation,
}

#[derive(Clone, Copy)]
enum Operation {
    Append(usize),
    Read(usize),
    /// A delivery of a stream: it is called and answered at once.
    Delivery(usize, usize),
}

/// The two entries of an operation. What never ended is of unknown outcome at the end of the run.
fn entries(span: &Span, ending: Type, operation: Operation) -> [Entry; 2] {
    let (process, end) = (span.call.process, span.end());
    let line = if span.answer_line == 0 { u64::MAX } else { end.line };
    let at = if span.answer_line == 0 { Nanos::MAX } else { span.answered };
    let call =
        Entry { at: span.call.at, line: span.call.line, what: Type::Invoke, process, operation };
    [call, Entry { at, line, what: ending, process, operation }]
}

/// Sorts by time and numbers; an operation that never ended ends with the last.
fn in_order(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_key(|entry| (entry.at, entry.line));
    let last =
        entries.iter().map(|entry| entry.at).filter(|at| *at < Nanos::MAX).max().unwrap_or(0);
    for entry in &mut entries {
        entry.at = entry.at.min(last);
    }
    entries
}
