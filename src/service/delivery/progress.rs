use crate::seams::planted;
use crate::service::read::StartAt;
use crate::types::Seq;

/// How far one conversation of a subscription has come. Pure: told the bounds, it says what is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The next seq to deliver.
    next: Seq,
    /// The tail when the conversation was added: what lies below is history.
    stood: Seq,
    caught_up: bool,
}

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To announce that `[from, to)` can no longer be read.
    Gap { from: Seq, to: Seq },
    /// To announce that history has been sent.
    CaughtUp { next: Seq },
    /// To deliver messages of `[from, to)`, as many as there is room for.
    Deliver { from: Seq, to: Seq },
    /// To wait until the conversation has grown.
    Wait,
}

impl Progress {
    /// At the start asked for, given `[first, tail)` as read behind a barrier. A time has to be a seq by now; one that
    /// is not is read as nothing said.
    pub fn begin(start: StartAt, (first, tail): (Seq, Seq)) -> Self {
        let next = match start {
            StartAt::Seq(seq) if planted::skip_on_resubscribe() && seq > first => seq.next(),
            StartAt::Seq(seq) => seq,
            StartAt::Last(count) => Seq(tail.0.saturating_sub(count).max(first.0)),
            StartAt::Default | StartAt::Time(_) => first,
        };
        Progress { next, stood: tail, caught_up: false }
    }

    /// The next seq, once history has been sent.
    pub fn live_from(&self) -> Option<Seq> {
        self.caught_up.then_some(self.next)
    }

    /// What is next while `[first, tail)` can be read. An announcement counts as made once it was returned.
    pub fn step(&mut self, (first, tail): (Seq, Seq)) -> Step {
        if self.next < first {
            let from = self.next;
            self.next = first;
            return Step::Gap { from, to: first };
        }
        if !self.caught_up && self.next >= self.stood {
            self.caught_up = true;
            return Step::CaughtUp { next: self.next };
        }
        // History ends where it is announced to end, also when more has come meanwhile.
        let to = if self.caught_up { tail } else { tail.min(self.stood) };
        match self.next < to {
            true => Step::Deliver { from: self.next, to },
            false => Step::Wait,
        }
    }

    /// Counts messages up to `last` as delivered.
    pub fn delivered(&mut self, last: Seq) {
        self.next = last.next();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds(first: u64, tail: u64) -> (Seq, Seq) {
        (Seq(first), Seq(tail))
    }

    fn deliver(from: u64, to: u64) -> Step {
        Step::Deliver { from: Seq(from), to: Seq(to) }
    }

    fn caught_up(next: u64) -> Step {
        Step::CaughtUp { next: Seq(next) }
    }

    #[test]
    fn history_then_caught_up_then_live() {
        let mut progress = Progress::begin(StartAt::Default, bounds(1, 4));
        assert_eq!(progress.step(bounds(1, 4)), deliver(1, 4));
        progress.delivered(Seq(2));
        assert_eq!(progress.step(bounds(1, 6)), deliver(3, 4));
        progress.delivered(Seq(3));
        assert_eq!(progress.step(bounds(1, 6)), caught_up(4));
        assert_eq!(progress.step(bounds(1, 6)), deliver(4, 6));
        progress.delivered(Seq(5));
        assert_eq!(progress.step(bounds(1, 6)), Step::Wait);
        assert_eq!(progress.step(bounds(1, 7)), deliver(6, 7));
    }

    #[test]
    fn a_conversation_without_messages_is_caught_up_at_once() {
        let mut progress = Progress::begin(StartAt::Default, bounds(1, 1));
        assert_eq!(progress.step(bounds(1, 1)), caught_up(1));
        assert_eq!(progress.step(bounds(1, 1)), Step::Wait);
        assert_eq!(progress.step(bounds(1, 2)), deliver(1, 2));
    }

    #[test]
    fn a_start_beyond_the_tail_waits_for_its_seq() {
        let mut progress = Progress::begin(StartAt::Seq(Seq(9)), bounds(1, 4));
        assert_eq!(progress.step(bounds(1, 4)), caught_up(9));
        assert_eq!(progress.step(bounds(1, 9)), Step::Wait);
        assert_eq!(progress.step(bounds(1, 11)), deliver(9, 11));
    }

    #[test]
    fn what_was_trimmed_is_announced_at_the_start_and_later() {
        let mut progress = Progress::begin(StartAt::Seq(Seq(1)), bounds(5, 8));
        let gap = |from, to| Step::Gap { from: Seq(from), to: Seq(to) };
        assert_eq!(progress.step(bounds(5, 8)), gap(1, 5));
        assert_eq!(progress.step(bounds(5, 8)), deliver(5, 8));
        progress.delivered(Seq(5));
        assert_eq!(progress.step(bounds(8, 8)), gap(6, 8));
        assert_eq!(progress.step(bounds(8, 8)), caught_up(8));
    }

    #[test]
    fn nothing_said_starts_at_the_first_seq_without_a_gap() {
        let mut progress = Progress::begin(StartAt::Default, bounds(5, 8));
        assert_eq!(progress.step(bounds(5, 8)), deliver(5, 8));
    }

    #[test]
    fn the_last_messages_are_counted_from_the_tail() {
        let mut progress = Progress::begin(StartAt::Last(2), bounds(1, 8));
        assert_eq!(progress.step(bounds(1, 8)), deliver(6, 8));
        let mut none = Progress::begin(StartAt::Last(0), bounds(1, 8));
        assert_eq!(none.step(bounds(1, 8)), caught_up(8));
    }

    proptest! {
        /// However tails and trims move, seqs are delivered in order and once, and each one that is not delivered
        /// is in a gap.
        #[test]
        fn nothing_is_skipped_or_repeated(
            start in 1u64..20,
            moves in prop::collection::vec((0u64..5, 0u64..5, 1u64..4), 1..40),
        ) {
            let (mut first, mut tail) = (1u64, 1u64);
            let mut progress = Progress::begin(StartAt::Seq(Seq(start)), bounds(first, tail));
            let mut expected = start;
            let mut announced = 0;
            for (grow, trim, room) in moves {
                tail += grow;
                first = (first + trim).min(tail);
                loop {
                    match progress.step(bounds(first, tail)) {
                        Step::Wait => break,
                        Step::CaughtUp { next } => {
                            announced += 1;
                            prop_assert_eq!(next.0, expected);
                        }
                        Step::Gap { from, to } => {
                            prop_assert_eq!(from.0, expected);
                            expected = to.0;
                        }
                        Step::Deliver { from, to } => {
                            prop_assert_eq!(from.0, expected);
                            prop_assert!(first <= from.0 && to.0 <= tail);
                            let last = (from.0 + room).min(to.0) - 1;
                            progress.delivered(Seq(last));
                            expected = last + 1;
                        }
                    }
                }
                prop_assert!(expected >= tail.min(start.max(tail)));
            }
            prop_assert_eq!(announced, 1);
        }
    }
}
