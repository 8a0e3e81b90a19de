//! Whether a run proves anything: too little work, no effect of its faults, or nobody who looked at the end.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem::discriminant;

use crate::model::{Delivered, Model, Name, Read, ReadAnswer};

/// Fewer acknowledged appends prove nothing: in all, and for each second.
const ACKNOWLEDGED_MIN: usize = 100;
const ACKNOWLEDGED_EACH_SECOND_MIN: usize = 2;
/// So many doubts are told; a run has one reason to be doubted, or very many.
const DOUBTS_MAX: usize = 20;

/// Why this run proves nothing even if no violation was found; empty if it does prove something.
pub fn doubts(model: &Model) -> Vec<String> {
    let mut doubts = Vec::new();
    let acknowledged = model.appends.iter().filter(|append| append.ending.ok().is_some()).count();
    let seconds = usize::try_from(model.run.duration_s).unwrap_or(usize::MAX);
    let least = ACKNOWLEDGED_MIN.max(seconds.saturating_mul(ACKNOWLEDGED_EACH_SECOND_MIN));
    if acknowledged < least {
        let doubt =
            format!("too little work: {acknowledged} acknowledged appends of at least {least}");
        doubts.push(doubt);
    }
    if model.run.healed_at.is_none() {
        doubts.push("the run has no healed phase".to_owned());
    }
    doubts.extend(idle_faults(model));
    doubts.extend(idle_workloads(model));
    let unread = unread(model);
    // Where a conversation was not read in full it is told so already.
    let not_looked_for = super::unfound(model).not_looked_for;
    if unread.is_empty() && not_looked_for > 0 {
        doubts
            .push(format!("{not_looked_for} acknowledged messages were not looked for at the end"));
    }
    doubts.extend(unread);
    if doubts.len() > DOUBTS_MAX {
        let more = doubts.split_off(DOUBTS_MAX).len();
        doubts.push(format!("and {more} more"));
    }
    doubts
}

/// A nemesis that was asked for and was never seen to take effect; or none was asked for.
fn idle_faults(model: &Model) -> Vec<String> {
    if model.run.nemeses.is_empty() {
        return vec!["nothing was broken".to_owned()];
    }
    let idle = model.run.nemeses.iter().filter(|name| {
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
    let delivered = |is_subscription: bool, without_library: bool| {
        let mut streams = model.follows.iter().filter(|follow| {
            follow.is_subscription == is_subscription && follow.without_library == without_library
        });
        streams.any(|follow| !follow.deliveries.is_empty())
    };
    let resumed = model.follows.iter().any(|follow| {
        let mut again = HashSet::new();
        follow.deliveries.iter().any(|delivery| match delivery.what {
            Delivered::AddedAgain(_) => !again.insert(delivery.conversation),
            Delivered::Messages(_) => again.contains(&delivery.conversation),
            Delivered::CaughtUp(_) | Delivered::Gap(_) => false,
        })
    });
    // At every level: a guarantee of which every read was refused was not looked at.
    let read = || {
        let answered =
            model.reads.iter().filter(|read| !read.is_final && read.ending.ok().is_some());
        let levels = answered.map(|read| discriminant(&read.consistency));
        let of_ends = model.reads.iter().filter(|read| read.of_the_end);
        levels.collect::<HashSet<_>>().len() == 4
            && of_ends.filter(|read| read.ending.ok().is_some()).count() > 0
    };
    let retried =
        || model.appends.iter().any(|append| append.ending.ok().is_some_and(|ok| ok.duplicate));
    let told = || model.outcomes.iter().any(|query| query.ending.ok().is_some());
    let does: [(&str, &dyn Fn() -> bool); 10] = [
        ("session", &|| appended(true)),
        ("benchmark", &|| appended(true)),
        ("pipeline", &|| appended(true)),
        ("follow", &|| delivered(false, false)),
        ("subscri", &|| delivered(true, false) && resumed),
        ("stream", &|| delivered(false, true)),
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
    let answers = || model.reads.iter().filter(|read| read.is_final).filter_map(answered);
    let excused: HashSet<u32> = model.run.excused.iter().map(|(node, _)| *node).collect();
    let replicas = &model.run.replicas;
    // Where it is not known who has a replica, every node is taken to have one.
    let has_any =
        |node| replicas.is_empty() || replicas.values().any(|nodes| nodes.contains(&node));
    let read: HashSet<u32> = answers().map(|(_, answer)| answer.position.node).collect();
    let mut doubts = Vec::new();
    for node in (1..=model.run.nodes).filter(|node| has_any(*node) && !excused.contains(node)) {
        if !read.contains(&node) {
            doubts.push(format!("node {node} was not read at the end"));
        }
    }
    let groups: HashMap<Name, u64> =
        answers().map(|(read, answer)| (read.conversation, answer.position.group)).collect();
    let appended: BTreeSet<Name> = model
        .appends
        .iter()
        .filter(|append| append.ending.ok().is_some())
        .map(|append| append.conversation)
        .collect();
    for conversation in appended {
        let group = groups.get(&conversation);
        let nodes = group.and_then(|group| replicas.get(group)).map_or(&[][..], Vec::as_slice);
        doubts.extend(unread_conversation(model, conversation, nodes, &excused));
    }
    doubts
}

fn answered(read: &Read) -> Option<(&Read, &ReadAnswer)> {
    Some((read, read.ending.ok()?))
}

/// Each of `nodes`, which have a replica of it, has to have shown it up to its tail.
fn unread_conversation(
    model: &Model,
    conversation: Name,
    nodes: &[u32],
    excused: &HashSet<u32>,
) -> Option<String> {
    let (name, finals) = (model.name(conversation), model.final_read(conversation));
    if !finals.replicas.iter().any(|replica| replica.is_complete && replica.is_linearizable) {
        return Some(format!("{name} was not read in full, linearizably, at the end"));
    }
    let (_, tail) = finals.bounds()?;
    let reaches = |node| {
        let same = finals.replicas.iter().filter(move |replica| replica.node == node);
        same.filter(|replica| replica.is_complete).map(|replica| replica.tail).max()
    };
    let others = finals.replicas.iter().map(|replica| replica.node);
    let mut looked_at: Vec<u32> = nodes.iter().copied().chain(others).collect();
    looked_at.sort_unstable();
    let behind = looked_at
        .into_iter()
        .find(|node| !excused.contains(node) && reaches(*node) < Some(tail))?;
    Some(match finals.replicas.iter().find(|replica| replica.node == behind) {
        Some(at) => {
            format!(
                "{name} was read on node {behind} up to {} only, and its tail is {tail}",
                at.tail
            )
        }
        None => format!("{name} was not read on node {behind}, which has a replica of it"),
    })
}

#[cfg(test)]
mod tests {
    use super::doubts;
    use crate::check::tests::simulate::simulate;
    use crate::history::{Answer, EventKind};
    use crate::model::Model;

    #[test]
    fn a_replica_that_another_node_answered_for_is_a_doubt() {
        let mut simulated = simulate(1, 2, 1_500);
        for event in &mut simulated.events {
            if let EventKind::Ok(Answer::Read { position, .. }) = &mut event.kind
                && position.group == 1
                && position.node == 2
            {
                position.node = 3;
            }
        }
        let model = Model::of(simulated.run, simulated.faults, simulated.events).unwrap();
        let doubts = doubts(&model);
        assert_eq!(doubts.len(), 1, "{doubts:?}");
        assert!(doubts[0].ends_with("was not read on node 2, which has a replica of it"));
    }

    #[test]
    fn a_run_that_breaks_nothing_and_does_too_little_is_doubted() {
        let mut simulated = simulate(1, 2, 1_500);
        simulated.run.nemeses.clear();
        simulated.run.duration_s = 100_000;
        let model = Model::of(simulated.run, simulated.faults, simulated.events).unwrap();
        let doubts = doubts(&model);
        assert_eq!(doubts.len(), 2, "{doubts:?}");
        assert!(
            doubts[0].starts_with("too little work: ") && doubts[0].ends_with("of at least 200000")
        );
        assert_eq!(doubts[1], "nothing was broken");
    }

    #[test]
    fn a_node_without_a_replica_need_not_be_read() {
        let mut simulated = simulate(1, 2, 1_500);
        simulated.run.nodes += 1;
        let model = Model::of(simulated.run, simulated.faults, simulated.events).unwrap();
        assert_eq!(doubts(&model), Vec::<String>::new());
    }
}
