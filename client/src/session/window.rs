//! How much a session may have without an outcome: appends, and their payload bytes.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// What is left of a session's bounds.
pub(super) struct Window {
    places: Semaphore,
    bytes: Semaphore,
    places_max: u32,
    bytes_max: u32,
}

/// A share of a session's window, given back when it is dropped.
pub(super) struct Room {
    of: Arc<Window>,
    places: u32,
    bytes: u32,
}

impl Window {
    pub fn new(places_max: u32, bytes_max: u32) -> Arc<Self> {
        Arc::new(Window {
            places: Semaphore::new(places_max as usize),
            bytes: Semaphore::new(bytes_max as usize),
            places_max,
            bytes_max,
        })
    }

    /// Waits for room for one append; one that is larger than the window takes all of it. Cancel safe.
    pub async fn take(self: &Arc<Self>, payload_bytes: usize) -> Room {
        let bytes = u32::try_from(payload_bytes).unwrap_or(u32::MAX).clamp(1, self.bytes_max);
        let mut room = Room { of: self.clone(), places: 0, bytes: 0 };
        acquire(&self.places, 1).await;
        room.places = 1;
        acquire(&self.bytes, bytes).await;
        room.bytes = bytes;
        room
    }

    /// Waits until nobody has a place. Cancel safe.
    pub async fn emptied(&self) {
        acquire(&self.places, self.places_max).await;
        self.places.add_permits(self.places_max as usize);
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        (self.places_max as usize).saturating_sub(self.places.available_permits())
    }
}

/// Takes permits, which whoever asks gives back.
async fn acquire(semaphore: &Semaphore, permits: u32) {
    let acquired = semaphore.acquire_many(permits).await;
    acquired.expect("the semaphores of a session are never closed").forget();
}

impl Room {
    /// Puts two shares of one window together: what is given back at once wakes those who wait at once.
    pub fn merge(&mut self, mut other: Room) {
        self.places += std::mem::take(&mut other.places);
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.places > 0 {
            self.of.places.add_permits(self.places as usize);
        }
        if self.bytes > 0 {
            self.of.bytes.add_permits(self.bytes as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_was_taken_is_there_again_when_it_is_given_back() {
        let window = Window::new(3, 10);
        let mut first = window.take(4).await;
        first.merge(window.take(5).await);
        assert_eq!(window.taken(), 2);
        assert!(window.take(2).now_or_never().is_none());
        assert_eq!(window.taken(), 2, "who gave up waiting for bytes has no place");
        let small = window.take(0).await;
        assert!(window.emptied().now_or_never().is_none());
        drop((first, small));
        assert_eq!(window.taken(), 0);
        let large = window.take(usize::MAX).await;
        assert!(window.take(1).now_or_never().is_none());
        drop(large);
        window.emptied().now_or_never().expect("nobody has a place");
        assert_eq!(window.taken(), 0);
    }
}
