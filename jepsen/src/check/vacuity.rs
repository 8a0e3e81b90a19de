//! Whether a run proves anything: too little work, no effect of its faults, or nobody who looked at the end.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::model::{Ending, Model, Name, Read};

/// Fewer acknowledged appends prove nothing.
const ACKNOWLEDGED_MIN: usize = 100;
/// So many doubts are told; a run has one reason to be doubted, or very many.
const DOUBTS_MAX: usize = 20;

/// Why this run proves nothing even if no violation was found; empty if it does prove something.
pub fn doubts(model: &Model) -> Vec<String> {
    let mut doubts = Vec::new();
    let acknowledged = model.appends.iter().filter(|append| append.ending.ok().is_some()).count();
    if acknowledged < ACKNOWLEDGED_MIN {
        doubts.push(format!(
            "too little work: {acknowledged} acknowledged appends of at least {ACKNOWLEDGED_MIN}"
        ));
    }
    if model.run.healed_at.is_none() {
        doubts.push("the run has no healed phase".to_owned());
    }
    doubts.extend(idle_faults(model));
    doubts.extend(idle_workloads(model));
    doubts.extend(unread(model));
    if doubts.len() > DOUBTS_MAX {
        let more = doubts.split_off(DOUBTS_MAX).len();
        doubts.push(format!("and {more} more"));
    }
    doubts
}

/// A nemesis that was asked for and was never seen to take effect.
fn idle_faults(model: &Model) -> Vec<String> {
    let asked = model.run.nemeses.iter().filter(|name| *name != "none");
    let idle = asked.filter(|name| {
        let mut faults = model.faults.iter().filter(|fault| fault.nemesis == **name);
        !faults.any(|fault| fault.effect.is_some())
    });
    idle.map(|name| format!("the nemesis {name} was never seen to take effect")).collect()
}

/// A workload that was asked for and did nothing that tells it from others. Its name says what it does.
fn idle_workloads(model: &Model) -> Vec<String> {
    let appended = |in_lane: bool| {
        let mut ok = model.appends.iter().filter(|append| append.ending.ok().is_some());
        ok.any(|append| append.lane.is_some() == in_lane)
    };
    let delivered = |is_subscription: bool| {
        let mut streams = model.follows.iter();
        streams.any(|f| f.is_subscription == is_subscription && !f.deliveries.is_empty())
    };
    let read = || model.reads.iter().any(|read| !read.is_final && read.ending.ok().is_some());
    let retried = || model.keys().any(|key| model.attempts(key).len() > 1);
    let told = || model.outcomes.iter().any(|query| query.ending.ok().is_some());
    let does: [(&str, &dyn Fn() -> bool); 8] = [
        ("session", &|| appended(true)),
        ("pipeline", &|| appended(true)),
        ("follow", &|| delivered(false)),
        ("subscri", &|| delivered(true)),
        ("retr", &retried),
        ("idempot", &retried),
        ("outcome", &told),
        ("read", &read),
    ];
    let idle = |name: &&String| does.iter().any(|(part, works)| name.contains(part) && !works());
    let idle = model.run.workloads.iter().filter(idle);
    idle.map(|name| format!("the workload {name} did nothing of its kind")).collect()
}

/// Nodes and conversations that nobody read at the end.
fn unread(model: &Model) -> Vec<String> {
    let mut doubts = Vec::new();
    let finals = || model.reads.iter().filter(|read| read.is_final);
    let answered: HashSet<u32> =
        finals().filter_map(|r| r.ending.ok()).map(|a| a.position.node).collect();
    // A node without a replica of what it was asked for has nothing to show.
    let has_none = |read: &&Read| match &read.ending {
        Ending::Failed(refused) => model.name(refused.reason) == "NO_REPLICA",
        _ => false,
    };
    let empty: HashSet<u32> = finals().filter(has_none).map(|read| read.span.call.node).collect();
    let excused: HashSet<u32> = model.run.excused.iter().map(|(node, _)| *node).collect();
    for node in 1..=model.run.nodes {
        if ![&answered, &empty, &excused].iter().any(|nodes| nodes.contains(&node)) {
            doubts.push(format!("node {node} was not read at the end"));
        }
    }
    let appended: BTreeSet<Name> = model
        .appends
        .iter()
        .filter(|append| append.ending.ok().is_some())
        .map(|append| append.conversation)
        .collect();
    for conversation in appended {
        doubts.extend(unread_conversation(model, conversation, &excused));
    }
    doubts
}

fn unread_conversation(
    model: &Model,
    conversation: Name,
    excused: &HashSet<u32>,
) -> Option<String> {
    let (name, finals) = (model.name(conversation), model.final_read(conversation));
    if !finals.replicas.iter().any(|replica| replica.is_complete && replica.is_linearizable) {
        return Some(format!("{name} was not read in full, linearizably, at the end"));
    }
    let (_, tail) = finals.bounds()?;
    let mut behind: BTreeMap<u32, u64> = BTreeMap::new();
    let ends = |node| {
        let same = finals.replicas.iter().filter(move |replica| replica.node == node);
        same.filter(|replica| replica.is_complete).map(|replica| replica.tail).max()
    };
    for replica in &finals.replicas {
        if !excused.contains(&replica.node) && ends(replica.node) < Some(tail) {
            behind.insert(replica.node, replica.tail);
        }
    }
    let (node, at) = behind.into_iter().next()?;
    Some(format!("{name} was read on node {node} up to {at} only, and its tail is {tail}"))
}
