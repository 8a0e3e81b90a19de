//! What a wrong cluster would have done, made of what a right one did; and the checker that has to see it.

mod answers;
mod eyes;
mod logs;
mod service;

use std::collections::BTreeMap;

use super::simulate::{Simulated, simulate};
use crate::model::Model;

/// Breaks a history in one way; false where it has nothing to break in this way.
type Mutation = fn(&mut Simulated) -> bool;

const MUTATIONS: &[(&str, Mutation, &str)] = &[
    ("an acknowledged message is gone at the end", logs::lose_the_last, "lost-write"),
    ("an acknowledged message was replaced by another", logs::replace_one, "lost-write"),
    ("a replica has another digest", logs::change_a_digest, "one-order"),
    ("a replica has two messages the other way round", logs::swap_two, "one-order"),
    ("an acknowledgement names a seq where another stands", logs::reuse_a_seq, "one-order"),
    ("a message that was read has gone", logs::lose_the_last, "one-order"),
    ("a read skips a seq", logs::skip_in_a_read, "gaps"),
    ("a read of the end lacks the last", logs::cut_a_read_of_the_end, "gaps"),
    ("a batch has a seq too many", logs::stretch_a_batch, "gaps"),
    ("a message nobody sent", logs::invent_one, "phantom"),
    ("a message from the future", logs::send_late, "phantom"),
    ("a payload with a flipped bit", logs::flip_a_bit, "integrity"),
    ("a failed append took effect", logs::fail_a_success, "error-honesty"),
    ("a linearizable read of the past", logs::read_the_past, "linearizable"),
    ("an append before its call", logs::acknowledge_before_others, "linearizable"),
    ("half a batch is read", logs::read_half_a_batch, "atomic-batch"),
    ("one id at two seqs", logs::repeat_one, "duplicate"),
    ("one content under two ids", logs::repeat_a_content, "duplicate"),
    ("a retry is told another seq", answers::move_a_retry, "first-outcome"),
    ("a retry is told another time", answers::delay_a_retry, "first-outcome"),
    ("a retry is told that it is new", answers::renew_a_retry, "first-outcome"),
    ("a retry is refused for another content", answers::conflict_a_retry, "first-outcome"),
    ("a retry is refused as burnt", answers::burn_a_retry, "first-outcome"),
    ("a fresh message is refused as too old", answers::find_too_old, "first-outcome"),
    ("a fresh message is refused as of the future", answers::find_in_future, "first-outcome"),
    (
        "what is sent again stands in another order",
        answers::swap_what_is_sent_again,
        "sender-order",
    ),
    ("a session never serves again", service::break_a_session, "availability"),
    ("a conversation serves no longer", service::stop_serving, "availability"),
    ("a lane commits in another order", answers::swap_in_a_lane, "sender-order"),
    ("a lane goes on behind a failure", answers::go_on_behind_a_failure, "sender-order"),
    ("a delivery is skipped", answers::skip_a_delivery, "delivery"),
    ("a delivery comes twice", answers::repeat_a_delivery, "delivery"),
    ("a conversation is taken up again elsewhere", answers::take_up_elsewhere, "delivery"),
    ("a stream is caught up early", answers::catch_up_early, "delivery"),
    ("a stream never gets the rest", answers::stop_delivering, "delivery"),
    ("what is delivered was never committed", answers::deliver_uncommitted, "delivery"),
    ("a client refused what was delivered", answers::refuse_a_stream, "protocol"),
    ("an outcome at another seq", answers::misplace_an_outcome, "outcome"),
    ("a committed message is called burnt", answers::burn_a_committed, "outcome"),
    ("an acknowledged message is called not committed", answers::deny_a_committed, "outcome"),
    ("AT_LEAST is not reached", answers::undercut_at_least, "staleness"),
    ("a read says no age", answers::hide_the_age, "staleness"),
    ("a read is older than its bound", answers::exceed_the_bound, "staleness"),
    ("a read is older than it says", answers::show_the_past, "staleness"),
    ("two states at one index", answers::claim_an_index, "position"),
    ("a read says no position", answers::hide_the_position, "position"),
    ("a replica goes back", answers::lower_an_index, "position"),
    ("commit times go back", answers::turn_back_time, "commit-time"),
    ("an overloaded node forbids a retry", service::forbid_a_retry, "overload"),
    ("a node short of disk forbids a retry", service::forbid_a_retry_for_disk, "overload"),
    ("an overloaded node forbids to follow again", service::forbid_to_follow_again, "overload"),
    ("a node takes all memory there is", service::take_all_memory, "overload"),
    ("a stored digest is wrong", service::store_a_wrong_digest, "stored-data"),
    ("a node was killed, and by nobody", service::end_by_itself, "availability"),
    ("a node gave up, and its disk was sound", service::give_up, "availability"),
    ("a node panicked", service::panic, "availability"),
    ("a node was not made anew", service::give_up_replacing, "availability"),
    ("nothing served for a minute", service::serve_late, "availability"),
];

const SEEDS: u64 = 14;

#[test]
fn each_way_of_being_wrong_is_seen_by_its_checker() {
    let mut applied: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        let valid = simulate(seed, 2, 400);
        for (what, mutation, checker) in MUTATIONS {
            let mut simulated = valid.clone();
            let count = applied.entry(what).or_insert(0);
            if !mutation(&mut simulated) {
                continue;
            }
            *count += 1;
            let found = super::found(simulated);
            let violated = |name| found.iter().any(|(n, f)| *n == name && f.violations > 0);
            let all: Vec<_> = found.iter().filter(|(_, f)| f.violations > 0).map(|f| f.0).collect();
            assert!(violated(*checker), "seed {seed}: {what}: {checker} is blind, {all:?} see");
        }
    }
    let rare: Vec<_> = applied.iter().filter(|(_, count)| **count < 3).collect();
    assert!(rare.is_empty(), "hardly ever tried: {rare:?}");
}

#[test]
fn every_checker_has_a_history_that_it_must_refuse() {
    for checker in super::super::CHECKERS {
        assert!(MUTATIONS.iter().any(|(.., name)| *name == checker.name()), "{}", checker.name());
    }
}

#[test]
fn only_what_was_issued_in_a_run_with_right_clocks_must_not_be_refused_for_its_age() {
    let blames = |run: Simulated| {
        let found = super::found(run);
        found.iter().any(|(name, findings)| *name == "first-outcome" && findings.violations > 0)
    };
    let refused = |seed| {
        let mut run = simulate(seed, 2, 400);
        answers::find_too_old(&mut run).then_some(run)
    };
    let refused = (0..SEEDS).find_map(refused).unwrap();
    assert!(blames(refused.clone()));
    let mut with_clocks = refused.clone();
    with_clocks.run.nemeses.push("clock-bump".to_owned());
    assert!(!blames(with_clocks));
    let mut of_last_year = refused.clone();
    of_last_year.run.started = "2027-01-01T00:00:00Z".to_owned();
    assert!(!blames(of_last_year));
    let mut of_next_year = refused;
    of_next_year.run.started = "2025-01-01T00:00:00Z".to_owned();
    assert!(!blames(of_next_year));
}

#[test]
fn what_was_lost_is_counted_by_message() {
    let unfound = |Simulated { run, faults, events }| {
        let unfound = crate::check::unfound(&Model::of(run, faults, events).unwrap());
        (unfound.lost, unfound.not_looked_for)
    };
    let can_lose = |seed| {
        let valid = simulate(seed, 2, 400);
        let mut broken = valid.clone();
        logs::lose_the_last(&mut broken).then_some((valid, broken))
    };
    let (valid, broken) = (0..SEEDS).find_map(can_lose).unwrap();
    assert_eq!((unfound(valid), unfound(broken)), ((0, 0), (1, 0)));
}
