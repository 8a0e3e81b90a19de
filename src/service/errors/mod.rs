//! The one place where errors become what callers see: a gRPC status with typed details, or a `Failure` inside a
//! stream. Each error says whether it can be retried and whether the operation may have taken effect.

mod causes;
pub mod reason;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::time::Duration;

use quorate_client::proto::Failure;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::authorize::Operation;
use crate::log::AppendRefusal;
use crate::types::{NodeId, Seq, limits};

/// The domain of every `google.rpc.ErrorInfo` of ours.
pub const DOMAIN: &str = "quorate";

/// How soon to try again where the trouble passes as soon as a queue moves or the caller asks elsewhere.
const RETRY_SOON: Duration = Duration::from_millis(50);
/// How soon to try again where an election or a restart has to pass first.
const RETRY_LATER: Duration = Duration::from_millis(250);
/// How soon to try again where a person or the balancer has to act first.
const RETRY_MUCH_LATER: Duration = Duration::from_secs(5);

/// Why a call, or one part of a stream, fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct CallError {
    code: Code,
    reason: Cow<'static, str>,
    message: String,
    /// Present if the same request may be sent again, after this long.
    retry_after: Option<Duration>,
    may_have_taken_effect: bool,
    metadata: BTreeMap<String, String>,
}

/// Whether a request that got no answer may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It only reads.
    None,
    /// It writes.
    Possible,
}

impl CallError {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        CallError {
            code,
            reason: Cow::Borrowed(reason),
            message: message.into(),
            retry_after: None,
            may_have_taken_effect: false,
            metadata: BTreeMap::new(),
        }
    }

    fn unavailable(reason: &'static str, message: impl Into<String>, after: Duration) -> Self {
        CallError::new(Code::Unavailable, reason, message).retry_after(after)
    }

    fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The stable reason.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether the same request may be sent again.
    pub fn is_retryable(&self) -> bool {
        self.retry_after.is_some()
    }

    /// Whether the operation may have taken effect.
    pub fn may_have_taken_effect(&self) -> bool {
        self.may_have_taken_effect
    }

    /// `field`, `limit`, `tail` and so on.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The leader that a NOT_LEADER error names.
    pub fn leader_hint(&self) -> Option<NodeId> {
        self.metadata("leader")?.parse().ok().map(NodeId)
    }

    /// The field that the caller has to mend, as `google.rpc.BadRequest` names it.
    fn place(&self) -> Option<String> {
        let field = self.metadata("field").filter(|_| self.code == Code::InvalidArgument)?;
        Some(match self.metadata("message_index") {
            Some(index) => format!("messages[{index}].{field}"),
            None => field.to_owned(),
        })
    }

    /// The caller may not do this.
    pub fn denied(operation: Operation) -> Self {
        let message = format!("{} is not allowed", operation.name());
        CallError::new(Code::PermissionDenied, reason::PERMISSION_DENIED, message)
    }

    /// There is no topology, or the conversation's group is still being made.
    pub fn not_initialized() -> Self {
        let message = "the cluster is not initialized, or this group is still being made";
        CallError::unavailable(reason::NOT_INITIALIZED, message, RETRY_LATER)
    }

    /// This node does not lead the group. Nothing happened.
    pub fn not_leader(leader: Option<NodeId>) -> Self {
        let error = |reason, message| CallError::unavailable(reason, message, RETRY_LATER);
        match leader {
            Some(leader) => error(reason::NOT_LEADER, "this node does not lead the group")
                .with("leader", leader)
                .retry_after(RETRY_SOON),
            None => error(
                reason::NO_LEADER,
                "no leader of the group is known, or a quorum has not heard it for its lease",
            ),
        }
    }

    /// What would be refused for good by a clock that can be trusted. Nothing happened.
    pub fn clock_untrusted(refusal: &AppendRefusal) -> Self {
        let message = format!("{refusal}, by a leader whose clock is not known to be right");
        CallError::unavailable(reason::CLOCK_UNTRUSTED, message, RETRY_LATER)
    }

    /// A LOCAL read at a node without a replica.
    pub fn no_replica() -> Self {
        let message = "this node has no replica of the conversation's group";
        CallError::new(Code::FailedPrecondition, reason::NO_REPLICA, message)
    }

    /// The replica that served went away, or none could be asked.
    pub fn replica_gone() -> Self {
        let message = "no node with a replica of the conversation's group can be asked";
        CallError::unavailable(reason::REPLICA_STOPPED, message, RETRY_LATER)
    }

    /// Whoever made the responses of a stream went away before the last.
    pub fn cut_short() -> Self {
        let message = "the answer was cut short, as the node does when it stops";
        CallError::unavailable(reason::REPLICA_STOPPED, message, RETRY_LATER)
    }

    /// The replica is taking in a snapshot and has no whole state to read until it is in.
    pub fn installing() -> Self {
        let message = "this replica is installing a snapshot";
        CallError::unavailable(reason::REPLICA_STOPPED, message, RETRY_LATER)
    }

    /// The conversation is in another group than the one asked.
    pub fn wrong_group() -> Self {
        let message = "the conversation has moved to another group";
        CallError::unavailable(reason::WRONG_GROUP, message, RETRY_SOON)
    }

    /// The peer was not heard of, so nobody knows what became of the request.
    pub fn unreachable(node: NodeId, message: impl Into<String>, effect: Effect) -> Self {
        let mut error = CallError::unavailable(reason::PEER_UNREACHABLE, message, RETRY_LATER)
            .with("node", node);
        error.may_have_taken_effect = effect == Effect::Possible;
        error
    }

    /// An append was made and the deadline passed before its outcome was known.
    pub fn outcome_unknown(message: impl Into<String>) -> Self {
        let mut error = CallError::unavailable(reason::OUTCOME_UNKNOWN, message, RETRY_LATER);
        error.may_have_taken_effect = true;
        error
    }

    /// The deadline passed before anything was done.
    pub fn expired(message: impl Into<String>) -> Self {
        CallError::unavailable(reason::EXPIRED, message, RETRY_LATER)
    }

    /// An AT_LEAST read whose seq did not come.
    pub fn seq_not_reached(seq: Seq, tail: Seq) -> Self {
        let message = format!("the replica has not applied seq {seq} yet");
        CallError::unavailable(reason::SEQ_NOT_REACHED, message, RETRY_LATER).with("tail", tail)
    }

    /// A MAX_STALENESS read that took longer than it allows.
    pub fn too_stale(age_ms: u64) -> Self {
        let message = format!("the newest confirmation of this replica is {age_ms} ms old");
        CallError::unavailable(reason::TOO_STALE, message, RETRY_LATER).with("age_ms", age_ms)
    }

    /// A read that starts below the first seq.
    pub fn trimmed(first_seq: Seq, tail: Seq) -> Self {
        let message =
            format!("messages from {first_seq} up to but not including {tail} can be read");
        CallError::new(Code::OutOfRange, reason::TRIMMED, message)
            .with("first_seq", first_seq)
            .with("tail", tail)
    }

    /// A conversation that has never had a message.
    pub fn not_found() -> Self {
        CallError::new(Code::NotFound, reason::NOT_FOUND, "the conversation has no messages")
    }

    /// One response cannot hold the answer. `alone` says whether it could if nothing else were asked.
    pub fn response_too_large(limit: usize, alone: bool) -> Self {
        let message = "the messages do not fit into one response; ask for fewer, or use Read";
        let error = CallError::new(Code::ResourceExhausted, reason::RESPONSE_TOO_LARGE, message)
            .with("limit", limit);
        if alone { error.retry_after(RETRY_SOON) } else { error }
    }

    /// A conversation that is added while the subscription has it.
    pub fn already_subscribed(conversation: &str) -> Self {
        let message = format!("the subscription has {conversation} already");
        CallError::new(Code::InvalidArgument, reason::ALREADY_SUBSCRIBED, message)
            .with("field", "conversation")
    }

    /// An append behind a failed one of its lane.
    pub fn lane_broken(may_have_taken_effect: bool) -> Self {
        let message = "an earlier request to this conversation failed; reset the lane";
        let mut error =
            CallError::new(Code::Aborted, reason::LANE_BROKEN, message).retry_after(RETRY_SOON);
        error.may_have_taken_effect = may_have_taken_effect;
        error
    }

    /// Too much waits for this caller.
    pub fn overloaded(message: &'static str, limit: usize) -> Self {
        CallError::new(Code::ResourceExhausted, reason::OVERLOADED, message)
            .retry_after(RETRY_SOON)
            .with("limit", limit)
    }

    /// There is no room for one more followed conversation.
    pub fn too_much_followed() -> Self {
        let message = "followed conversations take all the memory of this node that they may";
        CallError::overloaded(message, limits::FOLLOWED_BYTES_MAX)
    }

    /// There is no room for one more lane of a session.
    pub fn too_many_lanes() -> Self {
        let message = "lanes of sessions take all the memory of this node that they may";
        CallError::overloaded(message, limits::LANES_BYTES_MAX)
    }

    /// The caller has taken no response of a stream for too long.
    pub fn not_taken() -> Self {
        let message = "too many responses wait for a caller who takes none";
        CallError::overloaded(message, limits::RESPONSE_QUEUE_MAX)
    }

    /// The node is about to stop.
    pub fn shutting_down() -> Self {
        CallError::unavailable(reason::SHUTTING_DOWN, "the node is shutting down", RETRY_LATER)
    }

    /// A request whose encoding is larger than any that is read.
    pub fn request_too_large(message: &str, limit: &str) -> Self {
        CallError::new(Code::InvalidArgument, reason::LIMIT_EXCEEDED, message)
            .with("field", "request")
            .with("limit", limit)
    }

    /// A request with more in its lists than is decoded.
    pub fn too_many_elements(limit: usize) -> Self {
        let message = format!("the lists of the request have more than {limit} elements");
        CallError::new(Code::InvalidArgument, reason::LIMIT_EXCEEDED, message)
            .with("field", "request")
            .with("limit", limit)
    }

    /// Text that cannot be decoded.
    pub fn malformed(message: &str) -> Self {
        let error = CallError::new(Code::InvalidArgument, reason::MALFORMED, message);
        match malformed_field(message) {
            Some(field) => error.with("field", field),
            None => error,
        }
    }

    /// A bug of ours: said so, not hidden.
    pub fn internal(message: impl Into<String>, effect: Effect) -> Self {
        let mut error = CallError::new(Code::Internal, reason::INTERNAL, message);
        error.may_have_taken_effect = effect == Effect::Possible;
        error
    }

    /// What a peer answered: its own words if they are ours, otherwise that it could not be asked. Where no connection
    /// was made it cannot have had an effect.
    pub fn from_peer(node: NodeId, status: &Status, effect: Effect) -> Self {
        CallError::from_status(status).unwrap_or_else(|| {
            let message = format!("node {node} did not answer: {}", status.message());
            // A node that does not know us as one of its cluster says so, without details, before it looks at a call.
            let is_refusal = status.code() == Code::FailedPrecondition;
            let nothing_happened = is_refusal || was_not_sent(status);
            let effect = if nothing_happened { Effect::None } else { effect };
            CallError::unreachable(node, message, effect)
        })
    }

    /// An error of ours that has been made a status; none if it is another's.
    pub fn from_status(status: &Status) -> Option<Self> {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN)?;
        let is = |key: &str| info.metadata.get(key).is_some_and(|value| value == "true");
        let delay = details.retry_info().and_then(|info| info.retry_delay).unwrap_or(RETRY_LATER);
        Some(CallError {
            code: status.code(),
            reason: Cow::Owned(info.reason.clone()),
            message: status.message().to_owned(),
            retry_after: is("retryable").then_some(delay),
            may_have_taken_effect: is("may_have_taken_effect"),
            metadata: info
                .metadata
                .iter()
                .filter(|(key, _)| !matches!(key.as_str(), "retryable" | "may_have_taken_effect"))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        })
    }
}

/// Whether no connection was made, so that the request cannot have arrived.
fn was_not_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// `conversation` of "failed to decode Protobuf message: AppendRequest.conversation: invalid string value".
fn malformed_field(message: &str) -> Option<&str> {
    let place = message.split(": ").nth(1)?;
    let (_, field) = place.rsplit_once('.')?;
    field.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(field)
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Status {
        let place = error.place();
        let mut metadata: HashMap<String, String> = error.metadata.into_iter().collect();
        metadata.insert("retryable".to_owned(), error.retry_after.is_some().to_string());
        metadata
            .insert("may_have_taken_effect".to_owned(), error.may_have_taken_effect.to_string());
        let mut details = ErrorDetails::with_error_info(error.reason, DOMAIN, metadata);
        if let Some(delay) = error.retry_after {
            details.set_retry_info(Some(delay));
        }
        if let Some(field) = place {
            details.add_bad_request_violation(field, error.message.as_str());
        }
        Status::with_error_details(error.code, error.message, details)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        Failure {
            code: error.code.into(),
            message: error.message,
            reason: error.reason.into_owned(),
            retryable: error.retry_after.is_some(),
            may_have_taken_effect: error.may_have_taken_effect,
            metadata: error.metadata.into_iter().collect(),
            retry_delay_ms: error.retry_after.map_or(0, |delay| delay.as_millis() as u64),
        }
    }
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> CallError {
        CallError {
            code: Code::from_i32(failure.code),
            reason: Cow::Owned(failure.reason),
            message: failure.message,
            retry_after: failure.retryable.then(|| Duration::from_millis(failure.retry_delay_ms)),
            may_have_taken_effect: failure.may_have_taken_effect,
            metadata: failure.metadata.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    #[test]
    fn an_error_crosses_a_node_unchanged() {
        for error in [
            CallError::not_leader(Some(NodeId(3))),
            CallError::trimmed(Seq(5), Seq(9)),
            CallError::outcome_unknown("leadership was lost"),
            CallError::denied(Operation::Append),
        ] {
            let status = Status::from(error.clone());
            assert_eq!(CallError::from_peer(PEER, &status, Effect::Possible), error);
        }
    }

    #[test]
    fn an_error_crosses_a_stream_unchanged() {
        let error = CallError::lane_broken(true);
        assert_eq!(CallError::from(Failure::from(error.clone())), error);
    }

    #[test]
    fn a_status_carries_reason_effect_and_delay() {
        let status = Status::from(CallError::not_leader(Some(NodeId(3))));
        assert_eq!(status.code(), Code::Unavailable);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.domain.as_str(), info.reason.as_str()), (DOMAIN, reason::NOT_LEADER));
        assert_eq!(info.metadata["retryable"], "true");
        assert_eq!(info.metadata["may_have_taken_effect"], "false");
        assert_eq!(info.metadata["leader"], "3");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(RETRY_SOON));
    }

    #[test]
    fn what_the_caller_has_to_mend_is_a_violation_of_its_field() {
        let mut error = CallError::request_too_large("too large", "4194304");
        let violated = |error: &CallError| {
            let details = Status::from(error.clone()).get_error_details();
            let violations = details.bad_request().unwrap().field_violations.clone();
            violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        assert_eq!(violated(&error), ["request"]);
        error = error.with("field", "payload").with("message_index", 3);
        assert_eq!(violated(&error), ["messages[3].payload"]);
        let other = Status::from(CallError::not_leader(None)).get_error_details();
        assert!(other.bad_request().is_none());
    }

    #[test]
    fn what_is_final_has_no_retry_delay() {
        let status = Status::from(CallError::not_found());
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["retryable"], "false");
        assert!(details.retry_info().is_none());
    }

    #[test]
    fn a_peer_that_was_not_reached_leaves_a_write_in_doubt_and_a_read_not() {
        let status = Status::unavailable("connection refused");
        let write = CallError::from_peer(PEER, &status, Effect::Possible);
        assert!(write.is_retryable() && write.may_have_taken_effect());
        assert_eq!(write.reason(), reason::PEER_UNREACHABLE);
        assert!(!CallError::from_peer(PEER, &status, Effect::None).may_have_taken_effect());
        let refused = Status::failed_precondition("another cluster");
        assert!(!CallError::from_peer(PEER, &refused, Effect::Possible).may_have_taken_effect());
    }

    #[test]
    fn the_leader_hint_is_read_back() {
        assert_eq!(CallError::not_leader(Some(PEER)).leader_hint(), Some(PEER));
        assert_eq!(CallError::not_leader(None).leader_hint(), None);
    }

    #[test]
    fn text_that_is_not_utf_8_names_its_field() {
        let mut request = quorate_client::proto::AppendRequest::default();
        let bytes: &[u8] = &[0x0a, 1, 0xff];
        let decoded = prost::Message::merge(&mut request, bytes).unwrap_err();
        let error = CallError::malformed(&decoded.to_string());
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.metadata("field"), Some("conversation"));
    }
}
