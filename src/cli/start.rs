use clap::Args;
use quorate_client::Start;

use crate::server::SystemClock;
use crate::types::Clock;

/// Where reading starts.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct StartArgs {
    /// Start at this seq [default: the first that can be read]
    #[arg(long, value_name = "SEQ", conflicts_with_all = ["last", "since"],
          value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,

    /// Start at the last N messages
    #[arg(long, value_name = "N", conflicts_with = "since",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) last: Option<u32>,

    /// Start at the first message committed at this time or after: RFC 3339, or how long ago, such as 15m
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
}

/// A point in time as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    At(u64),
    AgoUs(u64),
}

impl StartArgs {
    /// The start that was asked for.
    pub(super) fn start(&self) -> Start {
        match (self.from, self.last, self.since) {
            (Some(seq), _, _) => Start::Seq(seq),
            (_, Some(count), _) => Start::Last(u64::from(count)),
            (_, _, Some(Since::At(us))) => Start::CommitTimeUs(us),
            (_, _, Some(Since::AgoUs(us))) => Start::CommitTimeUs(SystemClock.now().minus_us(us).0),
            (None, None, None) => Start::Earliest,
        }
    }
}

fn parse_since(text: &str) -> Result<Since, String> {
    let wrong = || {
        format!("{text:?} is neither a time such as 2026-01-31T09:00:00Z nor one such as 15m ago")
    };
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return u64::try_from(time.as_microsecond()).map(Since::At).map_err(|_| wrong());
    }
    let ago: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    u64::try_from(ago.as_micros()).map(Since::AgoUs).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_absolute_or_ago() {
        assert_eq!(parse_since("1970-01-01T00:00:01Z"), Ok(Since::At(1_000_000)));
        assert_eq!(parse_since("2s"), Ok(Since::AgoUs(2_000_000)));
        for wrong in ["", "yesterday", "-2s", "1969-12-31T00:00:00Z"] {
            assert!(parse_since(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_start_it_is_the_first_that_can_be_read() {
        assert_eq!(StartArgs::default().start(), Start::Earliest);
        let from = StartArgs { from: Some(3), ..StartArgs::default() };
        assert_eq!(from.start(), Start::Seq(3));
        let last = StartArgs { last: Some(20), ..StartArgs::default() };
        assert_eq!(last.start(), Start::Last(20));
    }
}
