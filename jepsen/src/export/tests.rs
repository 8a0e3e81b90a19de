//! A small history in both forms, byte for byte.

use super::{kafka, list_append};
use crate::check::tests::simulate::simulate;
use crate::history::Event;
use crate::model::Model;

const HISTORY: &str = include_str!("golden/history.jsonl");

const KAFKA: &str = include_str!("golden/history.edn");

const LIST_APPEND: &str = include_str!("golden/list-append.edn");

#[test]
fn the_forms_are_these() {
    let events = HISTORY.trim().lines().map(|line| serde_json::from_str::<Event>(line).unwrap());
    let model = Model::of(simulate(0, 1, 1).run, Vec::new(), events).unwrap();
    let (mut sends_and_polls, mut lists) = (Vec::new(), Vec::new());
    kafka::write(&model, &mut sends_and_polls).unwrap();
    list_append::write(&model, &mut lists).unwrap();
    assert_eq!(String::from_utf8(sends_and_polls).unwrap(), KAFKA);
    assert_eq!(String::from_utf8(lists).unwrap(), LIST_APPEND);
}

/// What was refused and then sent again is the second attempt's doing. The first one's process goes on, which a process
/// whose operation is of unknown outcome must not.
#[test]
fn a_retried_append_is_the_attempt_that_may_have_done_it() {
    let message = r#"{"client_msg_id":"x","issued_at_us":1,"hash":7}"#;
    let invoke = |at: u64, process: u64| {
        format!(
            r#"{{"at":{at},"process":{process},"node":1,"kind":{{"invoke":{{"append":{{"conversation":"c","sender":"s","messages":[{message}]}}}}}}}}"#
        )
    };
    let refused = r#"{"reason":"NO_LEADER","message":"","may_have_taken_effect":false}"#;
    let appended =
        r#"{"first_seq":1,"last_seq":1,"commit_time_us":5,"duplicate":false,"digest":""}"#;
    let lines = [
        invoke(1, 1),
        format!(r#"{{"at":2,"process":1,"node":1,"kind":{{"fail":{refused}}}}}"#),
        invoke(3, 2),
        format!(r#"{{"at":4,"process":2,"node":1,"kind":{{"ok":{{"appended":{appended}}}}}}}"#),
    ];
    let events = lines.iter().map(|line| serde_json::from_str::<Event>(line).unwrap());
    let model = Model::of(simulate(0, 1, 1).run, Vec::new(), events).unwrap();
    let mut lists = Vec::new();
    list_append::write(&model, &mut lists).unwrap();
    let expected = "{:index 0, :time 3, :type :invoke, :process 2, :f :txn, :value [[:append \"c\" 0]]}\n\
                    {:index 1, :time 4, :type :ok, :process 2, :f :txn, :value [[:append \"c\" 0]]}\n";
    assert_eq!(String::from_utf8(lists).unwrap(), expected);
}
