//! What came of a load.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_client::Error;
use quorate_client::proto::AppendResponse;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::cost::Cost;
use super::latency::Latencies;

/// What producers have counted.
pub(super) struct Tally {
    acknowledged: u64,
    acknowledged_in_all: u64,
    errors: BTreeMap<String, u64>,
    latencies: Latencies,
    last: Instant,
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
    payload_bytes: u64,
    /// Of all appends, those of the warm-up too; absent where the nodes are elsewhere.
    cost: Option<Cost>,
}

impl Tally {
    pub(super) fn new(begin: Instant) -> anyhow::Result<Tally> {
        Ok(Tally {
            acknowledged: 0,
            acknowledged_in_all: 0,
            errors: BTreeMap::new(),
            latencies: Latencies::new()?,
            last: begin,
        })
    }

    pub(super) fn note(
        &mut self,
        measured: bool,
        now: Instant,
        took: Duration,
        result: Result<AppendResponse, Error>,
    ) {
        self.acknowledged_in_all += u64::from(result.is_ok());
        if measured {
            self.last = self.last.max(now);
        }
        match result {
            Ok(_) if measured => {
                self.acknowledged += 1;
                self.latencies.record(took);
            }
            Ok(_) => {}
            // One of the warm-up counts too: what follows it may have failed because of it.
            Err(error) => *self.errors.entry(error.reason().to_owned()).or_default() += 1,
        }
    }

    /// Those of the warm-up too.
    pub(super) fn acknowledged_in_all(&self) -> u64 {
        self.acknowledged_in_all
    }

    pub(super) fn add(&mut self, other: &Tally) -> anyhow::Result<()> {
        self.acknowledged += other.acknowledged;
        self.acknowledged_in_all += other.acknowledged_in_all;
        self.latencies.add(&other.latencies)?;
        self.last = self.last.max(other.last);
        for (reason, count) in &other.errors {
            *self.errors.entry(reason.clone()).or_default() += count;
        }
        Ok(())
    }

    /// What came of messages of `size` payload bytes that were measured from then on.
    pub(super) fn into_outcome(
        self,
        measure_from: Instant,
        size: usize,
        cost: Option<Cost>,
    ) -> Outcome {
        Outcome {
            acknowledged: self.acknowledged,
            acknowledged_in_all: self.acknowledged_in_all,
            errors: self.errors,
            latencies: self.latencies,
            elapsed: self.last.saturating_duration_since(measure_from),
            payload_bytes: self.acknowledged * size as u64,
            cost,
        }
    }
}

impl Outcome {
    /// Whether every append was acknowledged, and something measured.
    pub(super) fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.acknowledged > 0
    }

    /// Fails unless every append was acknowledged: what comes next needs them all.
    pub(super) fn ensure_clean(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.is_clean(), "appends have failed: {}", self.errors_text());
        Ok(())
    }

    pub(super) fn appends_per_second(&self) -> f64 {
        self.per_second(self.acknowledged)
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
            "appends_per_second": self.appends_per_second(),
            "payload_bytes": self.payload_bytes,
            "payload_bytes_per_second": self.per_second(self.payload_bytes),
            "latency_us": self.latencies.to_json(),
            "processor_us_per_append": self.cost.map(Cost::to_json),
        })
    }

    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let bytes = |bytes: f64| indicatif::BinaryBytes(bytes as u64).to_string();
        let cost = self.cost.map(|cost| ("processor time of an append", cost.to_text()));
        let rows = [
            ("acknowledged", self.acknowledged.to_string()),
            ("errors", self.errors_text()),
            ("measured for", format!("{:.2} s", self.elapsed.as_secs_f64())),
            ("appends", format!("{:.0} /s", self.appends_per_second())),
            ("payload", format!("{}/s", bytes(self.per_second(self.payload_bytes)))),
            ("latency", self.latencies.to_text()),
        ];
        rows.into_iter().chain(cost).collect()
    }

    fn errors_text(&self) -> String {
        counts(&self.errors)
    }
}

/// How often each reason came, as people read it.
pub(super) fn counts(by_reason: &BTreeMap<String, u64>) -> String {
    if by_reason.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<String> = by_reason.iter().map(|(why, n)| format!("{n} {why}")).collect();
    shown.join(", ")
}
