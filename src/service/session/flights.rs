//! The appends of one session that are under way: proposed to replicas here, or sent to nodes that lead. Each lands
//! once, with its outcome or with what is known of it when its time is up (G8).

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Code;

use super::lanes::{Departure, Slot};
use super::upstream::{Event, Response, Upstream};
use super::ways::Way;
use crate::consensus::Outcomes;
use crate::service::call::Call;
use crate::service::errors::CallError;
use crate::service::{Api, append, forward};
use crate::types::{NodeId, give_places_back, limits};

/// All flights of a session. As many as its lanes have in flight.
pub struct Flights {
    next_ticket: u64,
    flights: FxHashMap<u64, Flight>,
    outcomes: Outcomes,
    /// The stream to each node that leads some lane.
    upstreams: BTreeMap<NodeId, Upstream>,
    streams_opened: u64,
    events: mpsc::Sender<Event>,
    /// Room for all that can come: an event of answers has one at least.
    incoming: mpsc::Receiver<Event>,
    /// Have landed, and are to be told of.
    landed: VecDeque<(u64, Response)>,
    /// How long an append may take.
    timeout: Duration,
    /// When some flight to another node may be overdue. Those here are told by their groups.
    overdue: Option<Pin<Box<Sleep>>>,
}

struct Flight {
    slot: Slot,
    messages: usize,
    began: Instant,
    way: Way,
}

impl Flights {
    /// None yet. Each append may take so long.
    pub fn new(timeout: Duration) -> Self {
        let (events, incoming) = mpsc::channel(limits::SESSION_IN_FLIGHT_MAX);
        Flights {
            next_ticket: 1,
            flights: FxHashMap::default(),
            outcomes: Outcomes::default(),
            upstreams: BTreeMap::new(),
            streams_opened: 0,
            events,
            incoming,
            landed: VecDeque::new(),
            timeout,
            overdue: None,
        }
    }

    /// The stream to a node, if there is one.
    pub fn stream_to(&self, node: NodeId) -> Option<u64> {
        self.upstreams.get(&node).map(|upstream| upstream.stream)
    }

    /// Opens a stream to a node.
    ///
    /// # Errors
    /// NOT_LEADER: there can be none.
    pub fn open_stream(&mut self, api: &Api, call: &Call, node: NodeId) -> Result<u64, CallError> {
        let client = forward::client(api, call, node, CallError::not_leader(Some(node)))?;
        self.streams_opened += 1;
        let (stream, events) = (self.streams_opened, self.events.clone());
        let upstream = Upstream::open(stream, node, client, events, |requests| {
            forward::request(api, call, None, requests)
        });
        self.upstreams.insert(node, upstream);
        Ok(stream)
    }

    /// Sends an append on its way.
    ///
    /// # Errors
    /// With its slot, if it could not be sent. Whatever stands behind it in its lane must be told before it is sent: the
    /// other node would take that for the first.
    pub fn begin(
        &mut self,
        api: &Api,
        way: &Way,
        departure: Departure,
        now: Instant,
    ) -> Result<(), (Slot, CallError)> {
        let Departure { append, slot, place, opens } = departure;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let flight = Flight { slot, messages: append.messages.len(), began: now, way: way.clone() };
        let deadline = now + self.timeout;
        match way {
            Way::Here(group) => {
                let command = append::command(api, append, Some(place));
                self.outcomes.propose(group.clone(), command, deadline, ticket);
            }
            Way::There { node, stream, .. } => {
                let upstream = self.upstreams.get(node).filter(|to| to.stream == *stream);
                let room = append::room(api.replicas.admission(), &append);
                let sent = match upstream {
                    Some(to) => room.and_then(|room| to.send(ticket, append, opens, room)),
                    // That says nothing of the node.
                    None => Err(CallError::not_leader(Some(*node))),
                };
                if let Err(error) = sent {
                    land(api, flight, &Err(error.clone()));
                    return Err((slot, error));
                }
                self.overdue.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            }
        }
        self.flights.insert(ticket, flight);
        Ok(())
    }

    /// The next flight that has landed, and what came of it; pending also while nothing is under way.
    pub fn poll_landed(&mut self, cx: &mut Context<'_>, api: &Api) -> Poll<(Slot, Response)> {
        loop {
            while let Some((ticket, response)) = self.landed.pop_front() {
                // One that was overdue is answered too late, and has landed before.
                if let Some(flight) = self.remove(ticket) {
                    return Poll::Ready((land(api, flight, &response), response));
                }
            }
            if let Poll::Ready((ticket, outcome)) = self.outcomes.poll_next(cx) {
                let Some(flight) = self.remove(ticket) else { continue };
                let Way::Here(group) = &flight.way else { continue };
                let response = append::answer(api, group, outcome);
                return Poll::Ready((land(api, flight, &response), response));
            }
            if let Poll::Ready(Some(event)) = self.incoming.poll_recv(cx) {
                self.take(event);
            } else if self.overdue.as_mut().is_some_and(|at| at.as_mut().poll(cx).is_ready()) {
                self.give_up_overdue(Instant::now());
            } else {
                return Poll::Pending;
            }
        }
    }

    fn remove(&mut self, ticket: u64) -> Option<Flight> {
        let removed = self.flights.remove(&ticket);
        give_places_back(&mut self.flights);
        removed
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Answered(answers) => self.landed.extend(answers),
            Event::Ended { stream, error } => {
                self.upstreams.retain(|_, upstream| upstream.stream != stream);
                self.lose(stream, &error);
            }
        }
    }

    /// Lands those whose time is up at other nodes, and sees to it that the next that may be is looked at.
    fn give_up_overdue(&mut self, now: Instant) {
        let mut next = None;
        let mut overdue = Vec::new();
        for (ticket, flight) in &self.flights {
            let Way::There { node, .. } = flight.way else { continue };
            let deadline = flight.began + self.timeout;
            if deadline <= now {
                overdue.push((*ticket, node));
            } else {
                next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
            }
        }
        overdue.sort_unstable();
        self.landed.extend(overdue.into_iter().map(|(ticket, node)| {
            let message = format!("node {node} did not answer before the deadline");
            (ticket, Err(CallError::outcome_unknown(message)))
        }));
        self.overdue = next.map(|at| Box::pin(sleep_until(at)));
    }

    /// Lands all that are on a stream.
    fn lose(&mut self, stream: u64, error: &CallError) {
        let lost = |flight: &Flight| match flight.way {
            Way::There { stream: other, .. } => other == stream,
            Way::Here(_) => false,
        };
        let lost = self.flights.iter().filter(|(_, flight)| lost(flight));
        let mut lost: Vec<u64> = lost.map(|(ticket, _)| *ticket).collect();
        lost.sort_unstable();
        self.landed.extend(lost.into_iter().map(|ticket| (ticket, Err(error.clone()))));
    }
}

fn land(api: &Api, flight: Flight, response: &Response) -> Slot {
    if let Way::There { group, node, .. } = flight.way {
        api.elsewhere.learn(node, &[group], response);
        api.elsewhere.learn_leader(group, response);
    }
    let code = response.as_ref().map_or_else(CallError::code, |_| Code::Ok);
    api.observer.appended(flight.messages, code, flight.began.elapsed());
    flight.slot
}
