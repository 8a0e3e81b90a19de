//! What a simulation records: the same history as the fault suite's runs, judged by the same checkers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use quorate_client::Error;
use quorate_jepsen::api;
use quorate_jepsen::history::{
    Answer, Call, Delivery, Event, EventKind, Fault, FollowCall, Nanos, Process,
};

use crate::determinism;

/// Everything that clients and faults of one simulation have in common. Clones share it.
#[derive(Clone, Default)]
pub struct Shared(Rc<State>);

#[derive(Default)]
struct State {
    events: RefCell<Vec<Event>>,
    faults: RefCell<Vec<Fault>>,
    next_process: Cell<Process>,
    next_message: Cell<u64>,
    phase: Cell<Phase>,
    in_flight: RefCell<BTreeMap<String, u64>>,
    calls: Cell<u64>,
    acknowledged: Cell<u64>,
    working: Cell<u64>,
    wiped: Cell<Option<u64>>,
    replacing: Cell<u64>,
    problems: RefCell<Vec<String>>,
    verified: Cell<bool>,
    healed_at: Cell<Option<Nanos>>,
    served_after: Cell<Option<Nanos>>,
    /// The seq that each stream is to yield next of each conversation.
    streams: RefCell<BTreeMap<(Process, String), u64>>,
}

/// How far a simulation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The cluster is being made.
    #[default]
    Beginning,
    /// Clients work and things break.
    Working,
    /// Everything is mended; clients finish what they have begun.
    Healed,
    /// What became of everything is read.
    Reading,
    /// Streams may end.
    Over,
}

/// A logical client.
pub struct Caller {
    shared: Shared,
    process: Process,
    node: Option<u32>,
}

impl Shared {
    /// A new logical client, of one node if it is pinned.
    pub fn caller(&self, node: Option<u32>) -> Caller {
        Caller { shared: self.clone(), process: self.new_process(), node }
    }

    /// A number that no message has had.
    pub fn new_message(&self) -> u64 {
        let next = self.0.next_message.get();
        self.0.next_message.set(next + 1);
        next
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.0.phase.get()
    }

    /// Goes on to the next phase.
    pub fn set_phase(&self, phase: Phase) {
        self.0.phase.set(phase);
        if phase == Phase::Healed {
            self.0.healed_at.set(Some(now()));
        }
    }

    /// Conversations to which appends were sent that are not answered.
    pub fn in_flight(&self) -> Vec<String> {
        self.0.in_flight.borrow().keys().cloned().collect()
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.0.calls.get()
    }

    /// Appends acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.0.acknowledged.get()
    }

    /// Clients that have not finished.
    pub fn working(&self) -> u64 {
        self.0.working.get()
    }

    /// Counts clients that begin, or finish.
    pub fn change_working(&self, by: i64) {
        self.0.working.set(self.0.working.get().saturating_add_signed(by));
    }

    /// The node whose disk was lost, until it was replaced.
    pub fn wiped(&self) -> Option<u64> {
        self.0.wiped.get()
    }

    /// A node has lost its disk, or was replaced.
    pub fn set_wiped(&self, node: Option<u64>) {
        self.0.wiped.set(node);
    }

    /// Replacements of nodes that were begun and are not complete.
    pub fn replacing(&self) -> u64 {
        self.0.replacing.get()
    }

    /// Counts replacements that begin, or are complete.
    pub fn change_replacing(&self, by: i64) {
        self.0.replacing.set(self.0.replacing.get().saturating_add_signed(by));
    }

    /// Something that must not be.
    pub fn problem(&self, what: impl Into<String>) {
        let what = format!("at {:?}: {}", determinism::elapsed(), what.into());
        tracing::error!(problem = what);
        self.0.problems.borrow_mut().push(what);
    }

    /// What must not be and was.
    pub fn problems(&self) -> Vec<String> {
        self.0.problems.borrow().clone()
    }

    /// Every group has served after everything was mended.
    pub fn set_served(&self) {
        let healed_at = self.0.healed_at.get().unwrap_or_default();
        self.0.served_after.set(Some(now() - healed_at));
    }

    /// How long it took.
    pub fn served_after(&self) -> Option<Nanos> {
        self.0.served_after.get()
    }

    /// When everything was mended.
    pub fn healed_at(&self) -> Option<Nanos> {
        self.0.healed_at.get()
    }

    /// Whether every stream has yielded everything below these tails.
    pub fn streams_reach(&self, tails: &BTreeMap<String, u64>) -> bool {
        let streams = self.0.streams.borrow();
        streams.iter().all(|((_, conversation), next)| next >= &tails[conversation])
    }

    /// Everything has been read.
    pub fn set_verified(&self) {
        self.0.verified.set(true);
    }

    /// Whether everything has been read.
    pub fn is_verified(&self) -> bool {
        self.0.verified.get()
    }

    /// Notes what was broken.
    pub fn fault(&self, fault: Fault) {
        tracing::info!(nemesis = fault.nemesis, what = fault.what, "broken");
        self.0.faults.borrow_mut().push(fault);
    }

    /// What was broken.
    pub fn faults(&self) -> Vec<Fault> {
        self.0.faults.borrow().clone()
    }

    /// What clients did and saw.
    pub fn events(&self) -> Vec<Event> {
        self.0.events.borrow().clone()
    }

    /// An append to a conversation was answered.
    fn answered(&self, conversation: &str, is_acknowledged: bool) {
        let mut in_flight = self.0.in_flight.borrow_mut();
        if let Some(count) = in_flight.get_mut(conversation) {
            *count -= 1;
        }
        in_flight.retain(|_, count| *count > 0);
        self.0.acknowledged.set(self.0.acknowledged.get() + u64::from(is_acknowledged));
    }

    fn new_process(&self) -> Process {
        let next = self.0.next_process.get();
        self.0.next_process.set(next + 1);
        next
    }

    fn push(&self, process: Process, node: Option<u32>, kind: EventKind) {
        tracing::debug!(process, node, ?kind);
        self.0.events.borrow_mut().push(Event { at: now(), process, node, kind });
    }
}

impl Caller {
    /// Calls, and records the call and what became of it. An append of unknown outcome retires the process.
    pub async fn call<T>(
        &mut self,
        call: Call,
        work: impl Future<Output = Result<T, Error>>,
        answer: impl FnOnce(&T) -> Answer,
    ) -> Result<T, Error> {
        let appended_to = match &call {
            Call::Append(call) => Some(call.conversation.clone()),
            _ => None,
        };
        self.shared.0.calls.set(self.shared.0.calls.get() + 1);
        self.shared.push(self.process, self.node, EventKind::Invoke(call));
        if let Some(conversation) = &appended_to {
            *self.shared.0.in_flight.borrow_mut().entry(conversation.clone()).or_default() += 1;
        }
        let done = work.await;
        if let Some(conversation) = &appended_to {
            self.shared.answered(conversation, done.is_ok());
        }
        let kind = match &done {
            Ok(answered) => EventKind::Ok(answer(answered)),
            Err(error) => api::failed(error),
        };
        let is_over = matches!(kind, EventKind::Info(_));
        self.shared.push(self.process, self.node, kind);
        if is_over {
            self.process = self.shared.new_process();
        }
        done
    }

    /// Records the beginning of a stream.
    pub fn opened(&self, call: FollowCall) {
        let mut streams = self.shared.0.streams.borrow_mut();
        for (conversation, seq) in &call.from {
            streams.insert((self.process, conversation.clone()), *seq);
        }
        self.shared.push(self.process, self.node, EventKind::Invoke(Call::Follow(call)));
    }

    /// Records what came on a stream.
    pub fn delivered(&self, delivery: Delivery) {
        if let Some(next) = delivery.what.next_seq() {
            let stream = (self.process, delivery.conversation.clone());
            self.shared.0.streams.borrow_mut().insert(stream, next);
        }
        self.shared.push(self.process, self.node, EventKind::Deliver(delivery));
    }

    /// Records that a stream was ended from here.
    pub fn ended(&self) {
        self.shared.push(self.process, self.node, EventKind::Ok(Answer::Ended));
    }
}

/// Nanoseconds of simulated time.
pub fn now() -> Nanos {
    determinism::elapsed().as_nanos() as Nanos
}
