//! States that no command makes: histories whose beginning is gone and messages whose content identity was erased (as
//! trimming and redacting will leave them), two names with one id, and a state that contradicts itself.

use super::replica::{Replica, append_of, minutes, name, text_message};
use crate::log::queries::{self, Slice};
use crate::log::{
    AppendRefusal, Appended, ApplyError, Command, IdKey, NewMessage, Outcome, OutcomeState, Settle,
};
use crate::storage::records::{
    ConversationHead, DedupOutcome, DedupRow, Kind, MessageRecord, OwnedRecord,
};
use crate::storage::{Direction, Table, View, keys};
use crate::types::{ConversationId, Seq};

fn room() -> ConversationId {
    name("room").id()
}

fn read<R: OwnedRecord>(replica: &Replica, key: &[u8]) -> R {
    R::decode(key, &replica.view.get(R::TABLE, key).unwrap().unwrap()).unwrap()
}

/// Messages m1 to m4, of which those below `first_seq` are trimmed.
fn trimmed(first_seq: u64) -> Replica {
    let mut replica = Replica::of_everything();
    for seq in 1..=4 {
        let message = text_message(&format!("m{seq}"), "ab");
        replica.append(minutes(20 + seq), append_of("room", "alice", vec![message]));
    }
    let key = keys::conversation(room());
    let mut head: ConversationHead = read(&replica, &key);
    for seq in 1..first_seq {
        let message_key = keys::message(room(), Seq(seq));
        let message: MessageRecord = read(&replica, &message_key);
        head.base_digest = message.digest;
        head.bytes -= message.content_bytes() as u64;
        replica.view.delete(Table::Messages, &message_key);
    }
    head.first_seq = Seq(first_seq);
    replica.put_record(key, &head);
    assert_eq!(replica.check().violations, []);
    replica
}

fn retry(replica: &mut Replica, id: &str) -> Appended {
    match replica.append(minutes(40), append_of("room", "alice", vec![text_message(id, "ab")])) {
        Outcome::Appended(appended) => appended,
        other => panic!("a retry is told its first outcome, not {other:?}"),
    }
}

/// G4: a retry returns the first outcome across trims; of the digest as much as is still known.
#[test]
fn a_retry_is_answered_after_a_trim() {
    let digests: Vec<[u8; 32]> =
        (1..=4).map(|seq| retry(&mut trimmed(1), &format!("m{seq}")).digest).collect();
    let mut replica = trimmed(3);
    for (seq, digest) in [(1, [0; 32]), (2, digests[1]), (3, digests[2]), (4, digests[3])] {
        let expected = Appended {
            first_seq: Seq(seq),
            last_seq: Seq(seq),
            commit_time: minutes(20 + seq),
            digest,
            duplicate: true,
        };
        assert_eq!(retry(&mut replica, &format!("m{seq}")), expected);
    }
}

#[test]
fn everything_may_be_trimmed_and_seqs_go_on() {
    let mut replica = trimmed(5);
    let outcome = replica.append(minutes(40), append_of("room", "a", vec![text_message("n", "")]));
    let Outcome::Appended(appended) = outcome else { panic!("{outcome:?}") };
    assert_eq!(appended.first_seq, Seq(5));
    assert_eq!(replica.check().violations, []);
}

#[test]
fn reads_start_at_the_first_seq() {
    let replica = trimmed(3);
    let head = queries::head(&replica.view, &name("room")).unwrap().unwrap();
    let all = Slice {
        from: Seq(1),
        to: Seq(9),
        direction: Direction::Forward,
        messages_max: 10,
        bytes_max: 1_000,
    };
    let messages = queries::messages(&replica.view, &head, all).unwrap();
    assert_eq!(messages.iter().map(|message| message.seq.0).collect::<Vec<_>>(), [3, 4]);
    let first = queries::first_seq_at_or_after(&replica.view, &head, minutes(1)).unwrap();
    assert_eq!(first, Seq(3));
}

#[test]
fn a_trimmed_message_cannot_be_replaced() {
    for (target, accepted) in [(2, false), (3, true)] {
        let message = NewMessage {
            kind: Kind::Replacement,
            target_seq: Some(Seq(target)),
            ..text_message("r", "")
        };
        let mut replica = trimmed(3);
        match replica.append(minutes(40), append_of("room", "alice", vec![message])) {
            Outcome::Appended(_) => assert!(accepted),
            Outcome::AppendRefused(AppendRefusal::BadTarget { .. }) => assert!(!accepted),
            other => panic!("{other:?}"),
        }
    }
}

/// G4: a retry of a redacted message returns the first outcome although its content cannot be compared any more.
#[test]
fn a_retry_of_a_redacted_message_is_answered() {
    let mut replica = trimmed(1);
    let key = keys::dedup(room(), "alice", "m2");
    let mut row: DedupRow = read(&replica, &key);
    if let DedupOutcome::Committed { content, .. } = &mut row.outcome {
        *content = None;
    }
    replica.put_record(key, &row);
    let other_text = append_of("room", "alice", vec![text_message("m2", "something else")]);
    match replica.append(minutes(40), other_text) {
        Outcome::Appended(Appended { first_seq, duplicate: true, .. }) => {
            assert_eq!(first_seq, Seq(2));
        }
        other => panic!("{other:?}"),
    }
}

/// G4: another leader draws another salt, and what stands may be trimmed.
#[test]
fn a_repeat_is_compared_by_what_it_says() {
    let repeat = |replica: &mut Replica, message: NewMessage| {
        replica.append(minutes(40), append_of("room", "alice", vec![message]))
    };
    let same = || NewMessage { salt: [7; 16], ..text_message("m2", "ab") };
    let others = [
        NewMessage { payload: "ac".into(), ..same() },
        NewMessage { content_type: "text/markdown".to_owned(), ..same() },
        NewMessage { kind: Kind::System, ..same() },
        NewMessage { kind: Kind::Replacement, target_seq: Some(Seq(1)), ..same() },
    ];
    for first_seq in [1, 4] {
        let mut replica = trimmed(first_seq);
        for other in others.clone() {
            let conflict = AppendRefusal::Conflict { seqs: vec![Seq(2)] };
            assert_eq!(repeat(&mut replica, other), Outcome::AppendRefused(conflict));
        }
        match repeat(&mut replica, same()) {
            Outcome::Appended(Appended { first_seq: Seq(2), duplicate: true, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A state that says two things is not guessed at.
#[test]
fn a_retry_of_a_message_that_is_gone_stops_the_replica() {
    let mut replica = trimmed(1);
    replica.view.delete(Table::Messages, &keys::message(room(), Seq(2)));
    let append = append_of("room", "alice", vec![text_message("m2", "ab")]);
    let applied = replica.try_all(&[(minutes(40), Command::Append(append))]);
    assert!(matches!(applied, Err(ApplyError::Contradiction { .. })), "{applied:?}");
}

/// 128 bits of a hash may collide; then the first name keeps the place.
#[test]
fn the_second_of_two_names_with_one_id_is_refused() {
    let mut replica = trimmed(1);
    let key = keys::conversation(room());
    let first = ConversationHead { name: name("first"), ..read(&replica, &key) };
    replica.put_record(key, &first);
    let id = IdKey { sender: "alice".to_owned(), client_msg_id: "m2".to_owned() };
    let append = append_of("room", "alice", vec![text_message("m2", "ab")]);
    let settle = Settle { conversation: name("room"), id: id.clone(), issued_at: minutes(10) };
    for command in [Command::Append(append), Command::Settle(settle)] {
        let outcome = replica.apply(minutes(40), &command).outcome;
        assert_eq!(outcome, Outcome::AppendRefused(AppendRefusal::NameCollision));
    }
    let Replica { view, group } = &replica;
    let state = queries::outcome(view, group, &name("room"), &id, Some(minutes(10))).unwrap();
    assert_eq!(state, OutcomeState::NotCommitted);
}
