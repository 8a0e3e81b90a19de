//! The one error type of the library, decoded from what the server says about it.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{proto, reason};

/// The domain of the server's `google.rpc.ErrorInfo`.
const DOMAIN: &str = "quorate";

/// Why a call failed, whether it may be tried again, and whether it may have taken effect all the same.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {}", .0.reason, .0.message)]
pub struct Error(Box<Details>);

#[derive(Clone, Debug)]
struct Details {
    code: Code,
    reason: String,
    message: String,
    retryable: bool,
    may_have_taken_effect: bool,
    retry_delay: Option<Duration>,
    metadata: HashMap<String, String>,
}

/// What a server may ask to wait at most; longer than that comes to the same, and must not go past the end of all time.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(24 * 3600);

/// Whether a call changes something if it arrives: decides what a broken connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Reads.
    None,
    /// Appends and everything else that writes.
    Possible,
}

impl From<&Status> for Error {
    /// What a node answered to a call that was made with the generated client in [`crate::proto`]. A status that does not
    /// come from a node may be that of a lost connection, and then the call may have taken effect.
    fn from(status: &Status) -> Error {
        Error::from_status(status, Effect::Possible)
    }
}

impl Error {
    /// The gRPC status code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Stable, for programs: see [`reason`].
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// For people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether the same request may be sent again. The library itself has tried until the deadline already.
    pub fn retryable(&self) -> bool {
        self.0.retryable
    }

    /// Whether this or an earlier attempt of the call may have taken effect. Ask [`Client::outcome`] to know.
    ///
    /// With [`reason::TOO_OLD`] it may be an attempt of an earlier call: what became of it is not kept any more, and is
    /// found only by reading the conversation.
    ///
    /// [`Client::outcome`]: crate::Client::outcome
    pub fn may_have_taken_effect(&self) -> bool {
        self.0.may_have_taken_effect
    }

    /// How long the server asks to wait before a retry: a day at most.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_delay
    }

    /// What else the server says: `field`, `limit`, `tail`, `first_seq`, `seqs`, `leader` and so on.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.0.metadata.get(key).map(String::as_str)
    }

    /// The tail of the conversation, where the error is about it.
    pub fn tail(&self) -> Option<u64> {
        self.metadata("tail")?.parse().ok()
    }

    /// The lowest seq that can be read, where the error is about it.
    pub fn first_seq(&self) -> Option<u64> {
        self.metadata("first_seq")?.parse().ok()
    }

    /// The seqs at which the ids of a refused append stand already, in the order of its messages: the first 100 at most.
    pub fn seqs(&self) -> Vec<u64> {
        let listed = self.metadata("seqs").unwrap_or_default();
        listed.split(',').filter_map(|seq| seq.trim().parse().ok()).collect()
    }

    /// The leader that the server names: a node id or a host:port.
    pub(crate) fn leader_hint(&self) -> Option<&str> {
        self.metadata("leader").filter(|leader| !leader.is_empty() && *leader != "0")
    }

    /// An error that this library itself finds.
    pub(crate) fn local(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Error(Box::new(Details {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            retryable: false,
            may_have_taken_effect: false,
            retry_delay: None,
            metadata: HashMap::new(),
        }))
    }

    /// The deadline passed; `last` is what the attempts before had met.
    pub(crate) fn deadline(last: Option<&Error>) -> Self {
        let message = match last {
            Some(last) => format!("the deadline passed; the last attempt failed with {last}"),
            None => "the deadline passed without an answer".to_owned(),
        };
        let mut error = Error::local(Code::DeadlineExceeded, reason::DEADLINE_PASSED, message)
            .with_retryable(true);
        if let Some(last) = last {
            error.0.metadata = last.0.metadata.clone();
            error.0.may_have_taken_effect = last.0.may_have_taken_effect;
        }
        error
    }

    /// An answer that contradicts the protocol.
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Error::local(Code::DataLoss, reason::PROTOCOL_VIOLATION, message)
    }

    /// The node ended a stream that ought to go on.
    pub(crate) fn stream_ended(effect: Effect) -> Self {
        Error::local(Code::Unavailable, reason::CONNECTION_BROKEN, "the node ended the stream")
            .with_retryable(true)
            .with_effect(effect == Effect::Possible)
    }

    pub(crate) fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    pub(crate) fn with_metadata(mut self, key: &str, value: impl ToString) -> Self {
        self.0.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Notes that this or an earlier attempt may have taken effect. Never takes the note back.
    pub(crate) fn with_effect(mut self, may_have_taken_effect: bool) -> Self {
        self.0.may_have_taken_effect |= may_have_taken_effect;
        self
    }

    /// Decodes a status. One without our details comes from the transport or from something between: whatever
    /// could be a lost connection counts as one, and a lost connection may have carried the request.
    pub(crate) fn from_status(status: &Status, effect: Effect) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        let Some(info) = info else { return Error::from_bare_status(status, effect) };
        let says = |key: &str| info.metadata.get(key).map(|value| value == "true");
        Error(Box::new(Details {
            code: status.code(),
            message: status.message().to_owned(),
            retryable: says("retryable").unwrap_or(false),
            may_have_taken_effect: says("may_have_taken_effect")
                .unwrap_or(effect == Effect::Possible),
            retry_delay: status
                .get_details_retry_info()
                .and_then(|retry| retry.retry_delay)
                .map(|delay| delay.min(RETRY_DELAY_MAX)),
            reason: info.reason,
            metadata: info.metadata,
        }))
    }

    fn from_bare_status(status: &Status, effect: Effect) -> Self {
        if is_connect_error(status) {
            return Error::local(Code::Unavailable, reason::CONNECT_FAILED, chain(status))
                .with_retryable(true);
        }
        let lost = matches!(
            status.code(),
            Code::Unavailable
                | Code::Unknown
                | Code::Internal
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::ResourceExhausted
        );
        let reason = match status.code() {
            Code::DeadlineExceeded => reason::DEADLINE_PASSED,
            _ if lost => reason::CONNECTION_BROKEN,
            _ => status_name(status.code()),
        };
        Error::local(status.code(), reason, chain(status))
            .with_retryable(lost)
            .with_effect(lost && effect == Effect::Possible)
    }

    /// Decodes an error inside a stream.
    pub(crate) fn from_failure(failure: proto::Failure) -> Self {
        let delay = failure.retry_delay_ms;
        Error(Box::new(Details {
            code: Code::from_i32(failure.code),
            reason: failure.reason,
            message: failure.message,
            retryable: failure.retryable,
            may_have_taken_effect: failure.may_have_taken_effect,
            retry_delay: (delay > 0).then(|| Duration::from_millis(delay).min(RETRY_DELAY_MAX)),
            metadata: failure.metadata,
        }))
    }

    /// Whether the node could not be reached or was lost, as opposed to having answered.
    pub(crate) fn is_transport(&self) -> bool {
        matches!(self.reason(), reason::CONNECT_FAILED | reason::CONNECTION_BROKEN)
    }

    /// Whether a new leader may mend it, as opposed to a node that is asked for too much.
    pub(crate) fn is_of_reach(&self) -> bool {
        self.is_transport() || matches!(self.code(), Code::Unavailable | Code::DeadlineExceeded)
    }
}

impl From<proto::Failure> for Error {
    fn from(failure: proto::Failure) -> Self {
        Error::from_failure(failure)
    }
}

/// Whether no connection was made, so that the request cannot have arrived.
fn is_connect_error(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The message with its causes: tonic's own says "transport error" and no more.
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

fn status_name(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn detailed(retryable: &str, effect: &str) -> Status {
        let metadata = HashMap::from([
            ("retryable".to_owned(), retryable.to_owned()),
            ("may_have_taken_effect".to_owned(), effect.to_owned()),
            ("leader".to_owned(), "127.0.0.1:7".to_owned()),
            ("seqs".to_owned(), "3, 4".to_owned()),
        ]);
        let mut details = ErrorDetails::with_error_info("NOT_LEADER", DOMAIN, metadata);
        details.set_retry_info(Some(Duration::from_millis(70)));
        Status::with_error_details(Code::Unavailable, "not here", details)
    }

    #[test]
    fn details_of_the_server_are_taken_as_they_are() {
        let error = Error::from_status(&detailed("true", "false"), Effect::Possible);
        assert_eq!(error.reason(), reason::NOT_LEADER);
        assert_eq!(error.retry_delay(), Some(Duration::from_millis(70)));
        assert_eq!(error.leader_hint(), Some("127.0.0.1:7"));
        assert_eq!(error.seqs(), [3, 4]);
        assert!(error.retryable() && !error.may_have_taken_effect());

        let error = Error::from_status(&detailed("false", "true"), Effect::None);
        assert!(!error.retryable() && error.may_have_taken_effect());
    }

    #[test]
    fn a_lost_connection_may_have_carried_an_append_but_never_a_read_with_effect() {
        let lost = Status::unavailable("connection reset");
        let append = Error::from_status(&lost, Effect::Possible);
        assert!(append.retryable() && append.may_have_taken_effect());
        let read = Error::from_status(&lost, Effect::None);
        assert!(read.retryable() && !read.may_have_taken_effect());
    }

    #[test]
    fn details_of_another_domain_are_not_ours() {
        let details = ErrorDetails::with_error_info("NOT_LEADER", "proxy.example", HashMap::new());
        let status = Status::with_error_details(Code::InvalidArgument, "no", details);
        let error = Error::from_status(&status, Effect::Possible);
        assert_eq!(error.reason(), "INVALID_ARGUMENT");
        assert!(!error.retryable());
    }

    #[test]
    fn an_earlier_uncertain_attempt_is_not_forgotten() {
        let uncertain = Error::stream_ended(Effect::Possible);
        assert!(Error::deadline(Some(&uncertain)).may_have_taken_effect());
        assert!(!Error::deadline(None).may_have_taken_effect());
    }
}
