//! The task behind one stream: keeps it open and each of its conversations contiguous.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::conversation::Conversation;
use super::upstream::{self, Event, Item, Outbox, Place, Upstream};
use super::{Change, Connections, Delivery, Mode};
use crate::backoff::Backoff;
use crate::message::message_bytes;
use crate::router::{Destination, Target};
use crate::{Client, Error, proto};

use proto::delivery::Kind;
use proto::subscribe_request as request;

/// How long a conversation that a node ended for now waits until it is added again.
const ADD_AGAIN_PAUSE: Duration = Duration::from_millis(500);
/// How often in a row a node may refuse a conversation before a feed of several groups leaves it: for the conversations
/// that the node does serve, that is a reconnect. A feed of one group leaves at once, since it is all the same replica.
const REFUSALS_MAX: u32 = 4;

/// A delivery and the credit that handing it over frees.
struct Outgoing {
    delivery: Delivery,
    credit_bytes: u64,
}

pub(super) struct Feed {
    client: Client,
    mode: Mode,
    connections: Arc<Connections>,
    deliver: mpsc::Sender<Delivery>,
    /// The group that all conversations are in, if it was known when they were added.
    group: Option<u64>,
    /// Held to 10,000 by the server.
    conversations: HashMap<String, Conversation>,
    /// Conversations removed whose end the node has not confirmed: until then what comes under their names is of the
    /// time before, and they cannot be added again. With whether the node was told.
    ending: HashMap<String, bool>,
    /// Conversations to be added again, in order of time.
    add_again: VecDeque<(Instant, String)>,
    upstream: Upstream,
    target: Option<Target>,
    outbox: Outbox,
    /// What one response and one change led to: nothing is read while something is in here.
    outgoing: VecDeque<Outgoing>,
    backoff: Backoff,
}

impl Feed {
    pub fn new(
        client: Client,
        mode: Mode,
        connections: Arc<Connections>,
        deliver: mpsc::Sender<Delivery>,
        group: Option<u64>,
    ) -> Self {
        let backoff = Backoff::new(&client.shared.options);
        Feed {
            client,
            mode,
            connections,
            deliver,
            group,
            conversations: HashMap::new(),
            ending: HashMap::new(),
            add_again: VecDeque::new(),
            upstream: Upstream::Idle,
            target: None,
            outbox: Outbox::default(),
            outgoing: VecDeque::new(),
            backoff,
        }
    }

    /// Runs until the follow or subscription is dropped, which aborts it.
    pub async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        let deliver = self.deliver.clone();
        let mut open = true;
        loop {
            if matches!(self.upstream, Upstream::Idle) && !self.conversations.is_empty() {
                self.reopen();
            }
            let add_again_at = self.add_again.front().map(|(at, _)| *at);
            let reading = self.outgoing.is_empty();
            tokio::select! {
                place = deliver.reserve(), if !reading => {
                    let Ok(place) = place else { return };
                    if let Some(Outgoing { delivery, credit_bytes }) = self.outgoing.pop_front() {
                        self.handed_over(conversation_of(&delivery), credit_bytes);
                        place.send(delivery);
                    }
                    self.upstream.excuse_silence(self.mode);
                }
                event = self.upstream.next(self.mode), if reading => self.on_event(event),
                // Whatever else waits: whoever makes a change takes no deliveries meanwhile.
                change = changes.recv(), if open => match change {
                    Some(change) => self.apply(change),
                    None => open = false,
                },
                place = self.outbox.place() => self.tell_next(place),
                () = until(add_again_at) => {
                    if let Some((_, name)) = self.add_again.pop_front() {
                        self.outbox.push(&name);
                    }
                }
            }
        }
    }

    /// Takes a change of the set. The caller of a subscription has checked that it makes sense.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Add { conversation, start, credit } => {
                self.outbox.push(&conversation);
                self.conversations.insert(conversation, Conversation::new(start, credit));
            }
            Change::Remove { conversation } => self.end(&conversation, None),
            Change::Grant { conversation, bytes } => {
                if let Some(state) = self.conversations.get_mut(&conversation) {
                    state.grant(bytes);
                    self.outbox.push(&conversation);
                }
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Rested => self.reopen(),
            Event::Opened => {
                if let Some(target) = &self.target {
                    self.client.shared.router.note_success(&target.address);
                }
            }
            Event::Item(Item::Delivery(delivery)) => {
                self.backoff.reset();
                self.on_delivery(delivery);
            }
            Event::Item(Item::Ended(ended)) => self.on_ended(ended),
            Event::Broken(error) => self.on_broken(error),
        }
    }

    /// Opens a stream on the node that leads now, with every conversation from where it has come to.
    fn reopen(&mut self) {
        let Some(name) = self.conversations.keys().next() else {
            self.upstream = Upstream::Idle;
            return;
        };
        let target = self.client.shared.router.target(Destination::LeaderOf(name));
        let channel = match self.connections.to(&target.address) {
            Ok(channel) => channel,
            Err(error) => return self.on_broken(error.with_retryable(true)),
        };
        self.target = Some(target);
        self.ending.clear();
        self.add_again.clear();
        let limit = self.client.shared.options.attempt_timeout;
        let opening = match self.mode {
            Mode::Follow { heartbeat_ms } => {
                let request = self.follow_request(heartbeat_ms);
                upstream::follow(channel, request, limit).boxed()
            }
            Mode::Subscribe => {
                let requests = self.outbox.open(self.conversations.keys());
                // The first requests are in it before it is opened: a node may want one before it answers.
                while let Some(place) = self.outbox.place().now_or_never() {
                    self.tell_next(place);
                }
                upstream::subscribe(channel, requests, limit).boxed()
            }
        };
        self.upstream = Upstream::Opening(opening);
    }

    fn follow_request(&self, heartbeat_ms: u32) -> proto::FollowRequest {
        let start = |(name, state): (&String, &Conversation)| proto::FollowStart {
            conversation: name.clone(),
            start: state.resume_at().into(),
        };
        let conversations = self.conversations.iter().map(start).collect();
        proto::FollowRequest { conversations, heartbeat_ms }
    }

    fn on_broken(&mut self, error: Error) {
        self.outbox.close();
        for state in self.conversations.values_mut() {
            state.added = false;
            state.refusals = 0;
        }
        if let Some(target) = self.target.take() {
            tracing::debug!(address = %target.address, %error, "a feed's stream broke");
            self.client.shared.router.note_failure(&target, &error);
        }
        if error.retryable() {
            self.upstream = Upstream::Resting(Instant::now() + self.backoff.next_delay(&error));
            return;
        }
        self.upstream = Upstream::Idle;
        let names: Vec<String> = self.conversations.keys().cloned().collect();
        names.iter().for_each(|name| self.end(name, Some(error.clone())));
    }

    fn on_delivery(&mut self, delivery: proto::Delivery) {
        match delivery.kind {
            Some(Kind::Messages(m)) => self.on_messages(m),
            Some(Kind::CaughtUp(c)) => self.take(c.conversation, |state, name| {
                let news = state.take_caught_up(name, c.next_seq)?;
                let next_seq = state.next_seq().unwrap_or(c.next_seq);
                Ok(news.then(|| Delivery::CaughtUp { conversation: name.to_owned(), next_seq }))
            }),
            Some(Kind::Gap(g)) => self.take(g.conversation, |state, name| {
                let news = state.take_gap(name, g.from_seq, g.to_seq)?;
                let conversation = name.to_owned();
                Ok(news.map(|(from_seq, to_seq)| Delivery::Gap { conversation, from_seq, to_seq }))
            }),
            Some(Kind::Heartbeat(_)) | None => {}
        }
    }

    fn on_messages(&mut self, delivered: proto::delivery::Messages) {
        let proto::delivery::Messages { conversation, messages } = delivered;
        if self.ending.contains_key(&conversation) {
            return;
        }
        let Some(state) = self.conversations.get_mut(&conversation) else { return };
        state.refusals = 0;
        let credit_bytes = messages.iter().map(message_bytes).sum();
        match state.take_messages(&conversation, messages) {
            // Nothing but repeats: their credit is free at once.
            Ok(messages) if messages.is_empty() => self.handed_over(&conversation, credit_bytes),
            Ok(messages) => {
                let delivery = Delivery::Messages { conversation, messages };
                self.outgoing.push_back(Outgoing { delivery, credit_bytes });
            }
            Err(error) => self.end(&conversation, Some(error)),
        }
    }

    /// Applies what came to its conversation, which leaves the feed if it makes no sense.
    fn take(
        &mut self,
        name: String,
        apply: impl FnOnce(&mut Conversation, &str) -> Result<Option<Delivery>, Error>,
    ) {
        if self.ending.contains_key(&name) {
            return;
        }
        let Some(state) = self.conversations.get_mut(&name) else { return };
        state.refusals = 0;
        match apply(state, &name) {
            Ok(delivery) => self
                .outgoing
                .extend(delivery.map(|delivery| Outgoing { delivery, credit_bytes: 0 })),
            Err(error) => self.end(&name, Some(error)),
        }
    }

    /// The node stopped delivering a conversation.
    fn on_ended(&mut self, ended: proto::subscribe_response::Ended) {
        let name = ended.conversation;
        if self.ending.remove(&name).is_some() {
            return self.outbox.push(&name);
        }
        let Some(state) = self.conversations.get_mut(&name) else { return };
        state.added = false;
        let error = ended.failed.map(Error::from_failure);
        match error {
            // Nobody removed it, so it is wanted still.
            None => self.add_again.push_back((Instant::now() + ADD_AGAIN_PAUSE, name)),
            Some(error) if error.retryable() => {
                state.refusals += 1;
                let refusals_max = if self.group.is_some() { 1 } else { REFUSALS_MAX };
                if error.is_of_reach() && state.refusals >= refusals_max {
                    // A node that is reached and cannot serve: another may.
                    return self.on_broken(error);
                }
                tracing::debug!(conversation = name, %error, "to be added again");
                self.add_again.push_back((Instant::now() + ADD_AGAIN_PAUSE, name));
            }
            Some(error) => {
                self.conversations.remove(&name);
                self.tell_ended(name, Some(error));
            }
        }
    }

    /// Takes a conversation out of the feed.
    fn end(&mut self, name: &str, error: Option<Error>) {
        let Some(state) = self.conversations.remove(name) else { return };
        if state.added {
            self.ending.insert(name.to_owned(), false);
            self.outbox.push(name);
        }
        self.tell_ended(name.to_owned(), error);
    }

    fn tell_ended(&mut self, conversation: String, error: Option<Error>) {
        let delivery = Delivery::Ended { conversation, error };
        self.outgoing.push_back(Outgoing { delivery, credit_bytes: 0 });
    }

    fn handed_over(&mut self, name: &str, bytes: u64) {
        if bytes == 0 || self.mode != Mode::Subscribe {
            return;
        }
        let Some(state) = self.conversations.get_mut(name) else { return };
        if state.handed_over(bytes) {
            self.outbox.push(name);
        }
    }

    /// Sends the next request, if there is one after all.
    fn tell_next(&mut self, place: Place) {
        while let Some(name) = self.outbox.pop() {
            if let Some(change) = self.change_due(&name) {
                place.send(proto::SubscribeRequest { change: Some(change) });
                return;
            }
        }
    }

    /// What the node is to be told of a conversation, which then counts as told: its end first, if it is to end.
    fn change_due(&mut self, name: &str) -> Option<request::Change> {
        let conversation = name.to_owned();
        if let Some(is_told) = self.ending.get_mut(name) {
            let is_due = !std::mem::replace(is_told, true);
            return is_due.then_some(request::Change::Remove(request::Remove { conversation }));
        }
        let state = self.conversations.get_mut(name)?;
        if state.added {
            let credit_bytes = state.credit_to_tell()?;
            // There may be more than one request says.
            self.outbox.push(name);
            return Some(request::Change::Credit(request::Credit { conversation, credit_bytes }));
        }
        let credit_bytes = state.credit_to_add()?;
        state.added = true;
        let start = state.resume_at().into();
        Some(request::Change::Add(request::Add { conversation, start, credit_bytes }))
    }
}

/// Ends at this time, if there is one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn conversation_of(delivery: &Delivery) -> &str {
    match delivery {
        Delivery::Messages { conversation, .. }
        | Delivery::CaughtUp { conversation, .. }
        | Delivery::Gap { conversation, .. }
        | Delivery::Ended { conversation, .. } => conversation,
    }
}
