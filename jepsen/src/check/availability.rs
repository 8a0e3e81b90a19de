//! What was broken and mended serves again.

use std::collections::BTreeMap;

use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::history::{Consistency, ENDED_BY_ITSELF, Fault, Nanos};
use crate::model::{Mark, Model, Name, Span};
use crate::nemesis;

/// From mending until every group serves. The healed phase begins once all do.
pub const SERVED_WITHIN: Nanos = 30_000_000_000;
/// Calls that must all have failed before a node or conversation is said not to serve.
const CALLS_MIN: u64 = 5;

/// Families of nemeses by which a node loses its disk or what stands there.
const DISK_FAMILIES: [&str; 6] =
    ["fsync", "disk-full", "disk-exhausted", "damage", "truncate-wal-in-turn", "wipe"];

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
        "Every group serves within 30 s of the mending of a fault, and from then on in the healed phase every node and \
         conversation that is asked. No node panics, and none ends by itself but with an error that it tells, where \
         its disk failed it."
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

/// Calls and successes of one node or conversation.
#[derive(Default)]
struct Tally {
    calls: u64,
    served: u64,
    last: Option<Span>,
}

fn check_healed(model: &Model, from: Nanos, findings: &mut Findings) {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let excused = |node: u32| model.run.excused.iter().any(|(excused, _)| *excused == node);
    let mut note = |span: &Span, names: Vec<String>, served: bool| {
        if span.call.at < from {
            return;
        }
        for name in names {
            let tally = tallies.entry(name).or_default();
            tally.calls += 1;
            tally.served += u64::from(served);
            tally.last = Some(*span);
        }
    };
    let names = |span: &Span, conversation: Name| {
        let node = span.call.node;
        let is_judged = node != 0 && !excused(node);
        let node = is_judged.then(|| format!("node {node}"));
        node.into_iter().chain([format!("conversation {}", model.name(conversation))]).collect()
    };
    for append in &model.appends {
        let served = append.ending.ok().is_some();
        // Behind one that failed all of a lane fail; and what was refused by its content was served too.
        if served || (append.expected_tail.is_none() && append.lane.is_none()) {
            note(&append.span, names(&append.span, append.conversation), served);
        }
        if let Some(lane) = append.lane.as_ref().filter(|_| !excused(append.span.call.node)) {
            note(&append.span, vec![format!("session {}", lane.session)], served);
        }
    }
    for read in &model.reads {
        if read.consistency == Consistency::Linearizable {
            note(&read.span, names(&read.span, read.conversation), read.ending.ok().is_some());
        }
    }
    for (name, tally) in tallies {
        findings.look_at(Guarantee::Availability, tally.calls);
        if tally.served == 0 && tally.calls >= CALLS_MIN {
            findings.violation(Guarantee::Availability, || {
                let what =
                    format!("{name} served none of {} calls of the healed phase", tally.calls);
                let last = tally.last.map(|span| Evidence::new(span.end(), "the last of them"));
                described(what, last)
            });
        }
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
        for of_disk in ["fsync-error", "disk-full", "disk-exhausted"] {
            let faults = [fault("kill-one", 1, ""), fault(of_disk, 1, "")];
            assert!(is_excused(&end("exit code 1"), &faults), "{of_disk}");
            assert!(!is_excused(&end("signal 6"), &faults), "{of_disk}");
            assert!(!is_excused(&end("exit code 1"), &[fault(of_disk, 2, "")]), "{of_disk}");
        }
        for other in ["pause-long-one", "duplicate", "slow-disk", "power-one"] {
            assert!(!is_excused(&end("exit code 1"), &[fault(other, 1, "")]), "{other}");
        }
    }
}
