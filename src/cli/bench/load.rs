//! The load: producers that append.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use quorate_client::proto::AppendResponse;
use quorate_client::{Append, Client, Error, Session, SessionOptions};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::acks::Acknowledgements;
use super::cost::Meter;
use super::message::{Messages, Names, STAMP_BYTES, Stamp};
use super::outcome::{Outcome, Tally};
use super::target::Target;
use crate::cli::Output;
use crate::cli::connect::{parse_duration, parse_timeout};
use crate::types::limits::{PAYLOAD_BYTES_MAX, SESSION_IN_FLIGHT_MAX};

/// Acknowledgements of a producer between two steps of the progress bar.
const BAR_STEP: u64 = 32;

/// What to send.
#[derive(Clone, Debug, Args)]
pub(super) struct LoadArgs {
    /// Producers, each with connections of its own
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(super) producers: u32,

    /// Appends that each producer has in flight
    #[arg(long, value_name = "I", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=(SESSION_IN_FLIGHT_MAX as i64)))]
    pub(super) in_flight: u32,

    /// Conversations, new ones, which get messages in turn
    #[arg(long, value_name = "C", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) conversations: u64,

    /// Payload bytes of each message; the bytes are random
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range((STAMP_BYTES as i64)..=(PAYLOAD_BYTES_MAX as i64)))]
    pub(super) size: u32,

    /// A call for each append, or pipelined on one session for each producer
    #[arg(long, value_enum, default_value_t)]
    pub(super) mode: Mode,

    /// Send through whichever node, as behind a load balancer: each producer through the next; the node hands on
    #[arg(long)]
    pub(super) proxied: bool,

    /// Appends a second over all producers, sent when they are due [default: each when one has its outcome]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) rate: Option<u32>,

    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    pub(super) duration: Duration,

    /// How many appends to measure, however long it takes
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,

    /// How long to send before measuring
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub(super) warm_up: Duration,
}

/// How appends are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    Unary,
    #[default]
    Session,
}

/// A load that can be run.
pub(super) struct Load {
    plan: Plan,
    producers: Vec<Way>,
    in_flight: u32,
    /// Of a cluster on this machine.
    meter: Option<Meter>,
}

/// What all workers share.
struct Plan {
    messages: Messages,
    /// Begins every sender's name: ids count from zero, and another load may have sent to the same conversations.
    run: u32,
    /// Stamps count from here.
    epoch: Instant,
    measure_from: Instant,
    /// Absent where a count ends it.
    measure_until: Option<Instant>,
    left: AtomicU64,
    next_message: AtomicU64,
    /// Between two appends of one worker, in an open loop.
    pace: Option<(Duration, Duration)>,
    /// Where somebody wants to know when each append was acknowledged.
    acknowledgements: Option<Arc<Acknowledgements>>,
    bar: ProgressBar,
}

/// How a producer sends appends.
#[derive(Clone)]
enum Way {
    Unary(Client),
    Session(Session),
}

impl LoadArgs {
    /// One message for each of so many conversations, as fast as it goes.
    pub(super) fn fill(conversations: u64, size: u32) -> LoadArgs {
        LoadArgs {
            producers: 1,
            in_flight: 1_024,
            conversations,
            size,
            mode: Mode::Session,
            proxied: false,
            rate: None,
            duration: Duration::MAX,
            count: Some(conversations),
            warm_up: Duration::ZERO,
        }
    }

    /// Connects the producers, for conversations that are new.
    pub(super) async fn prepare(&self, target: &Target, output: Output) -> anyhow::Result<Load> {
        self.prepare_for(Names::new(self.conversations), target, output).await
    }

    /// Connects the producers. The time of the load begins when this returns.
    pub(super) async fn prepare_for(
        &self,
        names: Names,
        target: &Target,
        output: Output,
    ) -> anyhow::Result<Load> {
        let mut producers = Vec::new();
        for producer in 0..self.producers {
            let client = match self.proxied {
                true => target.client_through(producer).await?,
                false => target.client().await?,
            };
            producers.push(match self.mode {
                Mode::Unary => Way::Unary(client),
                Mode::Session => {
                    let in_flight_max = self.in_flight as usize;
                    let options = SessionOptions { in_flight_max, ..SessionOptions::default() };
                    Way::Session(client.session(options)?)
                }
            });
        }
        let workers = self.producers * self.in_flight;
        let apart = self.rate.map(|rate| Duration::from_secs_f64(1.0 / f64::from(rate)));
        let template = match self.count {
            Some(_) => "{bar:40} {pos}/{len} acknowledged, {per_sec}, {eta} left",
            None => "{spinner} {pos} acknowledged, {per_sec}",
        };
        let messages = Messages::new(names, self.size as usize);
        let epoch = Instant::now();
        let measure_from = epoch + self.warm_up;
        let plan = Plan {
            messages,
            run: rand::random(),
            epoch,
            measure_from,
            measure_until: self.count.is_none().then(|| measure_from + self.duration),
            left: AtomicU64::new(self.count.unwrap_or(u64::MAX)),
            next_message: AtomicU64::new(0),
            pace: apart.map(|apart| (apart, apart * workers)),
            acknowledgements: None,
            bar: output.progress(self.count, template),
        };
        Ok(Load { plan, producers, in_flight: self.in_flight, meter: target.meter()? })
    }

    /// What was asked for, as programs read it.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "producers": self.producers,
            "in_flight": self.in_flight,
            "conversations": self.conversations,
            "message_bytes": self.size,
            "mode": match self.mode { Mode::Unary => "unary", Mode::Session => "session" },
            "proxied": self.proxied,
            "loop": if self.rate.is_some() { "open" } else { "closed" },
            "appends_per_second_offered": self.rate,
            "warm_up_seconds": self.warm_up.as_secs_f64(),
        })
    }
}

impl Load {
    pub(super) fn names(&self) -> &Names {
        self.plan.messages.names()
    }

    /// What stamps in payloads count from.
    pub(super) fn epoch(&self) -> Instant {
        self.plan.epoch
    }

    /// From when on appends are measured.
    pub(super) fn measure_from(&self) -> Instant {
        self.plan.measure_from
    }

    /// Has the time of each acknowledgement noted.
    pub(super) fn note_acknowledgements(&mut self) -> Arc<Acknowledgements> {
        self.plan.acknowledgements.insert(Arc::new(Acknowledgements::new())).clone()
    }

    /// Sends until the time or the count is over, and waits for every outcome.
    pub(super) async fn run(self) -> anyhow::Result<Outcome> {
        let plan = Arc::new(self.plan);
        let mut workers = JoinSet::new();
        let mut tallies = Vec::new();
        for (producer, way) in (0u32..).zip(&self.producers) {
            let tally = Arc::new(Mutex::new(Tally::new(plan.measure_from)?));
            for place in 0..self.in_flight {
                let worker = producer * self.in_flight + place;
                workers.spawn(work(plan.clone(), way.clone(), worker, tally.clone()));
            }
            tallies.push(tally);
        }
        while let Some(ended) = workers.join_next().await {
            ended.context("a producer has failed")?;
        }
        plan.bar.finish_and_clear();
        let mut sum = Tally::new(plan.measure_from)?;
        for tally in tallies {
            sum.add(&tally.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        let cost = self.meter.map(|meter| meter.stop(sum.acknowledged_in_all())).transpose()?;
        Ok(sum.into_outcome(plan.measure_from, plan.messages.size(), cost))
    }
}

impl Plan {
    /// Waits until a worker's next append is due, and says since when it is.
    async fn due(&self, worker: u32, turn: u32) -> Instant {
        let Some((apart, lap)) = self.pace else { return Instant::now() };
        let due = self.epoch + apart * worker + lap * turn;
        sleep_until(due).await;
        due
    }

    /// Whether an append that began then is measured; none if the load is over.
    fn admit(&self, began: Instant) -> Option<bool> {
        if self.measure_until.is_some_and(|until| began >= until) {
            return None;
        }
        if began < self.measure_from {
            return Some(false);
        }
        let take = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok().map(|_| true)
    }

    fn stamp(&self, began: Instant) -> Stamp {
        let number = self.next_message.fetch_add(1, Ordering::Relaxed);
        Stamp { began_us: self.us(began), number }
    }

    /// From the epoch.
    fn us(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    fn acknowledged(&self, stamp: Stamp, now: Instant) {
        if let Some(acknowledgements) = &self.acknowledgements {
            acknowledgements.note(stamp.number, self.us(now));
        }
    }
}

impl Way {
    async fn append(&self, append: Append) -> Result<AppendResponse, Error> {
        match self {
            Way::Unary(client) => client.append(append).await,
            Way::Session(session) => session.append(append).await.await,
        }
    }
}

async fn work(plan: Arc<Plan>, way: Way, worker: u32, tally: Arc<Mutex<Tally>>) {
    let sender = format!("{:08x}-{worker}", plan.run);
    for turn in 0.. {
        let began = plan.due(worker, turn).await;
        let Some(measured) = plan.admit(began) else { return };
        let stamp = plan.stamp(began);
        let result = way.append(plan.messages.append(stamp, &sender)).await;
        let now = Instant::now();
        let is_ok = result.is_ok();
        if is_ok {
            plan.acknowledged(stamp, now);
        }
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.note(measured, now, now - began, result);
        if is_ok && tally.acknowledged_in_all().is_multiple_of(BAR_STEP) {
            plan.bar.inc(BAR_STEP);
        }
    }
}
