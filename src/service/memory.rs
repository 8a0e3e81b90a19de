//! What messages take of a node's memory while they wait (G12), appends for their outcome and responses for their
//! callers: all of it, not only what their limits count. A message without a payload is a few hundred bytes, and the
//! bytes that a request brought may lie in a buffer that is far larger.

use bytes::Bytes;
use quorate_client::proto::{AppendRequest, Conversation, Header, Message, NewMessage};

use crate::types::allocated;

/// Memory of an append whose contents were taken out of their buffer where that is much larger, by [`detach`].
pub fn memory_bytes(append: &AppendRequest) -> usize {
    let messages: usize = append.messages.iter().map(message_bytes).sum();
    size_of::<AppendRequest>()
        + allocated(append.conversation.len())
        + allocated(append.sender.len())
        + allocated(append.messages.capacity() * size_of::<NewMessage>())
        + messages
}

/// Memory of messages that were read, about.
pub fn messages_bytes(messages: &[Message]) -> usize {
    decoded_bytes(messages)
}

/// Memory of conversations that were listed, about.
pub fn conversations_bytes(conversations: &[Conversation]) -> usize {
    decoded_bytes(conversations)
}

fn decoded_bytes<T: prost::Message>(decoded: &[T]) -> usize {
    decoded.iter().map(|one| size_of::<T>() + one.encoded_len()).sum()
}

/// What a message takes beside its place in the list.
fn message_bytes(message: &NewMessage) -> usize {
    let headers = message.headers.iter();
    let headers: usize =
        headers.map(|header| allocated(header.name.len()) + allocated(header.value.len())).sum();
    allocated(message.client_msg_id.len())
        + allocated(message.content_type.len())
        + allocated(message.traceparent.len())
        + allocated(message.headers.capacity() * size_of::<Header>())
        + headers
        + allocated(message.payload.len())
}

/// Copies payloads and header values out of the buffer that they came in, which they would hold whole, unless they are at
/// least half of it.
pub fn detach(append: &mut AppendRequest, buffer_bytes: usize) {
    let messages = append.messages.iter();
    let held: usize = messages
        .map(|message| {
            let values = message.headers.iter().map(|header| header.value.len());
            message.payload.len() + values.sum::<usize>()
        })
        .sum();
    if held >= buffer_bytes / 2 {
        return;
    }
    for message in &mut append.messages {
        let values = message.headers.iter_mut().map(|header| &mut header.value);
        for bytes in values.chain([&mut message.payload]) {
            *bytes = Bytes::copy_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::log::Command;
    use crate::service::convert;
    use crate::types::limits;

    fn append(messages: Vec<NewMessage>) -> AppendRequest {
        AppendRequest {
            conversation: "acme/room".into(),
            sender: "ann".into(),
            messages,
            expected_tail: None,
        }
    }

    /// What the log's floor counts of the same append.
    fn proposed(request: &AppendRequest) -> usize {
        Command::Append(convert::append_command(request.clone(), None, || [0; 16])).memory_bytes()
    }

    #[test]
    fn what_comes_with_an_empty_payload_counts_too() {
        let message = NewMessage {
            client_msg_id: "i".repeat(limits::CLIENT_MSG_ID_BYTES_MAX),
            content_type: "t".repeat(limits::CONTENT_TYPE_BYTES_MAX),
            traceparent: "p".repeat(limits::TRACEPARENT_BYTES_MAX),
            ..NewMessage::default()
        };
        let request = append(vec![message.clone(); limits::BATCH_MESSAGES_MAX]);
        let texts = limits::CLIENT_MSG_ID_BYTES_MAX
            + limits::CONTENT_TYPE_BYTES_MAX
            + limits::TRACEPARENT_BYTES_MAX;
        let least = limits::BATCH_MESSAGES_MAX * (size_of::<NewMessage>() + texts);
        assert!((least..2 * least).contains(&memory_bytes(&request)));
        assert!((least..2 * least).contains(&proposed(&request)));

        let header = Header { name: "n".into(), value: Bytes::new() };
        let headers = vec![header; limits::HEADERS_MAX];
        let more = append(vec![NewMessage { headers, ..message.clone() }]);
        let one = append(vec![message]);
        let headers = limits::HEADERS_MAX * (size_of::<Header>() + 1);
        assert!(memory_bytes(&more) >= memory_bytes(&one) + headers);
        assert!(proposed(&more) >= proposed(&one) + headers);
    }

    #[test]
    fn the_largest_valid_batch_leaves_room_for_others() {
        let share = limits::BATCH_BYTES_MAX / limits::BATCH_MESSAGES_MAX;
        let header = Header { name: "n".into(), value: vec![0; 64].into() };
        let message = NewMessage {
            client_msg_id: "i".repeat(limits::CLIENT_MSG_ID_BYTES_MAX),
            headers: vec![header; limits::HEADERS_MAX],
            payload: vec![0; share - limits::HEADERS_MAX * 65].into(),
            ..NewMessage::default()
        };
        let request = append(vec![message; limits::BATCH_MESSAGES_MAX]);
        assert!(memory_bytes(&request) < limits::SESSION_IN_FLIGHT_BYTES_MAX);
        assert!(proposed(&request) < limits::GROUP_PROPOSALS_BYTES_MAX / 2);
    }

    /// An append as it is decoded, and the buffer that it came in.
    fn decoded(payload: usize, beside: usize) -> (AppendRequest, Bytes) {
        let headers = vec![Header { name: "n".into(), value: "v".into() }];
        let payload = vec![7; payload].into();
        let message = NewMessage { headers, payload, ..NewMessage::default() };
        let mut wire = append(vec![message]).encode_to_vec();
        // A field that nobody knows.
        prost::encoding::bytes::encode(99, &vec![0; beside], &mut wire);
        let buffer = Bytes::from(wire);
        (AppendRequest::decode(buffer.clone()).unwrap(), buffer)
    }

    fn lies_in(buffer: &Bytes, bytes: &Bytes) -> bool {
        buffer.as_ptr_range().contains(&bytes.as_ptr())
    }

    #[test]
    fn a_small_content_does_not_hold_a_large_buffer() {
        let (mut request, buffer) = decoded(1, 1 << 20);
        let before = request.clone();
        detach(&mut request, buffer.len());
        assert_eq!(request, before);
        let message = &request.messages[0];
        assert!(
            !lies_in(&buffer, &message.payload) && !lies_in(&buffer, &message.headers[0].value)
        );
        drop(before);
        assert!(buffer.is_unique(), "nothing else holds the buffer");
    }

    #[test]
    fn a_request_that_is_mostly_content_is_not_copied() {
        let (mut request, buffer) = decoded(1 << 20, 1);
        detach(&mut request, buffer.len());
        assert!(lies_in(&buffer, &request.messages[0].payload));
    }
}
