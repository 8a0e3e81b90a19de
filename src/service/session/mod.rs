//! AppendSession: pipelined appends of many senders to many conversations over one stream.
//!
//! One task drives a session. It reads requests while there is room for more in flight, sends each lane's in order to
//! the node that leads, and answers in order. Nothing outlives the stream: order rests on `lanes` here and on the
//! predecessor that each pipelined append carries through the log.

mod lanes;
mod upstream;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_client::proto::session_response::Result as Answered;
use quorate_client::proto::{AppendRequest, AppendResponse, SessionRequest, SessionResponse};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::Instrument;

use self::lanes::{Answer, Departure, Destination, Lanes};
use self::upstream::Upstream;
use super::api::Responses;
use super::authorize::{Operation, Resource};
use super::call::Call;
use super::errors::CallError;
use super::malformed::stream_failure;
use super::observer::{OpenStream, SessionDepth};
use super::validate::{Problem, Violation};
use super::{Api, append, forward, validate};
use crate::consensus::{Group, Room};
use crate::types::{AttemptId, ConversationName, GroupId, NodeId, limits};

/// Opens a session.
///
/// # Errors
/// PERMISSION_DENIED. What is wrong with one request is its response; the stream itself ends with an error if
/// requests cannot be told apart any more, or when the node stops.
pub async fn open(
    api: &Api,
    call: &Call,
    requests: Streaming<SessionRequest>,
) -> Result<Responses<SessionResponse>, CallError> {
    call.authorize(api.authorizer.as_ref(), Resource::Conversations)?;
    let (responses, stream) = mpsc::channel(limits::SESSION_RESPONSE_QUEUE_MAX);
    let first_attempt = AttemptId((u128::from_be_bytes((api.random)()) >> 64) as u64);
    let session = Session {
        api: api.clone(),
        call: call.clone(),
        lanes: Lanes::new(first_attempt),
        in_flight: FuturesUnordered::new(),
        upstreams: HashMap::new(),
        upstreams_opened: 0,
        last_request_id: 0,
        room: None,
        responses,
        depth: SessionDepth::new(api.observer.clone()),
        _open: OpenStream::new(api.observer.clone(), Operation::AppendSession),
    };
    tokio::spawn(session.run(requests).instrument(call.span()));
    Ok(Box::pin(ReceiverStream::new(stream)))
}

/// An append in flight. Futures are polled in the order they were pushed in, so that appends of one lane reach the
/// group's queue in order; should they not, their predecessors tell.
type InFlight = Pin<Box<dyn Future<Output = Arrival> + Send>>;

/// Where a lane's appends go, and how.
struct Way {
    group: GroupId,
    destination: Destination,
    /// The replica here, if it leads.
    local: Option<Arc<Group>>,
}

struct Arrival {
    conversation: String,
    attempt: AttemptId,
    result: Result<AppendResponse, CallError>,
}

struct Session {
    api: Api,
    call: Call,
    lanes: Lanes,
    in_flight: FuturesUnordered<InFlight>,
    upstreams: HashMap<NodeId, (u64, Upstream)>,
    upstreams_opened: u64,
    last_request_id: u64,
    /// Memory for what the lanes hold.
    room: Option<Room>,
    responses: mpsc::Sender<Result<SessionResponse, Status>>,
    depth: SessionDepth,
    _open: OpenStream,
}

/// The caller does not listen any more.
struct CallerGone;

impl Session {
    async fn run(mut self, mut requests: Streaming<SessionRequest>) {
        let stopping = self.api.stopping.clone();
        let responses = self.responses.clone();
        let mut reading = true;
        let mut ends_with = None;
        while reading || self.lanes.requests() > 0 {
            let room = self.has_room();
            let step = tokio::select! {
                biased;
                () = responses.closed() => return,
                Some(arrival) = self.in_flight.next() => self.arrive(arrival).await,
                () = stopping.cancelled(), if reading => {
                    (reading, ends_with) = (false, Some(CallError::shutting_down()));
                    Ok(())
                }
                request = requests.next(), if reading && room => {
                    match self.read(request) {
                        Ok(Some(request)) => self.accept(request).await,
                        Ok(None) => {
                            reading = false;
                            Ok(())
                        }
                        Err(error) => {
                            (reading, ends_with) = (false, Some(error));
                            Ok(())
                        }
                    }
                }
            };
            if step.is_err() {
                return;
            }
            self.depth.set(self.lanes.requests());
        }
        if let Some(error) = ends_with {
            // If the caller is gone nobody needs to know.
            let _ = self.responses.send(Err(error.into())).await;
        }
    }

    /// Past these bounds the stream is not read: the caller's sending then waits.
    fn has_room(&self) -> bool {
        self.lanes.requests() < limits::SESSION_IN_FLIGHT_MAX
            && self.lanes.bytes() < limits::SESSION_IN_FLIGHT_BYTES_MAX
    }

    /// What was read: a request, or nothing at the end of the stream.
    fn read(
        &mut self,
        read: Option<Result<SessionRequest, Status>>,
    ) -> Result<Option<SessionRequest>, CallError> {
        let request = match read {
            None => return Ok(None),
            Some(Ok(request)) => request,
            Some(Err(status)) => return stream_failure(&status).map_or(Ok(None), Err),
        };
        if request.request_id <= self.last_request_id {
            let problem = Problem::Invalid("greater than that of the request before");
            return Err(Violation::of("request_id", problem).into());
        }
        if self.lanes.len() >= limits::SESSION_LANES_MAX {
            let message = "too many lanes of the session are broken and not reset";
            return Err(CallError::overloaded(message, limits::SESSION_LANES_MAX));
        }
        self.last_request_id = request.request_id;
        Ok(Some(request))
    }

    async fn accept(&mut self, request: SessionRequest) -> Result<(), CallerGone> {
        let SessionRequest { request_id, append, reset_lane } = request;
        let mut append = append.unwrap_or_default();
        let conversation = match validate::conversation(&append.conversation) {
            Ok(name) => name.0,
            // There is no lane without a name.
            Err(violation) => return self.answer((request_id, Err(violation.into()))).await,
        };
        let checked = self
            .call
            .authorize(self.api.authorizer.as_ref(), Resource::Conversation(&conversation))
            .and_then(|()| Ok(validate::append(&mut append)?))
            .and_then(|()| self.take_room(&append));
        self.lanes.accept(&conversation, request_id, reset_lane, checked.map(|()| append));
        self.advance(conversation).await
    }

    fn take_room(&mut self, append: &AppendRequest) -> Result<(), CallError> {
        let taken = append::room(self.api.replicas.admission(), append)?;
        match &mut self.room {
            Some(room) => room.merge(taken),
            None => self.room = Some(taken),
        }
        Ok(())
    }

    async fn arrive(&mut self, arrival: Arrival) -> Result<(), CallerGone> {
        self.lanes.arrive(&arrival.conversation, arrival.attempt, arrival.result);
        self.advance(arrival.conversation).await
    }

    /// Sends and answers whatever a lane now can.
    async fn advance(&mut self, conversation: String) -> Result<(), CallerGone> {
        let name = ConversationName(conversation);
        while self.lanes.has_waiting(name.as_str()) {
            match self.way(&name) {
                Ok(way) => {
                    let Some(departure) = self.lanes.depart(name.as_str(), way.destination) else {
                        break;
                    };
                    self.send(&name, departure, way);
                }
                Err(error) => self.lanes.fail_waiting(name.as_str(), error),
            }
        }
        let answers = self.lanes.answers(name.as_str());
        if let Some(room) = &mut self.room {
            room.shrink_to(self.lanes.bytes());
        }
        for answer in answers {
            self.answer(answer).await?;
        }
        Ok(())
    }

    /// Where a conversation's appends go now.
    fn way(&mut self, name: &ConversationName) -> Result<Way, CallError> {
        let route = self.api.route(name)?;
        if let Some(local) = route.local.clone().filter(|local| local.is_leader()) {
            let (group, destination) = (route.group, Destination::Here);
            return Ok(Way { group, destination, local: Some(local) });
        }
        let node = self.api.leader(&route).ok_or_else(|| CallError::not_leader(None))?;
        let destination = Destination::There { node, stream: self.upstream(node)? };
        Ok(Way { group: route.group, destination, local: None })
    }

    /// The stream to a node: the one there is, or a new one.
    fn upstream(&mut self, node: NodeId) -> Result<u64, CallError> {
        if let Some((stream, upstream)) = self.upstreams.get(&node)
            && upstream.is_open()
        {
            return Ok(*stream);
        }
        let not_leader = CallError::not_leader(Some(node));
        let client = forward::client(&self.api, &self.call, node, not_leader)?;
        self.upstreams_opened += 1;
        let stream = self.upstreams_opened;
        let upstream = Upstream::open(node, client, |requests| {
            forward::request(&self.api, &self.call, None, requests)
        });
        self.upstreams.insert(node, (stream, upstream));
        Ok(stream)
    }

    fn send(&mut self, name: &ConversationName, departure: Departure, way: Way) {
        let Departure { append, place, opens } = departure;
        let began = Instant::now();
        let attempt = place.attempt;
        let (messages, deadline) = (append.messages.len(), began + self.call.timeout);
        let (api, conversation) = (self.api.clone(), name.0.clone());
        let result: Pin<Box<dyn Future<Output = _> + Send>> = match (way.local, way.destination) {
            (Some(group), _) => {
                let api = api.clone();
                Box::pin(async move {
                    append::propose(&api, &group, append, Some(place), deadline).await
                })
            }
            (None, Destination::There { node, .. }) => match self.upstreams.get_mut(&node) {
                Some((_, upstream)) => Box::pin(upstream.append(append, opens, deadline)),
                None => Box::pin(async { Err(CallError::not_leader(None)) }),
            },
            (None, Destination::Here) => Box::pin(async { Err(CallError::not_leader(None)) }),
        };
        self.in_flight.push(Box::pin(async move {
            let result = result.await;
            if let Destination::There { node, .. } = way.destination {
                api.elsewhere.learn_of(node, &result);
                api.elsewhere.learn_of_replica(way.group, node, &result);
                api.elsewhere.learn_leader(way.group, &result);
            }
            let code = result.as_ref().map_or_else(CallError::code, |_| Code::Ok);
            api.observer.appended(messages, code, began.elapsed());
            Arrival { conversation, attempt, result }
        }));
    }

    async fn answer(&mut self, (request_id, result): Answer) -> Result<(), CallerGone> {
        let result = match result {
            Ok(appended) => Answered::Appended(appended),
            Err(error) => Answered::Failed(error.into()),
        };
        let response = SessionResponse { request_id, result: Some(result) };
        self.responses.send(Ok(response)).await.map_err(|_| CallerGone)
    }
}
