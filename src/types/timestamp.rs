use std::fmt;

use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch, as a value: nothing below the server reads a clock.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This many microseconds later, at most the end of time.
    pub fn plus_us(self, us: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(us))
    }

    /// This many microseconds earlier, at least the epoch.
    pub fn minus_us(self, us: u64) -> Timestamp {
        Timestamp(self.0.saturating_sub(us))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}
