//! Responses that wait until their callers take them, and the memory that they take meanwhile (G12).

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc::{self, error::SendTimeoutError};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::api::Responses;
use super::errors::CallError;
use crate::consensus::{Room, RoomLeft};
use crate::types::limits;

/// A response that waits for its caller.
#[derive(Debug)]
pub struct Waiting<T> {
    response: Result<T, Status>,
    /// Only what has messages in it takes any.
    _room: Option<Room>,
}

impl<T> Waiting<T> {
    /// A response with messages, and the room that they take.
    pub fn new(response: T, room: Room) -> Self {
        Waiting { response: Ok(response), _room: Some(room) }
    }

    /// Takes it.
    pub fn into_response(self) -> Result<T, Status> {
        self.response
    }
}

impl<T> From<Result<T, CallError>> for Waiting<T> {
    /// A small one.
    fn from(response: Result<T, CallError>) -> Self {
        Waiting { response: response.map_err(Status::from), _room: None }
    }
}

/// The side on which responses are put. If it is dropped before the end, the stream ends with an error.
pub struct ResponseQueue<T> {
    responses: mpsc::Sender<Waiting<T>>,
    /// Nothing if what was put is all.
    last: oneshot::Sender<Option<Status>>,
    stall_max: Duration,
}

impl<T: Send + 'static> ResponseQueue<T> {
    /// A queue, and the stream of what is put on it. It is given up when its caller takes nothing for `stall_max`. The
    /// stream then ends with a retryable error behind what it has, so that nobody takes a part for the whole; as it does
    /// where the queue is dropped, as with all tasks of a process that ends while its connections are still written to.
    pub fn new(stall_max: Duration) -> (Self, Responses<T>) {
        let (responses, receiver) = mpsc::channel(limits::RESPONSE_QUEUE_MAX);
        let (last, ended) = oneshot::channel();
        let end = futures::stream::once(ended);
        let end = end.filter_map(async |last: Result<Option<Status>, _>| {
            last.unwrap_or_else(|_| Some(CallError::cut_short().into())).map(Err)
        });
        let stream = ReceiverStream::new(receiver).map(Waiting::into_response).chain(end);
        (ResponseQueue { responses, last, stall_max }, Box::pin(stream))
    }

    /// Puts a response once there is room. None if nobody takes it: the caller is gone, or was given up.
    pub async fn put(self, response: Waiting<T>) -> Option<Self> {
        match self.responses.send_timeout(response, self.stall_max).await {
            Ok(()) => Some(self),
            Err(SendTimeoutError::Closed(_)) => None,
            Err(SendTimeoutError::Timeout(_)) => {
                // If the caller is gone nobody needs to know.
                let _ = self.last.send(Some(CallError::not_taken().into()));
                None
            }
        }
    }

    /// Says that what was put is all.
    pub fn end(self) {
        // As above.
        let _ = self.last.send(None);
    }

    /// Waits until the caller is gone.
    pub async fn closed(&self) {
        self.responses.closed().await;
    }
}

/// What one call takes of the room that all share. The first few bytes are free, so that small answers are given however
/// little is left.
pub struct Share {
    left: RoomLeft,
    taken: Mutex<ShareTaken>,
}

struct ShareTaken {
    free: usize,
    kept: Room,
}

impl Share {
    /// Of a call that has just begun.
    pub fn new(left: &RoomLeft) -> Self {
        let taken = ShareTaken { free: limits::CALL_BYTES_FREE, kept: left.nothing() };
        Share { left: left.clone(), taken: Mutex::new(taken) }
    }

    fn taken(&self) -> MutexGuard<'_, ShareTaken> {
        self.taken.lock().expect("no panic while locked")
    }

    /// Takes room for so many bytes.
    ///
    /// # Errors
    /// OVERLOADED.
    pub fn take(&self, bytes: usize) -> Result<Room, CallError> {
        let mut taken = self.taken();
        let free = bytes.min(taken.free);
        let room = self.left.take(bytes - free).ok_or_else(overloaded)?;
        taken.free -= free;
        Ok(room)
    }

    /// Takes room and keeps it as long as this lives.
    ///
    /// # Errors
    /// OVERLOADED.
    pub fn keep(&self, bytes: usize) -> Result<(), CallError> {
        let room = self.take(bytes)?;
        self.taken().kept.merge(room);
        Ok(())
    }
}

/// Room for one response of a stream. A small one takes none: what others leave lying does not stop what is live.
///
/// # Errors
/// OVERLOADED.
pub fn room_for(left: &RoomLeft, bytes: usize) -> Result<Room, CallError> {
    left.take(bytes.saturating_sub(limits::CALL_BYTES_FREE)).ok_or_else(overloaded)
}

/// Room for responses that are decoded one after the other as they come from another node.
pub struct Decoded {
    left: RoomLeft,
    /// What is decoded leaves a buffer that is as large as the largest so far.
    buffer: Room,
}

impl Decoded {
    /// Of a stream from which nothing has come yet.
    pub fn new(left: &RoomLeft) -> Self {
        Decoded { left: left.clone(), buffer: left.nothing() }
    }

    /// Room for the next one, as `room_for` has it.
    ///
    /// # Errors
    /// OVERLOADED.
    pub fn room_for(&mut self, bytes: usize) -> Result<Room, CallError> {
        let grown = self.buffer.grow_to(bytes.saturating_sub(limits::CALL_BYTES_FREE));
        grown.ok_or_else(overloaded)?;
        room_for(&self.left, bytes)
    }
}

/// When a caller last took a response.
#[derive(Clone)]
pub struct Taken(Arc<Mutex<Instant>>);

impl Taken {
    /// Nothing yet.
    pub fn new() -> Self {
        Taken(Arc::new(Mutex::new(Instant::now())))
    }

    /// It has taken one.
    pub fn note(&self) {
        *self.lock() = Instant::now();
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.0.lock().expect("no panic while locked")
    }

    /// Ends once it has taken nothing for so long, from now on.
    pub async fn stalled(&self, limit: Duration) {
        let began = Instant::now();
        loop {
            let last = began.max(*self.lock());
            sleep_until(last + limit).await;
            if *self.lock() <= last {
                return;
            }
        }
    }
}

/// There is no room for a response.
pub fn overloaded() -> CallError {
    let message =
        "the responses that wait at this node to be taken take all the memory that they may";
    CallError::overloaded(message, limits::RESPONSES_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const STALL_MAX: Duration = Duration::from_secs(20);
    /// Of simulated time: nothing waits as long.
    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test(start_paused = true)]
    async fn a_part_that_was_given_up_is_not_taken_for_the_whole() {
        let (queue, stream) = ResponseQueue::new(STALL_MAX);
        let mut put = Some(queue);
        let mut count = 0;
        while let Some(queue) = put {
            put = timeout(LONG, queue.put(Ok(count).into())).await.expect("it is given up");
            count += 1;
        }
        let taken: Vec<_> = stream.collect().await;
        let (last, before) = taken.split_last().unwrap();
        assert_eq!(before.len(), limits::RESPONSE_QUEUE_MAX);
        assert!(before.iter().all(Result::is_ok));
        let error = CallError::from_status(last.as_ref().unwrap_err()).unwrap();
        assert!(error.is_retryable());
    }

    /// G3. As when a process ends, or a task panics.
    #[tokio::test]
    async fn a_part_whose_maker_is_gone_is_not_taken_for_the_whole() {
        let (queue, stream) = ResponseQueue::new(STALL_MAX);
        let queue = queue.put(Ok(1).into()).await;
        drop(queue);
        let taken: Vec<_> = stream.collect().await;
        let [Ok(1), Err(last)] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!(CallError::from_status(last).unwrap(), CallError::cut_short());
        assert!(CallError::cut_short().is_retryable());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_caller_takes_all_and_one_that_leaves_is_noticed() {
        let (queue, mut stream) = ResponseQueue::new(STALL_MAX);
        let mut put = Some(queue);
        for number in 0..=limits::RESPONSE_QUEUE_MAX {
            let (next, ()) = tokio::join!(put.unwrap().put(Ok(number).into()), async {
                tokio::time::sleep(STALL_MAX / 2).await;
                if number == limits::RESPONSE_QUEUE_MAX {
                    assert_eq!(stream.next().await.unwrap().unwrap(), 0);
                }
            });
            put = next;
        }
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        put = put.unwrap().put(Err(CallError::replica_gone()).into()).await;
        put.unwrap().end();
        // The last is the error, and nothing is added to it.
        assert_eq!(stream.count().await, limits::RESPONSE_QUEUE_MAX);

        let (queue, stream) = ResponseQueue::new(STALL_MAX);
        drop(stream);
        queue.closed().await;
        assert!(queue.put(Ok(1).into()).await.is_none());
    }
}
