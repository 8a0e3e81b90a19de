//! The stream behind a feed: one Follow or one Subscribe on one node.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::Mode;
use crate::error::Effect;
use crate::{Error, channels, proto};

use proto::subscribe_response::Kind as SubscribeKind;

/// Requests that wait until the connection takes them.
const REQUESTS_MAX: usize = 64;
/// The heartbeat interval where none is asked for.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(10);
/// After so many intervals without a sign of life the node is taken for lost.
const HEARTBEATS_MISSED: u32 = 3;

/// What comes from the node.
#[derive(Debug)]
pub(super) enum Item {
    Delivery(proto::Delivery),
    Ended(proto::subscribe_response::Ended),
}

/// The two kinds of stream.
pub(super) enum Responses {
    Follow(Streaming<proto::FollowResponse>),
    Subscribe(Streaming<proto::SubscribeResponse>),
}

/// What the stream is doing.
pub(super) enum Upstream {
    /// Nothing is to be carried.
    Idle,
    /// Waiting before the next attempt.
    Resting(Instant),
    /// The stream is being opened.
    Opening(BoxFuture<'static, Result<Responses, Error>>),
    /// Taken as lost when nothing came until this ends, which is put off with all that comes.
    Open(Box<Responses>, Pin<Box<Sleep>>),
}

/// What happened to the stream.
pub(super) enum Event {
    /// The pause is over.
    Rested,
    Opened,
    Item(Item),
    Broken(Error),
}

impl Upstream {
    /// Waits for what happens next. Cancel safe: the state is kept here.
    pub async fn next(&mut self, mode: Mode) -> Event {
        match self {
            Upstream::Idle => std::future::pending().await,
            Upstream::Resting(until) => {
                sleep_until(*until).await;
                Event::Rested
            }
            Upstream::Opening(opening) => match opening.await {
                Ok(responses) => {
                    let silence = Box::pin(sleep_until(silence_ends(mode)));
                    *self = Upstream::Open(Box::new(responses), silence);
                    Event::Opened
                }
                Err(error) => Event::Broken(error),
            },
            Upstream::Open(responses, silence) => {
                let item = tokio::select! {
                    biased;
                    item = responses.next() => item,
                    () = silence.as_mut() => Err(Error::stream_ended(Effect::None)),
                };
                match item {
                    Ok(item) => {
                        silence.as_mut().reset(silence_ends(mode));
                        Event::Item(item)
                    }
                    Err(error) => Event::Broken(error),
                }
            }
        }
    }

    /// Counts silence anew, after a time in which nothing was read.
    pub fn excuse_silence(&mut self, mode: Mode) {
        if let Upstream::Open(_, silence) = self {
            silence.as_mut().reset(silence_ends(mode));
        }
    }
}

impl Responses {
    async fn next(&mut self) -> Result<Item, Error> {
        let item = match self {
            Responses::Follow(stream) => {
                let response = stream.message().await.map_err(lost)?.ok_or_else(ended)?;
                response.delivery.map(Item::Delivery)
            }
            Responses::Subscribe(stream) => {
                let response = stream.message().await.map_err(lost)?.ok_or_else(ended)?;
                response.kind.map(|kind| match kind {
                    SubscribeKind::Delivery(delivery) => Item::Delivery(delivery),
                    SubscribeKind::Ended(ended) => Item::Ended(ended),
                })
            }
        };
        item.ok_or_else(|| Error::protocol("a response says nothing").with_retryable(true))
    }
}

/// Opens a Follow.
pub(super) async fn follow(
    channel: Channel,
    request: proto::FollowRequest,
    limit: Duration,
) -> Result<Responses, Error> {
    let mut log = channels::message_log(channel);
    let opened = timeout(limit, log.follow(request)).await;
    let response = opened.map_err(|_| Error::deadline(None))?.map_err(lost)?;
    Ok(Responses::Follow(response.into_inner()))
}

/// Opens a Subscribe that sends what comes out of `requests`.
pub(super) async fn subscribe(
    channel: Channel,
    requests: mpsc::Receiver<proto::SubscribeRequest>,
    limit: Duration,
) -> Result<Responses, Error> {
    let mut log = channels::message_log(channel);
    let opened = timeout(limit, log.subscribe(ReceiverStream::new(requests))).await;
    let response = opened.map_err(|_| Error::deadline(None))?.map_err(lost)?;
    Ok(Responses::Subscribe(response.into_inner()))
}

/// The conversations of which the node is to be told something on a Subscribe, in turn.
///
/// What it is to be told is decided when the stream takes it. Until then a conversation waits once, whatever changes:
/// so there is room for every change, and none waits for a node.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Arc<str>>,
    /// The same.
    names: HashSet<Arc<str>>,
    stream: Option<mpsc::Sender<proto::SubscribeRequest>>,
}

/// Room for one request on the stream.
pub(super) type Place = OwnedPermit<proto::SubscribeRequest>;

impl Outbox {
    /// Starts a new stream, which is to be told of these conversations first.
    pub fn open<'a>(
        &mut self,
        conversations: impl IntoIterator<Item = &'a String>,
    ) -> mpsc::Receiver<proto::SubscribeRequest> {
        let (stream, receiver) = mpsc::channel(REQUESTS_MAX);
        *self = Outbox { stream: Some(stream), ..Outbox::default() };
        conversations.into_iter().for_each(|name| self.push(name));
        receiver
    }

    /// Forgets what a lost stream was to be told: the next one starts from the present state.
    pub fn close(&mut self) {
        *self = Outbox::default();
    }

    /// Notes that something of this conversation has changed. Does nothing while there is no stream.
    pub fn push(&mut self, conversation: &str) {
        if self.stream.is_none() || self.names.contains(conversation) {
            return;
        }
        let name: Arc<str> = conversation.into();
        self.names.insert(name.clone());
        self.waiting.push_back(name);
    }

    /// Takes out the conversation whose turn it is.
    pub fn pop(&mut self) -> Option<Arc<str>> {
        let name = self.waiting.pop_front()?;
        self.names.remove(&name);
        Some(name)
    }

    /// Room on the stream, once it is needed and there is some. Cancel safe.
    pub async fn place(&self) -> Place {
        let (Some(stream), false) = (&self.stream, self.waiting.is_empty()) else {
            return std::future::pending().await;
        };
        // A lost stream takes nothing; its responses tell of the loss.
        let Ok(place) = stream.clone().reserve_owned().await else {
            return std::future::pending().await;
        };
        place
    }
}

fn silence_ends(mode: Mode) -> Instant {
    let interval = match mode {
        Mode::Follow { heartbeat_ms } if heartbeat_ms > 0 => {
            Duration::from_millis(u64::from(heartbeat_ms))
        }
        _ => HEARTBEAT_DEFAULT,
    };
    Instant::now() + interval * HEARTBEATS_MISSED
}

fn lost(status: Status) -> Error {
    Error::from_status(&status, Effect::None)
}

fn ended() -> Error {
    Error::stream_ended(Effect::None)
}
