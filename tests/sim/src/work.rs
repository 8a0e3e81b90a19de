//! What clients have done with success, by its kind.

use std::collections::BTreeMap;

use quorate_jepsen::history::{Answer, Call, Consistency, Event, EventKind, Process};

/// Kinds of work: each is to have succeeded over a run of many seeds.
pub const KINDS: [&str; 12] = [
    APPEND,
    APPEND_AT_TAIL,
    APPEND_AGAIN,
    APPEND_ON_SESSION,
    FOLLOW,
    SUBSCRIPTION,
    OUTCOME,
    OUTCOME_SETTLED,
    LINEARIZABLE,
    AT_LEAST,
    MAX_STALENESS,
    LOCAL,
];

const APPEND: &str = "append";
const APPEND_AT_TAIL: &str = "append at an expected tail";
const APPEND_AGAIN: &str = "append that was committed before";
const APPEND_ON_SESSION: &str = "append on a session";
const FOLLOW: &str = "follow";
const SUBSCRIPTION: &str = "subscription";
const OUTCOME: &str = "outcome query";
const OUTCOME_SETTLED: &str = "outcome query that settles";
const LINEARIZABLE: &str = "read at LINEARIZABLE";
const AT_LEAST: &str = "read at AT_LEAST";
const MAX_STALENESS: &str = "read at MAX_STALENESS";
const LOCAL: &str = "read at LOCAL";

/// How often work of each kind succeeded: of a stream, how often something came on it. What is read of everything at
/// the end counts for nothing here.
pub fn done(events: &[Event]) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::<Process, &Call>::new();
    let mut done = BTreeMap::new();
    for event in events {
        match &event.kind {
            EventKind::Invoke(call) => {
                calls.insert(event.process, call);
            }
            EventKind::Ok(_) | EventKind::Deliver(_) => {
                for kind in calls
                    .get(&event.process)
                    .map(|call| kinds(call, &event.kind))
                    .into_iter()
                    .flatten()
                {
                    *done.entry(kind.to_owned()).or_default() += 1;
                }
            }
            EventKind::Fail(_) | EventKind::Info(_) => {}
        }
    }
    done
}

/// Of what kinds a call is that ended so.
fn kinds(call: &Call, end: &EventKind) -> Vec<&'static str> {
    match (call, end) {
        (Call::Append(call), EventKind::Ok(Answer::Appended { duplicate, .. })) => {
            let is_fresh = call.lane.is_none() && call.expected_tail.is_none() && !duplicate;
            let all = [
                (is_fresh, APPEND),
                (call.expected_tail.is_some(), APPEND_AT_TAIL),
                (*duplicate, APPEND_AGAIN),
                (call.lane.is_some(), APPEND_ON_SESSION),
            ];
            all.into_iter().filter(|(is_one, _)| *is_one).map(|(_, kind)| kind).collect()
        }
        (Call::Read(call), EventKind::Ok(_)) if !call.is_final => vec![match call.consistency {
            Consistency::Linearizable => LINEARIZABLE,
            Consistency::AtLeast(_) => AT_LEAST,
            Consistency::MaxStalenessMs(_) => MAX_STALENESS,
            Consistency::Local => LOCAL,
        }],
        (Call::Outcome(call), EventKind::Ok(_)) if call.settle => vec![OUTCOME_SETTLED],
        (Call::Outcome(_), EventKind::Ok(_)) => vec![OUTCOME],
        (Call::Follow(call), EventKind::Deliver(_)) if call.is_subscription => vec![SUBSCRIPTION],
        (Call::Follow(_), EventKind::Deliver(_)) => vec![FOLLOW],
        _ => Vec::new(),
    }
}
