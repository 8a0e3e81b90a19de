//! The queue of one stream, on which its conversations put what they have. A response keeps as much of its place as it
//! needs, so that many small ones, each of another conversation, wait together and go out together.
//!
//! Guarantee at stake: G12. A stream holds no more bytes than whole places do, and what of them is free of charge
//! (`responses::room_for`) is no more either: that much has room of its own as long as somebody may take it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Subscribed;
use crate::consensus::Room;
use crate::service::responses::Waiting;
use crate::types::limits;

/// Of one place.
const PARTS: usize = limits::RESPONSE_PLACE_PARTS;
/// Memory for which a response keeps a part. All parts of a place are for as much as is free of charge; what is larger
/// keeps the whole place.
const PART_BYTES: usize = limits::CALL_BYTES_FREE / PARTS;
const PARTS_IN_ALL: usize = limits::RESPONSE_QUEUE_MAX * PARTS;

/// Where responses go. Each clone is the same queue.
#[derive(Clone)]
pub struct Out {
    queue: mpsc::Sender<Queued>,
    parts: Arc<Semaphore>,
}

/// Where responses come out.
pub struct Responses {
    queue: mpsc::Receiver<Queued>,
    parts: Arc<Semaphore>,
    _room: Room,
}

/// Room for one response, of whatever size.
pub struct Place<'a> {
    queue: &'a mpsc::Sender<Queued>,
    parts: OwnedSemaphorePermit,
}

struct Queued {
    response: Waiting<Subscribed>,
    _parts: OwnedSemaphorePermit,
}

/// Nobody takes responses any more.
#[derive(Debug)]
pub struct Gone;

/// A queue of one stream, and the room that the stream takes ([`limits::SUBSCRIPTION_BYTES`]).
pub fn queue(room: Room) -> (Out, Responses) {
    // As long as it gets with the smallest responses: whoever has a part finds room.
    let (sender, receiver) = mpsc::channel(PARTS_IN_ALL);
    let parts = Arc::new(Semaphore::new(PARTS_IN_ALL));
    (Out { queue: sender, parts: parts.clone() }, Responses { queue: receiver, parts, _room: room })
}

impl Out {
    /// Waits for a place. They are given in the order in which they were asked for. Cancel safe.
    pub async fn reserve(&self) -> Result<Place<'_>, Gone> {
        let parts = self.parts.clone().acquire_many_owned(PARTS as u32);
        Ok(Place { queue: &self.queue, parts: parts.await.map_err(|_| Gone)? })
    }

    /// Puts a response whose contents take so many bytes of memory, once there is a place. Lost if nobody takes responses
    /// any more.
    pub async fn send(&self, response: Waiting<Subscribed>, bytes: usize) {
        if let Ok(place) = self.reserve().await {
            place.send(response, bytes);
        }
    }

    /// Waits until nobody takes responses any more.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Whether who wants a place has to wait.
    #[cfg(test)]
    pub fn is_full(&self) -> bool {
        self.parts.available_permits() < PARTS
    }
}

impl Place<'_> {
    /// Puts a response whose contents take so many bytes of memory, and gives back what it does not need of the place.
    /// Lost if nobody takes responses any more.
    pub fn send(mut self, response: Waiting<Subscribed>, bytes: usize) {
        drop(self.parts.split(PARTS - parts_of(bytes)));
        let queued = Queued { response, _parts: self.parts };
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(queued) {
            unreachable!("the queue is as long as there are parts");
        }
    }
}

/// Parts that a response with such contents keeps.
fn parts_of(bytes: usize) -> usize {
    (size_of::<Queued>() + bytes).div_ceil(PART_BYTES).min(PARTS)
}

/// Responses without contents that have room at most.
#[cfg(test)]
pub fn smallest_max() -> usize {
    1 + (PARTS_IN_ALL - PARTS) / parts_of(0)
}

impl Responses {
    /// The next one; none once nobody puts any more. Cancel safe.
    pub async fn next(&mut self) -> Option<Waiting<Subscribed>> {
        self.queue.recv().await.map(|queued| queued.response)
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.parts.close();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::time::timeout;

    use super::*;
    use crate::consensus::RoomLeft;
    use crate::service::delivery::caught_up;
    use crate::types::Seq;

    const LARGE: usize = limits::CALL_BYTES_FREE;

    fn queue() -> (Out, Responses) {
        super::queue(RoomLeft::new(0).nothing())
    }

    fn response(number: u64) -> Subscribed {
        caught_up("a".to_owned(), Seq(number))
    }

    /// Whether there was a place.
    fn put(out: &Out, number: u64, bytes: usize) -> bool {
        let Some(place) = out.reserve().now_or_never() else { return false };
        place.expect("somebody takes them").send(Ok(response(number)).into(), bytes);
        true
    }

    fn taken(responses: &mut Responses) -> Option<Subscribed> {
        responses.next().now_or_never().flatten().map(|waiting| waiting.into_response().unwrap())
    }

    /// As many as there are places for.
    fn fill(out: &Out, bytes: usize) -> u64 {
        (0..).take_while(|number| put(out, *number, bytes)).count() as u64
    }

    /// So what is free of charge is never more than in whole places.
    #[test]
    fn parts_are_for_as_many_bytes_as_are_free_of_charge() {
        assert_eq!(PART_BYTES * PARTS, limits::CALL_BYTES_FREE);
        for bytes in [0, 1, PART_BYTES, PART_BYTES + 1, LARGE - 1, LARGE, 100 * LARGE] {
            let (out, _responses) = queue();
            let free = fill(&out, bytes) as usize * bytes.min(limits::CALL_BYTES_FREE);
            assert!(free <= limits::RESPONSE_QUEUE_MAX * limits::CALL_BYTES_FREE, "{bytes}");
        }
    }

    #[test]
    fn few_large_responses_wait_or_many_small_ones() {
        assert!(smallest_max() > 10 * limits::RESPONSE_QUEUE_MAX);
        for (bytes, count) in [(LARGE, limits::RESPONSE_QUEUE_MAX), (0, smallest_max())] {
            let (out, mut responses) = queue();
            assert_eq!(fill(&out, bytes), count as u64);
            for number in 0..count as u64 {
                assert_eq!(taken(&mut responses), Some(response(number)));
            }
            assert_eq!(taken(&mut responses), None);
            assert_eq!(fill(&out, bytes), count as u64, "the places are there again");
        }
    }

    #[tokio::test]
    async fn places_are_given_in_turn_and_given_back() {
        let (out, mut responses) = queue();
        fill(&out, LARGE);
        let (mut first, mut second) = (pin!(out.reserve()), pin!(out.reserve()));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        assert!(taken(&mut responses).is_some());
        assert!((&mut second).now_or_never().is_none(), "it is not its turn");
        drop(first.now_or_never().expect("it is its turn"));
        assert!(second.now_or_never().is_some(), "what was not used is given back");
    }

    #[tokio::test]
    async fn who_waits_hears_that_nobody_takes_any_more() {
        let (out, responses) = queue();
        fill(&out, LARGE);
        let waits = async { assert!(out.reserve().await.is_err()) };
        let leaves = async { drop(responses) };
        let both = async { tokio::join!(waits, leaves) };
        timeout(Duration::from_secs(20), both).await.expect("nobody waits for ever");
        out.closed().await;
        out.send(Ok(response(1)).into(), 0).await;
    }
}
