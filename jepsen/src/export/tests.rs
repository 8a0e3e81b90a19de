//! A small history in both forms, byte for byte.

use super::{kafka, list_append};
use crate::check::tests::simulate::simulate;
use crate::history::Event;
use crate::model::Model;

const HISTORY: &str = r#"
{"at":1,"process":1,"node":1,"kind":{"invoke":{"append":{"conversation":"a\"b","sender":"s","messages":[{"client_msg_id":"x","issued_at_us":1,"hash":7},{"client_msg_id":"y","issued_at_us":1,"hash":8}]}}}}
{"at":2,"process":2,"node":1,"kind":{"invoke":{"append":{"conversation":"a\"b","sender":"s","messages":[{"client_msg_id":"z","issued_at_us":1,"hash":9}]}}}}
{"at":3,"process":1,"node":1,"kind":{"ok":{"appended":{"first_seq":1,"last_seq":2,"commit_time_us":5,"duplicate":false,"digest":""}}}}
{"at":4,"process":2,"node":1,"kind":{"info":{"reason":"TIMEOUT","message":"","may_have_taken_effect":true}}}
{"at":5,"process":3,"node":2,"kind":{"invoke":{"read":{"conversation":"a\"b","consistency":"linearizable","from_seq":1,"limit":9}}}}
{"at":6,"process":4,"kind":{"invoke":{"follow":{"from":[["a\"b",1]],"is_subscription":false}}}}
{"at":7,"process":4,"kind":{"deliver":{"conversation":"a\"b","what":{"messages":[{"seq":1,"sender":"s","client_msg_id":"x","hash":7,"commit_time_us":5,"digest":""}]}}}}
{"at":8,"process":3,"node":2,"kind":{"ok":{"read":{"messages":[{"seq":1,"sender":"s","client_msg_id":"x","hash":7,"commit_time_us":5,"digest":""},{"seq":2,"sender":"s","client_msg_id":"y","hash":8,"commit_time_us":5,"digest":""}],"first_seq":1,"tail":3,"position":{"node":1,"group":1,"applied_index":4}}}}}
{"at":9,"process":5,"node":3,"kind":{"invoke":{"append":{"conversation":"a\"b","sender":"s","messages":[{"client_msg_id":"w","issued_at_us":1,"hash":6}]}}}}
"#;

const KAFKA: &str = r#"{:index 0, :time 1, :type :invoke, :process 1, :f :send, :value [[:send "a\"b" 0] [:send "a\"b" 1]]}
{:index 1, :time 2, :type :invoke, :process 2, :f :send, :value [[:send "a\"b" 2]]}
{:index 2, :time 3, :type :ok, :process 1, :f :send, :value [[:send "a\"b" [1 0]] [:send "a\"b" [2 1]]]}
{:index 3, :time 4, :type :info, :process 2, :f :send, :value [[:send "a\"b" 2]]}
{:index 4, :time 5, :type :invoke, :process 3, :f :assign, :value ["a\"b"]}
{:index 5, :time 5, :type :ok, :process 3, :f :assign, :value ["a\"b"]}
{:index 6, :time 5, :type :invoke, :process 3, :f :poll, :value [[:poll]]}
{:index 7, :time 7, :type :invoke, :process 4, :f :assign, :value ["a\"b"]}
{:index 8, :time 7, :type :ok, :process 4, :f :assign, :value ["a\"b"]}
{:index 9, :time 7, :type :invoke, :process 4, :f :poll, :value [[:poll]]}
{:index 10, :time 7, :type :ok, :process 4, :f :poll, :value [[:poll {"a\"b" [[1 0]]}]]}
{:index 11, :time 8, :type :ok, :process 3, :f :poll, :value [[:poll {"a\"b" [[1 0] [2 1]]}]]}
{:index 12, :time 9, :type :invoke, :process 5, :f :send, :value [[:send "a\"b" 3]]}
{:index 13, :time 9, :type :info, :process 5, :f :send, :value [[:send "a\"b" 3]]}
"#;

const LIST_APPEND: &str = r#"{:index 0, :time 1, :type :invoke, :process 1, :f :txn, :value [[:append "a\"b" 0] [:append "a\"b" 1]]}
{:index 1, :time 2, :type :invoke, :process 2, :f :txn, :value [[:append "a\"b" 2]]}
{:index 2, :time 3, :type :ok, :process 1, :f :txn, :value [[:append "a\"b" 0] [:append "a\"b" 1]]}
{:index 3, :time 4, :type :info, :process 2, :f :txn, :value [[:append "a\"b" 2]]}
{:index 4, :time 5, :type :invoke, :process 3, :f :txn, :value [[:r "a\"b" nil]]}
{:index 5, :time 8, :type :ok, :process 3, :f :txn, :value [[:r "a\"b" [0 1]]]}
{:index 6, :time 9, :type :invoke, :process 5, :f :txn, :value [[:append "a\"b" 3]]}
{:index 7, :time 9, :type :info, :process 5, :f :txn, :value [[:append "a\"b" 3]]}
"#;

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
