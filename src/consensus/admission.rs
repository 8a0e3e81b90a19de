//! Whether this node may take on more: refused early, while there is still room to recover in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::storage::DiskMark;
use crate::types::limits;

/// The node's disk mark, as its probe last saw it, and what is left of its memory for appends, for
/// responses, and for what it keeps.
#[derive(Debug)]
pub struct Admission {
    disk: AtomicU8,
    calls: RoomLeft,
    proposals: RoomLeft,
    responses: RoomLeft,
    followed: RoomLeft,
    subscriptions: RoomLeft,
    lanes: RoomLeft,
}

/// How much memory this node may have for each of these, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// [`Admission::calls`].
    pub calls: usize,
    /// [`Admission::proposals`].
    pub proposals: usize,
    /// [`Admission::responses`].
    pub responses: usize,
    /// [`Admission::followed`].
    pub followed: usize,
    /// [`Admission::subscriptions`].
    pub subscriptions: usize,
    /// [`Admission::lanes`].
    pub lanes: usize,
}

impl MemoryLimits {
    /// What a node has. Simulations have less, so that it is used up.
    pub const MOST: MemoryLimits = MemoryLimits {
        calls: limits::APPEND_CALLS_BYTES_MAX,
        proposals: limits::PROPOSALS_BYTES_MAX,
        responses: limits::RESPONSES_BYTES_MAX,
        followed: limits::FOLLOWED_BYTES_MAX,
        subscriptions: limits::SUBSCRIPTIONS_BYTES_MAX,
        lanes: limits::LANES_BYTES_MAX,
    };
}

/// Bytes that may still be taken. Counted, not reserved: what it bounds is how much waits at one time. Nobody waits for
/// them, so that who holds some never stands in the way of who holds more.
#[derive(Clone, Debug)]
pub struct RoomLeft(Arc<AtomicUsize>);

/// Bytes that were taken, until this is dropped.
#[derive(Debug)]
pub struct Room {
    of: RoomLeft,
    bytes: usize,
}

impl RoomLeft {
    /// So many bytes in all.
    pub fn new(bytes: usize) -> Self {
        RoomLeft(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Takes bytes without waiting; none if there are not as many left.
    pub fn take(&self, bytes: usize) -> Option<Room> {
        let mut room = self.nothing();
        room.grow_to(bytes)?;
        Some(room)
    }

    /// Takes nothing yet.
    pub fn nothing(&self) -> Room {
        Room { of: self.clone(), bytes: 0 }
    }
}

impl Room {
    /// Puts what two have taken together. Both are of the same `RoomLeft`.
    pub fn merge(&mut self, mut other: Room) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Takes what is missing to so many bytes; none, and nothing is taken, if there are not as many left.
    pub fn grow_to(&mut self, bytes: usize) -> Option<()> {
        let missing = bytes.saturating_sub(self.bytes);
        if missing > 0 {
            let less = |left: usize| left.checked_sub(missing);
            self.of.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
            self.bytes = bytes;
        }
        Some(())
    }

    /// Gives back what is above so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        let extra = self.bytes.saturating_sub(bytes);
        if extra > 0 {
            self.bytes -= extra;
            self.of.0.fetch_add(extra, Ordering::Relaxed);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl Default for Admission {
    fn default() -> Self {
        Admission::within(MemoryLimits::MOST)
    }
}

impl Admission {
    /// With so much memory.
    pub fn within(limits: MemoryLimits) -> Self {
        Admission {
            disk: AtomicU8::default(),
            calls: RoomLeft::new(limits.calls),
            proposals: RoomLeft::new(limits.proposals),
            responses: RoomLeft::new(limits.responses),
            followed: RoomLeft::new(limits.followed),
            subscriptions: RoomLeft::new(limits.subscriptions),
            lanes: RoomLeft::new(limits.lanes),
        }
    }

    /// Notes what the probe saw.
    pub fn set_disk(&self, mark: DiskMark) {
        let value = match mark {
            DiskMark::Ok => 0,
            DiskMark::Soft => 1,
            DiskMark::Hard => 2,
        };
        self.disk.store(value, Ordering::Release);
    }

    /// What the probe saw.
    pub fn disk(&self) -> DiskMark {
        match self.disk.load(Ordering::Acquire) {
            0 => DiskMark::Ok,
            1 => DiskMark::Soft,
            _ => DiskMark::Hard,
        }
    }

    /// Whether a leader here may propose appends.
    pub fn takes_appends(&self) -> bool {
        self.disk() == DiskMark::Ok
    }

    /// Whether a follower here may take entries from its leader.
    pub fn takes_entries(&self) -> bool {
        self.disk() != DiskMark::Hard
    }

    /// For appends whose callers wait at this node, whichever node leads.
    pub fn calls(&self) -> &RoomLeft {
        &self.calls
    }

    /// For what all groups of this node have proposed or are about to: it may outlive the calls.
    pub fn proposals(&self) -> &RoomLeft {
        &self.proposals
    }

    /// For responses with messages, or names, until their callers take them.
    pub fn responses(&self) -> &RoomLeft {
        &self.responses
    }

    /// For conversations that are followed, until their callers let go of them.
    pub fn followed(&self) -> &RoomLeft {
        &self.followed
    }

    /// For follows and subscriptions themselves, as long as they last: what of them takes no other room.
    pub fn subscriptions(&self) -> &RoomLeft {
        &self.subscriptions
    }

    /// For lanes of sessions, until their callers let go of them.
    pub fn lanes(&self) -> &RoomLeft {
        &self.lanes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_there_again_when_it_is_given_back() {
        let left = RoomLeft::new(10);
        let mut taken = left.take(6).unwrap();
        assert!(left.take(5).is_none());
        taken.merge(left.take(4).unwrap());
        assert!(left.take(1).is_none());
        taken.shrink_to(3);
        assert!(left.take(8).is_none());
        assert!(left.take(7).is_some());
        assert!(taken.grow_to(11).is_none());
        assert!(taken.grow_to(9).is_some() && taken.grow_to(2).is_some());
        assert!(left.take(2).is_none());
        drop(taken);
        assert!(left.take(10).is_some());
    }
}
