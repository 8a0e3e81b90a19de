//! Linearizability of one conversation, without a search.
//!
//! Seqs fix the order of the states that a conversation goes through, so every operation has a level: a read of tail t
//! stands at state t, the append of seq s between the states s and s + 1. An order of points between call and answer
//! exists exactly if no operation returned before one of a lower level was called: going up the levels, each must
//! return no earlier than the latest call below it. (For intervals that are already ordered by level, the earliest
//! points that fit are the running maxima of the calls.) O(n log n). `tests/brute_force.rs` compares it with a search.
//!
//! Operations that bound the state from one side only take part with one end: "committed at n" (an outcome query, a
//! duplicate, a read or delivery that showed it) must return after everything up to the append of n was called; "not
//! committed", of what later stands at n, was called before everything from that append on returned.

use super::evidence::{acknowledgement, attempt, read as shown, seconds, sighting, told};
use super::{Checker, Described, Evidence, Findings, Guarantee, described};
use crate::history::{Consistency, Nanos, OutcomeState};
use crate::model::{Append, Ending, Key, Model, Name, RecordId};

/// See the module.
pub struct Linearizable;

impl Checker for Linearizable {
    fn name(&self) -> &'static str {
        "linearizable"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G3, Guarantee::G8]
    }

    fn rule(&self) -> &'static str {
        "Appends, LINEARIZABLE reads, expected tails and outcome queries take effect at one point each between call \
         and answer."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let mut items = collect(model);
        let queries = items.iter().filter(|item| matches!(item.source, Source::Query(_))).count();
        findings.look_at(Guarantee::G8, queries as u64);
        findings.look_at(Guarantee::G3, (items.len() - queries) as u64);
        items.sort_unstable_by_key(|item| (item.conversation, item.level));
        for conversation in items.chunk_by(|a, b| a.conversation == b.conversation) {
            scan(model, conversation, findings);
        }
        check_expected_tails(model, &items, findings);
    }
}

/// An operation at its level. One that bounds the state from one side has only one end.
#[derive(Clone, Copy)]
struct Item {
    conversation: Name,
    level: u64,
    /// What is above returned no earlier than this.
    called: Option<Nanos>,
    /// What is below was called no later than this.
    returned: Option<Nanos>,
    source: Source,
}

#[derive(Clone, Copy)]
enum Source {
    /// A message whose append moved the tail past it.
    Commit(Key),
    Read(usize),
    /// An append that found another tail.
    WrongTail(usize),
    Query(usize),
    /// An acknowledgement of what an earlier attempt did.
    Duplicate(usize),
    Sighting(RecordId),
}

/// The state in which the tail is this.
fn state(tail: u64) -> u64 {
    tail.saturating_mul(2)
}

/// The append of this seq.
fn step(seq: u64) -> u64 {
    state(seq).saturating_add(1)
}

fn collect(model: &Model) -> Vec<Item> {
    let mut items = commits(model);
    items.extend(model.reads.iter().enumerate().filter_map(|(at, read)| {
        let level = state(read.ending.ok()?.tail);
        // A weaker read shows a state of the past; that it had come by then, all the same.
        let is_exact = read.consistency == Consistency::Linearizable;
        let called = is_exact.then_some(read.span.call.at);
        let returned = Some(read.span.answered);
        let conversation = read.conversation;
        Some(Item { conversation, level, called, returned, source: Source::Read(at) })
    }));
    items.extend(model.outcomes.iter().enumerate().filter_map(|(at, query)| {
        let (called, returned) = (query.span.call.at, query.span.answered);
        let (level, called, returned) = match *query.ending.ok()? {
            (OutcomeState::Committed, seq) => (state(seq.saturating_add(1)), None, Some(returned)),
            (OutcomeState::NotCommitted, _) => {
                (state(model.seq_of(query.key)?), Some(called), None)
            }
            (OutcomeState::Burnt, _) => return None,
        };
        let conversation = model.conversation_of(query.key);
        Some(Item { conversation, level, called, returned, source: Source::Query(at) })
    }));
    items.extend(model.appends.iter().enumerate().filter_map(|(at, append)| {
        let (level, called, source) = match append.ending {
            Ending::Ok(appended) if appended.duplicate => {
                (state(appended.last_seq.saturating_add(1)), None, Source::Duplicate(at))
            }
            _ => {
                let tail = wrong_tail(model, append)?.1?;
                (state(tail), Some(append.span.call.at), Source::WrongTail(at))
            }
        };
        let returned = Some(append.span.answered);
        Some(Item { conversation: append.conversation, level, called, returned, source })
    }));
    items.extend(model.records().map(|(id, record, sightings)| Item {
        conversation: model.conversation_of(record.key),
        level: state(record.seq.saturating_add(1)),
        called: None,
        returned: Some(sightings.first.at),
        source: Source::Sighting(id),
    }));
    items
}

/// Each message that stands anywhere: appended after the first call that can have done it was made, and before the
/// first acknowledgement.
fn commits(model: &Model) -> Vec<Item> {
    let mut items = Vec::with_capacity(model.places().len());
    for place in model.places() {
        if model.seq_of(place.key) != Some(place.seq) {
            continue;
        }
        let appends = model.attempts(place.key).iter().map(|attempt| model.append_of(attempt));
        let is_new = |append: &&Append| append.ending.ok().is_some_and(|ok| !ok.duplicate);
        let calls = |append: &Append| append.span.call.at;
        let did = appends.clone().filter(is_new).map(calls).min();
        let may = appends.clone().filter(|append| !append.certainly_failed()).map(calls).min();
        let acknowledged = appends.filter(|append| append.ending.ok().is_some());
        items.push(Item {
            conversation: place.conversation,
            level: step(place.seq),
            called: did.or(may),
            returned: acknowledged.map(|append| append.span.answered).min(),
            source: Source::Commit(place.key),
        });
    }
    items
}

/// Goes up the levels of one conversation.
fn scan(model: &Model, items: &[Item], findings: &mut Findings) {
    let mut latest: Option<(Nanos, Item)> = None;
    for same in items.chunk_by(|a, b| a.level == b.level) {
        for item in same {
            let Some((called, below)) = latest else { continue };
            if item.returned.is_some_and(|returned| returned < called) {
                let is_query = [item.source, below.source]
                    .iter()
                    .any(|source| matches!(source, Source::Query(_)));
                let guarantee = if is_query { Guarantee::G8 } else { Guarantee::G3 };
                findings.violation(guarantee, || contradiction(model, &below, item));
            }
        }
        for item in same {
            if let Some(called) = item.called
                && latest.is_none_or(|(latest, _)| latest < called)
            {
                latest = Some((called, *item));
            }
        }
    }
}

fn contradiction(model: &Model, below: &Item, above: &Item) -> Described {
    let name = model.name(above.conversation);
    let place = |item: &Item| match item.level % 2 {
        0 => format!("at tail {}", item.level / 2),
        _ => format!("at seq {}", item.level / 2),
    };
    let what = format!(
        "{name} went back: what stands {} had returned before what stands {} was called",
        place(above),
        place(below)
    );
    let evidence = evidence(model, above).into_iter().chain(evidence(model, below));
    described(what, evidence)
}

fn evidence(model: &Model, item: &Item) -> Vec<Evidence> {
    match item.source {
        Source::Commit(key) => {
            let appends = model.attempts(key).iter().map(|attempt| model.append_of(attempt));
            let appends = appends.filter(|append| !append.certainly_failed()).take(2);
            appends.flat_map(|a| [attempt(model, a, key), acknowledgement(a)]).collect()
        }
        Source::Read(at) => vec![shown(model, &model.reads[at])],
        Source::Query(at) => vec![told(model, &model.outcomes[at])],
        Source::Duplicate(at) => vec![acknowledgement(&model.appends[at])],
        Source::Sighting(id) => vec![sighting(model, id)],
        Source::WrongTail(at) => {
            let append = &model.appends[at];
            let found = wrong_tail(model, append).and_then(|(_, tail)| tail);
            let shows = format!(
                "refused, called at {:.6} s: the tail is {found:?}",
                seconds(append.span.call.at)
            );
            vec![Evidence::new(append.span.end(), shows)]
        }
    }
}

/// The tail that was expected and the one that was found, of an append that was refused for that.
fn wrong_tail(model: &Model, append: &Append) -> Option<(u64, Option<u64>)> {
    match append.ending {
        Ending::Failed(refused) if model.name(refused.reason) == "WRONG_TAIL" => {
            Some((append.expected_tail?, refused.tail))
        }
        _ => None,
    }
}

/// An expected tail that was accepted is where the batch begins; one that was refused was not the tail all the while.
fn check_expected_tails(model: &Model, items: &[Item], findings: &mut Findings) {
    let expecting = model.appends.iter().filter(|append| append.expected_tail.is_some());
    let expecting: Vec<&Append> = expecting.collect();
    if expecting.is_empty() {
        return;
    }
    let windows = Windows::of(items);
    for append in expecting {
        findings.look_at(Guarantee::G3, 1);
        let expected = append.expected_tail.expect("only such are looked at");
        let what = match append.ending {
            Ending::Ok(appended) if !appended.duplicate && appended.first_seq != expected => {
                format!("tail {expected} was asked for, and seq {} given", appended.first_seq)
            }
            _ => match wrong_tail(model, append) {
                Some((_, Some(found))) if found == expected => {
                    format!("tail {expected} was refused, and was the tail")
                }
                Some((_, None)) if windows.is_certainly(items, append, expected) => {
                    format!("tail {expected} was refused, and was the tail all the while")
                }
                _ => continue,
            },
        };
        findings.violation(Guarantee::G3, || {
            let shows = format!(
                "called at {:.6} s, expected tail {expected}",
                seconds(append.span.call.at)
            );
            let call = Evidence::new(append.span.call, shows);
            let name = model.name(append.conversation);
            described(format!("{name}: {what}"), [call, acknowledgement(append)])
        });
    }
}

/// When each state can have begun at the latest, and ended at the earliest.
struct Windows {
    /// The latest call up to each item, within its conversation.
    called: Vec<Nanos>,
    /// The earliest return from each item on, within its conversation.
    returned: Vec<Nanos>,
}

impl Windows {
    fn of(items: &[Item]) -> Self {
        let mut called: Vec<Nanos> = items.iter().map(|item| item.called.unwrap_or(0)).collect();
        let mut returned: Vec<Nanos> =
            items.iter().map(|item| item.returned.unwrap_or(Nanos::MAX)).collect();
        for at in 1..items.len() {
            if items[at].conversation == items[at - 1].conversation {
                called[at] = called[at].max(called[at - 1]);
            }
        }
        for at in (1..items.len()).rev() {
            if items[at].conversation == items[at - 1].conversation {
                returned[at - 1] = returned[at - 1].min(returned[at]);
            }
        }
        Self { called, returned }
    }

    /// Whether the tail was this from before the append was called until after it was answered.
    fn is_certainly(&self, items: &[Item], append: &Append, tail: u64) -> bool {
        let conversation = append.conversation;
        let first_at = |level| {
            items.partition_point(|item| (item.conversation, item.level) < (conversation, level))
        };
        // It was the tail once something from the state on had returned; for the first it always was.
        let state_at = first_at(state(tail));
        let begun = match self.returned.get(state_at) {
            _ if tail == 1 => 0,
            Some(returned) if items[state_at].conversation == conversation => *returned,
            _ => Nanos::MAX,
        };
        // It was so until the append of this seq was called, or something below that.
        let step_end = first_at(step(tail).saturating_add(1));
        let has_step = step_end.checked_sub(1).is_some_and(|at| {
            items[at].conversation == conversation && items[at].level == step(tail)
        });
        let ended = if has_step { self.called[step_end - 1] } else { Nanos::MAX };
        begun < append.span.call.at && append.span.answered < ended
    }
}
