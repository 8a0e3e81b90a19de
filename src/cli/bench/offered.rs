//! What came of appends that were offered in an open loop.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use quorate_client::proto::Failure;

use super::latency::Latencies;

/// How many may be due and not sent, in a hundred, if all is to have been offered.
const UNSENT_PERCENT_MAX: u64 = 2;
/// Far more than can be ahead of one; what is more is counted as so many.
const AHEAD_MAX: u64 = 1_000_000_000;

/// Of the appends of one session, or of all.
pub(super) struct Offered {
    /// By the rate.
    pub(super) due: u64,
    pub(super) sent: u64,
    /// Accepted, and answered while more was offered.
    pub(super) accepted_in_time: u64,
    /// From sending to acknowledgement.
    pub(super) latencies: Latencies,
    /// Appends that a group was heard to accept between the sending of another one and its acknowledgement.
    ahead: Histogram<u64>,
    /// From sending to refusal: what an append takes that does not wait in a group.
    pub(super) refused_after: Latencies,
    /// By reason.
    pub(super) refused: BTreeMap<String, u64>,
    /// Of those, the ones that are not to be sent again.
    pub(super) refused_for_good: u64,
    /// The conversation, the seq and the number of each message.
    pub(super) acknowledged: Vec<(u64, u64, u64)>,
}

impl Offered {
    /// Nothing yet.
    pub(super) fn new() -> anyhow::Result<Offered> {
        Ok(Offered {
            due: 0,
            sent: 0,
            accepted_in_time: 0,
            latencies: Latencies::new()?,
            ahead: Histogram::new_with_bounds(1, AHEAD_MAX, 3).context("no histogram")?,
            refused_after: Latencies::new()?,
            refused: BTreeMap::new(),
            refused_for_good: 0,
            acknowledged: Vec::new(),
        })
    }

    /// Notes an append that was accepted, with `ahead` others of its group since it was sent.
    pub(super) fn accepted(&mut self, took: Duration, ahead: u64, in_time: bool) {
        self.accepted_in_time += u64::from(in_time);
        self.latencies.record(took);
        self.ahead.saturating_record(ahead);
    }

    pub(super) fn refused(&mut self, took: Duration, failure: Failure) {
        self.refused_after.record(took);
        self.refused_for_good += u64::from(!failure.retryable);
        *self.refused.entry(failure.reason).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: Offered) -> anyhow::Result<()> {
        self.due += other.due;
        self.sent += other.sent;
        self.accepted_in_time += other.accepted_in_time;
        self.latencies.add(&other.latencies)?;
        self.ahead.add(&other.ahead).context("histograms differ")?;
        self.refused_after.add(&other.refused_after)?;
        self.refused_for_good += other.refused_for_good;
        for (reason, count) in other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
        self.acknowledged.extend(other.acknowledged);
        Ok(())
    }

    /// Whether all was sent and accepted, and 99 of 100 within this time: what comes faster than it can be done would
    /// wait longer and longer.
    pub(super) fn is_sustained(&self, within: Duration) -> bool {
        let is_sent = (self.due - self.sent) * 100 <= self.due * UNSENT_PERCENT_MAX;
        is_sent && self.refused.is_empty() && self.latencies.p99() <= within
    }

    /// The most appends that were ahead of 99 in 100.
    pub(super) fn ahead_p99(&self) -> u64 {
        self.ahead.value_at_quantile(0.99)
    }

    pub(super) fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(due: u64, sent: u64, took_ms: u64) -> Offered {
        let mut offered = Offered { due, sent, ..Offered::new().unwrap() };
        offered.accepted(Duration::from_millis(took_ms), 1, true);
        offered
    }

    #[test]
    fn a_rate_is_sustained_if_all_is_accepted_and_soon() {
        let within = Duration::from_millis(100);
        assert!(offered(100, 98, 50).is_sustained(within));
        assert!(!offered(100, 97, 50).is_sustained(within), "it was not offered");
        assert!(!offered(100, 100, 200).is_sustained(within), "it piles up");
        let mut refused = offered(100, 100, 50);
        refused
            .refused(Duration::ZERO, Failure { reason: "OVERLOADED".into(), ..Failure::default() });
        assert!(!refused.is_sustained(within));
        assert_eq!((refused.refusals(), refused.refused_for_good), (1, 1));
    }
}
