//! The order of a session's appends, as bookkeeping without I/O. A lane is one conversation of the session: its
//! requests are sent in order, answered in order, and fail from the first failure on until the caller resets it (G5).
//!
//! Requests of a lane are pipelined only to one destination at a time: there each names the attempt before it, which
//! is what keeps them in order. Before a lane goes elsewhere, or starts anew after a reset, everything that it has in
//! flight must have come back.

use std::collections::{HashMap, VecDeque};

use quorate_client::proto::{AppendRequest, AppendResponse};

use crate::log::{IdKey, LanePlace, Predecessor};
use crate::service::errors::CallError;
use crate::service::memory::memory_bytes;
use crate::types::{AttemptId, NodeId};

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
    /// The attempt, to give back with the result, and the one before it while anything of the lane is in flight.
    pub place: LanePlace,
    /// Whether nothing of the lane is in flight, so that the destination must not hold older failures against it.
    pub opens: bool,
}

/// The answer to one request.
pub type Answer = (u64, Result<AppendResponse, CallError>);

/// All lanes of one session that have something in flight or are broken. Others need no state.
pub struct Lanes {
    lanes: HashMap<String, Lane>,
    next_attempt: AttemptId,
    requests: usize,
    bytes: usize,
}

#[derive(Default)]
struct Lane {
    /// Unanswered requests, oldest first.
    slots: VecDeque<Slot>,
    /// Counts resets: a failure concerns the requests of its own epoch.
    epoch: u64,
    /// Something of the present epoch failed.
    broken: bool,
    /// The epoch of which a failure has been answered.
    failure_answered: Option<u64>,
    /// Where the requests in flight are.
    destination: Option<Destination>,
}

struct Slot {
    attempt: AttemptId,
    request_id: u64,
    epoch: u64,
    bytes: usize,
    last_id: IdKey,
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
        Lanes { lanes: HashMap::new(), next_attempt: first, requests: 0, bytes: 0 }
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

    /// Takes a request to a conversation with a valid name, or the reason why it cannot be sent.
    pub fn accept(
        &mut self,
        conversation: &str,
        request_id: u64,
        reset: bool,
        append: Result<AppendRequest, CallError>,
    ) {
        let attempt = self.next_attempt;
        self.next_attempt = attempt.next();
        let lane = self.lanes.entry(conversation.to_owned()).or_default();
        if reset {
            lane.epoch += 1;
            lane.broken = false;
        }
        let (bytes, last_id, state) = match append {
            _ if lane.broken => (0, no_id(), State::Done(Err(CallError::lane_broken(false)))),
            Err(error) => (0, no_id(), State::Done(Err(error))),
            Ok(append) => {
                let bytes = memory_bytes(&append);
                let last_id = last_id(&append);
                (bytes, last_id, State::Waiting { append, opens_epoch: reset })
            }
        };
        lane.broken |= matches!(state, State::Done(Err(_)));
        lane.slots.push_back(Slot {
            attempt,
            request_id,
            epoch: lane.epoch,
            bytes,
            last_id,
            state,
        });
        self.requests += 1;
        self.bytes += bytes;
    }

    /// Whether a lane has a request that was not sent yet.
    pub fn has_waiting(&self, conversation: &str) -> bool {
        self.lanes.get(conversation).is_some_and(|lane| lane.first_waiting().is_some())
    }

    /// The next request of a lane that may be sent to `destination` now.
    pub fn depart(&mut self, conversation: &str, destination: Destination) -> Option<Departure> {
        let lane = self.lanes.get_mut(conversation)?;
        let place = lane.first_waiting()?;
        let in_flight = lane.slots.iter().any(|slot| matches!(slot.state, State::InFlight));
        // Also one whose answer has come: while an older one is in flight, it may be a repeat that came out of its turn.
        let predecessor = place.checked_sub(1).filter(|_| in_flight).map(|before| {
            let before = &lane.slots[before];
            Predecessor { attempt: before.attempt, last: before.last_id.clone() }
        });
        let slot = &mut lane.slots[place];
        let State::Waiting { opens_epoch, .. } = slot.state else { return None };
        if in_flight && (opens_epoch || lane.destination != Some(destination)) {
            return None;
        }
        let State::Waiting { append, .. } = std::mem::replace(&mut slot.state, State::InFlight)
        else {
            return None;
        };
        lane.destination = Some(destination);
        let place = LanePlace { attempt: slot.attempt, predecessor };
        Some(Departure { append, place, opens: !in_flight })
    }

    /// Fails the next request of a lane that was not sent yet: there is nowhere to send it.
    pub fn fail_waiting(&mut self, conversation: &str, error: CallError) {
        if let Some(lane) = self.lanes.get_mut(conversation)
            && let Some(place) = lane.first_waiting()
        {
            lane.finish(place, Err(error));
        }
    }

    /// Takes the result of a request in flight.
    pub fn arrive(
        &mut self,
        conversation: &str,
        attempt: AttemptId,
        result: Result<AppendResponse, CallError>,
    ) {
        if let Some(lane) = self.lanes.get_mut(conversation)
            && let Some(place) = lane.slots.iter().position(|slot| slot.attempt == attempt)
        {
            lane.finish(place, result);
        }
    }

    /// Takes out the answers that can be given now, in the order of the requests.
    pub fn answers(&mut self, conversation: &str) -> Vec<Answer> {
        let Some(lane) = self.lanes.get_mut(conversation) else { return Vec::new() };
        let mut answers = Vec::new();
        while let Some(Slot { state: State::Done(_), .. }) = lane.slots.front() {
            let Some(slot) = lane.slots.pop_front() else { break };
            self.requests -= 1;
            self.bytes -= slot.bytes;
            let State::Done(result) = slot.state else { continue };
            answers.push((slot.request_id, lane.answer(slot.epoch, result)));
        }
        if lane.slots.is_empty() && !lane.broken {
            self.lanes.remove(conversation);
        }
        answers
    }
}

impl Lane {
    fn first_waiting(&self) -> Option<usize> {
        self.slots.iter().position(|slot| matches!(slot.state, State::Waiting { .. }))
    }

    fn finish(&mut self, place: usize, result: Result<AppendResponse, CallError>) {
        let failed = result.is_err();
        let epoch = self.slots[place].epoch;
        self.slots[place].state = State::Done(result);
        if !failed {
            return;
        }
        self.broken |= epoch == self.epoch;
        for slot in self.slots.iter_mut().filter(|slot| slot.epoch == epoch) {
            if matches!(slot.state, State::Waiting { .. }) {
                slot.state = State::Done(Err(CallError::lane_broken(false)));
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

/// Of a request that is never sent and so is nobody's predecessor.
fn no_id() -> IdKey {
    IdKey { sender: String::new(), client_msg_id: String::new() }
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
