//! What was broken and mended serves again.

use std::collections::BTreeMap;

use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::history::{Consistency, ENDED_BY_ITSELF, Fault, Nanos};
use crate::model::{Ending, Mark, Model, Name, Span};
use crate::nemesis;

/// From mending until every group serves. The healed phase begins once all do.
pub const SERVED_WITHIN: Nanos = 30_000_000_000;
/// Calls that must all have failed before a node, conversation or session is said not to serve.
const CALLS_MIN: u64 = 5;
/// Why a call is refused by a cluster that serves: for what it asks for.
const REFUSED_BY_CONTENT: [&str; 4] = ["WRONG_TAIL", "ID_CONFLICT", "ID_BURNT", "NOT_FOUND"];

/// Families of nemeses by which a node loses its disk or what stands there.
const DISK_FAMILIES: [&str; 5] =
    ["fsync", "disk-exhausted", "damage", "truncate-wal-in-turn", "wipe"];

/// See the module.
pub struct Availability;

impl Checker for Availability {
    fn name(&self) -> &'static str {
        "availability"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::Availability]
    }

    fn rule(&self) -> &'static str {
        "Every group, the meta group too, serves within 30 s of the mending of a fault, and from then on in the healed \
         phase every node, conversation and session that is asked, also in the last third of its calls. No node panics, \
         and none ends by itself but with an error that it tells, where its disk failed it."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let ends = model.faults.iter().filter(|fault| fault.nemesis == ENDED_BY_ITSELF);
        for fault in ends.filter(|end| !is_excused(end, &model.faults)) {
            findings.violation(Guarantee::Availability, || {
                let node = fault.nodes.first().copied().unwrap_or(0);
                let what = format!("node {node} ended by itself: {}", fault.what);
                let mark = Mark { line: 0, at: fault.from, process: 0, node };
                described(what, [Evidence::new(mark, "it was found ended")])
            });
        }
        for (node, why) in &model.run.unreplaced {
            findings.violation(Guarantee::Availability, || {
                described(format!("node {node} could not be made anew: {why}"), None)
            });
        }
        for (node, panic) in &model.run.panics {
            findings.violation(Guarantee::Availability, || {
                described(format!("node {node} panicked: {panic}"), None)
            });
        }
        for fault in &model.faults {
            let Some(served_after) = fault.served_after else { continue };
            findings.look_at(Guarantee::Availability, 1);
            if served_after > SERVED_WITHIN {
                findings.violation(Guarantee::Availability, || {
                    let seconds = served_after / 1_000_000_000;
                    let what =
                        format!("{seconds} s until all groups served after {}", fault.nemesis);
                    let mark = Mark { line: 0, at: fault.to, process: 0, node: 0 };
                    described(what, [Evidence::new(mark, format!("mended: {}", fault.what))])
                });
            }
        }
        if let Some(healed) = model.run.healed_at {
            check_healed(model, healed, findings);
        }
    }
}

/// A node ends with an error that it tells where its disk has failed it; by a signal that nobody sent or a panic never.
fn is_excused(end: &Fault, faults: &[Fault]) -> bool {
    let is_cause = |fault: &Fault| {
        // It is noticed after the mending.
        let is_in_time = (fault.from..=fault.to.saturating_add(SERVED_WITHIN)).contains(&end.from);
        let is_of_disk = nemesis::all()
            .any(|known| known.name == fault.nemesis && DISK_FAMILIES.contains(&known.family));
        is_in_time && is_of_disk && end.nodes.iter().all(|node| fault.nodes.contains(node))
    };
    end.what == "exit code 1" && faults.iter().any(is_cause)
}

/// What came of the calls of one node, conversation or session.
#[derive(Default)]
struct Tally {
    /// Of clients at work.
    calls: Vec<Served>,
    /// Of those who read everything at the end, when nobody works any more.
    at_the_end: Vec<Served>,
}

/// A call, and whether it was served.
type Served = (Span, bool);

fn check_healed(model: &Model, from: Nanos, findings: &mut Findings) {
    for (name, mut tally) in tallies(model, from) {
        tally.calls.sort_by_key(|(span, _)| (span.call.at, span.call.line));
        let all = [&tally.calls[..], &tally.at_the_end[..]].concat();
        let last_third = &tally.calls[tally.calls.len() - tally.calls.len() / 3..];
        findings.look_at(Guarantee::Availability, all.len() as u64);
        let served_none = |calls: &[Served]| {
            let unserved = calls.iter().filter(|(_, served)| !served).count();
            unserved == calls.len() && unserved as u64 >= CALLS_MIN
        };
        let (what, calls) = if served_none(&all) {
            (format!("{name} served none of {} calls of the healed phase", all.len()), &all[..])
        } else if served_none(last_third) {
            let (count, of) = (last_third.len(), tally.calls.len());
            let what =
                format!("{name} served none of the last {count} of {of} calls of the healed phase");
            (what, last_third)
        } else {
            continue;
        };
        findings.violation(Guarantee::Availability, || {
            let before = tally.calls.iter().rfind(|(_, served)| *served);
            let before =
                before.map(|(span, _)| Evidence::new(span.end(), "the last that was served"));
            let last = calls.last().map(|(span, _)| Evidence::new(span.end(), "the last of them"));
            described(what, before.into_iter().chain(last))
        });
    }
}

/// The calls of the healed phase that were ended, by whom they were to be served.
fn tallies(model: &Model, from: Nanos) -> BTreeMap<String, Tally> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let excused = |node: u32| model.run.excused.iter().any(|(excused, _)| *excused == node);
    let mut note = |span: &Span, names: Vec<String>, served: bool, is_final: bool| {
        // What asks an excused node says nothing of others, and what the end of the run cut off says nothing at all.
        if span.call.at < from || excused(span.call.node) || span.answer_line == 0 {
            return;
        }
        for name in names {
            let tally = tallies.entry(name).or_default();
            let calls = if is_final { &mut tally.at_the_end } else { &mut tally.calls };
            calls.push((*span, served));
        }
    };
    let names = |span: &Span, conversation: Name| {
        let node = span.call.node;
        let node = (node != 0).then(|| format!("node {node}"));
        node.into_iter().chain([format!("conversation {}", model.name(conversation))]).collect()
    };
    for append in &model.appends {
        let served = is_served(model, &append.ending);
        // Behind one that failed all of a lane fail.
        if served || append.lane.is_none() {
            note(&append.span, names(&append.span, append.conversation), served, false);
        }
        if let Some(lane) = &append.lane {
            note(&append.span, vec![format!("session {}", lane.session)], served, false);
        }
    }
    for read in &model.reads {
        if read.consistency == Consistency::Linearizable {
            let served = is_served(model, &read.ending);
            note(&read.span, names(&read.span, read.conversation), served, read.is_final);
        }
    }
    tallies
}

/// What was refused for what it asks for was served, too.
fn is_served<T>(model: &Model, ending: &Ending<T>) -> bool {
    match ending {
        Ending::Ok(_) => true,
        Ending::Failed(refused) => REFUSED_BY_CONTENT.contains(&model.name(refused.reason)),
        Ending::Unknown(_) | Ending::Open => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_end_with_an_error_where_its_own_disk_failed_it_and_nowhere_else() {
        for family in DISK_FAMILIES {
            assert!(!nemesis::named(family).is_empty(), "there is no nemesis {family}");
        }
        let fault = |nemesis: &str, node, what: &str| Fault {
            from: 1,
            to: 2,
            nemesis: nemesis.to_owned(),
            nodes: vec![node],
            what: what.to_owned(),
            effect: None,
            served_after: None,
        };
        let end = |what: &str| fault(ENDED_BY_ITSELF, 1, what);
        for of_disk in ["fsync-error", "disk-exhausted", "flip-sst"] {
            let faults = [fault("kill-one", 1, ""), fault(of_disk, 1, "")];
            assert!(is_excused(&end("exit code 1"), &faults), "{of_disk}");
            assert!(!is_excused(&end("signal 6"), &faults), "{of_disk}");
            assert!(!is_excused(&end("exit code 1"), &[fault(of_disk, 2, "")]), "{of_disk}");
        }
        // A disk that fills up is refused appends, and no reason to end.
        for other in ["pause-long-one", "duplicate", "slow-disk", "power-one", "disk-full"] {
            assert!(!is_excused(&end("exit code 1"), &[fault(other, 1, "")]), "{other}");
        }
    }
}
