use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// An hour: above whatever is measured. Longer is counted as an hour.
const MAX_US: u64 = 3_600_000_000;
/// Digits that a value keeps.
const DIGITS: u8 = 3;

/// Times in microseconds.
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> anyhow::Result<Latencies> {
        Histogram::new_with_bounds(1, MAX_US, DIGITS).map(Latencies).context("no histogram")
    }

    pub(super) fn record(&mut self, time: Duration) {
        self.record_us(u64::try_from(time.as_micros()).unwrap_or(MAX_US));
    }

    pub(super) fn record_us(&mut self, us: u64) {
        self.0.saturating_record(us);
    }

    pub(super) fn add(&mut self, other: &Latencies) -> anyhow::Result<()> {
        self.0.add(&other.0).context("histograms differ")
    }

    pub(super) fn p99(&self) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(0.99))
    }

    pub(super) fn to_json(&self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        json!({
            "count": self.0.len(),
            "p50": self.0.value_at_quantile(0.5),
            "p90": self.0.value_at_quantile(0.9),
            "p99": self.0.value_at_quantile(0.99),
            "p999": self.0.value_at_quantile(0.999),
            "max": self.0.max(),
        })
    }

    pub(super) fn to_text(&self) -> String {
        if self.0.is_empty() {
            return "–".to_owned();
        }
        let quantile = |q| ms(self.0.value_at_quantile(q));
        let max = ms(self.0.max());
        format!(
            "p50 {}  p90 {}  p99 {}  max {max} ms",
            quantile(0.5),
            quantile(0.9),
            quantile(0.99)
        )
    }
}

fn ms(us: u64) -> String {
    format!("{:.2}", us as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_keep_three_digits_up_to_an_hour() {
        let mut latencies = Latencies::new().unwrap();
        assert_eq!(latencies.to_json(), Value::Null);
        for us in 1..=1_000 {
            latencies.record(Duration::from_micros(us * 1_000));
        }
        latencies.record(Duration::from_secs(7_200));
        let shown = latencies.to_json();
        let near = |value: &Value, expected: f64| {
            let value = value.as_f64().unwrap();
            assert!((value - expected).abs() <= expected / 500.0, "{value} is not {expected}");
        };
        near(&shown["p50"], 501_000.0);
        near(&shown["p99"], 991_000.0);
        near(&shown["max"], 3_600_000_000.0);
        assert_eq!(shown["count"], 1_001);
    }
}
