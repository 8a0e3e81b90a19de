//! The sending side of the multiplexed append streams to one node, over one connection that is made again whenever
//! it breaks. A broken connection fails every stream on it; openraft opens them again from what was acknowledged.
//!
//! Guarantees at stake: G9, G12. The peer takes whatever comes, so what is on its way to it is bounded here, in bytes and
//! over all groups. A node that catches up in many groups would else be made to hold all that their windows allow; and
//! over a slow link most of it would wait for so long that its streams are given up, and sent again, for ever.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::AnyError;
use openraft::errors::{NetworkError, RPCError, Unreachable};
use openraft::raft::{StreamAppendError, StreamAppendResult};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use super::MESSAGE_BYTES_MAX;
use super::frames::outbound;
use super::hello::Introduction;
use super::peers::{is_connection_refused, root_cause};
use super::proto::{self, AppendFrame, append_frame::Step, peer_client::PeerClient};
use super::wire::{Malformed, append_to_wire, result_from_wire};
use crate::consensus::Refusal;
use crate::consensus::network::{Appended, Appending, Route};
use crate::consensus::raft_types::{RaftEntry, TypeConfig, entry_bytes};
use crate::types::{NodeId, limits};

/// Requests of one stream without a response yet.
const WINDOW: usize = 64;
/// How long news of a commit wait for entries that carry them along: most entries are followed by others, and requests
/// without entries would be half of all. Followers apply an entry with nothing behind it later by this.
const COMMIT_HELD: Duration = Duration::from_millis(1);
/// How long a connection may take to be made and greeted.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_millis(500);

type Failure = RPCError<TypeConfig>;

/// Streams to one node over one connection.
pub struct AppendClient {
    node: NodeId,
    shared: Arc<Mutex<Shared>>,
    /// Bytes that may still be sent without an answer.
    room: Arc<Semaphore>,
    /// Ends the connection with the client.
    _stop: tokio_util::sync::DropGuard,
}

#[derive(Default)]
struct Shared {
    /// Present while connected.
    queue: Option<mpsc::Sender<Outgoing>>,
    streams: HashMap<u64, mpsc::Sender<proto::AppendResponse>>,
    next_stream: u64,
    /// Present while nothing listens on the node's port, as its machine says.
    refusal: Option<Refusal>,
}

impl Shared {
    fn disconnect(&mut self, refused: bool) {
        self.queue = None;
        self.streams.clear();
        let last = Instant::now();
        let since = self.refusal.map_or(last, |refusal| refusal.since);
        self.refusal = refused.then_some(Refusal { since, last });
    }
}

/// A frame that waits for the connection.
struct Outgoing {
    frame: AppendFrame,
    /// A stream may be given up before its frames are sent.
    _room: Room,
}

impl From<Outgoing> for AppendFrame {
    fn from(outgoing: Outgoing) -> AppendFrame {
        outgoing.frame
    }
}

/// What a request with entries takes of the room of its stream and of that of the peer, until it has both left and been
/// answered.
type Room = Option<Arc<[OwnedSemaphorePermit; 2]>>;

struct Opened {
    stream: u64,
    queue: mpsc::Sender<Outgoing>,
    responses: mpsc::Receiver<proto::AppendResponse>,
}

impl AppendClient {
    /// Connects to a node and stays connected while the client lives. Tells of each refused connection.
    pub fn start(
        node: NodeId,
        channel: Channel,
        own: Arc<Introduction>,
        refused: Arc<Notify>,
    ) -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let stop = CancellationToken::new();
        let connection = stay_connected(node, channel, own, shared.clone(), refused);
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
        let room = Arc::new(Semaphore::new(limits::PEER_IN_FLIGHT_BYTES_MAX as usize));
        AppendClient { node, shared, room, _stop: stop.drop_guard() }
    }

    /// Sends a stream of requests. Dropping the result ends the stream.
    pub fn append(
        &self,
        route: Route,
        input: BoxStream<'static, Appending>,
        idle: Duration,
    ) -> Appended {
        let Some(opened) = self.open() else {
            let reason = format!("node {} is not connected", self.node);
            return failed(input, Failure::Unreachable(Unreachable::new(&AnyError::error(reason))));
        };
        let stop = CancellationToken::new();
        let (owed, tickets) = mpsc::channel(WINDOW);
        let pump = Pump {
            route,
            stream: opened.stream,
            queue: opened.queue,
            room: self.room.clone(),
            shared: self.shared.clone(),
        };
        tokio::spawn(pump.run(input, owed, stop.clone()));
        let output =
            Output { tickets, responses: opened.responses, idle, _stop: stop.drop_guard() };
        futures::stream::unfold(Some(output), |output| async {
            let mut output = output?;
            let result = output.next().await?;
            let next = result.is_ok().then_some(output);
            Some((result, next))
        })
        .boxed()
    }

    /// That the node's machine refuses connections: then its process is dead. None where it is connected, and where
    /// nothing is known, as with a machine that does not answer.
    pub fn refusal(&self) -> Option<Refusal> {
        self.shared.lock().expect("no panic while locked").refusal
    }

    /// Frames that wait for the connection.
    pub fn waiting(&self) -> usize {
        let shared = self.shared.lock().expect("no panic while locked");
        shared.queue.as_ref().map_or(0, |queue| queue.max_capacity() - queue.capacity())
    }

    fn open(&self) -> Option<Opened> {
        let mut shared = self.shared.lock().expect("no panic while locked");
        let queue = shared.queue.clone()?;
        let stream = shared.next_stream;
        shared.next_stream += 1;
        // One place more than the window: a response to every request, and a refusal.
        let (sender, responses) = mpsc::channel(WINDOW + 2);
        shared.streams.insert(stream, sender);
        Some(Opened { stream, queue, responses })
    }
}

/// A stream that fails once there is something to send. Not before: openraft waits for its backoff in the input, and
/// would open a stream that has failed without it again at once, thousands of times a second.
pub(super) fn failed(mut input: BoxStream<'static, Appending>, error: Failure) -> Appended {
    let failure = async move {
        input.next().await;
        Err(error)
    };
    futures::stream::once(failure).boxed()
}

/// Carries requests from openraft to the connection.
struct Pump {
    route: Route,
    stream: u64,
    queue: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
    shared: Arc<Mutex<Shared>>,
}

impl Pump {
    async fn run(
        self,
        input: BoxStream<'static, Appending>,
        owed: mpsc::Sender<Ticket>,
        stop: CancellationToken,
    ) {
        let stopped = stop.run_until_cancelled(self.forward(input, owed)).await.is_none();
        if !stopped {
            // The output still waits for responses; it stops us when it has them.
            stop.cancelled().await;
        }
        self.shared.lock().expect("no panic while locked").streams.remove(&self.stream);
        let _ = self.send(Step::Close(proto::Close {}), None).await;
    }

    async fn forward(&self, input: BoxStream<'static, Appending>, owed: mpsc::Sender<Ticket>) {
        let mut input = input.fuse();
        let mut route = Some(self.route);
        let own_room = Arc::new(Semaphore::new(limits::PEER_STREAM_BYTES_MAX as usize));
        while let Some(mut request) = input.next().await {
            // The first is owed an answer at once: it may be a probe.
            while route.is_none() && request.raft.entries.is_empty() {
                // What comes next says no less: it was made later. openraft counts what it acknowledges for both.
                let Ok(Some(next)) = timeout(COMMIT_HELD, input.next()).await else { break };
                request = next;
            }
            // Before the ticket: the wait for the response begins with it.
            let room = self.room_for(&own_room, &request.raft.entries).await;
            let can_conflict = request.raft.prev_log_id.is_some();
            let ticket = Ticket { can_conflict, _room: room.clone() };
            let request = append_to_wire(self.route.group, route.take(), &request);
            // The ticket first: the response may come before the send returns.
            if owed.send(ticket).await.is_err()
                || self.send(Step::Request(request), room).await.is_err()
            {
                return;
            }
        }
    }

    /// Waits until so little is on its way to the peer that these entries may go as well. Whoever waits longest is next.
    /// Requests without entries wait for nothing.
    async fn room_for(&self, own_room: &Arc<Semaphore>, entries: &[RaftEntry]) -> Room {
        if entries.is_empty() {
            return None;
        }
        let bytes = entries.iter().map(entry_bytes).sum::<usize>();
        let take = async |room: &Arc<Semaphore>, most: u32| {
            let bytes = u32::try_from(bytes).map_or(most, |bytes| bytes.min(most));
            room.clone().acquire_many_owned(bytes).await.expect("never closed")
        };
        // The own first: who waits for that is in nobody's way.
        let own = take(own_room, limits::PEER_STREAM_BYTES_MAX).await;
        Some(Arc::new([own, take(&self.room, limits::PEER_IN_FLIGHT_BYTES_MAX).await]))
    }

    async fn send(&self, step: Step, room: Room) -> Result<(), mpsc::error::SendError<Outgoing>> {
        let frame = AppendFrame { stream: self.stream, step: Some(step) };
        self.queue.send(Outgoing { frame, _room: room }).await
    }
}

/// What is owed for a request.
struct Ticket {
    /// Whether it names an entry that may not be there. openraft takes for granted that nothing else conflicts.
    can_conflict: bool,
    _room: Room,
}

impl Ticket {
    fn answered_by(
        &self,
        response: &proto::AppendResponse,
    ) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
        match result_from_wire(response)? {
            Err(StreamAppendError::Conflict(id)) if !self.can_conflict => {
                Err(Malformed(format!("a request that follows on nothing conflicts at {id}")))
            }
            result => Ok(result),
        }
    }
}

/// Carries responses back, one for each ticket.
struct Output {
    tickets: mpsc::Receiver<Ticket>,
    responses: mpsc::Receiver<proto::AppendResponse>,
    idle: Duration,
    _stop: tokio_util::sync::DropGuard,
}

impl Output {
    async fn next(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, Failure>> {
        let ticket = self.tickets.recv().await?;
        let network = |reason: &str| {
            Err(Failure::Network(NetworkError::new(&AnyError::error(reason.to_owned()))))
        };
        Some(match timeout(self.idle, self.responses.recv()).await {
            Err(_) => network("no response in time"),
            Ok(None) => network("the connection broke"),
            Ok(Some(response)) => match ticket.answered_by(&response) {
                Ok(result) => Ok(result),
                Err(error) => Err(Failure::Unreachable(Unreachable::new(&error))),
            },
        })
    }
}

async fn stay_connected(
    node: NodeId,
    channel: Channel,
    own: Arc<Introduction>,
    shared: Arc<Mutex<Shared>>,
    refusals: Arc<Notify>,
) {
    let mut delay = Duration::ZERO;
    loop {
        let began = Instant::now();
        let ended = connect_once(node, &channel, &own, &shared).await;
        let refused = ended.as_ref().is_err_and(is_connection_refused);
        delay = match ended {
            // At once, so that it is known soon whether the process is dead. Not to a peer that breaks off each time.
            Ok(()) if began.elapsed() > RECONNECT_MAX => Duration::ZERO,
            Ok(()) => RECONNECT_FIRST,
            Err(status) => {
                // A peer that does not want us is told apart from one that is not there.
                if status.code() == Code::FailedPrecondition {
                    own.standing().note_refused(node, status.message());
                } else if delay.is_zero() {
                    tracing::info!(%node, reason = root_cause(&status), "a peer is not connected");
                }
                (delay * 2).clamp(RECONNECT_FIRST, RECONNECT_MAX)
            }
        };
        shared.lock().expect("no panic while locked").disconnect(refused);
        if refused {
            refusals.notify_one();
        }
        tokio::time::sleep(delay).await;
    }
}

/// One connection from its making to its end. Ok if it had been greeted.
async fn connect_once(
    node: NodeId,
    channel: &Channel,
    own: &Introduction,
    shared: &Mutex<Shared>,
) -> Result<(), tonic::Status> {
    let mut client = PeerClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (queue, frames) = mpsc::channel(limits::PEER_QUEUE_MAX);
    let greeting = async {
        let mut inbound = client.append(outbound(own.hello(node), frames)).await?.into_inner();
        let first = inbound.message().await?;
        let first = first.ok_or_else(|| tonic::Status::unavailable("closed at once"))?;
        let greeted = own.check(first.hello.as_ref());
        let greeted =
            greeted.map_err(|error| tonic::Status::failed_precondition(error.to_string()))?;
        if greeted != node {
            let reason = format!("node {greeted} answered in place of {node}");
            return Err(tonic::Status::failed_precondition(reason));
        }
        Ok(inbound)
    };
    let mut inbound = timeout(CONNECT_TIMEOUT, greeting)
        .await
        .map_err(|_| tonic::Status::deadline_exceeded("the connection was not made in time"))??;
    own.standing().note_accepted(node);
    {
        let mut shared = shared.lock().expect("no panic while locked");
        (shared.queue, shared.refusal) = (Some(queue), None);
    }
    tracing::debug!(%node, "a peer is connected");
    while let Ok(Some(message)) = inbound.message().await {
        let mut shared = shared.lock().expect("no panic while locked");
        for frame in message.frames {
            let Some(Step::Response(response)) = frame.step else { continue };
            let stream = shared.streams.get(&frame.stream);
            // A peer that answers more than it was asked loses the stream.
            if stream.is_some_and(|stream| stream.try_send(response).is_err()) {
                shared.streams.remove(&frame.stream);
            }
        }
    }
    Ok(())
}
