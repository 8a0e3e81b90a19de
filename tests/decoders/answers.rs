//! Answers of nodes to clients, made of every number: what `cases::answers` holds of bytes, where bent bytes rarely
//! come.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use quorate::service::DOMAIN;
use quorate_client::proto::{self, delivery};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::cases::answers::{
    CASE, FOLLOW, NAME, READ, READ_BACKWARD, READ_EARLIEST, SESSION, SUBSCRIBE, message,
};
use crate::cases::choosing;
use crate::ground::stream;
use crate::peers::number;
use crate::settings_of_ports;

/// A code of its own in front of details, as `cases::answers` takes them.
fn ending(status: &Status) -> Vec<u8> {
    [&[i32::from(status.code()) as u8], status.details()].concat()
}

fn answer<M: Message>(which: usize, status: &Status, messages: &[M]) -> Vec<u8> {
    let messages = messages.iter().map(Message::encode_to_vec);
    let parts: Vec<_> = std::iter::once(ending(status)).chain(messages).collect();
    choosing(which, &stream(parts))
}

fn holds<M: Message>(which: usize, status: &Status, messages: &[M]) {
    (CASE.check)(&answer(which, status, messages));
}

fn done() -> Status {
    Status::new(Code::Ok, "")
}

/// Something of the conversation.
fn kind() -> impl Strategy<Value = delivery::Kind> {
    let conversation = || NAME.to_owned();
    prop_oneof![
        vec(number(), 0..4).prop_map(move |seqs| {
            let messages = seqs.into_iter().map(message).collect();
            delivery::Kind::Messages(delivery::Messages { conversation: conversation(), messages })
        }),
        (number(), number()).prop_map(move |(from_seq, to_seq)| {
            delivery::Kind::Gap(delivery::Gap { conversation: conversation(), from_seq, to_seq })
        }),
        number().prop_map(move |next_seq| {
            let conversation = conversation();
            delivery::Kind::CaughtUp(delivery::CaughtUp { conversation, next_seq })
        }),
    ]
}

/// An error that may be retried, but only after so many seconds.
fn later(seconds: i64) -> Status {
    let retryable = HashMap::from([("retryable".to_owned(), "true".to_owned())]);
    let details = ErrorDetails::with_error_info("NO_LEADER", DOMAIN, retryable);
    let status = Status::with_error_details(Code::Unavailable, "not now", details);
    let delay = prost_types::Duration { seconds, nanos: 0 }.encode_to_vec();
    // The only field of `google.rpc.RetryInfo`.
    let value = [&[0x0a, delay.len() as u8], &delay[..]].concat();
    let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
    let info = prost_types::Any { type_url, value }.encode_to_vec();
    // One more of the details of `google.rpc.Status`.
    let details = [status.details(), &[0x1a, info.len() as u8], &info].concat();
    Status::with_details(status.code(), status.message(), details.into())
}

/// Seqs end before the last of all numbers, because none could follow it: it is no message, and nobody panics.
#[test]
fn a_page_does_not_go_on_behind_the_last_of_all_numbers() {
    let messages = vec![message(u64::MAX), message(1)];
    let page = proto::ReadResponse { messages, ..Default::default() };
    (CASE.check)(&answer(READ_EARLIEST, &done(), &[page]));
}

#[test]
fn a_feed_does_not_come_to_the_last_of_all_numbers() {
    let messages = vec![message(u64::MAX)];
    let delivered = delivery::Messages { conversation: NAME.to_owned(), messages };
    let delivery = proto::Delivery { kind: Some(delivery::Kind::Messages(delivered)) };
    let followed = proto::FollowResponse { delivery: Some(delivery) };
    (CASE.check)(&answer(FOLLOW, &done(), &[followed]));
}

/// A node may ask for any pause. One that does not fit into time ends the call, and nobody panics.
#[test]
fn a_delay_beyond_all_time_ends_a_call() {
    (CASE.check)(&answer::<proto::ReadResponse>(READ, &later(i64::MAX), &[]));
}

/// tonic goes on in the middle of a message that it could not decode, if it is asked: what it then finds is no answer,
/// and no append is committed by it.
#[test]
fn nothing_is_believed_behind_what_cannot_be_decoded() {
    let appended = proto::AppendResponse { first_seq: 3, last_seq: 3, ..Default::default() };
    let result = Some(proto::session_response::Result::Appended(appended));
    let answer = proto::SessionResponse { request_id: 1, result }.encode_to_vec();
    // Tag 0 is none. The rest is an answer together with the next byte, which begins another message and is made part
    // of a field that nobody knows.
    let malformed = [&[0], &answer[..], &[0x7a, 1]].concat();
    assert!(proto::SessionResponse::decode(&*malformed).is_err());
    (CASE.check)(&choosing(SESSION, &stream([ending(&done()), malformed, vec![0]])));
}

proptest! {
    #![proptest_config(settings_of_ports())]

    #[test]
    fn pages(seqs in vec(vec(number(), 0..4), 0..3), first_seq in number(), tail in number()) {
        let part = |seqs: &Vec<u64>| proto::ReadResponse {
            messages: seqs.iter().copied().map(message).collect(),
            first_seq,
            tail,
            position: None,
        };
        let parts: Vec<_> = seqs.iter().map(part).collect();
        for which in [READ, READ_BACKWARD, READ_EARLIEST] {
            holds(which, &done(), &parts);
        }
    }

    #[test]
    fn deliveries(kinds in vec(kind(), 0..5)) {
        let delivery = |kind| proto::Delivery { kind: Some(kind) };
        let all: Vec<_> = kinds.into_iter().map(delivery).collect();
        let followed = all.iter().cloned();
        let followed = followed.map(|one| proto::FollowResponse { delivery: Some(one) });
        holds(FOLLOW, &done(), &followed.collect::<Vec<_>>());
        let subscribed = all.into_iter().map(|one| proto::SubscribeResponse {
            kind: Some(proto::subscribe_response::Kind::Delivery(one)),
        });
        holds(SUBSCRIBE, &done(), &subscribed.collect::<Vec<_>>());
    }

    #[test]
    fn delays(seconds in prop_oneof![Just(i64::MAX), any::<i64>(), 0..1_000i64]) {
        let status = later(seconds);
        for which in [READ, FOLLOW] {
            holds::<proto::ReadResponse>(which, &status, &[]);
        }
    }
}
