//! Handing a call on to the node that can answer it: one hop. The request id and the deadline travel with it.

use std::future::Future;

use quorate_client::proto::message_log_client::MessageLogClient;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::Api;
use super::call::{Call, FORWARDED, REQUEST_ID};
use super::errors::{CallError, Effect};
use crate::transport::IntroducedChannel;
use crate::types::NodeId;

/// Another node's API, called as a node of the same cluster.
pub type PeerLog = MessageLogClient<IntroducedChannel>;

/// Connections to the other nodes.
pub trait Peers: Send + Sync {
    /// A client of a node's API; none if the node is unknown. Does not wait for a connection.
    fn message_log(&self, node: NodeId) -> Option<PeerLog>;
}

/// A client of `node`'s API, and leave to use it.
///
/// # Errors
/// `otherwise` if the call was forwarded before, or the node is this one or unknown.
pub fn client(
    api: &Api,
    call: &Call,
    node: NodeId,
    otherwise: CallError,
) -> Result<PeerLog, CallError> {
    if call.forwarded || node == api.replicas.node() {
        return Err(otherwise);
    }
    let client = api.peers.message_log(node).ok_or(otherwise)?;
    api.observer.forwarded(call.operation);
    Ok(client)
}

/// A request that says where it comes from. Without a deadline (a stream) it runs until one side ends it.
pub fn request<T>(api: &Api, call: &Call, deadline: Option<Instant>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(FORWARDED, api.replicas.node().0.into());
    if let Ok(id) = call.request_id.parse() {
        metadata.insert(REQUEST_ID, id);
    }
    if let Some(deadline) = deadline {
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    request
}

/// Waits for a node's answer, no longer than the deadline.
///
/// # Errors
/// What the node answered, or PEER_UNREACHABLE.
pub async fn answer<T>(
    api: &Api,
    node: NodeId,
    deadline: Instant,
    effect: Effect,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    let answer = match timeout_at(deadline, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CallError::from_peer(node, &status, effect)),
        Err(_) => {
            let message = format!("node {node} did not answer before the deadline");
            Err(CallError::unreachable(node, message, effect))
        }
    };
    api.elsewhere.learn_of(node, &answer);
    answer
}
