//! Changes of the topology, proposed wherever the meta group's leader is.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::describe::leader_of;
use crate::consensus::Replicas;
use crate::log::{Command, Proposal, TopologyChange};
use crate::transport::{NodeOperations, OperationError, Peers, proto};
use crate::types::{GroupId, Timestamp};

const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Why a change of topology was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetaError {
    /// The meta group refused it.
    #[error("{0}")]
    Refused(String),
    /// No leader of the meta group took it before the deadline. It may be made all the same; changes can be repeated.
    #[error("the meta group did not take the change in time: {0}")]
    Unavailable(String),
}

/// The form in which a change travels: a proposal of its own, so that it is versioned and has a checksum.
pub fn encode_change(change: TopologyChange) -> Bytes {
    let commands = vec![Command::ChangeTopology(change)];
    Proposal { stamped_at: Timestamp(0), commands }.encode()
}

/// The change in its travelling form.
pub fn decode_change(encoded: &[u8]) -> Option<TopologyChange> {
    let mut proposal = Proposal::decode(encoded).ok()?;
    match (proposal.commands.pop(), proposal.commands.is_empty()) {
        (Some(Command::ChangeTopology(change)), true) => Some(change),
        _ => None,
    }
}

/// Makes a change of topology, here or at the meta group's leader, and tries again until the deadline. Changes are
/// made so that a repeated one is harmless.
pub async fn change_topology(
    replicas: &Replicas,
    peers: &Peers,
    operations: &dyn NodeOperations,
    change: TopologyChange,
    deadline: Instant,
) -> Result<(), MetaError> {
    let encoded = encode_change(change);
    loop {
        let refused = match attempt(replicas, peers, operations, encoded.clone()).await {
            Ok(refused) if refused.is_empty() => return Ok(()),
            Ok(refused) => return Err(MetaError::Refused(refused)),
            Err(OperationError::Refused(reason)) => return Err(MetaError::Refused(reason)),
            Err(OperationError::Unavailable(reason)) => reason,
        };
        if Instant::now() + RETRY_INTERVAL >= deadline {
            return Err(MetaError::Unavailable(refused));
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn attempt(
    replicas: &Replicas,
    peers: &Peers,
    operations: &dyn NodeOperations,
    change: Bytes,
) -> Result<String, OperationError> {
    let unavailable = |reason: String| OperationError::Unavailable(reason);
    let meta = replicas.get(GroupId::META).filter(|meta| meta.takes_part(None));
    if meta.as_ref().is_some_and(|meta| meta.is_leader()) {
        return operations.change_topology(change).await;
    }
    // A replica that is being made anew knows of no leader: others do.
    let leader = match meta.and_then(|meta| meta.leader()) {
        Some(leader) => Some(leader),
        None => leader_of(replicas, peers, operations, GroupId::META).await,
    };
    let leader = leader.filter(|leader| *leader != replicas.node());
    let leader = leader.ok_or_else(|| unavailable("no leader is known".into()))?;
    let mut client = peers.client(leader).map_err(|error| unavailable(error.to_string()))?;
    let hello = Some(peers.introduction().hello(leader));
    let reply = client.change_topology(proto::ChangeTopologyRequest { hello, change }).await;
    match reply {
        Ok(reply) => Ok(reply.into_inner().refused),
        Err(status) => Err(unavailable(status.message().to_owned())),
    }
}
