//! Who speaks, checked before anything else: the right cluster, the node that was meant, a protocol both know.

use std::sync::OnceLock;

use tonic::Status;

use super::proto;
use super::standing::Standing;
use super::wire::{cluster_from_wire, cluster_to_wire};
use crate::types::{ClusterId, NodeId};

/// Protocol versions this software speaks.
const PROTOCOL_MIN: u32 = 1;
const PROTOCOL_MAX: u32 = 1;
/// Version of commands and formats this software supports.
pub const FEATURE_LEVEL: u32 = 1;

/// Why a peer is not spoken to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// No hello came.
    #[error("the peer did not say hello")]
    Missing,
    /// Another cluster.
    #[error("node {from} belongs to cluster {theirs}, node {own} to {ours}")]
    WrongCluster {
        /// Who spoke.
        from: NodeId,
        /// Who this is.
        own: NodeId,
        /// Theirs; `none` if it has none.
        theirs: String,
        /// Ours; `none` if this node has none.
        ours: String,
    },
    /// Another node was meant, or says it is ours.
    #[error("a message from node {from} to node {to} came to node {own}")]
    WrongNode {
        /// Who spoke.
        from: NodeId,
        /// Who was meant.
        to: NodeId,
        /// Who this is.
        own: NodeId,
    },
    /// No version in common.
    #[error(
        "node {from} speaks protocol {min} to {max}, node {own} {PROTOCOL_MIN} to {PROTOCOL_MAX}"
    )]
    Protocol {
        /// Who spoke.
        from: NodeId,
        /// Who this is.
        own: NodeId,
        /// Lowest of theirs.
        min: u32,
        /// Highest of theirs.
        max: u32,
    },
}

/// This node as it presents itself.
pub struct Introduction {
    node: NodeId,
    cluster: OnceLock<ClusterId>,
    process_id: u64,
    standing: Standing,
}

impl Introduction {
    /// A node that may belong to a cluster already.
    pub fn new(node: NodeId, cluster: Option<ClusterId>) -> Self {
        let cell = OnceLock::new();
        if let Some(cluster) = cluster {
            let _ = cell.set(cluster);
        }
        Introduction {
            node,
            cluster: cell,
            process_id: rand::random(),
            standing: Standing::default(),
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This process: drawn anew at each start.
    pub fn process(&self) -> u64 {
        self.process_id
    }

    /// The cluster, once there is one.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// Joins a cluster, for good. False if the node belongs to another.
    pub fn join(&self, cluster: ClusterId) -> bool {
        *self.cluster.get_or_init(|| cluster) == cluster
    }

    /// The hello to a node.
    pub fn hello(&self, to: NodeId) -> proto::Hello {
        proto::Hello {
            cluster_id: self.cluster().map(cluster_to_wire).unwrap_or_default(),
            from_node: self.node.0,
            to_node: to.0,
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            feature_level: FEATURE_LEVEL,
            process_id: self.process_id,
        }
    }

    /// How it stands between this node and others.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Takes a peer's hello, or refuses it: the status that the peer gets, and one line in the log.
    pub fn greet(&self, hello: Option<&proto::Hello>) -> Result<NodeId, Status> {
        self.check(hello).map_err(|error| self.refuse(&error))
    }

    /// Like `greet`, for the calls that a node without a cluster may make and take.
    pub fn greet_stranger(&self, hello: Option<&proto::Hello>) -> Result<NodeId, Status> {
        self.check_stranger(hello).map_err(|error| self.refuse(&error))
    }

    fn refuse(&self, error: &HelloError) -> Status {
        self.standing.note_stranger(error);
        Status::failed_precondition(error.to_string())
    }

    /// Checks a peer's hello and tells which node it is.
    pub fn check(&self, hello: Option<&proto::Hello>) -> Result<NodeId, HelloError> {
        let from = self.check_stranger(hello)?;
        let theirs = hello.and_then(|hello| cluster_from_wire(&hello.cluster_id));
        if theirs.is_none() || theirs != self.cluster() {
            let name = |cluster: Option<ClusterId>| {
                cluster.map_or_else(|| "none".to_owned(), |cluster| cluster.to_string())
            };
            return Err(HelloError::WrongCluster {
                from,
                own: self.node,
                theirs: name(theirs),
                ours: name(self.cluster()),
            });
        }
        Ok(from)
    }

    fn check_stranger(&self, hello: Option<&proto::Hello>) -> Result<NodeId, HelloError> {
        let hello = hello.ok_or(HelloError::Missing)?;
        let (from, to) = (NodeId(hello.from_node), NodeId(hello.to_node));
        if hello.protocol_min > PROTOCOL_MAX || hello.protocol_max < PROTOCOL_MIN {
            let (min, max) = (hello.protocol_min, hello.protocol_max);
            return Err(HelloError::Protocol { from, own: self.node, min, max });
        }
        let to_itself = from == self.node && hello.process_id != self.process_id;
        if to != self.node || to_itself {
            return Err(HelloError::WrongNode { from, to, own: self.node });
        }
        Ok(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_and_mistaken_identities_are_refused() {
        let cluster = ClusterId(7);
        let one = Introduction::new(NodeId(1), Some(cluster));
        let two = Introduction::new(NodeId(2), Some(cluster));
        assert_eq!(two.check(Some(&one.hello(NodeId(2)))), Ok(NodeId(1)));
        assert_eq!(two.check(None), Err(HelloError::Missing));

        let other = Introduction::new(NodeId(1), Some(ClusterId(8)));
        let refused = two.check(Some(&other.hello(NodeId(2))));
        assert!(matches!(refused, Err(HelloError::WrongCluster { .. })));

        let without = Introduction::new(NodeId(1), None);
        let refused = two.check(Some(&without.hello(NodeId(2))));
        assert!(matches!(refused, Err(HelloError::WrongCluster { .. })));
        assert_eq!(two.check_stranger(Some(&without.hello(NodeId(2)))), Ok(NodeId(1)));

        let refused = two.check(Some(&one.hello(NodeId(3))));
        assert!(matches!(refused, Err(HelloError::WrongNode { .. })));

        let twin = Introduction::new(NodeId(2), Some(cluster));
        let refused = two.check(Some(&twin.hello(NodeId(2))));
        assert!(matches!(refused, Err(HelloError::WrongNode { .. })), "two nodes with one id");

        let future = proto::Hello { protocol_min: 9, protocol_max: 9, ..one.hello(NodeId(2)) };
        let refused = two.check(Some(&future));
        assert!(matches!(refused, Err(HelloError::Protocol { .. })));
    }
}
