//! The task behind a session: decides what goes where, and never waits for a node.

mod rest;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tonic::Code;

use super::lane::{Failed, Lane, Pending};
use super::link::{self, Event, LinkId};
use super::window::Room;
use crate::backoff::Backoff;
use crate::encoded::SessionRequest;
use crate::error::Effect;
use crate::router::{DEPOSED_PATIENCE, Destination, Target};
use crate::{Client, Error, proto, reason};

use proto::session_response::Result as Answer;

/// How often deadlines are looked at: at most this late is an append told that its time is up.
const DEADLINE_TICK: Duration = Duration::from_millis(50);
/// How long a lane waits for a link whose queue is full.
const FULL_LINK_PAUSE: Duration = Duration::from_millis(5);
/// Events that wait for the driver: of many answers each, where many come.
const EVENTS_MAX: usize = 64;
/// Lanes that are kept because they failed. With those that have appends outstanding they are fewer than a server keeps
/// of one session (16,384), which also keeps those that were resumed and not used since.
const CLOSED_MAX: usize = 10_000;
/// Commands, or events, that are taken at once. What they lead to goes out together.
const TAKEN_AT_ONCE_MAX: usize = 256;

/// What callers ask of the driver.
pub(super) enum Command {
    /// To a conversation.
    Append(String, Pending),
    Resume(String),
}

/// Tells one lane from the others, and from older ones of the same conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct LaneId(u64);

/// A lane and where it is served. Exists while the lane has something without an outcome.
struct Traffic {
    conversation: Arc<str>,
    lane: Lane,
    backoff: Backoff,
    /// Where what is in flight went; absent while nothing is.
    route: Option<Route>,
    /// Nothing is sent before this.
    paused_until: Option<Instant>,
    /// Or before the conversation has a leader that can be asked.
    until_led: bool,
    /// Since when another node leads than the one that has what is in flight.
    deposed_since: Option<Instant>,
}

#[derive(Clone)]
struct Route {
    link: LinkId,
    target: Target,
    /// The router's generation when the route was chosen or last confirmed.
    generation: u64,
}

struct Link {
    address: Arc<str>,
    requests: mpsc::Sender<SessionRequest>,
    /// What is sent on it at the end of this turn.
    batch: Vec<SessionRequest>,
}

impl Link {
    fn is_full(&self) -> bool {
        self.batch.len() >= self.requests.capacity()
    }

    /// Sends the batch. A link that is broken takes nothing; its event tells of that.
    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if let Ok(places) = self.requests.try_reserve_many(self.batch.len()) {
            places.zip(self.batch.drain(..)).for_each(|(place, request)| place.send(request));
        }
        self.batch.clear();
    }
}

pub(super) struct Driver {
    client: Client,
    /// Twice the window: what was sent before a lane was rewound may still wait here beside what is sent again.
    link_queue_max: usize,
    /// As many as there are appends without an outcome, at most.
    lanes: FxHashMap<LaneId, Traffic>,
    /// The same, by conversation.
    names: HashMap<Arc<str>, LaneId>,
    /// Why lanes failed for good, by conversation, until the caller resumes them.
    closed: HashMap<Arc<str>, Error>,
    /// More have failed than are kept. That stays: of what was refused for it nothing is kept, so that what comes
    /// behind it to the same conversation would be committed without it (G5).
    opens_no_lanes: bool,
    /// One for each node that leads a conversation of this session.
    links: FxHashMap<LinkId, Link>,
    in_flight: FxHashMap<u64, LaneId>,
    paused: BTreeSet<(Instant, LaneId)>,
    /// Whose callers are told at the end of this turn.
    committed: Vec<(Pending, proto::AppendResponse)>,
    /// The router's generation at the beginning of this turn.
    generation: u64,
    next_request_id: u64,
    next_lane_id: u64,
    next_link_id: u64,
    events: mpsc::Sender<Event>,
    incoming: Option<mpsc::Receiver<Event>>,
}

impl Driver {
    pub fn new(client: Client, in_flight_max: usize) -> Self {
        let (events, incoming) = mpsc::channel(EVENTS_MAX);
        Driver {
            client,
            link_queue_max: 2 * in_flight_max,
            lanes: FxHashMap::default(),
            names: HashMap::new(),
            closed: HashMap::new(),
            opens_no_lanes: false,
            links: FxHashMap::default(),
            in_flight: FxHashMap::default(),
            paused: BTreeSet::new(),
            committed: Vec::new(),
            generation: 0,
            next_request_id: 1,
            next_lane_id: 1,
            next_link_id: 1,
            events,
            incoming: Some(incoming),
        }
    }

    /// Runs until every session is dropped and everything handed in has its outcome.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut incoming = self.incoming.take().expect("a driver is run once");
        let mut tick = interval(DEADLINE_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut topologies = self.client.shared.router.watch();
        let (mut events, mut asked) = (Vec::new(), Vec::new());
        let mut open = true;
        while open || !self.lanes.is_empty() {
            let resume_at = self.paused.first().map(|(at, _)| *at);
            tokio::select! {
                _ = incoming.recv_many(&mut events, TAKEN_AT_ONCE_MAX) => {}
                taken = commands.recv_many(&mut asked, TAKEN_AT_ONCE_MAX), if open => {
                    open = taken > 0;
                }
                () = sleep_until(resume_at.unwrap_or_else(Instant::now)), if resume_at.is_some() => {
                    self.resume_paused(Instant::now());
                }
                Ok(()) = topologies.changed(), if !self.lanes.is_empty() => {
                    self.resume_led();
                    self.leave_deposed(Instant::now());
                }
                _ = tick.tick(), if !self.lanes.is_empty() => {
                    self.leave_deposed(Instant::now());
                    self.expire(Instant::now());
                }
            }
            self.generation = self.client.shared.router.generation();
            events.drain(..).for_each(|event| self.on_event(event));
            asked.drain(..).for_each(|command| self.on_command(command));
            self.end_turn();
        }
    }

    /// Sends and tells what the turn has led to.
    fn end_turn(&mut self) {
        self.links.values_mut().for_each(Link::flush);
        let rooms = self.committed.iter_mut().filter_map(|(pending, _)| pending.take_room());
        // Whoever is told finds its room in the window.
        drop(rooms.reduce(|mut all: Room, room| {
            all.merge(room);
            all
        }));
        self.committed.drain(..).for_each(|(pending, response)| pending.succeed(response));
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Append(conversation, pending) => self.accept(conversation, pending),
            Command::Resume(conversation) => drop(self.closed.remove(conversation.as_str())),
        }
    }

    fn accept(&mut self, conversation: String, pending: Pending) {
        let id = match self.names.get(conversation.as_str()) {
            Some(id) => *id,
            None => {
                if let Some(cause) = self.closed.get(conversation.as_str()) {
                    return pending.fail_behind(cause);
                }
                self.opens_no_lanes |= self.closed.len() >= CLOSED_MAX;
                if self.opens_no_lanes {
                    return pending.fail(too_many_closed());
                }
                self.open_lane(conversation.into())
            }
        };
        if let Some(traffic) = self.lanes.get_mut(&id) {
            traffic.lane.push(pending);
            self.send(id);
        }
    }

    fn open_lane(&mut self, conversation: Arc<str>) -> LaneId {
        let id = LaneId(self.next_lane_id);
        self.next_lane_id += 1;
        let traffic = Traffic {
            conversation: conversation.clone(),
            lane: Lane::new(),
            backoff: Backoff::new(&self.client.shared.options),
            route: None,
            paused_until: None,
            until_led: false,
            deposed_since: None,
        };
        self.lanes.insert(id, traffic);
        self.names.insert(conversation, id);
        id
    }

    fn forget_lane(&mut self, id: LaneId) -> Option<Traffic> {
        let traffic = self.lanes.remove(&id)?;
        self.names.remove(&traffic.conversation);
        Some(traffic)
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Answered(link, answers) => {
                answers.into_iter().for_each(|answer| self.on_answer(link, answer));
            }
            Event::Broken(link, error) => self.on_broken(link, error),
        }
    }

    fn on_answer(&mut self, link: LinkId, answer: proto::SessionResponse) {
        // Answers to attempts that were given up say nothing about the ones that followed.
        let Some(id) = self.in_flight.remove(&answer.request_id) else { return };
        let Some(traffic) = self.lanes.get_mut(&id) else { return };
        let taken = match answer.result {
            Some(Answer::Appended(response)) => {
                traffic.backoff.reset();
                traffic.lane.succeed(answer.request_id).map(|pending| (pending, response))
            }
            Some(Answer::Failed(failure)) => {
                return self.on_failure(id, link, answer.request_id, failure.into());
            }
            None => Err(Error::protocol("an answer is neither a success nor a failure")
                .with_retryable(true)
                .with_effect(true)),
        };
        match taken {
            Ok(committed) => {
                self.committed.push(committed);
                self.go_on(id);
            }
            Err(error) => self.on_broken(link, error),
        }
    }

    /// After a success: goes on with what waits, or forgets a lane without anything outstanding.
    fn go_on(&mut self, id: LaneId) {
        let Some(traffic) = self.lanes.get_mut(&id) else { return };
        if traffic.lane.is_in_flight() && !traffic.lane.has_unsent() {
            return;
        }
        if !traffic.lane.is_in_flight() {
            traffic.route = None;
        }
        if traffic.lane.is_empty() {
            self.forget_lane(id);
        } else {
            self.send(id);
        }
    }

    fn on_failure(&mut self, id: LaneId, link: LinkId, request_id: u64, error: Error) {
        let Some(traffic) = self.lanes.get_mut(&id) else { return };
        let ids: Vec<u64> = traffic.lane.ids_in_flight().collect();
        let failed = match traffic.lane.fail(request_id, &error) {
            Ok(failed) => failed,
            Err(violation) => return self.on_broken(link, violation),
        };
        ids.iter().for_each(|id| {
            self.in_flight.remove(id);
        });
        let route = traffic.route.take();
        match failed {
            Failed::Again => {
                let conversation = &traffic.conversation;
                tracing::debug!(%conversation, %error, "an append failed, sending the lane again");
                if let Some(route) = route {
                    self.client.shared.router.note_failure(&route.target, &error);
                }
                self.pause_for(id, &error);
            }
            Failed::Broken => self.close(id, error),
        }
    }

    /// A link is lost: whatever was on it is sent again, lane by lane.
    fn on_broken(&mut self, link: LinkId, error: Error) {
        let Some(Link { address, .. }) = self.links.remove(&link) else { return };
        let retryable = error.retryable();
        tracing::debug!(%address, %error, "a session's stream broke");
        let target = Target { address, group: None };
        self.client.shared.router.note_failure(&target, &error);
        let on_link = |t: &Traffic| t.route.as_ref().is_some_and(|route| route.link == link);
        let mut hit: Vec<LaneId> =
            self.lanes.iter().filter(|(_, t)| on_link(t)).map(|(id, _)| *id).collect();
        hit.sort_unstable();
        for id in hit {
            self.forget_in_flight(id);
            let Some(traffic) = self.lanes.get_mut(&id) else { continue };
            if retryable {
                traffic.lane.rewind(&error);
                self.pause_for(id, &error);
            } else {
                traffic.lane.break_off(error.clone());
                self.close(id, error.clone());
            }
        }
    }

    fn close(&mut self, id: LaneId, cause: Error) {
        let Some(traffic) = self.forget_lane(id) else { return };
        if let Some(at) = traffic.paused_until {
            self.paused.remove(&(at, id));
        }
        self.closed.insert(traffic.conversation, cause);
    }

    /// What is in flight to a node that leads no more, and that answers nothing although an answer on its way would have
    /// come, is sent again to the one that leads: with the same ids and in the same order, lane by lane, as if the
    /// stream had broken for them (G4, G5).
    fn leave_deposed(&mut self, now: Instant) {
        let router = &self.client.shared.router;
        let generation = router.generation();
        let mut left = Vec::new();
        for (id, traffic) in &mut self.lanes {
            let Some(route) = traffic.route.as_mut().filter(|_| traffic.lane.is_in_flight()) else {
                traffic.deposed_since = None;
                continue;
            };
            if route.generation == generation {
                continue;
            }
            if !router.is_led_elsewhere(&traffic.conversation, &route.target.address) {
                traffic.deposed_since = None;
                continue;
            }
            let since = *traffic.deposed_since.get_or_insert(now);
            if now.duration_since(since) >= DEPOSED_PATIENCE {
                left.push(*id);
            }
        }
        left.sort_unstable();
        for id in left {
            self.forget_in_flight(id);
            let Some(traffic) = self.lanes.get_mut(&id) else { continue };
            tracing::debug!(conversation = %traffic.conversation, "another node leads now");
            traffic.lane.rewind(&Error::stream_ended(Effect::Possible));
            self.send(id);
        }
    }

    /// Whatever answers come to what a lane has in flight, they are not waited for any more.
    fn forget_in_flight(&mut self, id: LaneId) {
        let Some(traffic) = self.lanes.get_mut(&id) else { return };
        (traffic.route, traffic.deposed_since) = (None, None);
        for request in traffic.lane.ids_in_flight() {
            self.in_flight.remove(&request);
        }
    }

    fn expire(&mut self, now: Instant) {
        let expired: Vec<(LaneId, Error)> = self
            .lanes
            .iter()
            .filter_map(|(id, traffic)| Some((*id, traffic.lane.expired(now)?)))
            .collect();
        for (id, error) in expired {
            self.forget_in_flight(id);
            if let Some(traffic) = self.lanes.get_mut(&id) {
                traffic.lane.break_off(error.clone());
            }
            self.close(id, error);
        }
    }

    /// Sends what a lane has to send, as far as its route takes it and up to what no server would take.
    fn send(&mut self, id: LaneId) {
        let Some(traffic) = self.lanes.get_mut(&id) else { return };
        if traffic.paused_until.is_some() {
            return;
        }
        if let Some(refusal) = traffic.lane.refusal() {
            traffic.lane.break_off(refusal.clone());
            return self.close(id, refusal);
        }
        if !traffic.lane.has_unsent() {
            return;
        }
        let Some(route) = self.route(id) else { return };
        let Some(traffic) = self.lanes.get_mut(&id) else { return };
        let Some(link) = self.links.get_mut(&route.link) else { return };
        while let Some(request) = traffic.lane.next_request(self.next_request_id) {
            if link.is_full() {
                traffic.until_led = false;
                self.pause(id, Instant::now() + FULL_LINK_PAUSE);
                return;
            }
            link.batch.push(request);
            traffic.lane.mark_sent(self.next_request_id);
            self.in_flight.insert(self.next_request_id, id);
            self.next_request_id += 1;
            traffic.route.get_or_insert_with(|| route.clone());
        }
    }

    /// Where a lane's next request goes. A lane changes its node only while nothing of it is in flight: what is sent
    /// behind a request has to come behind it. None while that is being waited for, or no link can be made.
    fn route(&mut self, id: LaneId) -> Option<Route> {
        let router = &self.client.shared.router;
        let generation = self.generation;
        let traffic = self.lanes.get_mut(&id)?;
        let destination = Destination::LeaderOf(&traffic.conversation);
        if let Some(route) = &mut traffic.route {
            if route.generation != generation {
                if router.target(destination).address != route.target.address {
                    return None;
                }
                route.generation = generation;
            }
            return Some(route.clone());
        }
        let target = router.target(destination);
        match self.link_to(&target.address) {
            Ok(link) => Some(Route { link, target, generation }),
            Err(error) => {
                self.client.shared.router.note_failure(&target, &error);
                self.pause_for(id, &error);
                None
            }
        }
    }

    fn link_to(&mut self, address: &Arc<str>) -> Result<LinkId, Error> {
        if let Some((id, _)) = self.links.iter().find(|(_, link)| link.address == *address) {
            return Ok(*id);
        }
        let shared = &self.client.shared;
        let channel = shared.channels.shared(address)?;
        let id = LinkId(self.next_link_id);
        self.next_link_id += 1;
        let (requests, outgoing) = mpsc::channel(self.link_queue_max);
        let open_timeout = shared.options.attempt_timeout;
        tokio::spawn(link::run(id, channel, outgoing, self.events.clone(), open_timeout));
        let link = Link { address: address.clone(), requests, batch: Vec::new() };
        self.links.insert(id, link);
        Ok(id)
    }
}

fn too_many_closed() -> Error {
    let message = format!(
        "{CLOSED_MAX} conversations have failed on this session and were not resumed: it takes no others, open another"
    );
    Error::local(Code::ResourceExhausted, reason::SESSION_CLOSED, message).with_retryable(true)
}
