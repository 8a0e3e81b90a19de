//! The wall clock, for what only it can say: when a run began, and what messages and files are stamped with.

use std::time::SystemTime;

/// Microseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "clients stamp their messages with their own clock")]
pub fn now_us() -> u64 {
    let now = jiff::Timestamp::now().as_microsecond();
    u64::try_from(now).unwrap_or(0)
}

/// Now, as RFC 3339 has it, to the second.
#[expect(clippy::disallowed_methods, reason = "a run is named after when it began")]
pub fn now_text() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Microseconds since the Unix epoch, of a moment as RFC 3339 has it; none if it is written otherwise.
pub fn read_us(text: &str) -> Option<u64> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(moment.as_microsecond()).ok()
}

/// Now, as files are dated.
#[expect(clippy::disallowed_methods, reason = "it tells new files from those that were there")]
pub fn now() -> SystemTime {
    SystemTime::now()
}
