use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tonic::Code;
use uuid::Builder;

use crate::{Error, proto, reason};

/// A message to append.
///
/// Its id and its `issued_at` are what makes retries safe. Left out, both are made when the message is handed to
/// the client and kept for all attempts of that call. A caller that wants to retry across calls or restarts gives
/// both and keeps them.
#[derive(Clone, Debug, Default)]
pub struct NewMessage {
    message: proto::NewMessage,
}

impl NewMessage {
    /// A message of kind content with this payload.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        let message = proto::NewMessage {
            kind: proto::Kind::Content.into(),
            payload: payload.into(),
            ..proto::NewMessage::default()
        };
        NewMessage { message }
    }

    /// A message of `text/plain`.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(text.into()).content_type("text/plain; charset=utf-8")
    }

    /// The idempotency key: 1 to 128 bytes, unique for conversation and sender. A random UUID by default.
    #[must_use]
    pub fn client_msg_id(mut self, id: impl Into<String>) -> Self {
        self.message.client_msg_id = id.into();
        self
    }

    /// When the sender first tried to append it, microseconds since the Unix epoch. Now by default.
    #[must_use]
    pub fn issued_at_us(mut self, issued_at_us: u64) -> Self {
        self.message.issued_at_us = issued_at_us;
        self
    }

    /// What the message is.
    #[must_use]
    pub fn kind(mut self, kind: proto::Kind) -> Self {
        self.message.kind = kind.into();
        self
    }

    /// Media type of the payload, up to 128 bytes.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.message.content_type = content_type.into();
        self
    }

    /// Adds a header: up to 32, and 8 KiB together.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.message.headers.push(proto::Header { name: name.into(), value: value.into() });
        self
    }

    /// The seq that a message of kind replacement replaces.
    #[must_use]
    pub fn target_seq(mut self, seq: u64) -> Self {
        self.message.target_seq = seq;
        self
    }

    /// W3C trace context, stored with the message.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.message.traceparent = traceparent.into();
        self
    }

    /// The message with its id, time and checksum, the same on every attempt from now on.
    pub(crate) fn seal(self, now_us: u64) -> proto::NewMessage {
        let mut message = self.message;
        if message.client_msg_id.is_empty() {
            // Not `Uuid::new_v4`, which asks the kernel each time.
            let id = Builder::from_random_bytes(rand::random()).into_uuid();
            message.client_msg_id = id.to_string();
        }
        if message.issued_at_us == 0 {
            message.issued_at_us = now_us;
        }
        message.payload_crc32c = Some(crc32c::crc32c(&message.payload));
        message
    }
}

impl From<proto::NewMessage> for NewMessage {
    /// The message as it is, but for its checksum, which is computed; an id or a time left out is made.
    fn from(message: proto::NewMessage) -> Self {
        NewMessage { message }
    }
}

/// One append: a sender's messages to one conversation, all or none.
#[derive(Clone, Debug)]
pub struct Append {
    conversation: String,
    sender: String,
    messages: Vec<NewMessage>,
    expected_tail: Option<u64>,
}

impl Append {
    /// One message.
    pub fn new(
        conversation: impl Into<String>,
        sender: impl Into<String>,
        message: NewMessage,
    ) -> Self {
        Self::batch(conversation, sender, [message])
    }

    /// 1 to 1,000 messages, 3 MiB together, which get contiguous seqs.
    pub fn batch(
        conversation: impl Into<String>,
        sender: impl Into<String>,
        messages: impl IntoIterator<Item = NewMessage>,
    ) -> Self {
        Append {
            conversation: conversation.into(),
            sender: sender.into(),
            messages: messages.into_iter().collect(),
            expected_tail: None,
        }
    }

    /// Append only if the next seq is this; 1 for "the conversation is new".
    #[must_use]
    pub fn expected_tail(mut self, tail: u64) -> Self {
        self.expected_tail = Some(tail);
        self
    }

    /// The request, the same for every attempt.
    pub(crate) fn seal(self, now_us: u64) -> proto::AppendRequest {
        proto::AppendRequest {
            conversation: self.conversation,
            sender: self.sender,
            messages: self.messages.into_iter().map(|message| message.seal(now_us)).collect(),
            expected_tail: self.expected_tail,
        }
    }
}

/// The wall clock in microseconds since the Unix epoch: stamps `issued_at`, and nothing else.
#[allow(clippy::disallowed_methods, reason = "callers hand in their own time where it matters")]
#[expect(clippy::disallowed_methods, reason = "a caller stamps its messages with its own clock")]
pub(crate) fn now_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// Payload and header bytes, as limits and credits count them.
pub(crate) fn message_bytes(message: &proto::Message) -> u64 {
    let headers: usize = message.headers.iter().map(|h| h.name.len() + h.value.len()).sum();
    (message.payload.len() + headers) as u64
}

/// Whether a message can stand there: seqs begin at 1, and one can follow on each.
pub(crate) fn is_seq(seq: u64) -> bool {
    (1..u64::MAX).contains(&seq)
}

/// Checks a message that was read against the checksum it was accepted with.
pub(crate) fn verify_payload(conversation: &str, message: &proto::Message) -> Result<(), Error> {
    if crc32c::crc32c(&message.payload) == message.payload_crc32c {
        return Ok(());
    }
    let text = format!("seq {} of {conversation} does not match its checksum", message.seq);
    Err(Error::local(Code::DataLoss, reason::DAMAGED_PAYLOAD, text))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn sealing_fills_what_is_missing_and_keeps_what_is_given() {
        let filled = NewMessage::new("hello").seal(7);
        assert_eq!(filled.issued_at_us, 7);
        assert_eq!(Uuid::parse_str(&filled.client_msg_id).unwrap().get_version_num(), 4);
        assert_eq!(filled.payload_crc32c, Some(crc32c::crc32c(b"hello")));

        let given = NewMessage::new("hello").client_msg_id("mine").issued_at_us(3).seal(7);
        assert_eq!((given.client_msg_id.as_str(), given.issued_at_us), ("mine", 3));
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let mut message = proto::Message {
            payload: Bytes::from_static(b"abc"),
            payload_crc32c: crc32c::crc32c(b"abc"),
            ..proto::Message::default()
        };
        assert!(verify_payload("c", &message).is_ok());
        message.payload = Bytes::from_static(b"abb");
        assert_eq!(verify_payload("c", &message).unwrap_err().reason(), reason::DAMAGED_PAYLOAD);
    }
}
