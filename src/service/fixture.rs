//! For tests: the API of a node of one's own.

use std::sync::Arc;

use super::{AllowAll, Api, Peers, Unobserved};
use crate::consensus::solitary::Process;
use crate::log::{Topology, TopologyGroup, TopologyReplica};
use crate::storage::records::Record;
use crate::storage::{Batch, Durability, Table, keys};
use crate::types::{
    Clock, ClusterId, GroupId, HashRange, Incarnation, NodeId, PlacementHash, Timestamp,
};

/// The only group there is.
pub const GROUP: GroupId = GroupId(1);

/// Time stands still.
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp(5_000_000)
    }

    fn elapsed_us(&self) -> u64 {
        5_000_000
    }
}

/// One group, with a replica on one node.
fn topology(node: NodeId) -> Topology {
    let replica = TopologyReplica { node, incarnation: Incarnation(1), joining: false };
    let group = TopologyGroup {
        id: GROUP,
        range: HashRange { start: PlacementHash(0), end: None },
        epoch: 1,
        active: true,
        replicas: vec![replica],
    };
    Topology {
        cluster: ClusterId(7),
        version: 1,
        feature_level: 1,
        nodes: Vec::new(),
        groups: vec![group],
    }
}

/// The API of a node that knows a topology: one group, whose only replica is on `node`.
pub fn api(process: &Process, node: NodeId, peers: Arc<dyn Peers>) -> Api {
    let (key, mut batch) = (keys::topology(), Batch::default());
    let row = topology(node).encode(&key);
    batch.put(Table::Topology, key, row);
    process.storage.state.write(batch, Durability::Flushed).unwrap();
    process.replicas.refresh_topology().unwrap();
    Api {
        replicas: process.replicas.clone(),
        peers,
        elsewhere: Arc::default(),
        clock: Arc::new(Still),
        random: Arc::new(|| [7; 16]),
        authorizer: Arc::new(AllowAll),
        observer: Arc::new(Unobserved),
        stopping: Default::default(),
        under_way: Default::default(),
    }
}
