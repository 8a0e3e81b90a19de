//! The cluster as this client last heard of it, and the placement of conversations in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::proto;

/// The placement hash of a name: the first 8 bytes of its BLAKE3, big endian.
pub(crate) fn placement_hash(conversation: &str) -> u64 {
    let hash = blake3::hash(conversation.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(first)
}

/// A topology indexed for routing.
#[derive(Debug)]
pub(crate) struct IndexedTopology {
    topology: Arc<proto::Topology>,
    /// Addresses for clients by node id; nodes without one are left out.
    addresses: HashMap<u64, Arc<str>>,
}

impl IndexedTopology {
    /// Keeps what is known of leaders that the topology does not know yet: a node that is cut off goes on telling of
    /// those that it knew.
    pub fn told_after(known: Option<&IndexedTopology>, mut topology: proto::Topology) -> Self {
        let same_cluster = |k: &&IndexedTopology| k.topology.cluster_id == topology.cluster_id;
        let known: HashMap<u64, &proto::Group> = known
            .filter(same_cluster)
            .iter()
            .flat_map(|known| known.topology.groups.iter().map(|group| (group.group_id, group)))
            .collect();
        // Whoever knows a leader knows more than who knows none of the same term.
        let rank = |group: &proto::Group| (group.leader_term, group.leader_node_id != 0);
        for group in &mut topology.groups {
            if let Some(known) = known.get(&group.group_id).filter(|k| rank(k) > rank(group)) {
                (group.leader_node_id, group.leader_term) =
                    (known.leader_node_id, known.leader_term);
            }
        }
        Self::new(topology)
    }

    fn new(mut topology: proto::Topology) -> Self {
        topology.groups.sort_by_key(|group| group.range_start);
        let addresses = topology
            .nodes
            .iter()
            .filter(|node| !node.client_address.is_empty())
            .map(|node| (node.node_id, Arc::from(node.client_address.as_str())))
            .collect();
        IndexedTopology { topology: Arc::new(topology), addresses }
    }

    pub fn topology(&self) -> &Arc<proto::Topology> {
        &self.topology
    }

    /// The group that holds a conversation, if one does.
    pub fn group_of(&self, conversation: &str) -> Option<&proto::Group> {
        let hash = placement_hash(conversation);
        let groups = &self.topology.groups;
        let above = groups.partition_point(|group| group.range_start <= hash);
        let group = groups.get(above.checked_sub(1)?)?;
        group.range_end.is_none_or(|end| hash < end).then_some(group)
    }

    pub fn address_of(&self, node_id: u64) -> Option<&Arc<str>> {
        self.addresses.get(&node_id)
    }

    /// The leaders of groups that another topology, or none, names differently.
    pub fn leaders_unlike(&self, other: Option<&IndexedTopology>) -> Vec<&Arc<str>> {
        let leader = |group: &proto::Group| (group.group_id, group.leader_node_id);
        let known: HashSet<_> =
            other.iter().flat_map(|o| o.topology.groups.iter().map(leader)).collect();
        let new = self.topology.groups.iter().filter(|group| !known.contains(&leader(group)));
        new.filter_map(|group| self.address_of(group.leader_node_id)).collect()
    }

    /// Every node's address, in order of id.
    pub fn all_addresses(&self) -> impl Iterator<Item = &Arc<str>> + Clone {
        self.topology.nodes.iter().filter_map(|node| self.address_of(node.node_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(group_id: u64, range_start: u64, range_end: Option<u64>) -> proto::Group {
        proto::Group { group_id, range_start, range_end, ..proto::Group::default() }
    }

    #[test]
    fn the_hash_is_the_servers() {
        // BLAKE3("") starts with af1349b9f5f9a1a6.
        assert_eq!(placement_hash(""), 0xaf13_49b9_f5f9_a1a6);
    }

    #[test]
    fn a_conversation_is_in_the_group_whose_range_holds_its_hash() {
        let hash = placement_hash("acme/room-42");
        let topology = IndexedTopology::new(proto::Topology {
            groups: vec![
                group(3, hash + 1, None),
                group(1, 0, Some(hash)),
                group(2, hash, Some(hash + 1)),
            ],
            ..proto::Topology::default()
        });
        assert_eq!(topology.group_of("acme/room-42").unwrap().group_id, 2);
    }

    #[test]
    fn of_two_leaders_the_later_one_is_kept() {
        let told = |leader_node_id, leader_term| proto::Topology {
            groups: vec![proto::Group { leader_node_id, leader_term, ..group(1, 0, None) }],
            ..proto::Topology::default()
        };
        let leads = |known: &IndexedTopology| known.topology().groups[0].leader_node_id;
        let mut known = IndexedTopology::told_after(None, told(3, 4));
        for (node, term, right) in
            [(2, 3, 3), (0, 4, 3), (0, 5, 0), (3, 4, 0), (2, 5, 2), (0, 0, 2)]
        {
            known = IndexedTopology::told_after(Some(&known), told(node, term));
            assert_eq!(leads(&known), right, "node {node} in term {term}");
        }
        let mut other = told(1, 1);
        other.cluster_id = "another".to_owned();
        assert_eq!(leads(&IndexedTopology::told_after(Some(&known), other)), 1);
    }

    #[test]
    fn a_hole_between_ranges_holds_nothing() {
        let hash = placement_hash("acme/room-42");
        let topology = IndexedTopology::new(proto::Topology {
            groups: vec![group(1, 0, Some(hash)), group(2, hash + 1, None)],
            ..proto::Topology::default()
        });
        assert!(topology.group_of("acme/room-42").is_none());
        assert!(IndexedTopology::new(proto::Topology::default()).group_of("x").is_none());
    }
}
