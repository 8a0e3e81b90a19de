//! What is has to be what is wanted: once all is mended, the voters of each group are the replicas of the topology (G9).

use std::collections::BTreeMap;

use quorate::log::{Topology, TopologyGroup, read_topology};
use quorate::storage::records::{GroupRow, Record};
use quorate::storage::{Table, View, keys};
use quorate::types::{GroupId, ReplicaId};

use crate::ground::Machine;

/// Where they differ.
pub fn differences(machines: &[Machine]) -> Vec<String> {
    let states: Vec<_> = machines.iter().map(Machine::state).collect();
    let Some(topology) = topology(machines) else {
        return vec!["G9: no node has a topology".to_owned()];
    };
    let mut differences = Vec::new();
    for (group, mut wanted) in wanted(&topology) {
        let rows = states.iter().filter_map(|state| row(&**state, group));
        let newest = rows.max_by_key(|row| row.applied);
        let mut configs = newest.map(|row| row.membership.configs).unwrap_or_default();
        configs.iter_mut().for_each(|voters| voters.sort());
        wanted.sort();
        if configs != [wanted.clone()] {
            differences.push(format!(
                "G9: group {group} has voters {configs:?}, and the topology wants {wanted:?}"
            ));
        }
    }
    for group in topology.groups.iter().filter(|group| group.replicas.iter().any(|r| r.joining)) {
        differences.push(format!("G9: group {} is still to be joined: {group:?}", group.id));
    }
    differences
}

/// The newest topology that a node has.
pub fn topology(machines: &[Machine]) -> Option<Topology> {
    let topologies = machines.iter().filter_map(|machine| read_topology(&*machine.state()).ok()?);
    topologies.max_by_key(|topology| topology.version)
}

/// The nodes that are to have a replica of each conversation group.
pub fn replicas(machines: &[Machine]) -> BTreeMap<u64, Vec<u32>> {
    let groups = topology(machines).map(|topology| topology.groups).unwrap_or_default();
    let nodes = |group: &TopologyGroup| group.replicas.iter().map(|one| one.node.0).collect();
    groups.iter().map(|group| (group.id.0, nodes(group))).collect()
}

fn wanted(topology: &Topology) -> Vec<(GroupId, Vec<ReplicaId>)> {
    let nodes = topology.nodes.iter();
    let meta = nodes.map(|node| ReplicaId { node: node.id, incarnation: node.meta_incarnation });
    let mut all = vec![(GroupId::META, meta.collect())];
    for group in &topology.groups {
        let replicas = group.replicas.iter();
        let ids = replicas.map(|one| ReplicaId { node: one.node, incarnation: one.incarnation });
        all.push((group.id, ids.collect()));
    }
    all
}

fn row(state: &dyn View, group: GroupId) -> Option<GroupRow> {
    let key = keys::group(group);
    let stored = state.get(Table::Groups, &key).ok().flatten()?;
    GroupRow::decode(&key, &stored).ok()
}
