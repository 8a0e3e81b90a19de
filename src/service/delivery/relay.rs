//! The conversations of a subscription that another node delivers, over one Subscribe stream to that node.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message as _;
use quorate_client::proto::delivery::Messages;
use quorate_client::proto::subscribe_request::{Change, Credit};
use quorate_client::proto::subscribe_response::{Ended, Kind};
use quorate_client::proto::{self, SubscribeRequest, SubscribeResponse};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Streaming};

use super::places::Out;
use super::{Conversations, HEARTBEAT_DEFAULT, Outgoing, announce_end};
use crate::consensus::Room;
use crate::service::errors::{CallError, Effect};
use crate::service::responses::{Decoded, Taken, Waiting};
use crate::service::{Api, PeerLog, convert, memory};
use crate::types::{ConversationName, NodeId, limits};

/// A node that says nothing for this long, not even that it is alive, is given up.
const SILENCE_MAX: Duration = HEARTBEAT_DEFAULT.saturating_mul(3);

const STALL_MAX: Duration = Duration::from_millis(limits::HANDED_ON_STALL_MS_MAX);
const _: () = assert!(STALL_MAX.as_millis() < SILENCE_MAX.as_millis(), "others are given up too");

/// A stream to another node, as the subscription knows it.
#[derive(Clone)]
pub struct Upstream {
    /// Which stream of the subscription this is.
    pub stream: u64,
    requests: mpsc::Sender<SubscribeRequest>,
    ended: CancellationToken,
}

impl Upstream {
    /// A stream that has not ended.
    pub fn new(stream: u64, requests: mpsc::Sender<SubscribeRequest>) -> Self {
        Upstream { stream, requests, ended: CancellationToken::new() }
    }

    /// Tells the other node. If the stream has ended, so have its conversations, and the relay says so.
    pub async fn tell(&self, change: Change) {
        let request = SubscribeRequest { change: Some(change) };
        // A node that has gone silent may neither take a request nor let it go.
        let is_told = tokio::select! {
            sent = self.requests.send(request) => sent.is_ok(),
            () = self.ended.cancelled() => false,
        };
        if !is_told {
            tracing::debug!("a relay ended before a change of the subscription reached it");
        }
    }

    /// Lets nobody wait for it any more.
    pub fn end(&self) {
        self.ended.cancel();
    }
}

/// Passes on what another node delivers.
pub struct Relay {
    pub api: Api,
    pub node: NodeId,
    /// Which stream of the subscription this is.
    pub stream: u64,
    pub client: PeerLog,
    /// To the other node. Its other sender is the subscription's.
    pub requests: mpsc::Sender<SubscribeRequest>,
    pub conversations: Conversations,
    pub out: Out,
    pub taken: Taken,
    /// Whether credit is given back as messages are passed on: for Follow, whose caller gives none.
    pub gives_credit: bool,
    /// For what of it takes no other room.
    pub _room: Room,
}

impl Relay {
    /// Runs until the stream ends; its conversations then leave the subscription. Never waits for the
    /// subscription's own task, which may be waiting for this one's requests to be taken.
    pub async fn run(mut self, request: Request<ReceiverStream<SubscribeRequest>>) {
        let error = match timeout(SILENCE_MAX, self.client.subscribe(request)).await {
            Ok(Ok(responses)) => self.pass_on(responses.into_inner()).await,
            Ok(Err(status)) => CallError::from_peer(self.node, &status, Effect::None),
            Err(_) => self.gone_silent(),
        };
        self.api.elsewhere.learn_of(self.node, &Err::<(), _>(error.clone()));
        let conversations = self.conversations.end_upstream(self.stream);
        // Nobody has the way to the other node any more, which learns by that.
        drop(self.requests);
        for conversation in conversations {
            let leaves = |name: &str| self.conversations.take_if_relayed(name, self.stream);
            announce_end(&self.out, conversation, error.clone(), leaves).await;
        }
    }

    async fn pass_on(&self, mut responses: Streaming<SubscribeResponse>) -> CallError {
        let mut owed: HashMap<String, u64> = HashMap::new();
        let mut decoded = Decoded::new(self.api.replicas.admission().responses());
        loop {
            let response = tokio::select! {
                Ok(place) = self.requests.reserve(), if !owed.is_empty() => {
                    if let Some(conversation) = owed.keys().next().cloned() {
                        let credit_bytes = owed.remove(&conversation).unwrap_or_default();
                        place.send(credit(conversation, credit_bytes));
                    }
                    continue;
                }
                response = timeout(SILENCE_MAX, responses.message()) => response,
            };
            let response = match response {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => return CallError::replica_gone(),
                Ok(Err(status)) => return CallError::from_peer(self.node, &status, Effect::None),
                Err(_) => return self.gone_silent(),
            };
            if is_heartbeat(&response) {
                continue;
            }
            let bytes = delivered(&response).map_or(0, |d| memory::messages_bytes(&d.messages));
            let room = match decoded.room_for(bytes) {
                Ok(room) => room,
                Err(error) => return error,
            };
            let place = tokio::select! {
                biased;
                place = self.out.reserve() => match place {
                    Ok(place) => place,
                    Err(_) => return CallError::shutting_down(),
                },
                // What waits for a caller who takes nothing leaves less room for what others are sent by that node.
                () = self.taken.stalled(STALL_MAX) => return CallError::not_taken(),
            };
            if !self.is_wanted(&response) {
                continue;
            }
            if self.gives_credit
                && let Some(Messages { conversation, messages }) = delivered(&response)
            {
                let bytes: u64 = messages.iter().map(convert::content_bytes).sum();
                *owed.entry(conversation.clone()).or_default() += bytes;
            }
            let kept = delivered(&response).map_or_else(
                || response.encoded_len(),
                |messages| messages.conversation.len() + bytes,
            );
            place.send(Waiting::new(Outgoing::Plain(response), room), kept);
        }
    }

    fn gone_silent(&self) -> CallError {
        let message = format!("node {} has gone silent", self.node);
        CallError::unreachable(self.node, message, Effect::None)
    }

    /// An end is passed on once, by whoever takes the conversation out.
    fn is_wanted(&self, response: &SubscribeResponse) -> bool {
        match &response.kind {
            Some(Kind::Ended(end)) => {
                self.learn_from(end);
                self.conversations.take_if_relayed(&end.conversation, self.stream)
            }
            _ => true,
        }
    }

    /// Whoever adds the conversation again asks another node, if this one's replica does not serve.
    fn learn_from(&self, end: &Ended) {
        let route = self.api.route(&ConversationName(end.conversation.clone()));
        if let (Some(failed), Ok(route)) = (&end.failed, route) {
            let failed = Err::<(), _>(CallError::from(failed.clone()));
            self.api.elsewhere.learn_of_replica(route.group, self.node, &failed);
        }
    }
}

/// Heartbeats are each node's own. What says nothing, or nothing that is known here, is taken for one.
fn is_heartbeat(response: &SubscribeResponse) -> bool {
    match &response.kind {
        Some(Kind::Ended(_)) => false,
        Some(Kind::Delivery(delivery)) => {
            matches!(delivery.kind, None | Some(proto::delivery::Kind::Heartbeat(_)))
        }
        None => true,
    }
}

fn credit(conversation: String, credit_bytes: u64) -> SubscribeRequest {
    SubscribeRequest { change: Some(Change::Credit(Credit { conversation, credit_bytes })) }
}

fn delivered(response: &SubscribeResponse) -> Option<&Messages> {
    let Some(Kind::Delivery(delivery)) = &response.kind else { return None };
    let Some(proto::delivery::Kind::Messages(messages)) = &delivery.kind else { return None };
    Some(messages)
}
