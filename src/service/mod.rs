//! Floor 5: the API `quorate.v1.MessageLog`, one file for each family of RPCs.
//!
//! A call enters in `api`, passes `authorize`, is checked by `validate`, and is answered from a replica of this node
//! or handed on by `forward`, one hop. What fails becomes a status in `errors` and nowhere else. Follow and Subscribe
//! share `delivery`.
//!
//! Deliberately absent: anything durable or shared between calls. A node that dies takes no session state with it.

mod api;
mod append;
mod authorize;
mod batch_read;
mod bodies;
mod call;
pub mod cluster;
mod codec;
mod consistency;
pub mod convert;
mod delivery;
mod elsewhere;
mod errors;
#[cfg(test)]
mod fixture;
mod follow;
mod forward;
#[cfg(test)]
mod forward_tests;
mod list;
mod malformed;
mod memory;
mod observer;
#[cfg(test)]
mod other_node;
mod outcome;
pub mod page_token;
mod read;
mod reads;
mod responses;
mod session;
mod subscribe;
#[cfg(test)]
mod tests;
pub mod validate;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use authorize::{AllowAll, Authorizer, Operation, Principal, Resource, authorize};
pub use bodies::{RequestsLayer, ResponsesLayer, client_layers};
pub use call::{Call, FORWARDED, REQUEST_ID};
pub use codec::{Counted, counted};
pub use elsewhere::Elsewhere;
pub use errors::{CallError, DOMAIN, Effect, reason};
pub use forward::{PeerLog, Peers};
pub use malformed::MalformedLayer;
pub use observer::{ServiceObserver, Unobserved};

use crate::consensus::{Replicas, Route};
use crate::types::{Clock, ConversationName, NodeId};

/// The servers of `proto/quorate/v1`. Generated here, and not in the client library, because they decode by `codec`.
pub mod servers {
    #![allow(missing_docs, reason = "the proto files document every method")]
    #![allow(unused_qualifications, reason = "generated code")]
    #![allow(clippy::allow_attributes_without_reason, reason = "generated code")]
    #![allow(clippy::all, clippy::pedantic, reason = "generated code")]
    tonic::include_proto!("quorate.v1");
}

/// The API of one node. Cheap to clone: every clone is the same node.
#[derive(Clone)]
pub struct Api {
    /// The replicas of this node.
    pub replicas: Arc<Replicas>,
    /// The other nodes.
    pub peers: Arc<dyn Peers>,
    /// Which of them to ask.
    pub elsewhere: Arc<Elsewhere>,
    /// For the age of reads.
    pub clock: Arc<dyn Clock>,
    /// Draws 16 bytes that nobody can guess: salts of messages, ids of lanes. Simulations bring repeatable ones.
    pub random: Arc<dyn Fn() -> [u8; 16] + Send + Sync>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Whoever counts.
    pub observer: Arc<dyn ServiceObserver>,
    /// Cancelled when the node is about to stop: long streams then end with a retryable error, and what other nodes hand
    /// on is refused.
    pub stopping: CancellationToken,
    /// Has a token of each call that is to be answered, and of each session that has not ended: what is to become of those
    /// may only be heard of from other nodes.
    pub under_way: TaskTracker,
}

impl Api {
    /// Where a conversation is.
    ///
    /// # Errors
    /// NOT_INITIALIZED.
    fn route(&self, name: &ConversationName) -> Result<Route, CallError> {
        self.replicas.route(name.id()).ok_or_else(CallError::not_initialized)
    }

    /// Who leads, as far as is known: to the replica here, or else from what other nodes answered.
    fn leader(&self, route: &Route) -> Option<NodeId> {
        match route.local {
            Some(_) => route.leader,
            None => self.other(route, &[]),
        }
    }

    /// Another node with a replica, and none of those that were `tried`.
    fn other(&self, route: &Route, tried: &[NodeId]) -> Option<NodeId> {
        let here = self.replicas.node();
        let is_other = |node: &NodeId| *node != here && !tried.contains(node);
        let others: Vec<_> = route.nodes.iter().copied().filter(is_other).collect();
        self.elsewhere.choose(route.group, &others)
    }
}
