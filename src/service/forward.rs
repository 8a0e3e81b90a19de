//! Handing a call on to the node that can answer it: one hop. The request id and the deadline travel with it.

use std::future::Future;

use quorate_client::proto::message_log_client::MessageLogClient;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::Api;
use super::authorize::Operation;
use super::call::{Call, FORWARDED, REQUEST_ID};
use super::errors::{CallError, Effect};
use crate::transport::{HandedOn, IntroducedChannel};
use crate::types::{GroupId, NodeId};

/// Another node's API, called as a node of the same cluster.
pub type PeerLog = MessageLogClient<IntroducedChannel>;

/// Connections to the other nodes.
pub trait Peers: Send + Sync {
    /// A client of a node's API; none if the node is unknown. Does not wait for a connection.
    fn message_log(&self, node: NodeId, what: HandedOn) -> Option<PeerLog>;
}

/// Where it depends on the caller when responses are taken, other callers must not wait for that. The answers of a
/// session are small, and taken whether its caller takes them or not.
fn handed_on(operation: Operation) -> HandedOn {
    match operation {
        Operation::Read | Operation::Follow | Operation::Subscribe => HandedOn::Stream,
        _ => HandedOn::Call,
    }
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
    let client = api.peers.message_log(node, handed_on(call.operation)).ok_or(otherwise)?;
    api.observer.forwarded(call.operation);
    Ok(client)
}

/// A request that says where it comes from. Without a deadline (a stream) it runs until one side ends it.
pub fn request<T>(api: &Api, call: &Call, deadline: Option<Instant>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(FORWARDED, api.replicas.node().0.into());
    if let Ok(id) = call.request_id().parse() {
        metadata.insert(REQUEST_ID, id);
    }
    if let Some(deadline) = deadline {
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    request
}

/// Waits for a node's answer about its replicas of `groups`, no longer than the deadline.
///
/// # Errors
/// What the node answered, or PEER_UNREACHABLE.
pub async fn answer<T>(
    api: &Api,
    node: NodeId,
    groups: &[GroupId],
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
    api.elsewhere.learn(node, groups, &answer);
    answer
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn whatever_answers_with_a_stream_is_handed_on_as_one() {
        let files = FileDescriptorSet::decode(quorate_client::proto::DESCRIPTORS).unwrap().file;
        let services = files.iter().flat_map(|file| &file.service);
        let log = services.filter(|service| service.name() == "MessageLog");
        let mut methods = 0;
        for method in log.flat_map(|service| &service.method) {
            let named = |operation: &Operation| operation.name() == method.name();
            let operation = Operation::ALL.into_iter().find(named).unwrap();
            let is_stream = method.server_streaming() && operation != Operation::AppendSession;
            assert_eq!(handed_on(operation) == HandedOn::Stream, is_stream, "{operation:?}");
            methods += 1;
        }
        assert_eq!(methods, 9);
    }
}
