//! A session's stream to another node, which leads some of its lanes: requests go out in the order given, and each
//! waits for its own response.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use quorate_client::proto::session_response::Result as Answered;
use quorate_client::proto::{AppendRequest, AppendResponse, SessionRequest, SessionResponse};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use crate::service::PeerLog;
use crate::service::errors::{CallError, Effect};
use crate::types::{NodeId, limits};

type Response = Result<AppendResponse, CallError>;

/// One stream to one node. Dropping it ends the stream.
pub struct Upstream {
    node: NodeId,
    next_request_id: u64,
    requests: mpsc::Sender<SessionRequest>,
    unanswered: Arc<Mutex<Unanswered>>,
    task: AbortHandle,
}

struct Unanswered {
    open: bool,
    waiting: HashMap<u64, oneshot::Sender<Response>>,
}

impl Unanswered {
    fn with<T>(this: &Mutex<Unanswered>, change: impl FnOnce(&mut Unanswered) -> T) -> T {
        change(&mut this.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Upstream {
    /// Opens a stream. `prepare` makes the request with its metadata.
    pub fn open(
        node: NodeId,
        client: PeerLog,
        prepare: impl FnOnce(ReceiverStream<SessionRequest>) -> Request<ReceiverStream<SessionRequest>>,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(limits::SESSION_IN_FLIGHT_MAX);
        let unanswered = Unanswered { open: true, waiting: HashMap::new() };
        let unanswered = Arc::new(Mutex::new(unanswered));
        let request = prepare(ReceiverStream::new(receiver));
        let task = tokio::spawn(run(node, client, request, unanswered.clone())).abort_handle();
        Upstream { node, next_request_id: 1, requests, unanswered, task }
    }

    /// Whether the stream still runs. Once it does not it never will again.
    pub fn is_open(&self) -> bool {
        Unanswered::with(&self.unanswered, |unanswered| unanswered.open)
    }

    /// Sends an append, now, and returns what waits for its response.
    pub fn append(
        &mut self,
        append: AppendRequest,
        reset_lane: bool,
        deadline: Instant,
    ) -> impl Future<Output = Response> + Send + 'static {
        let request_id = self.next_request_id;
        self.next_request_id += 1;
        let (sender, response) = oneshot::channel();
        // A stream that has ended drops the sender, and so fails the append below.
        Unanswered::with(&self.unanswered, |unanswered| {
            if unanswered.open {
                unanswered.waiting.insert(request_id, sender);
            }
        });
        let request = SessionRequest { request_id, append: Some(append), reset_lane };
        let sent = self.requests.try_send(request).is_ok();
        let node = self.node;
        async move {
            if !sent {
                let message = format!("the stream to node {node} has ended");
                return Err(CallError::unreachable(node, message, Effect::None));
            }
            match timeout_at(deadline, response).await {
                Ok(Ok(response)) => response,
                Ok(Err(_)) => Err(CallError::outcome_unknown(format!(
                    "the stream to node {node} ended before its answer"
                ))),
                Err(_) => Err(CallError::outcome_unknown(format!(
                    "node {node} did not answer before the deadline"
                ))),
            }
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Hands out responses until the stream ends; then everything unanswered fails. Where no connection was made nothing
/// of it can have taken effect.
async fn run(
    node: NodeId,
    mut client: PeerLog,
    request: Request<ReceiverStream<SessionRequest>>,
    unanswered: Arc<Mutex<Unanswered>>,
) {
    let ended = |why: &str| {
        CallError::outcome_unknown(format!(
            "the stream to node {node} ended before its answer: {why}"
        ))
    };
    let error = match client.append_session(request).await {
        Ok(responses) => {
            let mut responses = responses.into_inner();
            loop {
                match responses.message().await {
                    Ok(Some(response)) => hand_out(&unanswered, response),
                    Ok(None) => break ended("the node ended it"),
                    Err(status) => break ended(status.message()),
                }
            }
        }
        Err(status) => CallError::from_peer(node, &status, Effect::Possible),
    };
    tracing::debug!(%node, %error, "a session's stream to another node ended");
    let waiting = Unanswered::with(&unanswered, |unanswered| {
        unanswered.open = false;
        std::mem::take(&mut unanswered.waiting)
    });
    for waiting in waiting.into_values() {
        // Nobody waits any more if the deadline has passed.
        let _ = waiting.send(Err(error.clone()));
    }
}

fn hand_out(unanswered: &Mutex<Unanswered>, response: SessionResponse) {
    let waiting =
        Unanswered::with(unanswered, |unanswered| unanswered.waiting.remove(&response.request_id));
    let result = match response.result {
        Some(Answered::Appended(appended)) => Ok(appended),
        Some(Answered::Failed(failure)) => Err(CallError::from(failure)),
        None => Err(CallError::outcome_unknown("a response without a result")),
    };
    if let Some(waiting) = waiting {
        // Nobody waits any more if the deadline has passed.
        let _ = waiting.send(result);
    }
}
