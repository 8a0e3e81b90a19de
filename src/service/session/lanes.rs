//! The order of a session's appends, as bookkeeping without I/O. A lane is one conversation of the session: its
//! requests are sent in order, answered in order, and fail from the first failure on until the caller resets it (G5).
//!
//! Requests of a lane are pipelined only to one destination at a time: there each names the attempt before it, which
//! is what keeps them in order. Before a lane goes elsewhere, or starts anew after a reset, everything that it has in
//! flight must have come back.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use quorate_client::proto::{AppendRequest, AppendResponse};
use rustc_hash::FxHashMap;

use crate::log::{IdKey, LanePlace, Predecessor};
use crate::service::errors::CallError;
use crate::service::memory::memory_bytes;
use crate::types::{AttemptId, ConversationId, NodeId, give_places_back, limits};

/// Tells one lane from the others, and from older ones of the same conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneId(u64);

/// Which request of which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The lane.
    pub lane: LaneId,
    /// Counted from the lane's first.
    number: u64,
}

/// Where a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The replica of this node.
    Here,
    /// Another node, over one particular stream to it: what was sent over a stream before is not ordered with what is
    /// sent over the next.
    There {
        /// Which node.
        node: NodeId,
        /// Which stream of the session.
        stream: u64,
    },
}

/// A request that is to be sent now.
#[derive(Debug, PartialEq)]
pub struct Departure {
    /// What to append.
    pub append: AppendRequest,
    /// To give back with the result.
    pub slot: Slot,
    /// The attempt, and the one before it while anything of the lane is in flight.
    pub place: LanePlace,
    /// Whether nothing of the lane is in flight, so that the destination must not hold older failures against it.
    pub opens: bool,
}

/// The answer to one request.
pub type Answer = (u64, Result<AppendResponse, CallError>);

/// All lanes of one session that have something in flight or are broken. Others need no state.
pub struct Lanes {
    lanes: FxHashMap<LaneId, Lane>,
    /// The same, by the names that callers choose.
    names: HashMap<Arc<str>, LaneId>,
    next_lane: u64,
    next_attempt: AttemptId,
    requests: usize,
    bytes: usize,
}

struct Lane {
    name: Arc<str>,
    conversation: ConversationId,
    /// Unanswered requests, oldest first.
    requests: VecDeque<Request>,
    /// Requests that have been answered: where the first of those stands in the lane.
    answered: u64,
    /// Everything before this is sent or done.
    unsent_from: u64,
    in_flight: usize,
    /// Counts resets: a failure concerns the requests of its own epoch.
    epoch: u64,
    /// Something of the present epoch failed.
    broken: bool,
    /// The epoch of which a failure has been answered.
    failure_answered: Option<u64>,
    /// Where the requests in flight are.
    destination: Option<Destination>,
}

struct Request {
    attempt: AttemptId,
    request_id: u64,
    epoch: u64,
    bytes: usize,
    /// The last id of its batch, from when it is sent until the next one has named it as its predecessor.
    last_id: Option<IdKey>,
    state: State,
}

enum State {
    /// Not sent yet. The first request after a reset waits for all before it.
    Waiting { append: AppendRequest, opens_epoch: bool },
    /// Sent.
    InFlight,
    /// To be answered once all before it are.
    Done(Result<AppendResponse, CallError>),
}

impl Lanes {
    /// No lanes yet. Attempts count from `first`, which is to be random.
    pub fn new(first: AttemptId) -> Lanes {
        Lanes {
            lanes: FxHashMap::default(),
            names: HashMap::new(),
            next_lane: 0,
            next_attempt: first,
            requests: 0,
            bytes: 0,
        }
    }

    /// Requests that are not answered yet.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Memory that those requests take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lanes that have state.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Memory of one more lane and those that have state, beside what any call has.
    pub fn kept_bytes(&self) -> usize {
        ((self.lanes.len() + 1) * limits::LANE_BYTES).saturating_sub(limits::CALL_BYTES_FREE)
    }

    /// The lane of a conversation with a valid name, for a request that is about to be accepted.
    pub fn of(&mut self, conversation: &str) -> LaneId {
        let known = self.names.get(conversation).copied();
        known.unwrap_or_else(|| self.open(conversation))
    }

    /// Takes a request, or the reason why it cannot be sent.
    pub fn accept(
        &mut self,
        lane: LaneId,
        request_id: u64,
        reset: bool,
        append: Result<AppendRequest, CallError>,
    ) {
        let lane = self.lanes.get_mut(&lane).expect("a lane stays until its requests are answered");
        let attempt = self.next_attempt;
        self.next_attempt = attempt.next();
        if reset {
            lane.epoch += 1;
            lane.broken = false;
        }
        let (bytes, state) = match append {
            _ if lane.broken => (0, State::Done(Err(CallError::lane_broken(false)))),
            Err(error) => (0, State::Done(Err(error))),
            Ok(append) => (memory_bytes(&append), State::Waiting { append, opens_epoch: reset }),
        };
        lane.broken |= matches!(state, State::Done(Err(_)));
        let epoch = lane.epoch;
        let request = Request { attempt, request_id, epoch, bytes, last_id: None, state };
        lane.requests.push_back(request);
        self.requests += 1;
        self.bytes += bytes;
    }

    fn open(&mut self, conversation: &str) -> LaneId {
        let id = LaneId(self.next_lane);
        self.next_lane += 1;
        let name: Arc<str> = Arc::from(conversation);
        self.names.insert(name.clone(), id);
        self.lanes.insert(id, Lane::of(name));
        id
    }

    /// The conversation of a lane that has a request which was not sent yet.
    pub fn waiting(&mut self, lane: LaneId) -> Option<ConversationId> {
        let lane = self.lanes.get_mut(&lane)?;
        lane.first_waiting().map(|_| lane.conversation)
    }

    /// The next request of a lane that may be sent to `destination` now.
    pub fn depart(&mut self, id: LaneId, destination: Destination) -> Option<Departure> {
        let lane = self.lanes.get_mut(&id)?;
        let place = lane.first_waiting()?;
        let opens = lane.in_flight == 0;
        let request = &mut lane.requests[place];
        let State::Waiting { opens_epoch, .. } = request.state else { return None };
        if !opens && (opens_epoch || lane.destination != Some(destination)) {
            return None;
        }
        let State::Waiting { append, .. } = std::mem::replace(&mut request.state, State::InFlight)
        else {
            return None;
        };
        let attempt = request.attempt;
        request.last_id = Some(last_id(&append));
        // Also one whose answer has come: while an older one is in flight, it may be a repeat that came out of its turn.
        let predecessor = (!opens).then(|| lane.predecessor_of(place));
        lane.destination = Some(destination);
        lane.in_flight += 1;
        let slot = Slot { lane: id, number: lane.answered + place as u64 };
        Some(Departure { append, slot, place: LanePlace { attempt, predecessor }, opens })
    }

    /// Fails the next request of a lane that was not sent yet: there is nowhere to send it.
    pub fn fail_waiting(&mut self, lane: LaneId, error: CallError) {
        if let Some(lane) = self.lanes.get_mut(&lane)
            && let Some(place) = lane.first_waiting()
        {
            lane.finish(place, Err(error));
        }
    }

    /// Takes the result of a request in flight.
    pub fn arrive(&mut self, slot: Slot, result: Result<AppendResponse, CallError>) {
        if let Some(lane) = self.lanes.get_mut(&slot.lane)
            && let Some(place) = slot.number.checked_sub(lane.answered)
        {
            lane.in_flight -= 1;
            lane.finish(place as usize, result);
        }
    }

    /// Takes out the answers that can be given now, in the order of the requests.
    pub fn answers(&mut self, id: LaneId, answers: &mut VecDeque<Answer>) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        while let Some(Request { state: State::Done(_), .. }) = lane.requests.front() {
            let Some(request) = lane.requests.pop_front() else { break };
            lane.answered += 1;
            self.requests -= 1;
            self.bytes -= request.bytes;
            let State::Done(result) = request.state else { continue };
            answers.push_back((request.request_id, lane.answer(request.epoch, result)));
        }
        if lane.requests.is_empty() {
            if lane.broken {
                // It may stay for long, and had as many places as it once had requests.
                lane.requests = VecDeque::new();
            } else {
                self.names.remove(&lane.name);
                self.lanes.remove(&id);
                give_places_back(&mut self.names);
                give_places_back(&mut self.lanes);
            }
        }
    }
}

impl Lane {
    fn of(name: Arc<str>) -> Lane {
        Lane {
            conversation: ConversationId::of(&name),
            name,
            requests: VecDeque::new(),
            answered: 0,
            unsent_from: 0,
            in_flight: 0,
            epoch: 0,
            broken: false,
            failure_answered: None,
            destination: None,
        }
    }

    fn first_waiting(&mut self) -> Option<usize> {
        self.unsent_from = self.unsent_from.max(self.answered);
        loop {
            let place = (self.unsent_from - self.answered) as usize;
            match self.requests.get(place)?.state {
                State::Waiting { .. } => return Some(place),
                State::InFlight | State::Done(_) => self.unsent_from += 1,
            }
        }
    }

    /// What the request at `place` follows: only this one names it, so that the id is given away.
    fn predecessor_of(&mut self, place: usize) -> Predecessor {
        let before = &mut self.requests[place - 1];
        let last = before.last_id.take().expect("behind what is in flight stands what was sent");
        Predecessor { attempt: before.attempt, last }
    }

    fn finish(&mut self, place: usize, result: Result<AppendResponse, CallError>) {
        let failed = result.is_err();
        let epoch = self.requests[place].epoch;
        self.requests[place].state = State::Done(result);
        if !failed {
            return;
        }
        self.broken |= epoch == self.epoch;
        let unsent = self.unsent_from.saturating_sub(self.answered) as usize;
        for request in self.requests.iter_mut().skip(unsent) {
            if request.epoch == epoch && matches!(request.state, State::Waiting { .. }) {
                request.state = State::Done(Err(CallError::lane_broken(false)));
            }
        }
    }

    /// Behind an answered failure nothing of its epoch succeeds, but what was sent may have taken effect.
    fn answer(
        &mut self,
        epoch: u64,
        result: Result<AppendResponse, CallError>,
    ) -> Result<AppendResponse, CallError> {
        if self.failure_answered == Some(epoch) {
            let effect = result.as_ref().map_or_else(CallError::may_have_taken_effect, |_| true);
            return Err(CallError::lane_broken(effect));
        }
        if result.is_err() {
            self.failure_answered = Some(epoch);
        }
        result
    }
}

fn last_id(append: &AppendRequest) -> IdKey {
    let client_msg_id =
        append.messages.last().map_or_else(String::new, |last| last.client_msg_id.clone());
    IdKey { sender: append.sender.clone(), client_msg_id }
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
