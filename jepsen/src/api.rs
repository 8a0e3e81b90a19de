//! Between the client library and the history: what a recorded call asks for, and how what came of it is recorded. The
//! simulation in `tests/sim` records in the same way.

use quorate_client::proto;
use quorate_client::proto::delivery::Kind;
use quorate_client::proto::get_outcome_response::State;
use quorate_client::proto::{AppendResponse, GetOutcomeRequest, GetOutcomeResponse, Message};
use quorate_client::{Error, Page, Read, Start, reason};

use crate::history::{
    Answer, Consistency, Delivered, Delivery, EventKind, OutcomeCall, OutcomeState, Position,
    ReadCall, Refusal, Seen,
};

/// A read.
pub fn read(call: &ReadCall) -> Read {
    let read = Read::new(&call.conversation).start(Start::Seq(call.from_seq)).limit(limit(call));
    read.consistency(level(call.consistency))
}

/// How fresh.
pub fn level(consistency: Consistency) -> quorate_client::Consistency {
    use quorate_client::Consistency as Level;
    match consistency {
        Consistency::Linearizable => Level::Linearizable,
        Consistency::AtLeast(seq) => Level::AtLeast(seq),
        Consistency::MaxStalenessMs(age) => Level::MaxStalenessMs(age),
        Consistency::Local => Level::Local,
    }
}

/// How many messages.
pub fn limit(call: &ReadCall) -> u32 {
    u32::try_from(call.limit).unwrap_or(u32::MAX)
}

/// An outcome query.
pub fn get_outcome(call: &OutcomeCall) -> GetOutcomeRequest {
    GetOutcomeRequest {
        conversation: call.conversation.clone(),
        sender: call.sender.clone(),
        client_msg_id: call.client_msg_id.clone(),
        issued_at_us: call.issued_at_us,
        settle: call.settle,
    }
}

/// How a call ended that was refused, or not answered.
pub fn failed(error: &Error) -> EventKind {
    let refusal = refusal(error);
    match refusal.may_have_taken_effect {
        true => EventKind::Info(refusal),
        false => EventKind::Fail(refusal),
    }
}

/// An error.
pub fn refusal(error: &Error) -> Refusal {
    Refusal {
        reason: error.reason().to_owned(),
        message: error.message().to_owned(),
        may_have_taken_effect: error.may_have_taken_effect(),
        retryable: error.retryable(),
        tail: error.tail(),
    }
}

/// A stream that said nothing of why it ended.
pub fn ended_by_nobody() -> Refusal {
    Refusal {
        reason: reason::PROTOCOL_VIOLATION.to_owned(),
        message: "it was ended by nobody".to_owned(),
        may_have_taken_effect: false,
        retryable: false,
        tail: None,
    }
}

/// An acknowledgement.
pub fn appended(response: &AppendResponse) -> Answer {
    Answer::Appended {
        first_seq: response.first_seq,
        last_seq: response.last_seq,
        commit_time_us: response.commit_time_us,
        duplicate: response.duplicate,
        digest: hex::encode(&response.digest),
    }
}

/// What a read found.
pub fn page(page: &Page) -> Answer {
    let position = page.position.unwrap_or_default();
    Answer::Read {
        messages: page.messages.iter().map(seen).collect(),
        first_seq: page.first_seq,
        tail: page.tail,
        position: Position {
            node: u32::try_from(position.node_id).unwrap_or(0),
            group: position.group_id,
            applied_index: position.applied_index,
            age_ms: position.age_ms,
        },
    }
}

/// What became of a message.
pub fn outcome(response: &GetOutcomeResponse) -> Answer {
    let state = match response.state() {
        State::Committed => OutcomeState::Committed,
        State::Burnt => OutcomeState::Burnt,
        State::NotCommitted | State::Unspecified => OutcomeState::NotCommitted,
    };
    Answer::Outcome { state, seq: response.seq }
}

/// What came on a stream; none if that was its end.
pub fn delivered(delivery: quorate_client::Delivery) -> Option<Delivery> {
    use quorate_client::Delivery as Came;
    let (conversation, what) = match delivery {
        Came::Messages { conversation, messages } => {
            (conversation, Delivered::Messages(messages.iter().map(seen).collect()))
        }
        Came::CaughtUp { conversation, next_seq } => {
            (conversation, Delivered::CaughtUp { next_seq })
        }
        Came::Gap { conversation, from_seq, to_seq } => {
            (conversation, Delivered::Gap { from_seq, to_seq })
        }
        _ => return None,
    };
    Some(Delivery { conversation, what })
}

/// The same where it came without the client library; none for what says only that the stream lives.
pub fn came(delivery: proto::Delivery) -> Option<Delivery> {
    use quorate_client::Delivery as Came;
    let delivery = match delivery.kind? {
        Kind::Messages(proto::delivery::Messages { conversation, messages }) => {
            Came::Messages { conversation, messages }
        }
        Kind::CaughtUp(proto::delivery::CaughtUp { conversation, next_seq }) => {
            Came::CaughtUp { conversation, next_seq }
        }
        Kind::Gap(proto::delivery::Gap { conversation, from_seq, to_seq }) => {
            Came::Gap { conversation, from_seq, to_seq }
        }
        Kind::Heartbeat(_) => return None,
    };
    delivered(delivery)
}

/// A message as it came.
fn seen(message: &Message) -> Seen {
    Seen {
        seq: message.seq,
        sender: message.sender.clone(),
        client_msg_id: message.client_msg_id.clone(),
        hash: hash(&message.payload),
        commit_time_us: message.commit_time_us,
        digest: hex::encode(&message.digest),
    }
}

/// Tells payloads apart.
pub fn hash(payload: &[u8]) -> u64 {
    let whole = blake3::hash(payload);
    u64::from_be_bytes(whole.as_bytes()[..8].try_into().expect("eight of thirty-two bytes"))
}
