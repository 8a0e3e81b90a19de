//! The topology, changed and looked up wherever the meta group's leader is.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;

use super::describe::leader_of;
use crate::consensus::Replicas;
use crate::log::{Command, Proposal, Topology, TopologyChange};
use crate::storage::keys;
use crate::storage::records::Record;
use crate::transport::proto::peer_client::PeerClient;
use crate::transport::{NodeOperations, OperationError, Peers, proto};
use crate::types::{GroupId, NodeId, Timestamp};

const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Why a change of topology was not made, or the topology not told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetaError {
    /// The meta group refused it.
    #[error("{0}")]
    Refused(String),
    /// No leader of the meta group answered before the deadline. A change may be made all the same; it can be repeated.
    #[error("the meta group did not answer in time: {0}")]
    Unavailable(String),
}

/// The form in which a change travels: a proposal of its own, so that it is versioned and has a checksum.
pub fn encode_change(change: TopologyChange) -> Bytes {
    let commands = vec![Command::ChangeTopology(change)];
    Proposal { stamped_at: Timestamp(0), commands }.encode()
}

/// The change in its travelling form.
pub fn decode_change(encoded: &[u8]) -> Option<TopologyChange> {
    let mut proposal = <Proposal>::decode(encoded).ok()?;
    match (proposal.commands.pop(), proposal.commands.is_empty()) {
        (Some(Command::ChangeTopology(change)), true) => Some(change),
        _ => None,
    }
}

/// The meta group, as one of the nodes reaches it: by its own replica or through others'.
pub struct MetaGroup<'a> {
    /// This node's replicas.
    pub replicas: &'a Replicas,
    /// The other nodes.
    pub peers: &'a Peers,
    /// What this node does when it is asked itself.
    pub operations: &'a dyn NodeOperations,
}

impl MetaGroup<'_> {
    /// Makes a change of topology, here or at the meta group's leader, and tries again until the deadline. Changes are
    /// made so that a repeated one is harmless.
    pub async fn change_topology(
        &self,
        change: TopologyChange,
        deadline: Instant,
    ) -> Result<(), MetaError> {
        let encoded = encode_change(change);
        let propose = |leader: Leader| {
            let change = encoded.clone();
            let proposed = async move {
                let (node, mut client) = match leader {
                    Leader::Here => return self.operations.change_topology(change).await,
                    Leader::There(node, client) => (node, client),
                };
                let hello = Some(self.peers.introduction().hello(node));
                let request = proto::ChangeTopologyRequest { hello, change };
                let reply = client.change_topology(request).await;
                Ok(reply.map_err(unanswered)?.into_inner().refused)
            };
            proposed.boxed()
        };
        match self.at_leader(propose, deadline).await? {
            refused if refused.is_empty() => Ok(()),
            refused => Err(MetaError::Refused(refused)),
        }
    }

    /// The topology as of now, as the meta group's leader has it; none while the cluster is being made. A replica here that
    /// was removed may never hear of it.
    pub async fn topology(&self, deadline: Instant) -> Result<Option<Topology>, MetaError> {
        let ask = |leader: Leader| {
            let answered = async move {
                let (node, mut client) = match leader {
                    Leader::Here => return self.operations.topology().await,
                    Leader::There(node, client) => (node, client),
                };
                let hello = Some(self.peers.introduction().hello(node));
                let reply = client.topology(proto::TopologyRequest { hello }).await;
                Ok(reply.map_err(unanswered)?.into_inner().topology)
            };
            answered.boxed()
        };
        let encoded = self.at_leader(ask, deadline).await?;
        if encoded.is_empty() {
            return Ok(None);
        }
        let topology = Topology::decode(&keys::topology(), &encoded);
        topology.map(Some).map_err(|error| MetaError::Unavailable(error.to_string()))
    }

    async fn at_leader<'a, T>(
        &'a self,
        ask: impl Fn(Leader) -> BoxFuture<'a, Result<T, OperationError>>,
        deadline: Instant,
    ) -> Result<T, MetaError> {
        let mut is_first = true;
        loop {
            let answer = match self.leader(is_first).await {
                Ok(leader) => {
                    let late = || OperationError::Unavailable("the leader did not answer".into());
                    timeout_at(deadline, ask(leader)).await.unwrap_or_else(|_| Err(late()))
                }
                Err(error) => Err(error),
            };
            let reason = match answer {
                Ok(answer) => return Ok(answer),
                Err(OperationError::Refused(reason)) => return Err(MetaError::Refused(reason)),
                Err(OperationError::Unavailable(reason)) => reason,
            };
            if Instant::now() + RETRY_INTERVAL >= deadline {
                return Err(MetaError::Unavailable(reason));
            }
            is_first = false;
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Who leads: at first as the replica here says, if there is one that takes part. It may have been removed, or not
    /// have heard of a newer leader yet, so from then on all are asked.
    async fn leader(&self, is_first: bool) -> Result<Leader, OperationError> {
        let unavailable = |reason: String| OperationError::Unavailable(reason);
        let meta = self.replicas.get(GroupId::META).filter(|meta| meta.takes_part(None));
        if is_first && meta.as_ref().is_some_and(|meta| meta.is_leader()) {
            return Ok(Leader::Here);
        }
        let leader = match meta.and_then(|meta| meta.leader()).filter(|_| is_first) {
            Some(leader) => Some(leader),
            None => leader_of(self.replicas, self.peers, self.operations, GroupId::META).await,
        };
        match leader.ok_or_else(|| unavailable("no leader is known".into()))? {
            own if own == self.replicas.node() => Ok(Leader::Here),
            other => {
                let client = self.peers.client(other);
                let client = client.map_err(|error| unavailable(error.to_string()))?;
                Ok(Leader::There(other, client))
            }
        }
    }
}

/// Where to ask.
enum Leader {
    /// At this node.
    Here,
    /// At another.
    There(NodeId, PeerClient<Channel>),
}

fn unanswered(status: tonic::Status) -> OperationError {
    OperationError::Unavailable(status.message().to_owned())
}
