//! The replicas of this node, and which group a conversation is in.

use std::sync::Arc;

use tokio::sync::watch;

use super::Group;
use crate::log::Topology;
use crate::types::{ConversationId, GroupId, NodeId};

/// Where a conversation is.
#[derive(Clone)]
pub struct Route {
    /// Its group.
    pub group: GroupId,
    /// This node's replica, if it has one that serves.
    pub local: Option<Arc<Group>>,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Nodes with a replica.
    pub nodes: Vec<NodeId>,
}

/// The replicas of this node.
pub struct Replicas {}

impl Replicas {
    /// This node.
    pub fn node(&self) -> NodeId {
        unimplemented!()
    }

    /// The topology; none before the cluster is initialized.
    pub fn topology(&self) -> watch::Receiver<Option<Arc<Topology>>> {
        unimplemented!()
    }

    /// A group's replica here.
    pub fn get(&self, _group: GroupId) -> Option<Arc<Group>> {
        unimplemented!()
    }

    /// All replicas here, the meta group's included, in order of id.
    pub fn all(&self) -> Vec<Arc<Group>> {
        unimplemented!()
    }

    /// Where a conversation is; none before the cluster is initialized or while its group is being created.
    pub fn route(&self, _conversation: ConversationId) -> Option<Route> {
        unimplemented!()
    }
}
