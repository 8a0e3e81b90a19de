//! Random commands, applied to the state machine and to the model.

use bytes::Bytes;
use proptest::prelude::*;

use super::model::Model;
use super::replica::{Replica, minutes, name, text_message};
use crate::log::queries;
use crate::log::queries::Slice;
use crate::log::{
    Append, Command, IdKey, LanePlace, NewMessage, Outcome, Predecessor, Proposal, Settle,
};
use crate::storage::Direction;
use crate::storage::records::{Kind, MessageRecord};
use crate::types::{AttemptId, Seq, Timestamp};

/// Few of everything, so that ids, tails and targets meet.
const CONVERSATIONS: [&str; 3] = ["room/a", "room/b", "other"];
const SENDERS: [&str; 2] = ["alice", "bob"];

#[derive(Clone, Debug)]
enum Step {
    New(Append),
    /// Sends again what step n (counted from the first, modulo) sent, as a retry does.
    Again(usize),
    /// Sends again a part of what step n sent.
    Part(usize, usize, usize),
    /// Sends again what step n sent, issued at another minute.
    Reissued(usize, u64),
    Settle(Settle),
    Floor(u64),
}

fn id() -> impl Strategy<Value = String> {
    (0..6u8).prop_map(|number| format!("id{number}"))
}

fn id_key() -> impl Strategy<Value = IdKey> {
    let sender = prop::sample::select(&SENDERS[..]);
    (sender, id())
        .prop_map(|(sender, client_msg_id)| IdKey { sender: sender.to_owned(), client_msg_id })
}

fn message() -> impl Strategy<Value = NewMessage> {
    let kind_and_target = prop_oneof![
        6 => Just((Kind::Content, None)),
        2 => Just((Kind::System, None)),
        2 => (1..8u64).prop_map(|target| (Kind::Replacement, Some(Seq(target)))),
        1 => Just((Kind::Content, Some(Seq(1)))),
        1 => Just((Kind::Redaction, Some(Seq(1)))),
    ];
    let text = prop::sample::select(&["hello", "bye", ""][..]);
    (id(), 0..70u64, kind_and_target, text, any::<bool>(), any::<[u8; 16]>()).prop_map(
        |(id, issued_at, (kind, target_seq), text, with_header, salt)| NewMessage {
            issued_at: minutes(issued_at),
            kind,
            headers: if with_header {
                vec![("h".to_owned(), Bytes::from_static(b"v"))]
            } else {
                Vec::new()
            },
            target_seq,
            salt,
            ..text_message(&id, text)
        },
    )
}

/// Few attempts, so that the one named as predecessor is often the one that was accepted.
fn lane_place() -> impl Strategy<Value = LanePlace> {
    let attempt = || (0..3u64).prop_map(AttemptId);
    let predecessor =
        (attempt(), id_key()).prop_map(|(attempt, last)| Predecessor { attempt, last });
    (attempt(), prop::option::weighted(0.6, predecessor))
        .prop_map(|(attempt, predecessor)| LanePlace { attempt, predecessor })
}

fn append() -> impl Strategy<Value = Append> {
    (
        prop::sample::select(&CONVERSATIONS[..]),
        prop::sample::select(&SENDERS[..]),
        prop::collection::vec(message(), 1..4),
        prop::option::weighted(0.2, (1..8u64).prop_map(Seq)),
        prop::option::weighted(0.5, lane_place()),
    )
        .prop_map(|(conversation, sender, messages, expected_tail, lane)| Append {
            conversation: name(conversation),
            sender: sender.to_owned(),
            messages,
            expected_tail,
            lane,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let settle = (prop::sample::select(&CONVERSATIONS[..]), id_key(), 0..70u64).prop_map(
        |(conversation, id, issued_at)| Settle {
            conversation: name(conversation),
            id,
            issued_at: minutes(issued_at),
        },
    );
    prop_oneof![
        8 => append().prop_map(Step::New),
        3 => any::<usize>().prop_map(Step::Again),
        2 => (any::<usize>(), 0..3usize, 1..3usize).prop_map(|(n, from, len)| Step::Part(n, from, len)),
        2 => (any::<usize>(), 0..70u64).prop_map(|(n, issued_at)| Step::Reissued(n, issued_at)),
        2 => settle.prop_map(Step::Settle),
        1 => (0..60u64).prop_map(Step::Floor),
    ]
}

/// Steps with the leader's clock at each, which may go back: leaders change.
fn steps() -> impl Strategy<Value = Vec<(Timestamp, Step)>> {
    prop::collection::vec(((40..65u64).prop_map(minutes), step()), 1..40)
}

/// The commands that the steps amount to.
fn commands(steps: Vec<(Timestamp, Step)>) -> Vec<(Timestamp, Command)> {
    let mut sent: Vec<Append> = Vec::new();
    let mut commands = Vec::new();
    for (at, step) in steps {
        let earlier = |n: usize| (!sent.is_empty()).then(|| sent[n % sent.len()].clone());
        let append = match step {
            Step::New(append) => Some(append),
            Step::Again(n) => earlier(n),
            Step::Part(n, from, len) => earlier(n).map(|mut append| {
                let from = from.min(append.messages.len() - 1);
                append.messages.drain(..from);
                append.messages.truncate(len);
                append
            }),
            Step::Reissued(n, issued_at) => earlier(n).map(|mut append| {
                append
                    .messages
                    .iter_mut()
                    .for_each(|message| message.issued_at = minutes(issued_at));
                append
            }),
            Step::Settle(settle) => {
                commands.push((at, Command::Settle(settle)));
                None
            }
            Step::Floor(floor) => {
                commands.push((at, Command::RaiseDedupFloor { floor: minutes(floor) }));
                None
            }
        };
        if let Some(append) = append {
            sent.push(append.clone());
            commands.push((at, Command::Append(append)));
        }
    }
    commands
}

/// What the model says, given the digests that the state machine computed for new messages.
fn expected(model: &mut Model, replica: &Replica, at: Timestamp, command: &Command) -> Outcome {
    match command {
        Command::Append(request) => {
            let digests: Vec<[u8; 32]> = read_all(replica, request.conversation.as_str())
                .iter()
                .skip(model.messages(request.conversation.as_str()).len())
                .map(|record| record.digest)
                .collect();
            match model.append(at, request, &digests) {
                Ok(appended) => Outcome::Appended(appended),
                Err(refusal) => Outcome::AppendRefused(refusal),
            }
        }
        Command::Settle(request) => match model.settle(at, request) {
            Ok(state) => Outcome::Settled(state),
            Err(refusal) => Outcome::AppendRefused(refusal),
        },
        Command::RaiseDedupFloor { floor } => {
            model.raise_floor(*floor);
            Outcome::Done
        }
        other => panic!("no step makes {other:?}"),
    }
}

fn read_all(replica: &Replica, conversation: &str) -> Vec<MessageRecord> {
    let Some(head) = queries::head(&replica.view, &name(conversation)).unwrap() else {
        return Vec::new();
    };
    let everything = Slice {
        from: Seq::FIRST,
        to: head.tail,
        direction: Direction::Forward,
        messages_max: usize::MAX,
        bytes_max: u64::MAX,
    };
    queries::messages(&replica.view, &head, everything).unwrap()
}

/// Every message of the model stands in the state, and nothing else does.
fn assert_same_history(model: &Model, replica: &Replica) {
    for conversation in CONVERSATIONS {
        let stored = read_all(replica, conversation);
        let wanted = model.messages(conversation);
        assert_eq!(stored.len(), wanted.len(), "messages of {conversation}");
        let mut unread = 0;
        for (place, (record, wanted)) in stored.iter().zip(wanted).enumerate() {
            unread += u64::from(wanted.message.kind == Kind::Content);
            let expected = MessageRecord {
                seq: Seq(place as u64 + 1),
                kind: wanted.message.kind,
                sender: wanted.sender.clone(),
                client_msg_id: wanted.message.client_msg_id.clone(),
                issued_at: wanted.message.issued_at,
                commit_time: wanted.commit_time,
                content_type: wanted.message.content_type.clone(),
                headers: wanted.message.headers.clone(),
                payload: wanted.message.payload.clone(),
                payload_crc32c: wanted.message.payload_crc32c,
                target_seq: wanted.message.target_seq,
                traceparent: wanted.message.traceparent.clone(),
                unread_ordinal: unread,
                salt: wanted.message.salt,
                digest: wanted.digest,
            };
            assert_eq!(*record, expected);
        }
    }
}

fn assert_same_outcomes(model: &mut Model, replica: &Replica) {
    for conversation in CONVERSATIONS {
        for sender in SENDERS {
            for number in 0..6 {
                let client_msg_id = format!("id{number}");
                let key = IdKey { sender: sender.to_owned(), client_msg_id };
                for issued_at in [minutes(0), minutes(45)] {
                    let stored = queries::outcome(
                        &replica.view,
                        &replica.group,
                        &name(conversation),
                        &key,
                        Some(issued_at),
                    );
                    let wanted = model.outcome(conversation, &key, issued_at);
                    assert_eq!(stored.unwrap(), wanted, "{conversation} {key:?}");
                }
            }
        }
    }
}

proptest! {
    /// G2, G4, G5, G8: outcome by outcome the state machine does what the model does, and after every command its
    /// invariants hold.
    #[test]
    fn the_state_machine_does_what_the_model_does(steps in steps()) {
        let mut replica = Replica::of_everything();
        let mut model = Model::default();
        for (at, command) in commands(steps) {
            let before = replica.view.clone();
            let applied = replica.apply(at, &command);
            let expected = expected(&mut model, &replica, at, &command);
            prop_assert_eq!(&applied.outcome, &expected, "{:?}", command);
            let report = replica.check();
            prop_assert!(report.is_clean(), "{:?} after {:?}", report.violations, command);
            match &applied.outcome {
                Outcome::Appended(appended) if !appended.duplicate => {
                    let moved = applied.tail_moved.expect("the conversation grew");
                    prop_assert_eq!(moved.1, appended.last_seq.next());
                }
                Outcome::AppendRefused(_) => {
                    prop_assert_eq!(applied.tail_moved, None);
                    prop_assert_eq!(&before, &replica.view, "a refusal changed something");
                }
                _ => prop_assert_eq!(applied.tail_moved, None),
            }
        }
        assert_same_history(&model, &replica);
        assert_same_outcomes(&mut model, &replica);
    }

    /// However commands are gathered into entries, and whether expired dedup rows are still there or not, replicas
    /// end with the same history and the same answers.
    #[test]
    fn replicas_agree_however_commands_are_gathered(steps in steps(), cut in 1..10usize) {
        let commands = commands(steps);
        let mut one_by_one = Replica::of_everything();
        let mut gathered = Replica::of_everything();
        let mut outcomes = (Vec::new(), Vec::new());
        for chunk in commands.chunks(cut) {
            for (at, command) in chunk {
                outcomes.0.push(one_by_one.apply(*at, command));
                forget_expired(&mut one_by_one);
            }
            outcomes.1.extend(gathered.apply_all(chunk));
        }
        prop_assert_eq!(outcomes.0, outcomes.1);
        forget_expired(&mut gathered);
        prop_assert_eq!(one_by_one.view, gathered.view);
    }

    #[test]
    fn a_proposal_survives_its_encoding(steps in steps(), at in any::<u64>()) {
        let commands = commands(steps).into_iter().map(|(_, command)| command).collect();
        let proposal = Proposal { stamped_at: Timestamp(at), commands };
        prop_assert_eq!(Proposal::decode(&proposal.encode()), Ok(proposal));
    }
}

/// Removes dedup rows that are no longer in force, as a replica may at any time.
pub fn forget_expired(replica: &mut Replica) {
    use crate::storage::Table;
    use crate::storage::records::{DedupRow, Record};
    for (key, value) in replica.view.rows(Table::Dedup) {
        let row = DedupRow::decode(&key, &value).unwrap();
        if row.issued_at < replica.group.dedup_floor {
            replica.view.delete(Table::Dedup, &key);
        }
    }
}
