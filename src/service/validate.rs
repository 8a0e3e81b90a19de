//! What a request may hold, checked where it enters. Each violation names the field and the limit.

use std::fmt;

use quorate_client::proto::{AppendRequest, Kind, NewMessage};

use crate::types::{ConversationName, limits};

/// A field that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which field, as the proto names it.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
    /// Which message of the batch, from 0.
    pub message_index: Option<usize>,
}

/// See [`Violation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is required.
    Empty,
    /// It is over this limit: bytes, entries or a value, as the field has it.
    OverLimit(u64),
    /// It has to be something else.
    Invalid(&'static str),
    /// The payload came with another checksum.
    ChecksumMismatch,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem {
            Problem::Empty => write!(f, "{} is empty", self.field),
            Problem::OverLimit(limit) => write!(f, "{} is over its limit of {limit}", self.field),
            Problem::Invalid(expected) => write!(f, "{} has to be {expected}", self.field),
            Problem::ChecksumMismatch => {
                write!(f, "{} does not match the payload that arrived", self.field)
            }
        }?;
        match self.message_index {
            Some(index) => write!(f, " in message {index} of the batch"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Violation {}

impl Violation {
    /// A violation of a request as a whole.
    pub fn of(field: &'static str, problem: Problem) -> Self {
        Violation { field, problem, message_index: None }
    }
}

/// A conversation's name: 1 to 512 bytes.
pub fn conversation(name: &str) -> Result<ConversationName, Violation> {
    conversation_name(name)?;
    Ok(ConversationName(name.to_owned()))
}

/// The same, where the name stays where it is.
pub fn conversation_name(name: &str) -> Result<(), Violation> {
    text("conversation", name, limits::CONVERSATION_NAME_BYTES_MAX)
}

/// A required text of at most `limit` bytes.
pub fn text(field: &'static str, value: &str, limit: usize) -> Result<(), Violation> {
    if value.is_empty() {
        return Err(Violation::of(field, Problem::Empty));
    }
    at_most(field, value.len(), limit)
}

/// A size or count of at most `limit`.
pub fn at_most(field: &'static str, size: usize, limit: usize) -> Result<(), Violation> {
    match size <= limit {
        true => Ok(()),
        false => Err(Violation::of(field, Problem::OverLimit(limit as u64))),
    }
}

/// An append. Fills in the payload checksums that the caller left out, so that damage on the way to the leader and
/// to its disk is noticed.
pub fn append(request: &mut AppendRequest) -> Result<(), Violation> {
    conversation_name(&request.conversation)?;
    text("sender", &request.sender, limits::SENDER_BYTES_MAX)?;
    if request.expected_tail == Some(0) {
        return Err(Violation::of("expected_tail", Problem::Invalid("1 or more")));
    }
    if request.messages.is_empty() {
        return Err(Violation::of("messages", Problem::Empty));
    }
    at_most("messages", request.messages.len(), limits::BATCH_MESSAGES_MAX)?;
    for (index, message) in request.messages.iter_mut().enumerate() {
        new_message(message)
            .map_err(|violation| Violation { message_index: Some(index), ..violation })?;
    }
    let batch_bytes = request.messages.iter().map(content_bytes).sum();
    at_most("messages", batch_bytes, limits::BATCH_BYTES_MAX)
}

/// Payload and header bytes: what limits count.
pub fn content_bytes(message: &NewMessage) -> usize {
    header_bytes(message) + message.payload.len()
}

fn header_bytes(message: &NewMessage) -> usize {
    message.headers.iter().map(|header| header.name.len() + header.value.len()).sum()
}

fn new_message(message: &mut NewMessage) -> Result<(), Violation> {
    text("client_msg_id", &message.client_msg_id, limits::CLIENT_MSG_ID_BYTES_MAX)?;
    if message.issued_at_us == 0 {
        return Err(Violation::of("issued_at_us", Problem::Empty));
    }
    at_most("content_type", message.content_type.len(), limits::CONTENT_TYPE_BYTES_MAX)?;
    at_most("traceparent", message.traceparent.len(), limits::TRACEPARENT_BYTES_MAX)?;
    at_most("payload", message.payload.len(), limits::PAYLOAD_BYTES_MAX)?;
    headers(message)?;
    kind_and_target(message)?;
    let computed = crc32c::crc32c(&message.payload);
    if message.payload_crc32c.is_some_and(|given| given != computed) {
        return Err(Violation::of("payload_crc32c", Problem::ChecksumMismatch));
    }
    message.payload_crc32c = Some(computed);
    Ok(())
}

fn headers(message: &NewMessage) -> Result<(), Violation> {
    at_most("headers", message.headers.len(), limits::HEADERS_MAX)?;
    for header in &message.headers {
        text("headers.name", &header.name, limits::HEADER_NAME_BYTES_MAX)?;
    }
    at_most("headers", header_bytes(message), limits::HEADER_BYTES_MAX)
}

fn kind_and_target(message: &NewMessage) -> Result<(), Violation> {
    let expected = "content, replacement or system";
    match Kind::try_from(message.kind) {
        Ok(Kind::Replacement) if message.target_seq == 0 => {
            Err(Violation::of("target_seq", Problem::Empty))
        }
        Ok(Kind::Replacement) => Ok(()),
        Ok(Kind::Unspecified | Kind::Content | Kind::System) if message.target_seq != 0 => {
            Err(Violation::of("target_seq", Problem::Invalid("0 unless the kind is replacement")))
        }
        Ok(Kind::Unspecified | Kind::Content | Kind::System) => Ok(()),
        Ok(Kind::Redaction) | Err(_) => Err(Violation::of("kind", Problem::Invalid(expected))),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_client::proto::Header;

    use super::*;

    fn request() -> AppendRequest {
        AppendRequest {
            conversation: "acme/room-42".into(),
            sender: "alice".into(),
            messages: vec![message()],
            expected_tail: None,
        }
    }

    fn message() -> NewMessage {
        NewMessage {
            client_msg_id: "m1".into(),
            issued_at_us: 1,
            payload: Bytes::from_static(b"hello"),
            ..NewMessage::default()
        }
    }

    /// What is refused after one change to a request that is good.
    fn refused(change: impl FnOnce(&mut AppendRequest)) -> Violation {
        let mut request = request();
        change(&mut request);
        append(&mut request).unwrap_err()
    }

    fn refused_message(change: impl FnOnce(&mut NewMessage)) -> Violation {
        let violation = refused(|request| change(&mut request.messages[0]));
        assert_eq!(violation.message_index, Some(0));
        violation
    }

    #[test]
    fn a_good_append_passes_and_gets_its_checksum() {
        let mut request = request();
        append(&mut request).unwrap();
        assert_eq!(request.messages[0].payload_crc32c, Some(crc32c::crc32c(b"hello")));
    }

    #[test]
    fn values_at_their_limits_pass() {
        let mut request = request();
        request.conversation = "c".repeat(limits::CONVERSATION_NAME_BYTES_MAX);
        request.sender = "s".repeat(limits::SENDER_BYTES_MAX);
        let message = &mut request.messages[0];
        message.client_msg_id = "i".repeat(limits::CLIENT_MSG_ID_BYTES_MAX);
        message.payload = vec![0; limits::PAYLOAD_BYTES_MAX].into();
        message.headers = (0..limits::HEADERS_MAX)
            .map(|_| Header { name: "n".into(), value: vec![0; 255].into() })
            .collect();
        append(&mut request).unwrap();
    }

    #[test]
    fn each_text_has_a_limit_that_is_named() {
        let over = |field, limit: usize| Violation::of(field, Problem::OverLimit(limit as u64));
        let long = |limit: usize| "x".repeat(limit + 1);
        let limit = limits::CONVERSATION_NAME_BYTES_MAX;
        assert_eq!(refused(|r| r.conversation = long(limit)), over("conversation", limit));
        let limit = limits::SENDER_BYTES_MAX;
        assert_eq!(refused(|r| r.sender = long(limit)), over("sender", limit));
        let in_message = |field, limit| Violation { message_index: Some(0), ..over(field, limit) };
        let limit = limits::CLIENT_MSG_ID_BYTES_MAX;
        let violation = refused_message(|m| m.client_msg_id = long(limit));
        assert_eq!(violation, in_message("client_msg_id", limit));
        let limit = limits::CONTENT_TYPE_BYTES_MAX;
        let violation = refused_message(|m| m.content_type = long(limit));
        assert_eq!(violation, in_message("content_type", limit));
        let limit = limits::TRACEPARENT_BYTES_MAX;
        let violation = refused_message(|m| m.traceparent = long(limit));
        assert_eq!(violation, in_message("traceparent", limit));
        let limit = limits::PAYLOAD_BYTES_MAX;
        let violation = refused_message(|m| m.payload = long(limit).into());
        assert_eq!(violation, in_message("payload", limit));
    }

    #[test]
    fn headers_are_limited_by_count_name_and_sum() {
        let header = |name: usize, value: usize| Header {
            name: "n".repeat(name),
            value: vec![0; value].into(),
        };
        let violation = refused_message(|m| m.headers = vec![header(1, 1); 33]);
        assert_eq!(violation.problem, Problem::OverLimit(limits::HEADERS_MAX as u64));
        let violation = refused_message(|m| m.headers = vec![header(129, 1)]);
        assert_eq!(violation.field, "headers.name");
        let violation = refused_message(|m| m.headers = vec![header(0, 1)]);
        assert_eq!(violation.problem, Problem::Empty);
        let violation = refused_message(|m| m.headers = vec![header(1, 4096); 2]);
        assert_eq!(violation.problem, Problem::OverLimit(limits::HEADER_BYTES_MAX as u64));
    }

    #[test]
    fn batches_are_limited_by_count_and_bytes() {
        assert_eq!(refused(|r| r.messages.clear()), Violation::of("messages", Problem::Empty));
        let violation = refused(|r| r.messages = vec![message(); limits::BATCH_MESSAGES_MAX + 1]);
        assert_eq!(violation.problem, Problem::OverLimit(limits::BATCH_MESSAGES_MAX as u64));
        let violation = refused(|r| {
            r.messages[0].payload = vec![0; limits::PAYLOAD_BYTES_MAX].into();
            r.messages = vec![r.messages[0].clone(); 4];
        });
        assert_eq!(violation.problem, Problem::OverLimit(limits::BATCH_BYTES_MAX as u64));
    }

    #[test]
    fn required_fields_are_missed() {
        assert_eq!(refused(|r| r.conversation.clear()).problem, Problem::Empty);
        assert_eq!(refused(|r| r.sender.clear()).problem, Problem::Empty);
        assert_eq!(refused_message(|m| m.client_msg_id.clear()).problem, Problem::Empty);
        assert_eq!(refused_message(|m| m.issued_at_us = 0).field, "issued_at_us");
        assert_eq!(refused(|r| r.expected_tail = Some(0)).field, "expected_tail");
    }

    #[test]
    fn kinds_and_targets_go_together() {
        assert_eq!(refused_message(|m| m.kind = Kind::Redaction.into()).field, "kind");
        assert_eq!(refused_message(|m| m.kind = 99).field, "kind");
        assert_eq!(refused_message(|m| m.kind = Kind::Replacement.into()).field, "target_seq");
        assert_eq!(refused_message(|m| m.target_seq = 3).field, "target_seq");
        let mut good = request();
        good.messages[0].kind = Kind::Replacement.into();
        good.messages[0].target_seq = 3;
        append(&mut good).unwrap();
    }

    #[test]
    fn a_payload_that_changed_on_the_way_is_refused() {
        let violation = refused_message(|m| m.payload_crc32c = Some(1));
        assert_eq!(violation.problem, Problem::ChecksumMismatch);
    }
}
