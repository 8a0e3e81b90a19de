//! One conversation of a subscription, delivered from this node's replica.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use quorate_client::proto::{self, SubscribeResponse};
use tokio::time::{Instant, sleep};

use super::credit::Credit;
use super::progress::{Progress, Step};
use super::{Out, caught_up, gap};
use crate::consensus::Group;
use crate::service::consistency::{Level, confirm, open};
use crate::service::errors::CallError;
use crate::service::read::{StartAt, resolve};
use crate::service::reads::{self, Slice};
use crate::service::responses::{self, Waiting};
use crate::service::{Api, Call, convert, memory};
use crate::storage::records::MessageRecord;
use crate::storage::{Direction, StorageError};
use crate::types::{ConversationName, Seq, limits};

/// How often a conversation in which nothing happens looks whether its replica still serves it: one that was removed,
/// stopped or cut off from the others announces nothing any more. A confirmation that is younger than this will do, so
/// that all conversations of a group on a node cost it one round in this time.
const IDLE_CHECK: Duration = Duration::from_secs(10);
/// How soon it looks once more at a replica that was not confirmed. An election is over by then.
const DOUBT: Duration = Duration::from_secs(3);

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
        loop {
            let bytes_max = self.bytes_max().await;
            // A place on the stream comes first: so memory is bounded by the queue, and conversations that have
            // something to deliver take turns, because places are given in the order they were asked for.
            let place = self.out.reserve().await.map_err(|_| CallError::shutting_down())?;
            let (after, step, records) = self.read(progress, bytes_max).await?;
            progress = after;
            let conversation = self.name.0.clone();
            match step {
                Step::Gap { from, to } => place.send(Ok(gap(conversation, from, to)).into()),
                Step::CaughtUp { next } => place.send(Ok(caught_up(conversation, next)).into()),
                Step::Deliver { .. } => place.send(self.messages(conversation, records)?),
                Step::Wait => {
                    drop(place);
                    tokio::select! {
                        () = moves.changed() => {}
                        error = self.replica_lost() => return Err(error),
                    }
                }
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

    /// Takes the next step, with the messages that it delivers.
    async fn read(
        &self,
        mut progress: Progress,
        bytes_max: u64,
    ) -> Result<(Progress, Step, Vec<MessageRecord>), CallError> {
        let (view, name, group) = (self.group.pin(), self.name.clone(), self.group.id());
        let read = move || -> Result<_, CallError> {
            reads::group_row(view.as_ref(), group)?;
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
    ) -> Result<Waiting<SubscribeResponse>, CallError> {
        let bytes = records.iter().map(|record| record.content_bytes() as u64).sum();
        let messages: Vec<_> = records.into_iter().map(convert::message).collect();
        let left = self.api.replicas.admission().responses();
        let room = responses::room_for(left, memory::messages_bytes(&messages))?;
        if let Some(credit) = &self.credit {
            credit.spend(bytes);
        }
        self.api.observer.delivered(messages.len(), bytes);
        let messages = proto::delivery::Messages { conversation, messages };
        Ok(Waiting::new(super::delivered(proto::delivery::Kind::Messages(messages)), room))
    }

    /// Ends once the replica cannot serve the conversation any more, with the reason. Not at the first sign: nobody is
    /// confirmed while a leader is being elected.
    async fn replica_lost(&self) -> CallError {
        let mut is_doubted = false;
        loop {
            sleep(if is_doubted { DOUBT } else { IDLE_CHECK }).await;
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
