use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::{ClientOptions, Error};

/// The pauses between attempts of one thing: exponential, with jitter, without end.
#[derive(Debug)]
pub(crate) struct Backoff {
    builder: ExponentialBuilder,
    delays: Option<ExponentialBackoff>,
    max: Duration,
    hinted: bool,
}

impl Backoff {
    pub fn new(options: &ClientOptions) -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(options.backoff_min)
            .with_max_delay(options.backoff_max)
            .with_jitter()
            .without_max_times();
        Backoff { builder, delays: None, max: options.backoff_max, hinted: false }
    }

    /// How long to wait after this failure. The first one that names the leader costs no wait: we know where to go.
    /// Further ones do, since two nodes may each hold the other for the leader.
    pub fn next_delay(&mut self, error: &Error) -> Duration {
        if error.leader_hint().is_some() && !self.hinted {
            self.hinted = true;
            return Duration::ZERO;
        }
        let delays = self.delays.get_or_insert_with(|| self.builder.build());
        let delay = delays.next().unwrap_or(self.max);
        delay.max(error.retry_delay().unwrap_or_default())
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.delays = None;
        self.hinted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Effect, proto, reason};

    #[test]
    fn delays_grow_to_the_maximum_and_start_over() {
        let options = ClientOptions::default();
        let mut backoff = Backoff::new(&options);
        let error = Error::stream_ended(Effect::None);
        let delays: Vec<_> = (0..20).map(|_| backoff.next_delay(&error)).collect();
        assert!(delays[0] >= options.backoff_min && delays[0] <= 2 * options.backoff_min);
        assert!(delays[19] >= options.backoff_max && delays[19] <= 2 * options.backoff_max);
        backoff.reset();
        assert!(backoff.next_delay(&error) <= 2 * options.backoff_min);
    }

    #[test]
    fn only_the_first_leader_hint_is_free() {
        let error = Error::from_failure(proto::Failure {
            reason: reason::NOT_LEADER.to_owned(),
            metadata: [("leader".to_owned(), "2".to_owned())].into(),
            retry_delay_ms: 400,
            ..proto::Failure::default()
        });
        let mut backoff = Backoff::new(&ClientOptions::default());
        assert_eq!(backoff.next_delay(&error), Duration::ZERO);
        assert!(backoff.next_delay(&error) >= Duration::from_millis(400));
    }
}
