//! Where the appends of a session go. Found once for each group, and again when its leader or the topology is another.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokio::sync::watch;

use super::flights::Flights;
use super::lanes::Destination;
use crate::consensus::{Group, Replicas, active_group};
use crate::log::Topology;
use crate::service::Api;
use crate::service::call::Call;
use crate::service::errors::CallError;
use crate::types::{ConversationId, GroupId, NodeId};

/// The ways that a session has found, one for each group at most.
pub struct Ways {
    changes: watch::Receiver<Option<Arc<Topology>>>,
    topology: Option<Arc<Topology>>,
    known: FxHashMap<GroupId, Way>,
}

/// Where the appends of a group's lanes go.
#[derive(Clone)]
pub enum Way {
    /// To the replica of this node, which leads.
    Here(Arc<Group>),
    /// To another node, over one of the session's streams.
    There {
        /// Which group.
        group: GroupId,
        /// The node that leads, or may know who does.
        node: NodeId,
        /// Which stream.
        stream: u64,
        /// The replica of this node, if there is one.
        local: Option<Arc<Group>>,
    },
}

impl Way {
    /// The same, as the bookkeeping of lanes has it.
    pub fn destination(&self) -> Destination {
        match self {
            Way::Here(_) => Destination::Here,
            Way::There { node, stream, .. } => Destination::There { node: *node, stream: *stream },
        }
    }

    /// Whether it would be found again. Without a replica here nobody tells when the leader is another.
    fn holds(&self, replicas: &Replicas, flights: &Flights) -> bool {
        let stands = |local: &Arc<Group>| {
            replicas.get(local.id()).is_some_and(|group| Arc::ptr_eq(&group, local))
        };
        match self {
            Way::Here(local) => stands(local) && local.is_leader(),
            Way::There { local: None, .. } => false,
            Way::There { local: Some(local), node, stream, .. } => {
                stands(local)
                    && local.leader() == Some(*node)
                    && flights.stream_to(*node) == Some(*stream)
            }
        }
    }
}

impl Ways {
    /// None found yet.
    pub fn new(replicas: &Replicas) -> Self {
        let mut changes = replicas.topology();
        let topology = changes.borrow_and_update().clone();
        Ways { changes, topology, known: FxHashMap::default() }
    }

    /// Where a conversation's appends go now.
    ///
    /// # Errors
    /// NOT_INITIALIZED, NOT_LEADER.
    pub fn find(
        &mut self,
        api: &Api,
        call: &Call,
        flights: &mut Flights,
        conversation: ConversationId,
    ) -> Result<Way, CallError> {
        // An error means that the node is stopping: nothing changes any more.
        if self.changes.has_changed().unwrap_or(false) {
            self.topology = self.changes.borrow_and_update().clone();
            self.known.clear();
        }
        let topology = self.topology.as_deref().ok_or_else(CallError::not_initialized)?;
        let group = active_group(topology, conversation).ok_or_else(CallError::not_initialized)?;
        let known = self.known.get(&group.id);
        if let Some(way) = known.filter(|way| way.holds(&api.replicas, flights)) {
            return Ok(way.clone());
        }
        let route = api.replicas.route_to(group);
        let way = match route.local.clone().filter(|local| local.is_leader()) {
            Some(local) => Way::Here(local),
            None => {
                let node = api.leader(&route).ok_or_else(|| CallError::not_leader(None))?;
                let stream = match flights.stream_to(node) {
                    Some(stream) => stream,
                    None => flights.open_stream(api, call, node)?,
                };
                Way::There { group: route.group, node, stream, local: route.local }
            }
        };
        self.known.insert(group.id, way.clone());
        Ok(way)
    }
}
