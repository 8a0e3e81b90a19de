//! The load: producers that append, and what came of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use quorate_client::proto::AppendResponse;
use quorate_client::{Append, Client, Error, NewMessage, Session, SessionOptions};
use rand::RngCore;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::latency::Latencies;
use super::target::Target;
use crate::cli::Output;
use crate::cli::connect::{parse_duration, parse_timeout};
use crate::types::limits::{PAYLOAD_BYTES_MAX, SESSION_IN_FLIGHT_MAX};

/// Bytes at the start of a payload that say when its append began.
const STAMP_BYTES: usize = 8;

/// What to send.
#[derive(Clone, Debug, Args)]
pub(super) struct LoadArgs {
    /// Producers, each with connections of its own
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(super) producers: u32,

    /// Appends that each producer has in flight
    #[arg(long, value_name = "I", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=(SESSION_IN_FLIGHT_MAX as i64)))]
    in_flight: u32,

    /// Conversations, new ones, which get messages in turn
    #[arg(long, value_name = "C", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) conversations: u64,

    /// Payload bytes of each message; the bytes are random
    #[arg(long, value_name = "BYTES", default_value_t = 1_024,
          value_parser = clap::value_parser!(u32).range((STAMP_BYTES as i64)..=(PAYLOAD_BYTES_MAX as i64)))]
    pub(super) size: u32,

    /// A call for each append, or pipelined on one session for each producer
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,

    /// Appends a second over all producers, sent when they are due [default: each when one has its outcome]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,

    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    duration: Duration,

    /// How many appends to measure, however long it takes
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// How long to send before measuring
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    warm_up: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Mode {
    Unary,
    #[default]
    Session,
}

/// What came of a load.
pub(super) struct Outcome {
    /// Of the appends that were measured.
    pub(super) acknowledged: u64,
    /// Of all appends, those of the warm-up too.
    pub(super) acknowledged_in_all: u64,
    errors: BTreeMap<String, u64>,
    /// From when an append was handed in, or was due, to its acknowledgement.
    latencies: Latencies,
    /// From the end of the warm-up to the last outcome.
    elapsed: Duration,
    pub(super) payload_bytes: u64,
}

/// A load that can be run.
pub(super) struct Load {
    plan: Arc<Plan>,
    producers: Vec<Way>,
    in_flight: u32,
    bar: ProgressBar,
}

/// What all workers share.
struct Plan {
    names: Names,
    size: usize,
    /// Stamps count from here.
    epoch: Instant,
    measure_from: Instant,
    /// Absent where a count ends it.
    measure_until: Option<Instant>,
    left: AtomicU64,
    next_message: AtomicU64,
    /// Between two appends of one worker, in an open loop.
    pace: Option<(Duration, Duration)>,
}

/// Names of conversations that no earlier run has used.
#[derive(Clone)]
pub(super) struct Names {
    run: u64,
    count: u64,
}

/// How appends are sent.
#[derive(Clone)]
enum Way {
    Unary(Client),
    Session(Session),
}

/// What one producer has counted.
struct Tally {
    acknowledged: u64,
    acknowledged_in_all: u64,
    errors: BTreeMap<String, u64>,
    latencies: Latencies,
    last: Instant,
}

impl LoadArgs {
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
        for _ in 0..self.producers {
            let client = target.client().await?;
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
        let epoch = Instant::now();
        let plan = Plan {
            names,
            size: self.size as usize,
            epoch,
            measure_from: epoch + self.warm_up,
            measure_until: self.count.is_none().then(|| epoch + self.warm_up + self.duration),
            left: AtomicU64::new(self.count.unwrap_or(u64::MAX)),
            next_message: AtomicU64::new(0),
            pace: apart.map(|apart| (apart, apart * workers)),
        };
        let template = match self.count {
            Some(_) => "{bar:40} {pos}/{len} acknowledged, {per_sec}, {eta} left",
            None => "{spinner} {pos} acknowledged, {per_sec}",
        };
        let bar = output.progress(self.count, template);
        Ok(Load { plan: Arc::new(plan), producers, in_flight: self.in_flight, bar })
    }

    /// What was asked for, as programs read it.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "producers": self.producers,
            "in_flight": self.in_flight,
            "conversations": self.conversations,
            "message_bytes": self.size,
            "mode": match self.mode { Mode::Unary => "unary", Mode::Session => "session" },
            "loop": if self.rate.is_some() { "open" } else { "closed" },
            "rate": self.rate,
            "warm_up_seconds": self.warm_up.as_secs_f64(),
        })
    }
}

impl Load {
    pub(super) fn names(&self) -> &Names {
        &self.plan.names
    }

    /// What stamps in payloads count from.
    pub(super) fn epoch(&self) -> Instant {
        self.plan.epoch
    }

    /// From when on appends are measured.
    pub(super) fn measure_from(&self) -> Instant {
        self.plan.measure_from
    }

    /// Sends until the time or the count is over, and waits for every outcome.
    pub(super) async fn run(self) -> anyhow::Result<Outcome> {
        let mut workers = JoinSet::new();
        let mut tallies = Vec::new();
        for (producer, way) in (0u32..).zip(&self.producers) {
            let tally = Arc::new(Mutex::new(Tally::new(self.plan.measure_from)?));
            for place in 0..self.in_flight {
                let worker = producer * self.in_flight + place;
                let (plan, way, bar) = (self.plan.clone(), way.clone(), self.bar.clone());
                workers.spawn(work(plan, way, worker, tally.clone(), bar));
            }
            tallies.push(tally);
        }
        while let Some(ended) = workers.join_next().await {
            ended.context("a producer has failed")?;
        }
        self.bar.finish_and_clear();
        self.sum(&tallies)
    }

    fn sum(&self, tallies: &[Arc<Mutex<Tally>>]) -> anyhow::Result<Outcome> {
        let mut sum = Tally::new(self.plan.measure_from)?;
        for tally in tallies {
            let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            sum.acknowledged += tally.acknowledged;
            sum.acknowledged_in_all += tally.acknowledged_in_all;
            sum.latencies.add(&tally.latencies)?;
            sum.last = sum.last.max(tally.last);
            for (reason, count) in &tally.errors {
                *sum.errors.entry(reason.clone()).or_default() += count;
            }
        }
        Ok(Outcome {
            acknowledged: sum.acknowledged,
            acknowledged_in_all: sum.acknowledged_in_all,
            errors: sum.errors,
            latencies: sum.latencies,
            elapsed: sum.last.saturating_duration_since(self.plan.measure_from),
            payload_bytes: sum.acknowledged * self.plan.size as u64,
        })
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

    fn append(&self, began: Instant, worker: u32) -> Append {
        let number = self.next_message.fetch_add(1, Ordering::Relaxed);
        let mut payload = BytesMut::zeroed(self.size);
        rand::rng().fill_bytes(&mut payload[STAMP_BYTES..]);
        payload[..STAMP_BYTES].copy_from_slice(&self.stamp(began).to_be_bytes());
        let message = NewMessage::new(payload.freeze()).client_msg_id(number.to_string());
        Append::new(self.names.get(number), format!("producer-{worker}"), message)
    }

    fn stamp(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }
}

impl Names {
    pub(super) fn new(count: u64) -> Names {
        Names { run: rand::random(), count }
    }

    /// The conversation of a message.
    fn get(&self, number: u64) -> String {
        format!("bench/{:016x}/{}", self.run, number % self.count)
    }

    /// All conversations.
    pub(super) fn all(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.count).map(|number| self.get(number))
    }
}

/// The time in microseconds at which the append of this payload began, from the load's epoch.
pub(super) fn stamp_of(payload: &Bytes) -> Option<u64> {
    Some(u64::from_be_bytes(*payload.first_chunk::<STAMP_BYTES>()?))
}

impl Way {
    async fn append(&self, append: Append) -> Result<AppendResponse, Error> {
        match self {
            Way::Unary(client) => client.append(append).await,
            Way::Session(session) => session.append(append).await.await,
        }
    }
}

async fn work(plan: Arc<Plan>, way: Way, worker: u32, tally: Arc<Mutex<Tally>>, bar: ProgressBar) {
    for turn in 0.. {
        let began = plan.due(worker, turn).await;
        let Some(measured) = plan.admit(began) else { return };
        let result = way.append(plan.append(began, worker)).await;
        let now = Instant::now();
        if result.is_ok() {
            bar.inc(1);
        }
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.note(measured, now, now - began, result);
    }
}

impl Tally {
    fn new(begin: Instant) -> anyhow::Result<Tally> {
        Ok(Tally {
            acknowledged: 0,
            acknowledged_in_all: 0,
            errors: BTreeMap::new(),
            latencies: Latencies::new()?,
            last: begin,
        })
    }

    fn note(
        &mut self,
        measured: bool,
        now: Instant,
        took: Duration,
        result: Result<AppendResponse, Error>,
    ) {
        self.acknowledged_in_all += u64::from(result.is_ok());
        if !measured {
            return;
        }
        self.last = self.last.max(now);
        match result {
            Ok(_) => {
                self.acknowledged += 1;
                self.latencies.record(took);
            }
            Err(error) => *self.errors.entry(error.reason().to_owned()).or_default() += 1,
        }
    }
}

impl Outcome {
    /// Whether every append that was measured was acknowledged.
    pub(super) fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.acknowledged > 0
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged,
            "errors": self.errors.values().sum::<u64>(),
            "errors_by_reason": self.errors,
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "appends_per_second": self.per_second(self.acknowledged),
            "payload_bytes": self.payload_bytes,
            "payload_bytes_per_second": self.per_second(self.payload_bytes),
            "latency_us": self.latencies.to_json(),
        })
    }

    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let bytes = |bytes: f64| indicatif::BinaryBytes(bytes as u64).to_string();
        let errors = match self.errors.is_empty() {
            true => "none".to_owned(),
            false => self
                .errors
                .iter()
                .map(|(why, n)| format!("{n} {why}"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        vec![
            ("acknowledged", self.acknowledged.to_string()),
            ("errors", errors),
            ("measured for", format!("{:.2} s", self.elapsed.as_secs_f64())),
            ("appends", format!("{:.0} /s", self.per_second(self.acknowledged))),
            ("payload", format!("{}/s", bytes(self.per_second(self.payload_bytes)))),
            ("latency", self.latencies.to_text()),
        ]
    }
}
