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
