//! AppendSession: pipelined appends of many senders to many conversations over one stream.
//!
//! A session runs where its responses are asked for: it takes what has landed and reads requests while there is room
//! for more in flight, sends each lane's in order to the node that leads, and answers in order. What comes at once is
//! worked on at once, so that answers share frames. Nothing outlives the stream: order rests on `lanes` here and on the
//! predecessor that each pipelined append carries through the log.

mod flights;
mod lanes;
#[cfg(test)]
mod tests;
mod upstream;
mod ways;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use quorate_client::proto::session_response::Result as Answered;
use quorate_client::proto::{AppendRequest, SessionRequest, SessionResponse};
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Status, Streaming};
use tracing::Span;

use self::flights::Flights;
use self::lanes::{Answer, LaneId, Lanes};
use self::ways::Ways;
use super::api::Responses;
use super::authorize::{Operation, Resource};
use super::call::Call;
use super::errors::CallError;
use super::malformed::stream_failure;
use super::observer::{OpenStream, SessionDepth};
use super::validate::{Problem, Violation};
use super::{Api, append, validate};
use crate::consensus::Room;
use crate::types::{AttemptId, limits};

/// Requests that are read, and flights that land, before other tasks go on: Raft's core too, which callers who have
/// everything refused must not keep from its turn.
const AT_ONCE_MAX: usize = 256;

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
    let first_attempt = AttemptId((u128::from_be_bytes((api.random)()) >> 64) as u64);
    let session = Session {
        stopping: Box::pin(api.stopping.clone().cancelled_owned()),
        requests: Some(requests),
        ends_with: None,
        last_request_id: 0,
        lanes: Lanes::new(first_attempt),
        moved: Vec::new(),
        ways: Ways::new(&api.replicas),
        flights: Flights::new(call.timeout),
        answers: VecDeque::new(),
        done: 0,
        has_answered: false,
        room: None,
        kept: api.replicas.admission().lanes().nothing(),
        depth: SessionDepth::new(api.observer.clone()),
        _open: OpenStream::new(api.observer.clone(), Operation::AppendSession),
        _under_way: api.under_way.token(),
        api: api.clone(),
        call: call.clone(),
    };
    Ok(Box::pin(Spanned { span: call.span(), session }))
}

/// A session in the span of its call.
struct Spanned {
    span: Span,
    session: Session,
}

impl Stream for Spanned {
    type Item = Result<SessionResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Spanned { span, session } = self.get_mut();
        span.in_scope(|| session.poll_response(cx))
    }
}

struct Session {
    api: Api,
    call: Call,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until they end.
    requests: Option<Streaming<SessionRequest>>,
    /// The error behind the last answer, if the session does not just end.
    ends_with: Option<CallError>,
    last_request_id: u64,
    lanes: Lanes,
    /// Lanes in which something has changed this turn.
    moved: Vec<LaneId>,
    ways: Ways,
    flights: Flights,
    /// Answers that can be given. No more than one turn leads to: they are given before the next.
    answers: VecDeque<Answer>,
    /// What was read and has landed since other tasks went on.
    done: usize,
    /// Since it was last pending.
    has_answered: bool,
    /// Memory for what the lanes hold.
    room: Option<Room>,
    /// Memory for the lanes themselves.
    kept: Room,
    depth: SessionDepth,
    _open: OpenStream,
    _under_way: TaskTrackerToken,
}

impl Session {
    /// The next response; none at the end. A caller who takes none holds everything up, but for what is under way.
    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<SessionResponse, Status>>> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                self.has_answered = true;
                return Poll::Ready(Some(Ok(response(answer))));
            }
            if self.requests.is_none() && self.lanes.requests() == 0 {
                return Poll::Ready(self.ends_with.take().map(|error| Err(error.into())));
            }
            if self.done >= AT_ONCE_MAX {
                // Not by tokio's budget: who has used that up is woken much later.
                cx.waker().wake_by_ref();
                return self.pending();
            }
            if !self.turn(cx) {
                return self.pending();
            }
        }
    }

    /// While tonic has answers that it has not handed on, it takes this for their end, and asks again in the same breath:
    /// then others have not gone on yet.
    fn pending<T>(&mut self) -> Poll<T> {
        if !std::mem::take(&mut self.has_answered) {
            self.done = 0;
        }
        Poll::Pending
    }

    /// Takes what has landed and what has been asked, and does what that leads to. False if there was nothing. What has
    /// landed comes first, so that it does not wait for what is refused.
    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        let landed = self.take_landed(cx);
        let read = self.read(cx);
        let now = Instant::now();
        let mut moved = std::mem::take(&mut self.moved);
        moved.dedup();
        moved.drain(..).for_each(|lane| self.advance(lane, now));
        self.moved = moved;
        if let Some(room) = &mut self.room {
            room.shrink_to(self.lanes.bytes());
        }
        self.kept.shrink_to(self.lanes.kept_bytes());
        self.depth.set(self.lanes.requests());
        landed || read
    }

    fn take_landed(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.done;
        while self.done < AT_ONCE_MAX
            && let Poll::Ready((slot, result)) = self.flights.poll_landed(cx, &self.api)
        {
            self.done += 1;
            self.lanes.arrive(slot, result);
            self.moved.push(slot.lane);
        }
        self.done > before
    }

    /// Reads requests, as far as there is room for more in flight. Whether something came, if only the end.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        if self.requests.is_some() && self.stopping.as_mut().poll(cx).is_ready() {
            self.end_reading(Some(CallError::shutting_down()));
            return true;
        }
        let before = self.done;
        while self.done < AT_ONCE_MAX
            && self.has_room()
            && let Some(requests) = &mut self.requests
            && let Poll::Ready(request) = Pin::new(requests).poll_next(cx)
        {
            self.done += 1;
            match request {
                None => self.end_reading(None),
                Some(Err(status)) => self.end_reading(stream_failure(&status)),
                Some(Ok(request)) => match self.take_number(&request) {
                    Ok(()) => self.accept(request),
                    Err(error) => self.end_reading(Some(error)),
                },
            }
        }
        self.done > before
    }

    fn end_reading(&mut self, ends_with: Option<CallError>) {
        self.requests = None;
        self.ends_with = ends_with;
    }

    /// Past these bounds the stream is not read: the caller's sending then waits.
    fn has_room(&self) -> bool {
        self.lanes.requests() < limits::SESSION_IN_FLIGHT_MAX
            && self.lanes.bytes() < limits::SESSION_IN_FLIGHT_BYTES_MAX
    }

    /// Whether a request can be told from the others, and its lane be kept.
    fn take_number(&mut self, request: &SessionRequest) -> Result<(), CallError> {
        if request.request_id <= self.last_request_id {
            let problem = Problem::Invalid("greater than that of the request before");
            return Err(Violation::of("request_id", problem).into());
        }
        if self.lanes.len() >= limits::SESSION_LANES_MAX {
            let message = "too many lanes of the session are broken and not reset";
            return Err(CallError::overloaded(message, limits::SESSION_LANES_MAX));
        }
        let room = self.kept.grow_to(self.lanes.kept_bytes());
        room.ok_or_else(CallError::too_many_lanes)?;
        self.last_request_id = request.request_id;
        Ok(())
    }

    fn accept(&mut self, request: SessionRequest) {
        let SessionRequest { request_id, append, reset_lane } = request;
        let mut append = append.unwrap_or_default();
        if let Err(violation) = validate::conversation_name(&append.conversation) {
            // There is no lane without a name.
            return self.answers.push_back((request_id, Err(violation.into())));
        }
        let lane = self.lanes.of(&append.conversation);
        let checked = self.check(&mut append).map(|()| append);
        self.lanes.accept(lane, request_id, reset_lane, checked);
        self.moved.push(lane);
    }

    fn check(&mut self, append: &mut AppendRequest) -> Result<(), CallError> {
        let conversation = Resource::Conversation(&append.conversation);
        self.call.authorize(self.api.authorizer.as_ref(), conversation)?;
        validate::append(append)?;
        let taken = append::room(self.api.replicas.admission(), append)?;
        match &mut self.room {
            Some(room) => room.merge(taken),
            None => self.room = Some(taken),
        }
        Ok(())
    }

    /// Sends and answers whatever a lane now can.
    fn advance(&mut self, lane: LaneId, now: Instant) {
        let Session { api, call, lanes, ways, flights, answers, .. } = self;
        if let Some(conversation) = lanes.waiting(lane) {
            match ways.find(api, call, flights, conversation) {
                Ok(way) => {
                    while let Some(departure) = lanes.depart(lane, way.destination()) {
                        if let Err((slot, error)) = flights.begin(api, &way, departure, now) {
                            lanes.arrive(slot, Err(error));
                        }
                    }
                }
                Err(error) => {
                    while lanes.waiting(lane).is_some() {
                        lanes.fail_waiting(lane, error.clone());
                    }
                }
            }
        }
        lanes.answers(lane, answers);
    }
}

fn response((request_id, result): Answer) -> SessionResponse {
    let result = match result {
        Ok(appended) => Answered::Appended(appended),
        Err(error) => Answered::Failed(error.into()),
    };
    SessionResponse { request_id, result: Some(result) }
}
