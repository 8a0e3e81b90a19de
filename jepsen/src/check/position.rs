//! The position that an answer carries: one applied index is one state, and a replica that runs on does not go back.

use super::evidence::read as shown;
use super::{Checker, Findings, Guarantee, described};
use crate::history::Nanos;
use crate::model::{Model, Read, ReadAnswer};

/// See the module.
pub struct AppliedPosition;

impl Checker for AppliedPosition {
    fn name(&self) -> &'static str {
        "position"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G10]
    }

    fn rule(&self) -> &'static str {
        "Every answer says its position. In one group an applied index has one tail of a conversation, a higher index \
         none that is lower; the index of a node that nothing was done to does not go back."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let answered = model.reads.iter().filter_map(|read| Some((read, read.ending.ok()?)));
        let mut reads: Vec<(&Read, &ReadAnswer)> = answered.collect();
        findings.look_at(Guarantee::G10, reads.len() as u64);
        for (read, _) in reads.iter().filter(|(_, answer)| answer.position.node == 0) {
            findings.violation(Guarantee::G10, || {
                let what = format!("a read of {} says no position", model.name(read.conversation));
                described(what, [shown(model, read)])
            });
        }
        reads.retain(|(_, answer)| answer.position.node != 0);
        check_tails(model, &mut reads, findings);
        check_nodes(model, &mut reads, findings);
    }
}

fn check_tails(model: &Model, reads: &mut [(&Read, &ReadAnswer)], findings: &mut Findings) {
    let state = |(read, answer): &(&Read, &ReadAnswer)| (answer.position.group, read.conversation);
    reads.sort_unstable_by_key(|r| (state(r), r.1.position.applied_index, r.1.tail));
    for pair in reads.windows(2).filter(|pair| state(&pair[0]) == state(&pair[1])) {
        let [(a, before), (b, after)] = [pair[0], pair[1]];
        let same_index = before.position.applied_index == after.position.applied_index;
        let what = if same_index && before.tail != after.tail {
            "two tails at one applied index"
        } else if before.tail > after.tail {
            "a lower tail at a higher applied index"
        } else {
            continue;
        };
        findings.violation(Guarantee::G10, || {
            let what = format!("{}: {what}", model.name(b.conversation));
            described(what, [shown(model, a), shown(model, b)])
        });
    }
}

fn check_nodes(model: &Model, reads: &mut Vec<(&Read, &ReadAnswer)>, findings: &mut Findings) {
    let replica = |answer: &ReadAnswer| (answer.position.node, answer.position.group);
    let quiet = Quiet::of(model);
    reads.retain(|(read, answer)| quiet.spell(answer.position.node, read).is_some());
    let mut calls = reads.clone();
    calls.sort_unstable_by_key(|(read, answer)| (replica(answer), read.span.call.at));
    reads.sort_unstable_by_key(|(read, answer)| (replica(answer), read.span.answered));
    let mut returned = reads.iter().peekable();
    let mut highest: Option<(&Read, &ReadAnswer)> = None;
    for (read, answer) in calls {
        let key = (replica(answer), read.span.call.at);
        while let Some((before, shown)) =
            returned.next_if(|(read, answer)| (replica(answer), read.span.answered) < key)
        {
            let spell = |read, answer: &ReadAnswer| {
                (replica(answer), quiet.spell(answer.position.node, read))
            };
            let goes_on = highest.filter(|(old, seen)| spell(old, seen) == spell(before, shown));
            let is_higher = |(_, seen): (&Read, &ReadAnswer)| {
                seen.position.applied_index < shown.position.applied_index
            };
            if goes_on.is_none_or(is_higher) {
                highest = Some((before, shown));
            }
        }
        let node = answer.position.node;
        let before = highest.filter(|(old, seen)| {
            replica(seen) == replica(answer)
                && quiet.spell(node, old) == quiet.spell(node, read)
                && seen.position.applied_index > answer.position.applied_index
        });
        if let Some((old, _)) = before {
            findings.violation(Guarantee::G10, || {
                let what = format!("node {node} went back in group {}", answer.position.group);
                described(what, [shown(model, old), shown(model, read)])
            });
        }
    }
}

/// When nothing was done to a node.
struct Quiet {
    /// By node and time.
    faults: Vec<(u32, Nanos, Nanos)>,
}

impl Quiet {
    fn of(model: &Model) -> Self {
        let nodes: Vec<u32> = (1..=model.run.nodes).collect();
        let each = model.faults.iter().flat_map(|fault| {
            let touched = if fault.nodes.is_empty() { &nodes } else { &fault.nodes };
            touched.iter().map(|node| (*node, fault.from, fault.to))
        });
        let mut faults: Vec<_> = each.collect();
        faults.sort_unstable();
        // Those that overlap become one.
        let mut merged: Vec<(u32, Nanos, Nanos)> = Vec::new();
        for fault in faults {
            match merged.last_mut().filter(|last| last.0 == fault.0 && fault.1 <= last.2) {
                Some(last) => last.2 = last.2.max(fault.2),
                None => merged.push(fault),
            }
        }
        Self { faults: merged }
    }

    /// The number of the quiet spell in which all of a read lies, if it lies in one.
    fn spell(&self, node: u32, read: &Read) -> Option<usize> {
        let begun =
            self.faults.partition_point(|fault| (fault.0, fault.1) <= (node, read.span.answered));
        let last = begun.checked_sub(1).map(|at| self.faults[at]).filter(|fault| fault.0 == node);
        last.is_none_or(|(_, _, to)| to < read.span.call.at).then_some(begun)
    }
}
