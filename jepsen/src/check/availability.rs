//! What was broken and mended serves again.

use std::collections::BTreeMap;

use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::history::{Consistency, ENDED_BY_ITSELF, Fault, Nanos};
use crate::model::{Mark, Model, Span};

/// From mending until every group serves. The healed phase begins once all do.
pub const SERVED_WITHIN: Nanos = 30_000_000_000;
/// Calls that must all have failed before a node or conversation is said not to serve.
const CALLS_MIN: u64 = 5;

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
         conversation that is asked. No node ends by itself but with an error that it tells."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        for fault in model.faults.iter().filter(|fault| is_crash(fault)) {
            findings.violation(Guarantee::Availability, || {
                let node = fault.nodes.first().copied().unwrap_or(0);
                let what = format!("node {node} ended by itself: {}", fault.what);
                let mark = Mark { line: 0, at: fault.from, process: 0, node };
                described(what, [Evidence::new(mark, "it was found ended")])
            });
        }
        for fault in &model.faults {
            let Some(served_after) = fault.served_after else { continue };
            findings.examined += 1;
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

/// A node that ended otherwise than with an error that it told: by a signal that nobody sent, or a panic. Nodes end with
/// exit code 1 where their disks fail them.
fn is_crash(fault: &Fault) -> bool {
    fault.nemesis == ENDED_BY_ITSELF && fault.what != "exit code 1"
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
    let mut note = |span: &Span, conversation: u32, served: bool| {
        if span.call.at < from {
            return;
        }
        let node = span.call.node;
        let is_judged = node != 0 && !excused(node);
        let node = is_judged.then(|| format!("node {node}"));
        for name in node.into_iter().chain([format!("conversation {}", model.name(conversation))]) {
            let tally = tallies.entry(name).or_default();
            tally.calls += 1;
            tally.served += u64::from(served);
            tally.last = Some(*span);
        }
    };
    for append in &model.appends {
        // What was refused by its content was served too.
        let is_refused = append.expected_tail.is_some() || append.lane.is_some();
        let served = append.ending.ok().is_some();
        if served || !is_refused {
            note(&append.span, append.conversation, served);
        }
    }
    for read in &model.reads {
        if read.consistency == Consistency::Linearizable {
            note(&read.span, read.conversation, read.ending.ok().is_some());
        }
    }
    for (name, tally) in tallies {
        findings.examined += tally.calls;
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
