//! When an entry goes, and what it carries.

use crate::types::limits::{ENTRY_BYTES_TARGET, ENTRY_COMMANDS_MAX, PROPOSALS_IN_FLIGHT_MAX};

/// From here on an entry gains little by growing: it may go beside others.
const FAT_COMMANDS: usize = 64;
/// The same, in bytes.
const FAT_BYTES: usize = 64 * 1024;
/// Up to how many entries in flight a small one makes. With one, what arrives behind an entry would wait for all of it.
const SMALL_IN_FLIGHT_MAX: usize = 2;

/// The entries of a group that are on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnTheirWay {
    /// How many.
    pub entries: usize,
    /// Whether the oldest of them takes long.
    pub is_slow: bool,
}

/// What the next entry of a group carries, while it fills.
pub struct NextEntry<T> {
    commands: Vec<T>,
    bytes: usize,
    /// Too large for this entry, and so the first of the one behind it.
    held: Option<(T, usize)>,
}

impl<T> NextEntry<T> {
    /// Empty.
    pub fn new() -> Self {
        NextEntry { commands: Vec::new(), bytes: 0, held: None }
    }

    /// Adds a command of so many bytes. Not to a full entry.
    pub fn add(&mut self, command: T, bytes: usize) {
        if !self.commands.is_empty() && self.bytes + bytes > ENTRY_BYTES_TARGET {
            self.held = Some((command, bytes));
        } else {
            self.bytes += bytes;
            self.commands.push(command);
        }
    }

    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        self.held.is_some() || self.commands.len() >= ENTRY_COMMANDS_MAX
    }

    /// Nagle's rule (RFC 896) without a timer: a small entry goes if few are in flight, and grows until then. So who is
    /// alone never waits, and under load few entries carry much, for what an entry costs hardly depends on its size.
    ///
    /// Where entries take long, the next one goes when none is on its way: more of them at a time would take longer still,
    /// and a leader whose entries are confirmed later than a lease after they were sent has no lease, and refuses.
    pub fn may_go(&self, others: OnTheirWay) -> bool {
        let is_fat = self.commands.len() >= FAT_COMMANDS || self.bytes >= FAT_BYTES;
        let max = match others.is_slow {
            true => 1,
            false if is_fat || self.is_full() => PROPOSALS_IN_FLIGHT_MAX,
            false => SMALL_IN_FLIGHT_MAX,
        };
        !self.commands.is_empty() && others.entries < max
    }

    /// The commands, in order. What did not fit begins the next entry.
    pub fn take(&mut self) -> Vec<T> {
        let commands = std::mem::take(&mut self.commands);
        self.bytes = 0;
        if let Some((command, bytes)) = self.held.take() {
            self.add(command, bytes);
        }
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(commands: usize, bytes: usize) -> NextEntry<usize> {
        let mut next = NextEntry::new();
        (0..commands).for_each(|number| next.add(number, bytes));
        next
    }

    #[test]
    fn a_small_entry_goes_at_once_where_few_are_in_flight_and_otherwise_grows() {
        let with = |entries| OnTheirWay { entries, is_slow: false };
        assert!(!filled(0, 0).may_go(with(0)), "there is nothing in it");
        let small = filled(1, 100);
        assert!(small.may_go(with(0)) && small.may_go(with(SMALL_IN_FLIGHT_MAX - 1)));
        assert!(!small.may_go(with(SMALL_IN_FLIGHT_MAX)));
        for fat in [filled(FAT_COMMANDS, 1), filled(1, FAT_BYTES), filled(2, ENTRY_BYTES_TARGET)] {
            assert!(fat.may_go(with(PROPOSALS_IN_FLIGHT_MAX - 1)), "it gains nothing by waiting");
            assert!(!fat.may_go(with(PROPOSALS_IN_FLIGHT_MAX)));
        }
    }

    #[test]
    fn where_entries_take_long_they_go_one_by_one() {
        let slow = |entries| OnTheirWay { entries, is_slow: true };
        for next in [filled(1, 100), filled(ENTRY_COMMANDS_MAX, 1)] {
            assert!(next.may_go(slow(0)));
            assert!(!next.may_go(slow(1)));
        }
    }

    #[test]
    fn entries_keep_the_order_and_their_bounds() {
        let mut next = filled(ENTRY_COMMANDS_MAX, 1);
        assert!(next.is_full());
        assert_eq!(next.take(), (0..ENTRY_COMMANDS_MAX).collect::<Vec<_>>());
        assert!(!next.is_full() && !next.may_go(OnTheirWay::default()));

        let mut next = filled(2, ENTRY_BYTES_TARGET / 2 + 1);
        assert!(next.is_full(), "the second does not fit");
        assert_eq!(next.take(), [0]);
        next.add(2, 1);
        assert_eq!(next.take(), [1, 2]);

        let mut alone = filled(1, ENTRY_BYTES_TARGET * 2);
        assert_eq!(alone.take(), [0], "a large one goes alone");
    }
}
