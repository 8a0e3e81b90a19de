//! Responses of a stream on their way to a caller who may take them slowly, or not at all.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc::{self, error::SendTimeoutError};
use tokio::sync::oneshot;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::api::Responses;
use super::errors::CallError;
use crate::types::limits;

/// The side on which responses are put. Without it the stream ends.
pub struct ResponseQueue<T> {
    responses: mpsc::Sender<Result<T, Status>>,
    last: oneshot::Sender<Status>,
    stall_max: Duration,
}

impl<T: Send + 'static> ResponseQueue<T> {
    /// A queue, and the stream of what is put on it. It is given up when its caller takes nothing for `stall_max`. The
    /// stream then ends with a retryable error behind what it has, so that nobody takes a part for the whole.
    pub fn new(stall_max: Duration) -> (Self, Responses<T>) {
        let (responses, receiver) = mpsc::channel(limits::RESPONSE_QUEUE_MAX);
        let (last, given_up) = oneshot::channel();
        let end = futures::stream::once(given_up);
        let end = end.filter_map(async |status| status.ok().map(Err));
        let stream = ReceiverStream::new(receiver).chain(end);
        (ResponseQueue { responses, last, stall_max }, Box::pin(stream))
    }

    /// Puts a response once there is room. None if nobody takes it: the caller is gone, or was given up.
    pub async fn put(self, response: Result<T, Status>) -> Option<Self> {
        match self.responses.send_timeout(response, self.stall_max).await {
            Ok(()) => Some(self),
            Err(SendTimeoutError::Closed(_)) => None,
            Err(SendTimeoutError::Timeout(_)) => {
                // If the caller is gone nobody needs to know.
                let _ = self.last.send(CallError::not_taken().into());
                None
            }
        }
    }

    /// Waits until the caller is gone.
    pub async fn closed(&self) {
        self.responses.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;
    use tonic::Code;

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
            put = timeout(LONG, queue.put(Ok(count))).await.expect("it is given up");
            count += 1;
        }
        let taken: Vec<_> = stream.collect().await;
        let (last, before) = taken.split_last().unwrap();
        assert_eq!(before.len(), limits::RESPONSE_QUEUE_MAX);
        assert!(before.iter().all(Result::is_ok));
        let error = CallError::from_status(last.as_ref().unwrap_err()).unwrap();
        assert!(error.is_retryable());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_caller_takes_all_and_one_that_leaves_is_noticed() {
        let (queue, mut stream) = ResponseQueue::new(STALL_MAX);
        let mut put = Some(queue);
        for number in 0..=limits::RESPONSE_QUEUE_MAX {
            let (next, ()) = tokio::join!(put.unwrap().put(Ok(number)), async {
                tokio::time::sleep(STALL_MAX / 2).await;
                if number == limits::RESPONSE_QUEUE_MAX {
                    assert_eq!(stream.next().await.unwrap().unwrap(), 0);
                }
            });
            put = next;
        }
        put = put.unwrap().put(Err(Status::new(Code::Aborted, "the end"))).await;
        drop(put);
        assert_eq!(stream.count().await, limits::RESPONSE_QUEUE_MAX + 1);

        let (queue, stream) = ResponseQueue::new(STALL_MAX);
        drop(stream);
        queue.closed().await;
        assert!(queue.put(Ok(1)).await.is_none());
    }
}
