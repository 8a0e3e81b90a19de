//! A session's stream to another node, which leads some of its lanes: requests go out in the order given. Answers are
//! taken whether the session's own caller takes its or not: other calls share the connection.

use futures::StreamExt;
use futures::stream::Map;
use quorate_client::proto::session_response::Result as Answered;
use quorate_client::proto::{AppendRequest, AppendResponse, SessionRequest, SessionResponse};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use crate::consensus::{Room, RoomLeft};
use crate::service::PeerLog;
use crate::service::errors::{CallError, Effect, reason};
use crate::service::memory::memory_bytes;
use crate::types::{NodeId, limits};

/// Answers that are handed to the session at once, where so many have come.
const ANSWERS_AT_ONCE_MAX: usize = 256;

/// What comes of an append.
pub type Response = Result<AppendResponse, CallError>;

/// What a stream tells its session.
pub enum Event {
    /// Requests were answered, by their ids.
    Answered(Vec<(u64, Response)>),
    /// The stream is no more, and everything unanswered on it fails. Where no connection was made nothing of it can have
    /// taken effect.
    Ended {
        /// Which stream.
        stream: u64,
        /// Why.
        error: CallError,
    },
}

/// An append that waits for its stream to take it, also when its time is up.
pub struct Queued {
    request: SessionRequest,
    /// Of the node, and of the stream.
    _rooms: [Room; 2],
}

/// What a stream takes of its queue, in order.
pub type Requests = Map<ReceiverStream<Queued>, fn(Queued) -> SessionRequest>;

/// One stream to one node. Dropping it ends the stream.
pub struct Upstream {
    /// Tells it from the others of its session.
    pub stream: u64,
    node: NodeId,
    requests: mpsc::Sender<Queued>,
    left: RoomLeft,
    task: AbortHandle,
}

impl Upstream {
    /// Opens a stream. `prepare` makes the request with its metadata.
    pub fn open(
        stream: u64,
        node: NodeId,
        client: PeerLog,
        events: mpsc::Sender<Event>,
        prepare: impl FnOnce(Requests) -> Request<Requests>,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(limits::SESSION_IN_FLIGHT_MAX);
        let taken: fn(Queued) -> SessionRequest = |queued| queued.request;
        let request = prepare(ReceiverStream::new(receiver).map(taken));
        let run = async move {
            let error = carry(node, client, request, &events).await;
            tracing::debug!(%node, %error, "a session's stream to another node ended");
            // The session may be over.
            let _ = events.send(Event::Ended { stream, error }).await;
        };
        let left = RoomLeft::new(limits::SESSION_STREAM_BYTES_MAX);
        Upstream { stream, node, requests, left, task: tokio::spawn(run).abort_handle() }
    }

    /// Sends an append, now, under an id that is greater than all before. Keeps its room until the stream has taken it.
    ///
    /// # Errors
    /// PEER_UNREACHABLE without effect: the stream has ended, or the node takes nothing from it.
    pub fn send(
        &self,
        request_id: u64,
        append: AppendRequest,
        reset_lane: bool,
        room: Room,
    ) -> Result<(), CallError> {
        let of_stream = self.left.take(memory_bytes(&append));
        let of_stream = of_stream.ok_or_else(|| self.takes_nothing("is full"))?;
        let request = SessionRequest { request_id, append: Some(append), reset_lane };
        let queued = Queued { request, _rooms: [room, of_stream] };
        self.requests.try_send(queued).map_err(|error| {
            self.takes_nothing(match error {
                TrySendError::Closed(_) => "has ended",
                TrySendError::Full(_) => "is full",
            })
        })
    }

    fn takes_nothing(&self, why: &str) -> CallError {
        let message = format!("the stream to node {} {why}", self.node);
        CallError::unreachable(self.node, message, Effect::None)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Hands on responses until the stream ends, and says why it did.
async fn carry(
    node: NodeId,
    mut client: PeerLog,
    request: Request<Requests>,
    events: &mpsc::Sender<Event>,
) -> CallError {
    let ended = |why: &str| {
        CallError::outcome_unknown(format!(
            "the stream to node {node} ended before its answer: {why}"
        ))
    };
    let responses = match client.append_session(request).await {
        Ok(responses) => responses.into_inner(),
        Err(status) => return CallError::from_peer(node, &status, Effect::Possible),
    };
    let mut chunks = responses.ready_chunks(ANSWERS_AT_ONCE_MAX);
    while let Some(chunk) = chunks.next().await {
        let (answers, failure) = answers(chunk);
        if !answers.is_empty() && events.send(Event::Answered(answers)).await.is_err() {
            return ended("the session is over");
        }
        if let Some(status) = failure {
            // A node that stops has answered everything that it has read.
            let error = CallError::from_status(&status);
            let unread = error.filter(|error| error.reason() == reason::SHUTTING_DOWN);
            return unread.unwrap_or_else(|| ended(status.message()));
        }
    }
    ended("the node ended it")
}

fn answers(chunk: Vec<Result<SessionResponse, Status>>) -> (Vec<(u64, Response)>, Option<Status>) {
    let mut answers = Vec::with_capacity(chunk.len());
    for response in chunk {
        match response {
            Ok(response) => answers.push((response.request_id, answer(response))),
            Err(status) => return (answers, Some(status)),
        }
    }
    (answers, None)
}

fn answer(response: SessionResponse) -> Response {
    match response.result {
        Some(Answered::Appended(appended)) => Ok(appended),
        Some(Answered::Failed(failure)) => Err(CallError::from(failure)),
        None => Err(CallError::outcome_unknown("a response without a result")),
    }
}
