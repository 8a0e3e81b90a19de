//! One append stream to one node.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::encoded::{self, SessionRequest};
use crate::error::Effect;
use crate::{Error, proto};

/// Answers that are handed to the driver at once, where so many have come.
const ANSWERS_AT_ONCE_MAX: usize = 256;

/// Tells one link from another to the same node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LinkId(pub u64);

/// What a link tells the driver.
pub(super) enum Event {
    /// Requests were answered, in this order.
    Answered(LinkId, Vec<proto::SessionResponse>),
    /// The stream is no more; nothing comes after this.
    Broken(LinkId, Error),
}

/// Opens the stream and carries requests out and answers back, until the stream breaks or the driver drops the
/// requests' sender and all answers are in.
pub(super) async fn run(
    id: LinkId,
    channel: Channel,
    requests: mpsc::Receiver<SessionRequest>,
    events: mpsc::Sender<Event>,
    open_timeout: Duration,
) {
    let error = match open(channel, requests, open_timeout).await {
        Ok(answers) => carry(id, answers, &events).await,
        Err(error) => error,
    };
    // The driver may be gone, together with whoever waits for an answer.
    let _ = events.send(Event::Broken(id, error)).await;
}

async fn open(
    channel: Channel,
    requests: mpsc::Receiver<SessionRequest>,
    open_timeout: Duration,
) -> Result<Streaming<proto::SessionResponse>, Error> {
    let opened = encoded::append_session(channel, ReceiverStream::new(requests));
    match timeout(open_timeout, opened).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(lost(&status)),
        Err(_) => Err(Error::deadline(None).with_effect(true)),
    }
}

async fn carry(
    id: LinkId,
    answers: Streaming<proto::SessionResponse>,
    events: &mpsc::Sender<Event>,
) -> Error {
    let mut chunks = answers.ready_chunks(ANSWERS_AT_ONCE_MAX);
    while let Some(chunk) = chunks.next().await {
        let mut answered = Vec::with_capacity(chunk.len());
        let mut error = None;
        for answer in chunk {
            match answer {
                Ok(answer) => answered.push(answer),
                Err(status) => {
                    // What comes behind it may have been read from the middle of a message.
                    error = Some(lost(&status));
                    break;
                }
            }
        }
        if events.send(Event::Answered(id, answered)).await.is_err() {
            return Error::stream_ended(Effect::Possible);
        }
        if let Some(error) = error {
            return error;
        }
    }
    Error::stream_ended(Effect::Possible)
}

/// Why a stream as a whole broke. What was on it may have arrived, unless there never was a connection.
fn lost(status: &Status) -> Error {
    Error::from_status(status, Effect::Possible)
}
