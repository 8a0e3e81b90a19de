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

/// A page that does not go on where the one before ended belongs to no read of everything.
#[test]
fn pages_that_follow_each_other_are_one_read() {
    let appended =
        r#"{"first_seq":1,"last_seq":2,"commit_time_us":5,"duplicate":false,"digest":""}"#;
    let sent = |id: &str| format!(r#"{{"client_msg_id":"{id}","issued_at_us":1,"hash":7}}"#);
    let event = |at: u64, process: u64, kind: String| {
        format!(r#"{{"at":{at},"process":{process},"node":1,"kind":{{{kind}}}}}"#)
    };
    let call = |from: u64| {
        let read = format!(
            r#"{{"conversation":"c","consistency":"linearizable","from_seq":{from},"limit":1}}"#
        );
        format!(r#""invoke":{{"read":{read}}}"#)
    };
    let page = |seq: u64, id: &str| {
        let message = format!(
            r#"{{"seq":{seq},"sender":"s","client_msg_id":"{id}","hash":7,"commit_time_us":5,"digest":""}}"#
        );
        let position = r#"{"node":1,"group":1,"applied_index":4}"#;
        format!(
            r#""ok":{{"read":{{"messages":[{message}],"first_seq":1,"tail":3,"position":{position}}}}}"#
        )
    };
    let append = format!(
        r#""invoke":{{"append":{{"conversation":"c","sender":"s","messages":[{},{}]}}}}"#,
        sent("x"),
        sent("y")
    );
    let lines = [
        event(1, 1, append),
        event(2, 1, format!(r#""ok":{{"appended":{appended}}}"#)),
        event(3, 2, call(1)),
        event(4, 3, call(2)),
        event(5, 2, page(1, "x")),
        event(6, 3, page(2, "y")),
        event(7, 2, call(2)),
        event(8, 2, page(2, "y")),
    ];
    let events = lines.iter().map(|line| serde_json::from_str::<Event>(line).unwrap());
    let model = Model::of(simulate(0, 1, 1).run, Vec::new(), events).unwrap();
    let mut lists = Vec::new();
    list_append::write(&model, &mut lists).unwrap();
    let lists = String::from_utf8(lists).unwrap();
    let reads: Vec<&str> = lists.lines().filter(|line| line.contains(":r ")).collect();
    let expected = [
        "{:index 2, :time 3, :type :invoke, :process 2, :f :txn, :value [[:r \"c\" nil]]}",
        "{:index 3, :time 8, :type :ok, :process 2, :f :txn, :value [[:r \"c\" [0 1]]]}",
    ];
    assert_eq!(reads, expected);
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
