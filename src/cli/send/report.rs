use std::fmt::Write;

use quorate_client::proto::AppendResponse;
use quorate_client::{Error, reason};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::outgoing::{Outgoing, Source};
use crate::cli::chat;

/// Failures that are shown one by one.
const FAILURES_SHOWN: usize = 20;

/// What became of everything that was to be sent.
pub(super) struct Report {
    source: String,
    began: Instant,
    took_seconds: f64,
    sent: u64,
    duplicates: u64,
    failed: u64,
    /// Of those that failed: because an earlier message of their conversation did.
    failed_behind: u64,
    payload_bytes: u64,
    failures: Vec<Value>,
    /// Whether the same command again may do better.
    retryable: bool,
    interrupted: bool,
}

impl Report {
    /// Nothing has happened yet.
    pub(super) fn begin(source: &Source) -> Report {
        Report {
            source: source.name().to_owned(),
            began: Instant::now(),
            took_seconds: 0.0,
            sent: 0,
            duplicates: 0,
            failed: 0,
            failed_behind: 0,
            payload_bytes: 0,
            failures: Vec::new(),
            retryable: false,
            interrupted: false,
        }
    }

    pub(super) fn acknowledged(&mut self, message: &Outgoing, appended: &AppendResponse) {
        match appended.duplicate {
            true => self.duplicates += 1,
            false => self.sent += 1,
        }
        self.payload_bytes += message.message().payload.len() as u64;
    }

    /// Notes a failure, and says what there is to say about it, if anything.
    pub(super) fn failed(&mut self, message: &Outgoing, error: &Error) -> Option<String> {
        self.failed += 1;
        if error.reason() == reason::LANE_BROKEN {
            self.failed_behind += 1;
            return None;
        }
        self.retryable |= error.retryable();
        if self.failures.len() == FAILURES_SHOWN {
            return None;
        }
        self.failures.push(json!({
            "line": message.line,
            "conversation": message.conversation(),
            "sender": message.sender(),
            "client_msg_id": message.message().client_msg_id,
            "reason": error.reason(),
            "message": error.message(),
            "retryable": error.retryable(),
            "may_have_taken_effect": error.may_have_taken_effect(),
        }));
        let uncertain =
            if error.may_have_taken_effect() { " (it may have taken effect)" } else { "" };
        let place = chat::place(&self.source, message.line);
        Some(format!("{place}: {}: {error}{uncertain}", message.conversation()))
    }

    pub(super) fn finish(&mut self, interrupted: bool) {
        self.took_seconds = self.began.elapsed().as_secs_f64();
        self.interrupted = interrupted;
    }

    /// Whether everything is acknowledged.
    pub(super) fn is_complete(&self) -> bool {
        self.failed == 0 && !self.interrupted
    }

    pub(super) fn to_text(&self) -> String {
        let acknowledged = self.sent + self.duplicates;
        let mut text = format!(
            "{} sent, {} already there, {} failed; {:.1} s, {:.0} messages/s\n",
            self.sent,
            self.duplicates,
            self.failed,
            self.took_seconds,
            acknowledged as f64 / self.took_seconds.max(1e-3),
        );
        let shown = self.failures.len() as u64;
        let further = self.failed - self.failed_behind - shown;
        let notes = [
            (self.failed_behind > 0).then(|| {
                let count = self.failed_behind;
                format!("{count} of them because an earlier message of their conversation failed")
            }),
            (further > 0).then(|| format!("{further} further failures are not shown")),
            self.interrupted.then(|| "interrupted before the end".to_owned()),
            (self.retryable || self.interrupted).then(|| {
                "next: the same command again; a message whose id is there is not sent twice"
                    .to_owned()
            }),
        ];
        for note in notes.into_iter().flatten() {
            writeln!(text, "{note}").expect("String takes all");
        }
        text
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "sent": self.sent,
            "duplicates": self.duplicates,
            "failed": self.failed,
            "failed_behind_another": self.failed_behind,
            "payload_bytes": self.payload_bytes,
            "took_seconds": self.took_seconds,
            "interrupted": self.interrupted,
            "failures": self.failures,
        })
    }
}
