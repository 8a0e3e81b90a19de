//! Between the wire's messages and ours.

use bytes::Bytes;
use quorate_client::proto;

use crate::log::{Append, Appended, LanePlace, NewMessage};
use crate::storage::records::{ConversationHead, Kind, MessageRecord};
use crate::types::{ConversationName, GroupId, Seq, Timestamp};

/// A validated append as a command. `salt` is asked once for each message.
pub fn append_command(
    request: proto::AppendRequest,
    lane: Option<LanePlace>,
    salt: impl Fn() -> [u8; 16],
) -> Append {
    Append {
        conversation: ConversationName(request.conversation),
        sender: request.sender,
        messages: request
            .messages
            .into_iter()
            .map(|message| new_message(message, salt()))
            .collect(),
        expected_tail: request.expected_tail.map(Seq),
        lane,
    }
}

fn new_message(message: proto::NewMessage, salt: [u8; 16]) -> NewMessage {
    let payload_crc32c = message.payload_crc32c.unwrap_or_else(|| crc32c::crc32c(&message.payload));
    NewMessage {
        kind: kind_from_proto(message.kind()),
        client_msg_id: message.client_msg_id,
        issued_at: Timestamp(message.issued_at_us),
        content_type: message.content_type,
        headers: message.headers.into_iter().map(|header| (header.name, header.value)).collect(),
        payload: message.payload,
        payload_crc32c,
        target_seq: (message.target_seq != 0).then_some(Seq(message.target_seq)),
        traceparent: message.traceparent,
        salt,
    }
}

fn kind_from_proto(kind: proto::Kind) -> Kind {
    match kind {
        proto::Kind::Unspecified | proto::Kind::Content => Kind::Content,
        proto::Kind::Redaction => Kind::Redaction,
        proto::Kind::Replacement => Kind::Replacement,
        proto::Kind::System => Kind::System,
    }
}

fn kind_to_proto(kind: Kind) -> proto::Kind {
    match kind {
        Kind::Content => proto::Kind::Content,
        Kind::Redaction => proto::Kind::Redaction,
        Kind::Replacement => proto::Kind::Replacement,
        Kind::System => proto::Kind::System,
    }
}

/// What became of an append.
pub fn append_response(appended: Appended, position: proto::Position) -> proto::AppendResponse {
    proto::AppendResponse {
        first_seq: appended.first_seq.0,
        last_seq: appended.last_seq.0,
        commit_time_us: appended.commit_time.0,
        digest: Bytes::copy_from_slice(&appended.digest),
        duplicate: appended.duplicate,
        position: Some(position),
    }
}

/// A committed message.
pub fn message(record: MessageRecord) -> proto::Message {
    proto::Message {
        seq: record.seq.0,
        kind: kind_to_proto(record.kind).into(),
        sender: record.sender,
        client_msg_id: record.client_msg_id,
        issued_at_us: record.issued_at.0,
        commit_time_us: record.commit_time.0,
        content_type: record.content_type,
        headers: record
            .headers
            .into_iter()
            .map(|(name, value)| proto::Header { name, value })
            .collect(),
        payload: record.payload,
        target_seq: record.target_seq.map_or(0, |seq| seq.0),
        payload_crc32c: record.payload_crc32c,
        digest: Bytes::copy_from_slice(&record.digest),
        unread_ordinal: record.unread_ordinal,
        traceparent: record.traceparent,
    }
}

/// Payload and header bytes of a message on the wire: what credits count.
pub fn content_bytes(message: &proto::Message) -> u64 {
    let headers: usize =
        message.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    (headers + message.payload.len()) as u64
}

/// The head of a conversation.
pub fn conversation(head: ConversationHead, group: GroupId) -> proto::Conversation {
    proto::Conversation {
        name: head.name.0,
        first_seq: head.first_seq.0,
        tail: head.tail.0,
        bytes: head.bytes,
        last_commit_time_us: head.last_commit_time.0,
        digest: Bytes::copy_from_slice(&head.digest),
        unread_total: head.unread_total,
        group_id: group.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::AttemptId;

    #[test]
    fn an_append_keeps_every_field() {
        let request = proto::AppendRequest {
            conversation: "c".into(),
            sender: "s".into(),
            messages: vec![proto::NewMessage {
                client_msg_id: "m".into(),
                issued_at_us: 7,
                kind: proto::Kind::Replacement.into(),
                content_type: "text/plain".into(),
                headers: vec![proto::Header { name: "h".into(), value: Bytes::from_static(b"v") }],
                payload: Bytes::from_static(b"p"),
                target_seq: 3,
                payload_crc32c: Some(9),
                traceparent: "t".into(),
            }],
            expected_tail: Some(4),
        };
        let lane = LanePlace { attempt: AttemptId(6), predecessor: None };
        let command = append_command(request, Some(lane.clone()), || [5; 16]);
        let expected = Append {
            conversation: ConversationName("c".into()),
            sender: "s".into(),
            messages: vec![NewMessage {
                client_msg_id: "m".into(),
                issued_at: Timestamp(7),
                kind: Kind::Replacement,
                content_type: "text/plain".into(),
                headers: vec![("h".into(), Bytes::from_static(b"v"))],
                payload: Bytes::from_static(b"p"),
                payload_crc32c: 9,
                target_seq: Some(Seq(3)),
                traceparent: "t".into(),
                salt: [5; 16],
            }],
            expected_tail: Some(Seq(4)),
            lane: Some(lane),
        };
        assert_eq!(command, expected);
    }

    #[test]
    fn a_record_keeps_every_field_that_callers_may_see() {
        let record = MessageRecord {
            seq: Seq(3),
            kind: Kind::System,
            sender: "s".into(),
            client_msg_id: "m".into(),
            issued_at: Timestamp(7),
            commit_time: Timestamp(8),
            content_type: "text/plain".into(),
            headers: vec![("h".into(), Bytes::from_static(b"vv"))],
            payload: Bytes::from_static(b"ppp"),
            payload_crc32c: 9,
            target_seq: None,
            traceparent: "t".into(),
            unread_ordinal: 2,
            salt: [5; 16],
            digest: [6; 32],
        };
        let bytes = record.content_bytes() as u64;
        let sent = message(record);
        assert_eq!(content_bytes(&sent), bytes);
        let expected = proto::Message {
            seq: 3,
            kind: proto::Kind::System.into(),
            sender: "s".into(),
            client_msg_id: "m".into(),
            issued_at_us: 7,
            commit_time_us: 8,
            content_type: "text/plain".into(),
            headers: vec![proto::Header { name: "h".into(), value: Bytes::from_static(b"vv") }],
            payload: Bytes::from_static(b"ppp"),
            target_seq: 0,
            payload_crc32c: 9,
            digest: Bytes::from_static(&[6; 32]),
            unread_ordinal: 2,
            traceparent: "t".into(),
        };
        assert_eq!(sent, expected);
    }
}
