//! One conversation of a subscription, delivered from this node's replica: history from what is stored, and what is live
//! from memory, as far as it is there (`consensus/live.rs`).

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use quorate_client::proto;
use tokio::time::{Instant, Sleep, sleep};

use super::credit::Credit;
use super::outgoing::{EncodedMessages, Outgoing, Subscribed};
use super::places::Out;
use super::progress::{Progress, Step};
use super::{bytes_of, caught_up, gap};
use crate::consensus::{Group, LiveMessage, Sent, TailWatch};
use crate::service::consistency::{Level, confirm, open};
use crate::service::errors::CallError;
use crate::service::read::{StartAt, resolve};
use crate::service::reads::{self, Slice};
use crate::service::responses::{self, Waiting};
use crate::service::{Api, Call, convert, memory};
use crate::storage::records::MessageRecord;
use crate::storage::{Direction, StorageError};
use crate::types::{ConversationId, ConversationName, Seq, limits};

/// How often a conversation in which nothing happens looks whether its replica still serves it: one that was removed,
/// stopped or cut off from the others announces nothing any more. A confirmation that is younger than this will do, so
/// that all conversations of a group on a node cost it one round in this time.
const IDLE_CHECK: Duration = Duration::from_secs(10);
/// How soon it looks once more at a replica that was not confirmed. An election is over by then.
const DOUBT: Duration = Duration::from_secs(3);

/// A response, and the memory that its contents take.
type Response = (Waiting<Subscribed>, usize);

/// Delivers one conversation until it fails or is dropped.
pub struct LocalDelivery {
    pub api: Api,
    pub call: Call,
    pub group: Arc<Group>,
    pub name: ConversationName,
    pub start: StartAt,
    /// None for Follow, where the stream's own flow control is all there is.
    pub credit: Option<Arc<Credit>>,
    pub out: Out,
}

impl LocalDelivery {
    /// Runs until it cannot go on and returns why. Cancel safe: what was not put on the stream was not delivered.
    pub async fn run(self) -> CallError {
        match self.deliver().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn deliver(&self) -> Result<Infallible, CallError> {
        // Watched before anything is read, so that no growth falls between.
        let mut moves = self.group.tails().watch(self.name.id());
        let mut progress = self.begin().await?;
        let mut idle = pin!(sleep(IDLE_CHECK));
        loop {
            let bytes_max = self.bytes_max().await;
            // A place on the stream comes first: so memory is bounded by the queue, and conversations that have
            // something to deliver take turns, because places are given in the order they were asked for.
            let place = self.out.reserve().await.map_err(|_| CallError::shutting_down())?;
            let live = progress.live_from().and_then(|next| {
                moves.messages_from(next, limits::RESPONSE_MESSAGES_MAX, bytes_max)
            });
            let response = match live {
                Some(messages) => self.take_live(&mut progress, &messages)?,
                None => self.take_stored(&mut progress, bytes_max).await?,
            };
            match response {
                Some((response, bytes)) => {
                    place.send(response, bytes);
                    // Who has everything takes no turn only to find that there is no more.
                    if !has_all(progress, &mut moves) {
                        continue;
                    }
                }
                None => drop(place),
            }
            tokio::select! {
                () = moves.changed() => {}
                error = self.replica_lost(idle.as_mut()) => return Err(error),
            }
        }
    }

    /// Where to begin, read behind a barrier: whatever was acknowledged before the call counts as history.
    async fn begin(&self) -> Result<Progress, CallError> {
        let deadline = Instant::now() + self.call.timeout;
        let point = open(&self.api, &self.group, &self.name, Level::Linearizable, deadline).await?;
        let start = resolve(&self.group, &point, self.start).await?;
        Ok(Progress::begin(start, point.bounds()))
    }

    async fn bytes_max(&self) -> u64 {
        let target = limits::RESPONSE_BYTES_TARGET as u64;
        match &self.credit {
            Some(credit) => credit.available().await.min(target),
            None => target,
        }
    }

    /// Messages that are in memory as a response; none if there are none.
    fn take_live(
        &self,
        progress: &mut Progress,
        live: &[Arc<LiveMessage>],
    ) -> Result<Option<Response>, CallError> {
        let Some(last) = live.last() else { return Ok(None) };
        let encode = |seq, stored: &[u8]| encoded(self.name.id(), seq, stored);
        let mut messages = Vec::with_capacity(live.len());
        let mut bytes = 0;
        for message in live {
            let sent = message.sent(encode)?;
            messages.push(sent.wire.clone());
            bytes += sent.content_bytes;
        }
        let response = EncodedMessages { conversation: self.name.0.clone(), messages };
        let (count, memory) = (response.messages.len(), response.memory_bytes());
        let response = self.response(Outgoing::Encoded(response), count, bytes, memory)?;
        progress.delivered(last.seq());
        Ok(Some(response))
    }

    /// What the stored state says is next; none if that has yet to come.
    async fn take_stored(
        &self,
        progress: &mut Progress,
        bytes_max: u64,
    ) -> Result<Option<Response>, CallError> {
        let (after, step, records) = self.read(*progress, bytes_max).await?;
        *progress = after;
        let conversation = self.name.0.clone();
        Ok(match step {
            Step::Gap { from, to } => Some(plain(gap(conversation, from, to))),
            Step::CaughtUp { next } => Some(plain(caught_up(conversation, next))),
            Step::Deliver { .. } => Some(self.messages(conversation, records)?),
            Step::Wait => None,
        })
    }

    /// Takes the next step, with the messages that it delivers.
    async fn read(
        &self,
        mut progress: Progress,
        bytes_max: u64,
    ) -> Result<(Progress, Step, Vec<MessageRecord>), CallError> {
        let (view, name) = (self.group.pin(), self.name.clone());
        let (group, replica) = (self.group.id(), self.group.replica());
        let read = move || -> Result<_, CallError> {
            reads::group_row(view.as_ref(), group, replica)?;
            let head = reads::head(view.as_ref(), &name)?;
            let bounds = head.as_ref().map_or((Seq::FIRST, Seq::FIRST), |h| (h.first_seq, h.tail));
            let step = progress.step(bounds);
            let (Step::Deliver { from, to }, Some(head)) = (step, head) else {
                return Ok((progress, step, Vec::new()));
            };
            let slice = Slice {
                from,
                to,
                direction: Direction::Forward,
                messages_max: limits::RESPONSE_MESSAGES_MAX,
                bytes_max,
            };
            let records = reads::messages(view.as_ref(), &head, slice)?;
            match (records.first(), records.last()) {
                (Some(first), Some(last)) if first.seq == from => progress.delivered(last.seq),
                _ => {
                    let place = format!("messages of {name}");
                    let reason = format!("seq {from} is missing");
                    return Err(StorageError::Damaged { place, reason }.into());
                }
            }
            Ok((progress, step, records))
        };
        self.group.offload(read).await
    }

    fn messages(
        &self,
        conversation: String,
        records: Vec<MessageRecord>,
    ) -> Result<Response, CallError> {
        let bytes = records.iter().map(|record| record.content_bytes() as u64).sum();
        let messages: Vec<_> = records.into_iter().map(convert::message).collect();
        let (count, memory) = (messages.len(), memory::messages_bytes(&messages));
        let messages = proto::delivery::Messages { conversation, messages };
        let response = super::delivered(proto::delivery::Kind::Messages(messages));
        self.response(response, count, bytes, memory)
    }

    /// A response with so many messages, of so many bytes for which the caller gave credit, and in memory.
    fn response(
        &self,
        response: Subscribed,
        messages: usize,
        content_bytes: u64,
        memory_bytes: usize,
    ) -> Result<Response, CallError> {
        let left = self.api.replicas.admission().responses();
        let room = responses::room_for(left, memory_bytes)?;
        if let Some(credit) = &self.credit {
            credit.spend(content_bytes);
        }
        self.api.observer.delivered(messages, content_bytes);
        Ok((Waiting::new(response, room), self.name.0.len() + memory_bytes))
    }

    /// Ends once the replica cannot serve the conversation any more, with the reason. Not at the first sign: nobody is
    /// confirmed while a leader is being elected. `idle` is the timer for this, which is put off and not made anew each
    /// time that something happens.
    async fn replica_lost(&self, mut idle: Pin<&mut Sleep>) -> CallError {
        let mut is_doubted = false;
        loop {
            let pause = if is_doubted { DOUBT } else { IDLE_CHECK };
            idle.as_mut().reset(Instant::now() + pause);
            idle.as_mut().await;
            match self.check_replica().await {
                Ok(()) => is_doubted = false,
                Err(_) if !is_doubted => is_doubted = true,
                Err(error) => return error,
            }
        }
    }

    async fn check_replica(&self) -> Result<(), CallError> {
        let route = self.api.route(&self.name)?;
        if !route.local.is_some_and(|local| Arc::ptr_eq(&local, &self.group)) {
            return Err(CallError::replica_gone());
        }
        let deadline = Instant::now() + IDLE_CHECK;
        confirm(&self.api, &self.group, Level::MaxStaleness(IDLE_CHECK), deadline).await.map(|_| ())
    }
}

/// A response without messages.
fn plain(response: Subscribed) -> Response {
    let bytes = bytes_of(&response);
    (Ok(response).into(), bytes)
}

/// Whether all there is was delivered, as far as that can be told from memory. What comes after is announced.
fn has_all(progress: Progress, moves: &mut TailWatch) -> bool {
    let next = progress.live_from();
    let more = next.and_then(|next| moves.messages_from(next, 1, 0));
    more.is_some_and(|more| more.is_empty())
}

/// A message in the form in which it is sent. Verified like any that is read (G11).
fn encoded(conversation: ConversationId, seq: Seq, stored: &[u8]) -> Result<Sent, StorageError> {
    let record = reads::message(conversation, seq, stored)?;
    let content_bytes = record.content_bytes() as u64;
    Ok(Sent { wire: convert::message(record).encode_to_vec().into(), content_bytes })
}
