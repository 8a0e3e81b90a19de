//! How it stands between this node and others that do not take each other for nodes of one cluster. Both sides try
//! again for as long as they live, so each cause is logged once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::hello::HelloError;
use crate::types::NodeId;

/// Strangers that are remembered, so that each is logged once. What they say of themselves is theirs to choose, so it
/// is bounded; later ones are refused in silence.
const STRANGERS_MAX: usize = 64;

/// Who refused whom.
#[derive(Default)]
pub struct Standing {
    refused_by: Mutex<BTreeMap<NodeId, String>>,
    strangers: Mutex<BTreeSet<String>>,
}

impl Standing {
    /// A node has taken this one's hello.
    pub fn note_accepted(&self, by: NodeId) {
        if self.refused_by.lock().expect("no panic while locked").remove(&by).is_some() {
            tracing::info!(node = %by, "a peer takes this node's hello again");
        }
    }

    /// A node has refused this one's hello, or what answered in its place is not that node.
    pub fn note_refused(&self, by: NodeId, reason: &str) {
        let mut refused = self.refused_by.lock().expect("no panic while locked");
        if refused.get(&by).is_none_or(|known| known != reason) {
            tracing::warn!(node = %by, reason, "a peer refuses this node; this is not logged again");
            refused.insert(by, reason.to_owned());
        }
    }

    /// Nodes that refused this one at the last attempt to connect, and why.
    pub fn refused_by(&self) -> BTreeMap<NodeId, String> {
        self.refused_by.lock().expect("no panic while locked").clone()
    }

    /// This node refuses somebody.
    pub(super) fn note_stranger(&self, error: &HelloError) {
        let reason = error.to_string();
        let mut strangers = self.strangers.lock().expect("no panic while locked");
        if strangers.len() < STRANGERS_MAX && strangers.insert(reason.clone()) {
            tracing::warn!(reason, "a peer is refused; this is not logged again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_refusal_stands_until_the_peer_accepts() {
        let standing = Standing::default();
        standing.note_refused(NodeId(2), "another cluster");
        standing.note_refused(NodeId(2), "another protocol");
        standing.note_refused(NodeId(3), "another cluster");
        let expected = [(NodeId(2), "another protocol"), (NodeId(3), "another cluster")];
        assert_eq!(
            standing.refused_by(),
            expected.map(|(node, why)| (node, why.to_owned())).into()
        );
        standing.note_accepted(NodeId(2));
        standing.note_accepted(NodeId(1));
        assert_eq!(standing.refused_by().len(), 1);
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let standing = Standing::default();
        for node in 0..1_000 {
            let (from, to, own) = (NodeId(node), NodeId(1), NodeId(2));
            standing.note_stranger(&HelloError::WrongNode { from, to, own });
        }
        assert_eq!(standing.strangers.lock().unwrap().len(), STRANGERS_MAX);
    }
}
