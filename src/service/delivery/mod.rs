//! What Follow and Subscribe share: many conversations on one stream, each from its start on, in order, once (G6).
//!
//! Each conversation is a small task that reads the local replica (`local`), or one of those that another node
//! delivers (`relay`). All put what they have on one short queue, which bounds memory and makes them take turns.

mod conversations;
mod credit;
mod local;
pub mod outgoing;
mod places;
mod progress;
mod relay;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use prost::Message as _;
use quorate_client::proto::delivery::{CaughtUp, Gap, Heartbeat, Kind};
use quorate_client::proto::subscribe_request::{Add, Change, Credit as Grant, Remove};
use quorate_client::proto::subscribe_response::{Ended, Kind as Response};
use quorate_client::proto::{Delivery, Start, SubscribeResponse};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Instrument;

use self::conversations::{Conversations, Task};
use self::credit::Credit;
use self::local::LocalDelivery;
pub use self::outgoing::{Followed, Outgoing, Subscribed};
use self::places::{Out, Responses};
use self::relay::{Relay, Upstream};
use super::authorize::Resource;
use super::call::Call;
use super::errors::CallError;
use super::observer::OpenStream;
use super::read::{StartAt, elsewhere, validate_start};
use super::responses::{self, Taken, Waiting};
use super::{Api, forward, validate};
use crate::consensus::Route;
use crate::service::consistency::Level;
use crate::types::{ConversationName, NodeId, Seq, limits};

/// A heartbeat when nothing else was sent for this long, unless the caller asks for another interval.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(10);

/// Who limits what may be sent of each conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pacing {
    /// The stream's own flow control, for all conversations together.
    Stream,
    /// The caller, by credits.
    Credits,
}

/// The conversations of one stream. Dropping it ends them all.
pub struct Subscription {
    api: Api,
    call: Call,
    pacing: Pacing,
    conversations: Conversations,
    /// Those that announce the ends of their conversations among them.
    relays: JoinSet<()>,
    relays_opened: u64,
    out: Out,
    taken: Taken,
    _open: OpenStream,
}

impl Subscription {
    /// A subscription without conversations, and what it yields.
    ///
    /// # Errors
    /// OVERLOADED if there are too many.
    pub fn new(
        api: &Api,
        call: &Call,
        pacing: Pacing,
        heartbeat: Duration,
    ) -> Result<(Self, impl Stream<Item = Result<Subscribed, Status>> + Send + use<>), CallError>
    {
        let room = api.replicas.admission().subscriptions().take(limits::SUBSCRIPTION_BYTES);
        let room = room.ok_or_else(too_many)?;
        let (out, responses) = places::queue(room);
        let taken = Taken::new();
        let subscription = Subscription {
            api: api.clone(),
            call: call.clone(),
            pacing,
            conversations: Conversations::new(api.replicas.admission().followed()),
            relays: JoinSet::new(),
            relays_opened: 0,
            out,
            taken: taken.clone(),
            _open: OpenStream::new(api.observer.clone(), call.operation),
        };
        let responses = with_heartbeats(responses, taken, heartbeat, api.replicas.node());
        Ok((subscription, responses))
    }

    /// Where responses go: closed once the caller is gone.
    pub fn out(&self) -> &Out {
        &self.out
    }

    /// Takes room for so many conversations in all, before they are added.
    ///
    /// # Errors
    /// OVERLOADED.
    pub fn make_room(&self, conversations: usize) -> Result<(), CallError> {
        self.conversations.make_room(conversations)
    }

    /// Starts a conversation. If that is not possible the conversation ends at once, and says why.
    ///
    /// # Errors
    /// If the subscription has the conversation already: an end could not be told from that of the first. OVERLOADED if
    /// there is no room to say why it ended: a name may be as long as a request.
    pub async fn add(
        &mut self,
        conversation: String,
        start: Option<Start>,
        credit_bytes: u64,
    ) -> Result<(), CallError> {
        if self.conversations.contains(&conversation) {
            return Err(CallError::already_subscribed(&conversation));
        }
        if let Err(error) = self.begin(&conversation, start, credit_bytes).await {
            self.end(conversation, Some(error)).await?;
        }
        Ok(())
    }

    /// Ends a conversation. Nothing of it is delivered after its end. One that has left already is left alone: its
    /// end is on the way.
    ///
    /// # Errors
    /// OVERLOADED.
    pub async fn remove(&mut self, conversation: String) -> Result<(), CallError> {
        if let Some(upstream) = self.conversations.relayed_by(&conversation) {
            // Its end comes from the node that delivers it, behind what is on the way.
            let removed = Change::Remove(Remove { conversation });
            upstream.tell(removed).await;
        } else if let Some(task) = self.conversations.take_local(&conversation) {
            task.stop().await;
            self.end(conversation, None).await?;
        }
        Ok(())
    }

    /// Lets more of a conversation be sent.
    pub async fn grant(&mut self, conversation: String, credit_bytes: u64) {
        if let Some(upstream) = self.conversations.relayed_by(&conversation) {
            let granted = Change::Credit(Grant { conversation, credit_bytes });
            upstream.tell(granted).await;
        } else if let Some(credit) = self.conversations.credit(&conversation) {
            credit.grant(credit_bytes);
        }
    }

    async fn begin(
        &mut self,
        conversation: &str,
        start: Option<Start>,
        credit_bytes: u64,
    ) -> Result<(), CallError> {
        let resource = Resource::Conversation(conversation);
        self.call.authorize(self.api.authorizer.as_ref(), resource)?;
        let name = validate::conversation(conversation)?;
        let start_at = validate_start(start.as_ref())?;
        let (held, limit) = (self.conversations.len(), limits::SUBSCRIPTION_CONVERSATIONS_MAX);
        validate::at_most("conversations", held + 1, limit)?;
        let limit = limits::SUBSCRIPTION_CREDIT_BYTES_MAX as usize;
        validate::at_most("credit_bytes", credit_bytes as usize, limit)?;
        let credit_bytes = match credit_bytes {
            0 => limits::SUBSCRIPTION_CREDIT_BYTES_DEFAULT,
            asked => asked,
        };
        let route = self.api.route(&name)?;
        match route.local.is_some() {
            true => self.begin_here(name, route, start_at, credit_bytes),
            false => self.begin_there(name, &route, start, credit_bytes).await,
        }
    }

    fn begin_here(
        &mut self,
        name: ConversationName,
        route: Route,
        start: StartAt,
        credit_bytes: u64,
    ) -> Result<(), CallError> {
        let group = route.local.ok_or_else(CallError::replica_gone)?;
        let credit = match self.pacing {
            Pacing::Credits => Some(Arc::new(Credit::new(credit_bytes))),
            Pacing::Stream => None,
        };
        let delivery = LocalDelivery {
            api: self.api.clone(),
            call: self.call.clone(),
            group,
            name: name.clone(),
            start,
            credit: credit.clone(),
            out: self.out.clone(),
        };
        let (conversations, out) = (self.conversations.clone(), self.out.clone());
        let conversation = name.0.clone();
        let span = self.call.span();
        // The entry is made before the task can end, which takes it out again.
        self.conversations.insert_local(name.0, credit, || {
            let run = async move {
                let error = delivery.run().await;
                announce_end(&out, conversation, error, |name| conversations.leave(name)).await;
            };
            Task::spawn(run.instrument(span))
        })
    }

    async fn begin_there(
        &mut self,
        name: ConversationName,
        route: &Route,
        start: Option<Start>,
        credit_bytes: u64,
    ) -> Result<(), CallError> {
        // Not LOCAL: like any read, a subscription may be served by another node.
        let node = elsewhere(&self.api, route, Level::Linearizable)?;
        let (conversations, conversation) = (self.conversations.clone(), name.0.clone());
        let open = || self.open_relay(node);
        let upstream = conversations.insert_relayed(conversation, node, open)?;
        let added = Add { conversation: name.0, start, credit_bytes };
        upstream.tell(Change::Add(added)).await;
        Ok(())
    }

    /// Opens a stream to a node.
    ///
    /// # Errors
    /// OVERLOADED, or there can be none.
    fn open_relay(&mut self, node: NodeId) -> Result<Upstream, CallError> {
        let client = forward::client(&self.api, &self.call, node, CallError::replica_gone())?;
        let room = self.api.replicas.admission().subscriptions().take(limits::RELAY_BYTES);
        let room = room.ok_or_else(too_many)?;
        let (requests, receiver) = mpsc::channel(limits::RESPONSE_QUEUE_MAX);
        self.relays_opened += 1;
        let stream = self.relays_opened;
        let relay = Relay {
            api: self.api.clone(),
            node,
            stream,
            client,
            requests: requests.clone(),
            conversations: self.conversations.clone(),
            out: self.out.clone(),
            taken: self.taken.clone(),
            gives_credit: self.pacing == Pacing::Stream,
            _room: room,
        };
        let request = forward::request(&self.api, &self.call, None, ReceiverStream::new(receiver));
        // Those that have ended are forgotten.
        while self.relays.try_join_next().is_some() {}
        self.relays.spawn(relay.run(request).instrument(self.call.span()));
        Ok(Upstream::new(stream, requests))
    }

    async fn end(&self, conversation: String, error: Option<CallError>) -> Result<(), CallError> {
        let response = ended(conversation, error);
        let bytes = bytes_of(&response);
        let room = responses::room_for(self.api.replicas.admission().responses(), bytes)?;
        // If the caller is gone nobody needs to know.
        self.out.send(Waiting::new(response, room), bytes).await;
        Ok(())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.conversations.clear();
    }
}

/// Takes a conversation out and announces its end, both once there is room for that: until then it is one of those
/// that the subscription has, which bounds how many wait, and is not added again.
async fn announce_end(
    out: &Out,
    conversation: String,
    error: CallError,
    leaves: impl FnOnce(&str) -> bool,
) {
    // If the caller is gone nobody needs to know.
    let Ok(place) = out.reserve().await else { return };
    if leaves(&conversation) {
        let response = ended(conversation, Some(error));
        let bytes = bytes_of(&response);
        place.send(Ok(response).into(), bytes);
    }
}

/// Responses as they come, and a heartbeat whenever nothing came for `every`.
fn with_heartbeats(
    responses: Responses,
    taken: Taken,
    every: Duration,
    node: NodeId,
) -> impl Stream<Item = Result<Subscribed, Status>> + Send {
    // One timer, which costs next to nothing to put off: a stream may have very many responses.
    let quiet = Box::pin(sleep(every));
    // Until it has ended with an error: in good order it never does.
    stream::unfold(Some((responses, taken, quiet)), move |open| async move {
        let (mut responses, taken, mut quiet) = open?;
        let response = tokio::select! {
            biased;
            response = responses.next() => {
                response.map_or_else(|| Err(CallError::cut_short().into()), Waiting::into_response)
            }
            () = quiet.as_mut() => {
                let heartbeat = Kind::Heartbeat(Heartbeat { node_id: node.0.into() });
                Ok(delivered(heartbeat))
            }
        };
        taken.note();
        quiet.as_mut().reset(Instant::now() + every);
        let open = response.is_ok().then_some((responses, taken, quiet));
        Some((response, open))
    })
}

/// There is no room for one more follow or subscription, or for its stream to another node.
fn too_many() -> CallError {
    let message = "follows and subscriptions take all the memory of this node that they may";
    CallError::overloaded(message, limits::SUBSCRIPTIONS_BYTES_MAX)
}

fn delivered(kind: Kind) -> Subscribed {
    let delivery = Response::Delivery(Delivery { kind: Some(kind) });
    Outgoing::Plain(SubscribeResponse { kind: Some(delivery) })
}

fn gap(conversation: String, from: Seq, to: Seq) -> Subscribed {
    delivered(Kind::Gap(Gap { conversation, from_seq: from.0, to_seq: to.0 }))
}

fn caught_up(conversation: String, next: Seq) -> Subscribed {
    delivered(Kind::CaughtUp(CaughtUp { conversation, next_seq: next.0 }))
}

/// About what a response without encoded messages takes of memory: its texts are most of it.
fn bytes_of(response: &Subscribed) -> usize {
    match response {
        Outgoing::Plain(response) => response.encoded_len(),
        Outgoing::Encoded(_) => 0,
    }
}

fn ended(conversation: String, error: Option<CallError>) -> Subscribed {
    let failed = error.map(Into::into);
    let ended = Response::Ended(Ended { conversation, failed });
    Outgoing::Plain(SubscribeResponse { kind: Some(ended) })
}
