//! What the simulated network does with messages, and what the client library is refused and sends again. Neither
//! turmoil nor the library has another way to tell than its log, which is read here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use quorate_jepsen::check::overload::OVERLOADED;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Counts messages by sender and receiver, and refusals. Clones share it.
#[derive(Clone, Default)]
pub struct Traffic {
    messages: Arc<Mutex<BTreeMap<(IpAddr, IpAddr), Counts>>>,
    overloads: Arc<AtomicU64>,
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Given to the network.
    pub sent: u64,
    /// Of those, held or dropped by it.
    pub stopped: u64,
}

impl Traffic {
    /// What became of all messages between two hosts so far, in both directions.
    pub fn between(&self, a: IpAddr, b: IpAddr) -> Counts {
        let counts = self.messages.lock().expect("no panic while locked");
        let of = |from, to| counts.get(&(from, to)).copied().unwrap_or_default();
        let (there, back) = (of(a, b), of(b, a));
        Counts { sent: there.sent + back.sent, stopped: there.stopped + back.stopped }
    }

    /// How often a node has refused something because it had no memory left for it.
    pub fn overloads(&self) -> u64 {
        self.overloads.load(Ordering::Relaxed)
    }

    /// As part of what reads the log of a simulation.
    pub fn reader<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let filter: FilterFn<fn(&Metadata<'_>) -> bool> = filter_fn(|metadata| {
            metadata.is_event() && (is_network(metadata) || is_client(metadata))
        });
        Reader(self.clone()).with_filter(filter)
    }
}

fn is_network(metadata: &Metadata<'_>) -> bool {
    metadata.target() == "turmoil"
}

fn is_client(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("quorate_client")
}

struct Reader(Traffic);

impl<S: Subscriber> Layer<S> for Reader {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if is_client(event.metadata()) {
            let mut refusal = Refusal(false);
            event.record(&mut refusal);
            self.0.overloads.fetch_add(u64::from(refusal.0), Ordering::Relaxed);
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let (Some(from), Some(to)) = (line.from, line.to) else { return };
        let mut counts = self.0.messages.lock().expect("no panic while locked");
        let counts = counts.entry((from.ip(), to.ip())).or_default();
        counts.sent += u64::from(line.is_sent);
        counts.stopped += u64::from(line.is_stopped);
    }
}

/// Whether a line of the client library's log tells of an error that is about too little memory.
struct Refusal(bool);

impl Visit for Refusal {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 |= field.name() == "error" && format!("{value:?}").starts_with(OVERLOADED);
    }
}

/// A line of the log, as far as it is about what became of a message.
#[derive(Default)]
struct Line {
    is_sent: bool,
    is_stopped: bool,
    from: Option<SocketAddr>,
    to: Option<SocketAddr>,
}

impl Visit for Line {
    /// What a line says comes first, and the rest is looked at only where it matters.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let is_told = self.is_sent || self.is_stopped;
        match field.name() {
            "message" => match &*format!("{value:?}") {
                "Send" => self.is_sent = true,
                "Hold" | "Drop" => self.is_stopped = true,
                _ => {}
            },
            "src" if is_told => self.from = format!("{value:?}").parse().ok(),
            "dst" if is_told => self.to = format!("{value:?}").parse().ok(),
            _ => {}
        }
    }
}
