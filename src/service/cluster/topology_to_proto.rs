//! The topology as callers see it, with the leaders that this node knows of.

use quorate_client::proto;

use super::ClusterApi;
use crate::log::{Topology, TopologyGroup, TopologyNode};
use crate::types::GroupId;

impl ClusterApi {
    pub(super) fn topology_to_proto(&self, topology: &Topology) -> proto::Topology {
        proto::Topology {
            cluster_id: topology.cluster.to_string(),
            version: topology.version,
            nodes: topology.nodes.iter().map(node).collect(),
            groups: topology.groups.iter().map(|group| self.group(group)).collect(),
            meta_leader_node_id: self.leader_of(GroupId::META).0,
            feature_level: topology.feature_level,
        }
    }

    fn group(&self, group: &TopologyGroup) -> proto::Group {
        let replicas = group.replicas.iter().map(|replica| proto::Replica {
            node_id: replica.node.0.into(),
            incarnation: replica.incarnation.0,
        });
        let (leader_node_id, leader_term) = self.leader_of(group.id);
        proto::Group {
            group_id: group.id.0,
            range_start: group.range.start.0,
            range_end: group.range.end.map(|end| end.0),
            epoch: group.epoch,
            leader_node_id,
            replicas: replicas.collect(),
            active: group.active,
            leader_term,
        }
    }

    /// The node that leads, 0 if none is known, and the term of which this holds.
    fn leader_of(&self, group: GroupId) -> (u64, u64) {
        let Some(replica) = self.replicas.get(group) else { return (0, 0) };
        let (leader, term) = replica.leader_and_term();
        (leader.map_or(0, |leader| leader.0.into()), term.0)
    }
}

fn node(node: &TopologyNode) -> proto::Node {
    proto::Node {
        node_id: node.id.0.into(),
        client_address: node.client_address.clone(),
        peer_address: node.peer_address.clone(),
        http_address: node.http_address.clone(),
        zone: node.zone.clone(),
        meta_incarnation: node.meta_incarnation.0,
    }
}
