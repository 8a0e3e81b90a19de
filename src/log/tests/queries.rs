//! Reading: bounds, limits, directions, and damage that must not be served.

use super::replica::{Replica, append_of, minutes, name, text_message};
use crate::log::queries::{self, Slice};
use crate::storage::records::{ConversationHead, MessageRecord, Record};
use crate::storage::{Direction, StorageError, Table, View, keys};
use crate::types::{ConversationName, Seq, Timestamp};

/// Messages 1 to 9 of two bytes each, three at each of the minutes 20, 21 and 22.
fn nine_messages() -> Replica {
    let mut replica = Replica::of_everything();
    for seq in 0..9 {
        let message = text_message(&format!("m{seq}"), "ab");
        replica.append(minutes(20 + seq / 3), append_of("room", "alice", vec![message]));
    }
    replica
}

fn head_of(replica: &Replica) -> ConversationHead {
    queries::head(&replica.view, &name("room")).unwrap().expect("the conversation is there")
}

const ALL: Slice = Slice {
    from: Seq(0),
    to: Seq(u64::MAX),
    direction: Direction::Forward,
    messages_max: usize::MAX,
    bytes_max: u64::MAX,
};

fn seqs(replica: &Replica, slice: Slice) -> Vec<u64> {
    let messages = queries::messages(&replica.view, &head_of(replica), slice).unwrap();
    messages.iter().map(|message| message.seq.0).collect()
}

#[test]
fn slices_in_both_directions() {
    let replica = nine_messages();
    let backward = Slice { direction: Direction::Backward, ..ALL };
    assert_eq!(seqs(&replica, ALL), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(seqs(&replica, backward), [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(seqs(&replica, Slice { from: Seq(3), to: Seq(6), ..ALL }), [3, 4, 5]);
    assert_eq!(seqs(&replica, Slice { from: Seq(3), to: Seq(6), ..backward }), [5, 4, 3]);
    assert_eq!(seqs(&replica, Slice { from: Seq(8), messages_max: 5, ..ALL }), [8, 9]);
    assert_eq!(seqs(&replica, Slice { messages_max: 2, ..backward }), [9, 8]);
    assert_eq!(seqs(&replica, Slice { messages_max: 0, ..ALL }), [0; 0]);
    assert_eq!(seqs(&replica, Slice { from: Seq(10), ..ALL }), [0; 0]);
    assert_eq!(seqs(&replica, Slice { from: Seq(6), to: Seq(3), ..ALL }), [0; 0]);
}

#[test]
fn bytes_are_limited_but_one_message_always_fits() {
    let replica = nine_messages();
    for (bytes_max, expected) in [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (18, 9)] {
        assert_eq!(seqs(&replica, Slice { bytes_max, ..ALL }).len(), expected, "{bytes_max}");
    }
}

#[test]
fn the_first_seq_of_a_time() {
    let replica = nine_messages();
    let head = head_of(&replica);
    let found = |time| queries::first_seq_at_or_after(&replica.view, &head, time).unwrap().0;
    assert_eq!(found(Timestamp(0)), 1);
    assert_eq!(found(minutes(20)), 1);
    assert_eq!(found(minutes(20).plus_us(1)), 4);
    assert_eq!(found(minutes(21)), 4);
    assert_eq!(found(minutes(22)), 7);
    assert_eq!(found(minutes(22).plus_us(1)), 10);
}

#[test]
fn a_missing_message_is_damage_and_no_gap() {
    let mut replica = nine_messages();
    replica.view.delete(Table::Messages, &keys::message(name("room").id(), Seq(5)));
    let head = head_of(&replica);
    for direction in [Direction::Forward, Direction::Backward] {
        let read = queries::messages(&replica.view, &head, Slice { direction, ..ALL });
        assert!(matches!(read, Err(StorageError::Damaged { .. })), "{read:?}");
    }
    let found = queries::first_seq_at_or_after(&replica.view, &head, minutes(21));
    assert!(matches!(found, Err(StorageError::Damaged { .. })), "{found:?}");

    // The last one as well, which no other seq gives away.
    let mut replica = nine_messages();
    replica.view.delete(Table::Messages, &keys::message(name("room").id(), Seq(9)));
    let read = queries::messages(&replica.view, &head_of(&replica), ALL);
    assert!(matches!(read, Err(StorageError::Damaged { .. })), "{read:?}");
}

#[test]
fn damaged_messages_are_not_served() {
    let key = keys::message(name("room").id(), Seq(5));
    let sound = nine_messages();
    let value = sound.view.get(Table::Messages, &key).unwrap().unwrap();
    let mut flipped = value.to_vec();
    flipped[10] ^= 4;
    let mut record = <MessageRecord>::decode(&key, &value).unwrap();
    record.payload_crc32c ^= 4;
    for damaged in [flipped, record.encode(&key)] {
        let mut replica = nine_messages();
        replica.view.put(Table::Messages, key.clone(), damaged);
        let read = queries::messages(&replica.view, &head_of(&replica), ALL);
        assert!(matches!(read, Err(StorageError::Damaged { .. })), "{read:?}");
    }
}

#[test]
fn a_head_of_another_name_is_not_served() {
    let mut replica = nine_messages();
    let colliding = ConversationHead { name: name("collides"), ..head_of(&replica) };
    replica.put_record(keys::conversation(name("room").id()), &colliding);
    assert_eq!(queries::head(&replica.view, &name("room")).unwrap(), None);
}

#[test]
fn listing_by_prefix_page_by_page() {
    let mut replica = Replica::of_everything();
    for conversation in ["b", "a/1", "a/2", "a/\u{10ffff}", "a", "aa", "a/3"] {
        let append = append_of(conversation, "alice", vec![text_message("m", "ab")]);
        replica.append(minutes(20), append);
    }
    let page = |prefix: &str, after: Option<&ConversationName>, limit| -> Vec<ConversationName> {
        let heads = queries::list(&replica.view, |_| true, prefix, after, limit).unwrap();
        heads.into_iter().map(|head| head.name).collect()
    };
    let names =
        |names: &[&str]| -> Vec<ConversationName> { names.iter().map(|text| name(text)).collect() };
    assert_eq!(page("a/", None, 10), names(&["a/1", "a/2", "a/3", "a/\u{10ffff}"]));
    assert_eq!(page("a/", None, 2), names(&["a/1", "a/2"]));
    assert_eq!(page("a/", Some(&name("a/2")), 10), names(&["a/3", "a/\u{10ffff}"]));
    assert_eq!(page("a/", Some(&name("b")), 10), names(&[]));
    assert_eq!(page("a/", Some(&name("a")), 1), names(&["a/1"]));
    assert_eq!(page("", None, 10).len(), 7);
    assert_eq!(page("", Some(&name("aa")), 10), names(&["b"]));
    assert_eq!(page("", None, 0), names(&[]));
    let unwanted = name("a/1").id();
    let heads = queries::list(&replica.view, |id| id != unwanted, "a/", None, 1).unwrap();
    assert_eq!(heads[0].name, name("a/2"));
}

#[test]
fn names_left_behind_are_not_listed() {
    let mut replica = nine_messages();
    replica.view.delete(Table::Conversations, &keys::conversation(name("room").id()));
    assert_eq!(queries::list(&replica.view, |_| true, "", None, 10).unwrap(), []);
}
