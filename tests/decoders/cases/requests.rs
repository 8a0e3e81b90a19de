//! What callers send: an append up to the command that is proposed, other requests with lists, the metadata of a call, page
//! tokens; and errors, as nodes and clients read them from each other's answers. The first byte tells which.

use std::time::Duration;

use prost::Message;
use quorate::log::{Append, Command, Proposal};
use quorate::service::{
    Call, CallError, Counted, Effect, Operation, convert, counted, page_token, validate,
};
use quorate::types::{NodeId, Timestamp, limits};
use quorate_client::limits::REQUEST_ELEMENTS_MAX;
use quorate_client::proto;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::{Case, choosing, chosen};

pub const CASE: Case = Case { seeds, check };

const SALT: [u8; 16] = [7; 16];
/// The longest that a call may take, whatever its caller says.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

fn check(input: &[u8]) {
    match chosen(input, 8) {
        Some((0, body)) => match proto::AppendRequest::decode(body) {
            Ok(request) => {
                let headers = request.messages.iter().map(|message| message.headers.len());
                let elements = request.messages.len() + headers.sum::<usize>();
                same_count::<proto::AppendRequest>(body, elements);
                append(request);
            }
            Err(error) => {
                assert_eq!(refused(&error), "MALFORMED");
                session(body);
            }
        },
        Some((1, body)) => metadata(body),
        Some((2, body)) => token(body),
        Some((3, body)) => status(body),
        Some((4, body)) => failure(body),
        Some((5, body)) => listed(body, |read: &proto::BatchReadRequest| read.conversations.len()),
        Some((6, body)) => listed(body, |follow: &proto::FollowRequest| follow.conversations.len()),
        Some((_, body)) => listed(body, |init: &proto::InitRequest| init.nodes.len()),
        None => {}
    }
}

fn refused(error: &prost::DecodeError) -> String {
    CallError::malformed(&error.to_string()).reason().to_owned()
}

/// What is counted before decoding is what comes of it.
fn same_count<R: Counted>(body: &[u8], elements: usize) {
    let counted = counted::<R>(body).expect("what decodes is counted");
    assert_eq!(counted.min(COUNTED_MAX), elements.min(COUNTED_MAX));
}

fn listed<R: Counted + Message + Default>(body: &[u8], elements: impl Fn(&R) -> usize) {
    match R::decode(body) {
        Ok(request) => same_count::<R>(body, elements(&request)),
        Err(error) => assert_eq!(refused(&error), "MALFORMED"),
    }
}

/// Counting ends here.
const COUNTED_MAX: usize = REQUEST_ELEMENTS_MAX + 1;

/// One level more. Where an append comes in pieces each of them is counted.
fn session(body: &[u8]) {
    let Ok(request) = proto::SessionRequest::decode(body) else { return };
    let messages = request.append.iter().flat_map(|append| &append.messages);
    let elements: usize = messages.map(|message| 1 + message.headers.len()).sum();
    let counted = counted::<proto::SessionRequest>(body).expect("what decodes is counted");
    assert!(counted >= elements.min(COUNTED_MAX));
}

/// What passes keeps to the limits, fits into an entry, and says the same in it.
fn append(mut request: proto::AppendRequest) {
    if let Err(violation) = validate::append(&mut request) {
        assert!(!violation.to_string().is_empty());
        return;
    }
    let name = validate::conversation(&request.conversation).expect("it is part of the request");
    assert!((1..=limits::BATCH_MESSAGES_MAX).contains(&request.messages.len()));
    let bytes: usize = request.messages.iter().map(validate::content_bytes).sum();
    assert!(bytes <= limits::BATCH_BYTES_MAX);
    let again = &mut request.clone();
    assert_eq!(validate::append(again), Ok(()));
    assert_eq!(*again, request, "a checked request is checked once more, and is another");

    let append = convert::append_command(request.clone(), None, || SALT);
    assert_eq!(append.conversation, name);
    same(&append, &request);
    let proposal = Proposal { stamped_at: Timestamp(1), commands: vec![Command::Append(append)] };
    let entry = proposal.encode();
    assert!(entry.len() <= limits::ENTRY_BYTES_MAX);
    assert_eq!(Proposal::decode(&entry), Ok(proposal));
}

fn same(append: &Append, request: &proto::AppendRequest) {
    assert_eq!(append.sender, request.sender);
    assert_eq!(append.expected_tail.map(|seq| seq.0), request.expected_tail);
    assert_eq!(append.messages.len(), request.messages.len());
    for (ours, theirs) in append.messages.iter().zip(&request.messages) {
        assert_eq!(ours.client_msg_id, theirs.client_msg_id);
        assert_eq!(ours.issued_at.0, theirs.issued_at_us);
        assert_eq!(ours.payload, theirs.payload);
        assert_eq!(ours.payload_crc32c, crc32c::crc32c(&theirs.payload));
        assert_eq!(ours.target_seq.map_or(0, |seq| seq.0), theirs.target_seq);
        assert_eq!(ours.headers.len(), theirs.headers.len());
    }
}

/// Request id and timeout, parted by a line feed.
fn metadata(body: &[u8]) {
    let mut parts = body.splitn(2, |byte| *byte == b'\n');
    let mut metadata = MetadataMap::new();
    for name in ["x-request-id", "grpc-timeout"] {
        let value = MetadataValue::<Ascii>::try_from(parts.next().unwrap_or_default());
        if let Ok(value) = value {
            metadata.insert(name, value);
        }
    }
    let call = Call::new(Operation::Append, &metadata);
    assert!(call.timeout <= TIMEOUT_MAX);
    assert!((1..=128).contains(&call.request_id().len()));
}

fn token(body: &[u8]) {
    let Ok(text) = std::str::from_utf8(body) else { return };
    if let Ok(Some(name)) = page_token::decode(text) {
        assert_eq!(page_token::encode(&name), text.to_ascii_lowercase());
    }
    if !text.is_empty() {
        assert_eq!(page_token::decode(&page_token::encode(text)).unwrap().as_deref(), Some(text));
    }
}

/// A code, and details as `google.rpc.Status`. An error keeps what it says from node to node; only a delay of more than
/// ten thousand years is cut once.
fn status(body: &[u8]) {
    let Some((code, details)) = body.split_first() else { return };
    let code = Code::from_i32(i32::from(*code));
    let status = Status::with_details(code, "it failed", details.to_vec().into());
    let received = |status| CallError::from_peer(NodeId(2), &status, Effect::Possible);
    let first = received(status);
    let error = received(Status::from(first.clone()));
    assert_eq!((error.to_string(), error.code()), (first.to_string(), first.code()));
    assert_eq!(received(Status::from(error.clone())), error);
    let failure = proto::Failure::from(error.clone());
    assert_eq!(failure.may_have_taken_effect, error.may_have_taken_effect());
}

fn failure(body: &[u8]) {
    let Ok(failure) = proto::Failure::decode(body) else { return };
    let (code, retryable) = (Code::from_i32(failure.code), failure.retryable);
    let error = quorate_client::Error::from(failure);
    assert_eq!((error.code(), error.retryable()), (code, retryable));
    let _ = (error.tail(), error.first_seq(), error.seqs(), error.retry_delay());
}

fn seeds() -> Vec<Vec<u8>> {
    let content = proto::NewMessage {
        client_msg_id: "one".into(),
        issued_at_us: 1_000_000,
        kind: proto::Kind::Content.into(),
        content_type: "text/plain".into(),
        headers: vec![proto::Header { name: "name".into(), value: "value".into() }],
        payload: "payload".into(),
        payload_crc32c: Some(crc32c::crc32c(b"payload")),
        ..Default::default()
    };
    let kind = proto::Kind::Replacement.into();
    let replacement = proto::NewMessage { kind, target_seq: 3, ..content.clone() };
    let request = proto::AppendRequest {
        conversation: "acme/room".into(),
        sender: "ann".into(),
        messages: vec![content, replacement],
        expected_tail: Some(4),
    };
    let session = proto::SessionRequest {
        request_id: 1,
        append: Some(request.clone()),
        ..proto::SessionRequest::default()
    };
    let names = vec!["acme/room".to_owned(), "acme/hall".to_owned()];
    let batch = proto::BatchReadRequest { conversations: names, last: 3, consistency: None };
    let start = proto::FollowStart { conversation: "acme/room".into(), ..Default::default() };
    let follow = proto::FollowRequest { conversations: vec![start], heartbeat_ms: 100 };
    let node = proto::init_request::Node { node_id: 1, peer_address: "10.0.0.1:7201".into() };
    let init = proto::InitRequest { nodes: vec![node], groups: 3, ..Default::default() };
    let error = CallError::not_leader(Some(NodeId(3)));
    let status = Status::from(error.clone());
    let code = [i32::from(status.code()) as u8];
    vec![
        choosing(0, &request.encode_to_vec()),
        choosing(0, &session.encode_to_vec()),
        // A header that ends beyond its message, and in a session a message that ends beyond its append.
        choosing(0, &[0x1a, 2, 0x2a, 4, 0x2a, 0, 0x2a, 0]),
        choosing(0, &[0x12, 2, 0x1a, 4, 0x2a, 0, 0x2a, 0]),
        choosing(1, b"request-1\n10S"),
        choosing(1, b"request-2\n99999999H"),
        choosing(2, page_token::encode("acme/room").as_bytes()),
        choosing(3, &[&code, status.details()].concat()),
        choosing(4, &proto::Failure::from(error).encode_to_vec()),
        choosing(5, &batch.encode_to_vec()),
        choosing(6, &follow.encode_to_vec()),
        choosing(7, &init.encode_to_vec()),
    ]
}
