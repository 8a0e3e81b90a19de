//! The task behind a session: decides what goes where, and never waits for a node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::lane::{Failed, Lane, Pending};
use super::link::{self, Event, LinkId};
use crate::backoff::Backoff;
use crate::error::Effect;
use crate::router::{DEPOSED_PATIENCE, Destination, Target};
use crate::{Client, Error, proto};

use proto::session_response::Result as Answer;

/// How often deadlines are looked at: at most this late is an append told that its time is up.
const DEADLINE_TICK: Duration = Duration::from_millis(50);
/// How long a lane waits for a link whose queue is full.
const FULL_LINK_PAUSE: Duration = Duration::from_millis(5);
/// Answers that wait for the driver.
const EVENTS_MAX: usize = 1_024;

/// What callers ask of the driver.
pub(super) enum Command {
    Append(Pending),
    Resume(String),
}

/// A lane and where it is served. Exists while the lane has something without an outcome.
struct Traffic {
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
    id: LinkId,
    requests: mpsc::Sender<proto::SessionRequest>,
}

/// A conversation whose lane failed for good.
enum Closed {
    /// Until the caller resumes it, for this reason.
    Broken(Error),
    /// The caller has; the next append opens it at the server too.
    Resumed,
}

pub(super) struct Driver {
    client: Client,
    /// Twice the window: what was sent before a lane was rewound may still wait here beside what is sent again.
    link_queue_max: usize,
    /// As many as there are appends without an outcome, at most.
    lanes: HashMap<Arc<str>, Traffic>,
    /// Lanes that failed for good and were not used since.
    closed: HashMap<Arc<str>, Closed>,
    /// One for each node that leads a conversation of this session.
    links: HashMap<Arc<str>, Link>,
    in_flight: HashMap<u64, Arc<str>>,
    paused: BTreeSet<(Instant, Arc<str>)>,
    next_request_id: u64,
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
            lanes: HashMap::new(),
            closed: HashMap::new(),
            links: HashMap::new(),
            in_flight: HashMap::new(),
            paused: BTreeSet::new(),
            next_request_id: 1,
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
        let mut open = true;
        while open || !self.lanes.is_empty() {
            let resume_at = self.paused.first().map(|(at, _)| *at);
            tokio::select! {
                Some(event) = incoming.recv() => self.on_event(event),
                command = commands.recv(), if open => match command {
                    Some(command) => self.on_command(command),
                    None => open = false,
                },
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
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Append(pending) => self.accept(pending),
            Command::Resume(conversation) => {
                if let Some(closed) = self.closed.get_mut(conversation.as_str()) {
                    *closed = Closed::Resumed;
                }
            }
        }
    }

    fn accept(&mut self, pending: Pending) {
        if let Some(Closed::Broken(cause)) = self.closed.get(pending.conversation()) {
            return pending.fail_behind(cause);
        }
        let conversation: Arc<str> = Arc::from(pending.conversation());
        let reset = self.closed.remove(&conversation).is_some();
        let options = &self.client.shared.options;
        let traffic = self.lanes.entry(conversation.clone()).or_insert_with(|| Traffic {
            lane: Lane::new(reset),
            backoff: Backoff::new(options),
            route: None,
            paused_until: None,
            until_led: false,
            deposed_since: None,
        });
        traffic.lane.push(pending);
        self.send(&conversation);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Answered(link, answer) => self.on_answer(link, answer),
            Event::Broken(link, error) => self.on_broken(link, error),
        }
    }

    fn on_answer(&mut self, link: LinkId, answer: proto::SessionResponse) {
        // Answers to attempts that were given up say nothing about the ones that followed.
        let Some(conversation) = self.in_flight.remove(&answer.request_id) else { return };
        let Some(traffic) = self.lanes.get_mut(&conversation) else { return };
        let taken = match answer.result {
            Some(Answer::Appended(response)) => {
                traffic.backoff.reset();
                traffic.lane.succeed(answer.request_id, response)
            }
            Some(Answer::Failed(failure)) => {
                return self.on_failure(&conversation, link, answer.request_id, failure.into());
            }
            None => Err(Error::protocol("an answer is neither a success nor a failure")
                .with_retryable(true)
                .with_effect(true)),
        };
        match taken {
            Ok(()) => self.go_on(&conversation),
            Err(error) => self.on_broken(link, error),
        }
    }

    /// After a success: goes on with what waits, or forgets a lane without anything outstanding.
    fn go_on(&mut self, conversation: &Arc<str>) {
        let Some(traffic) = self.lanes.get_mut(conversation) else { return };
        if !traffic.lane.is_in_flight() {
            traffic.route = None;
        }
        if traffic.lane.is_empty() {
            self.lanes.remove(conversation);
        } else {
            self.send(conversation);
        }
    }

    fn on_failure(&mut self, conversation: &Arc<str>, link: LinkId, request_id: u64, error: Error) {
        let Some(traffic) = self.lanes.get_mut(conversation) else { return };
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
                tracing::debug!(%conversation, %error, "an append failed, sending the lane again");
                if let Some(route) = route {
                    self.client.shared.router.note_failure(&route.target, &error);
                }
                self.pause_for(conversation, &error);
            }
            Failed::Broken => self.close(conversation, error),
        }
    }

    /// A link is lost: whatever was on it is sent again, lane by lane.
    fn on_broken(&mut self, link: LinkId, error: Error) {
        let address = self.links.iter().find(|(_, l)| l.id == link).map(|(a, _)| a.clone());
        let Some(address) = address else { return };
        self.links.remove(&address);
        let retryable = error.retryable();
        tracing::debug!(%address, %error, "a session's stream broke");
        let target = Target { address, group: None };
        self.client.shared.router.note_failure(&target, &error);
        let on_link = |t: &Traffic| t.route.as_ref().is_some_and(|route| route.link == link);
        let hit: Vec<Arc<str>> =
            self.lanes.iter().filter(|(_, t)| on_link(t)).map(|(c, _)| c.clone()).collect();
        for conversation in hit {
            self.forget_in_flight(&conversation);
            let Some(traffic) = self.lanes.get_mut(&conversation) else { continue };
            if retryable {
                traffic.lane.rewind(&error);
                self.pause_for(&conversation, &error);
            } else {
                traffic.lane.break_off(error.clone());
                self.close(&conversation, error.clone());
            }
        }
    }

    fn close(&mut self, conversation: &Arc<str>, cause: Error) {
        if let Some(at) = self.lanes.remove(conversation).and_then(|t| t.paused_until) {
            self.paused.remove(&(at, conversation.clone()));
        }
        self.closed.insert(conversation.clone(), Closed::Broken(cause));
    }

    /// Lets a lane rest after a failure, or sends at once where that is right.
    fn pause_for(&mut self, conversation: &Arc<str>, error: &Error) {
        let Some(traffic) = self.lanes.get_mut(conversation) else { return };
        let delay = traffic.backoff.next_delay(error);
        traffic.until_led = error.is_of_reach();
        if delay.is_zero() {
            self.send(conversation);
        } else {
            self.pause(conversation, Instant::now() + delay);
        }
    }

    fn pause(&mut self, conversation: &Arc<str>, until: Instant) {
        let Some(traffic) = self.lanes.get_mut(conversation) else { return };
        if let Some(before) = traffic.paused_until.replace(until) {
            self.paused.remove(&(before, conversation.clone()));
        }
        self.paused.insert((until, conversation.clone()));
    }

    fn resume_paused(&mut self, now: Instant) {
        while self.paused.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, conversation)) = self.paused.pop_first() else { return };
            self.resume(&conversation);
        }
    }

    /// Lanes that rest because their leader was out of reach go on once there is one that is not passed over.
    fn resume_led(&mut self) {
        let waits_for_leader =
            |name: &Arc<str>| self.lanes.get(name).is_some_and(|traffic| traffic.until_led);
        let waiting = self.paused.iter().filter(|(_, conversation)| waits_for_leader(conversation));
        for (until, conversation) in waiting.cloned().collect::<Vec<_>>() {
            let usable_at = self.client.shared.router.leader_usable_at(&conversation);
            if let Some(sooner) = usable_at.filter(|at| *at < until) {
                self.pause(&conversation, sooner);
            }
        }
    }

    fn resume(&mut self, conversation: &Arc<str>) {
        if let Some(traffic) = self.lanes.get_mut(conversation) {
            traffic.paused_until = None;
            self.send(conversation);
        }
    }

    /// What is in flight to a node that leads no more, and that answers nothing although an answer on its way would have
    /// come, is sent again to the one that leads: with the same ids and in the same order, lane by lane, as if the
    /// stream had broken for them (G4, G5).
    fn leave_deposed(&mut self, now: Instant) {
        let router = &self.client.shared.router;
        let generation = router.generation();
        let mut left = Vec::new();
        for (conversation, traffic) in &mut self.lanes {
            let Some(route) = traffic.route.as_mut().filter(|_| traffic.lane.is_in_flight()) else {
                traffic.deposed_since = None;
                continue;
            };
            if route.generation == generation {
                continue;
            }
            if !router.is_led_elsewhere(conversation, &route.target.address) {
                traffic.deposed_since = None;
                continue;
            }
            let since = *traffic.deposed_since.get_or_insert(now);
            if now.duration_since(since) >= DEPOSED_PATIENCE {
                left.push(conversation.clone());
            }
        }
        for conversation in left {
            tracing::debug!(%conversation, "another node leads now");
            self.forget_in_flight(&conversation);
            if let Some(traffic) = self.lanes.get_mut(&conversation) {
                traffic.lane.rewind(&Error::stream_ended(Effect::Possible));
                self.send(&conversation);
            }
        }
    }

    /// Whatever answers come to what a lane has in flight, they are not waited for any more.
    fn forget_in_flight(&mut self, conversation: &Arc<str>) {
        let Some(traffic) = self.lanes.get_mut(conversation) else { return };
        (traffic.route, traffic.deposed_since) = (None, None);
        for id in traffic.lane.ids_in_flight() {
            self.in_flight.remove(&id);
        }
    }

    fn expire(&mut self, now: Instant) {
        let expired: Vec<(Arc<str>, Error)> = self
            .lanes
            .iter()
            .filter_map(|(name, traffic)| Some((name.clone(), traffic.lane.expired(now)?)))
            .collect();
        for (conversation, error) in expired {
            self.forget_in_flight(&conversation);
            if let Some(traffic) = self.lanes.get_mut(&conversation) {
                traffic.lane.break_off(error.clone());
            }
            self.close(&conversation, error);
        }
    }

    /// Sends what a lane has to send, as far as its route takes it and up to what no server would take.
    fn send(&mut self, conversation: &Arc<str>) {
        loop {
            let Some(traffic) = self.lanes.get_mut(conversation) else { return };
            if traffic.paused_until.is_some() {
                return;
            }
            if let Some(refusal) = traffic.lane.refusal() {
                traffic.lane.break_off(refusal.clone());
                return self.close(conversation, refusal);
            }
            if !traffic.lane.has_unsent() {
                return;
            }
            let Some(route) = self.route(conversation) else { return };
            let request_id = self.next_request_id;
            let Some(traffic) = self.lanes.get_mut(conversation) else { return };
            let Some(request) = traffic.lane.next_request(request_id) else { return };
            let Some(link) = self.links.get(&route.target.address) else { return };
            if link.requests.try_send(request).is_err() {
                // Full, or broken, of which the link's event will tell.
                traffic.until_led = false;
                self.pause(conversation, Instant::now() + FULL_LINK_PAUSE);
                return;
            }
            self.next_request_id += 1;
            traffic.lane.mark_sent(request_id);
            traffic.route = Some(route);
            self.in_flight.insert(request_id, conversation.clone());
        }
    }

    /// Where a lane's next request goes. A lane changes its node only while nothing of it is in flight: what is sent
    /// behind a request has to come behind it. None while that is being waited for, or no link can be made.
    fn route(&mut self, conversation: &Arc<str>) -> Option<Route> {
        let router = &self.client.shared.router;
        let generation = router.generation();
        let current = self.lanes.get(conversation)?.route.clone();
        if let Some(route) = current {
            if route.generation == generation {
                return Some(route);
            }
            let target = router.target(Destination::LeaderOf(conversation));
            let unchanged = target.address == route.target.address;
            return unchanged.then_some(Route { generation, ..route });
        }
        let target = router.target(Destination::LeaderOf(conversation));
        match self.link_to(&target.address) {
            Ok(link) => Some(Route { link, target, generation }),
            Err(error) => {
                self.client.shared.router.note_failure(&target, &error);
                self.pause_for(conversation, &error);
                None
            }
        }
    }

    fn link_to(&mut self, address: &Arc<str>) -> Result<LinkId, Error> {
        if let Some(link) = self.links.get(address) {
            return Ok(link.id);
        }
        let shared = &self.client.shared;
        let channel = shared.channels.shared(address)?;
        let id = LinkId(self.next_link_id);
        self.next_link_id += 1;
        let (requests, outgoing) = mpsc::channel(self.link_queue_max);
        let open_timeout = shared.options.attempt_timeout;
        tokio::spawn(link::run(id, channel, outgoing, self.events.clone(), open_timeout));
        self.links.insert(address.clone(), Link { id, requests });
        Ok(id)
    }
}
