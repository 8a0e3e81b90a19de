//! For tests: the API of a node of one's own.

use std::sync::Arc;

use super::{AllowAll, Api, Peers, Unobserved};
use crate::consensus::solitary::{NOW, Process};
use crate::log::{Topology, TopologyGroup, TopologyReplica};
use crate::storage::records::Record;
use crate::storage::{Batch, Durability, Table, keys};
use crate::types::{
    Clock, ClusterId, ConversationName, GroupId, HashRange, Incarnation, NodeId, PlacementHash,
    Timestamp,
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

/// As simulated time goes, from when the clock that a solitary process has stands still.
pub struct Ticking(tokio::time::Instant);

impl Ticking {
    /// From now on.
    pub fn start() -> Arc<Self> {
        Arc::new(Ticking(tokio::time::Instant::now()))
    }
}

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        Timestamp(self.elapsed_us())
    }

    fn elapsed_us(&self) -> u64 {
        NOW.elapsed_us + self.0.elapsed().as_micros() as u64
    }
}

/// Both halves of all conversations.
pub fn halves() -> [HashRange; 2] {
    let middle = PlacementHash(1 << 63);
    let lower = HashRange { start: PlacementHash(0), end: Some(middle) };
    [lower, HashRange { start: middle, end: None }]
}

/// The name of a conversation in a range.
pub fn name_in(range: HashRange) -> String {
    let mut names = (0..).map(|number| ConversationName(format!("a/{number}")));
    names.find(|name| range.contains(name.id().placement())).expect("there are many").0
}

/// A group with replicas on these nodes.
pub fn group(id: GroupId, range: HashRange, nodes: &[NodeId]) -> TopologyGroup {
    let replica = |node: &NodeId| TopologyReplica {
        node: *node,
        incarnation: Incarnation(1),
        joining: false,
    };
    let replicas = nodes.iter().map(replica).collect();
    TopologyGroup { id, range, epoch: 1, active: true, replicas }
}

/// The API of a node that knows a topology: one group, whose only replica is on `node`.
pub fn api(process: &Process, node: NodeId, peers: Arc<dyn Peers>) -> Api {
    let all = HashRange { start: PlacementHash(0), end: None };
    api_over(process, vec![group(GROUP, all, &[node])], peers)
}

/// The API of a node that knows a topology of these groups.
pub fn api_over(process: &Process, groups: Vec<TopologyGroup>, peers: Arc<dyn Peers>) -> Api {
    let (cluster, version, feature_level) = (ClusterId(7), 1, 1);
    let topology = Topology { cluster, version, feature_level, nodes: Vec::new(), groups };
    let (key, mut batch) = (keys::topology(), Batch::default());
    let row = topology.encode(&key);
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
