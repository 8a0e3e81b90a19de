//! Calls, written down before they are made and after they are answered.

use std::sync::Arc;
use std::time::Duration;

use quorate_client::proto::{AppendRequest, AppendResponse};
use quorate_client::{Append, Client, Error, NewMessage, proto};
use tonic::{Request, Response, Status};

use super::{Floor, Recent};
use crate::history::{
    Answer, AppendCall, Call, Consistency, Event, EventKind, LanePlace, OutcomeCall, Process,
    ReadCall, Refusal, Sent,
};
use crate::{api, clock};

/// Bytes of most payloads.
const PAYLOAD_BYTES: usize = 160;
/// Bytes of every 16th payload: nodes keep those over 4 KiB apart from what they index.
const LARGE_PAYLOAD_BYTES: usize = 8 * 1024;
const LARGE_EVERY: u64 = 16;
/// Of every 512th: a few of these do not fit into one response, nor into what an entry is to take.
const HUGE_PAYLOAD_BYTES: usize = 200 * 1024;
const HUGE_EVERY: u64 = 512;
/// How long an append that is sent once may take: many wait for one another.
const APPEND_ONCE_TIMEOUT: Duration = Duration::from_secs(20);

/// Somebody who calls, one call after another.
pub struct Caller {
    pub(super) floor: Arc<Floor>,
    pub(super) client: Client,
    node: Option<u32>,
    process: Process,
}

/// What a read says besides its messages.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The seq that the next message will get.
    pub tail: u64,
    /// From where to read on.
    pub next: u64,
    /// The node that answered.
    pub node: u32,
    /// The group that holds the conversation.
    pub group: u64,
}

impl Caller {
    pub(super) fn new(floor: Arc<Floor>, client: Client, node: Option<u32>) -> Caller {
        let process = floor.fresh_process();
        Caller { floor, client, node, process }
    }

    /// The node that it asks; none if it goes to leaders.
    pub fn node(&self) -> Option<u32> {
        self.node
    }

    /// The group that holds a conversation, as far as the client knows.
    pub fn group_of(&self, conversation: &str) -> Option<u64> {
        self.client.group_of(conversation)
    }

    /// Another that calls through the same client.
    pub fn sibling(&self) -> Caller {
        Caller::new(self.floor.clone(), self.client.clone(), self.node)
    }

    /// Another whose calls are said to go to this node: to be made without the client.
    pub(super) fn sibling_at(&self, node: u32) -> Caller {
        Caller::new(self.floor.clone(), self.client.clone(), Some(node))
    }

    /// Records something of this process.
    pub fn record(&self, kind: EventKind) {
        let at = self.floor.recorder.now();
        self.floor.recorder.event(Event { at, process: self.process, node: self.node, kind });
    }

    /// Records how a call ended. After one whose outcome is not known it goes on as a new process.
    fn end(&mut self, ended: Result<Answer, Refusal>) {
        match ended {
            Ok(answer) => self.record(EventKind::Ok(answer)),
            Err(refusal) if refusal.may_have_taken_effect => {
                self.record(EventKind::Info(refusal));
                self.process = self.floor.fresh_process();
            }
            Err(refusal) => self.record(EventKind::Fail(refusal)),
        }
    }

    /// New messages of a sender, some of them large.
    pub fn compose(&self, conversation: &str, sender: &str, count: u32) -> Vec<Recent> {
        let one = |_| {
            let id = self.floor.fresh_message();
            let payload_bytes = match id {
                _ if id.is_multiple_of(HUGE_EVERY) => HUGE_PAYLOAD_BYTES,
                _ if id.is_multiple_of(LARGE_EVERY) => LARGE_PAYLOAD_BYTES,
                _ => PAYLOAD_BYTES,
            };
            self.compose_one(conversation, sender, id, payload_bytes)
        };
        (0..count).map(one).collect()
    }

    /// A new message with so much payload, in bytes.
    pub fn compose_sized(&self, conversation: &str, sender: &str, payload_bytes: usize) -> Recent {
        self.compose_one(conversation, sender, self.floor.fresh_message(), payload_bytes)
    }

    fn compose_one(
        &self,
        conversation: &str,
        sender: &str,
        id: u64,
        payload_bytes: usize,
    ) -> Recent {
        Recent {
            conversation: conversation.to_owned(),
            sender: sender.to_owned(),
            client_msg_id: format!("m{id}"),
            issued_at_us: clock::now_us(),
            payload_bytes,
        }
    }

    /// Records that messages are about to be sent, and returns what is to be sent.
    pub fn begin_append(
        &self,
        messages: &[Recent],
        expected_tail: Option<u64>,
        lane: Option<LanePlace>,
    ) -> Append {
        self.invoke_append(messages, expected_tail, lane);
        let first = &messages[0];
        let messages = messages.iter().map(Recent::message);
        let append = Append::batch(&first.conversation, &first.sender, messages);
        match expected_tail {
            Some(tail) => append.expected_tail(tail),
            None => append,
        }
    }

    fn invoke_append(
        &self,
        messages: &[Recent],
        expected_tail: Option<u64>,
        lane: Option<LanePlace>,
    ) {
        let first = &messages[0];
        self.record(EventKind::Invoke(Call::Append(AppendCall {
            conversation: first.conversation.clone(),
            sender: first.sender.clone(),
            messages: messages.iter().map(Recent::sent).collect(),
            expected_tail,
            lane,
        })));
    }

    /// Records how an append ended. The error where it was refused.
    pub fn end_append(
        &mut self,
        conversation: &str,
        ended: Result<AppendResponse, Error>,
    ) -> Result<u64, Error> {
        match ended {
            Ok(response) => {
                self.floor.note_tail(conversation, response.last_seq + 1);
                self.floor.note_acknowledged();
                self.end(Ok(api::appended(&response)));
                Ok(response.last_seq)
            }
            Err(error) => {
                self.end(Err(api::refusal(&error)));
                Err(error)
            }
        }
    }

    /// Appends, and waits for the answer. Seq of the last message.
    ///
    /// # Errors
    ///
    /// What the client says.
    pub async fn append(
        &mut self,
        messages: &[Recent],
        expected_tail: Option<u64>,
    ) -> Result<u64, Error> {
        let append = self.begin_append(messages, expected_tail, None);
        let ended = self.client.append(append).await;
        self.end_append(&messages[0].conversation, ended)
    }

    /// Appends without the client library, which would try again for as long as it may what a node refuses for now.
    ///
    /// # Errors
    ///
    /// What the node says; or that it does not answer, also where this caller has no node.
    pub async fn append_once(
        &mut self,
        message: &Recent,
        expected_tail: Option<u64>,
    ) -> Result<u64, Error> {
        let request = AppendRequest {
            conversation: message.conversation.clone(),
            sender: message.sender.clone(),
            messages: vec![proto::NewMessage {
                client_msg_id: message.client_msg_id.clone(),
                issued_at_us: message.issued_at_us,
                payload: message.payload().into(),
                ..proto::NewMessage::default()
            }],
            expected_tail,
        };
        let mut request = Request::new(request);
        request.set_timeout(APPEND_ONCE_TIMEOUT);
        self.invoke_append(std::slice::from_ref(message), expected_tail, None);
        let no_node = |error: anyhow::Error| Status::unavailable(error.to_string());
        let ended = match self.floor.api(self.node.unwrap_or(1)).map_err(no_node) {
            Ok(mut api) => api.append(request).await,
            Err(status) => Err(status),
        };
        let ended = ended.map(Response::into_inner).map_err(|status| Error::from(&status));
        self.end_append(&message.conversation, ended)
    }

    /// Reads forwards.
    ///
    /// # Errors
    ///
    /// What the client says.
    pub async fn read(&mut self, call: ReadCall) -> Result<Page, Error> {
        let read = api::read(&call);
        let (conversation, from) = (call.conversation.clone(), call.from_seq);
        let is_linearizable = call.consistency == Consistency::Linearizable;
        self.record(EventKind::Invoke(Call::Read(call)));
        match self.client.read(read).await {
            Ok(page) => {
                self.end(Ok(api::page(&page)));
                if is_linearizable {
                    self.floor.note_tail(&conversation, page.tail);
                }
                let next = page.messages.last().map_or(from, |last| last.seq + 1);
                let position = page.position.unwrap_or_default();
                let node = u32::try_from(position.node_id).unwrap_or(0);
                Ok(Page { tail: page.tail, next, node, group: position.group_id })
            }
            Err(error) => {
                self.end(Err(api::refusal(&error)));
                Err(error)
            }
        }
    }

    /// Reads the last messages of one conversation for each of these callers, all in one call. It is written down as
    /// a read of each.
    pub async fn read_ends(callers: &mut [Caller], calls: Vec<ReadCall>) {
        let Some(first) = calls.first() else { return };
        let (last, level) = (api::limit(first), api::level(first.consistency));
        let names: Vec<String> = calls.iter().map(|call| call.conversation.clone()).collect();
        for (caller, call) in callers.iter().zip(calls) {
            caller.record(EventKind::Invoke(Call::Read(call)));
        }
        let client = callers[0].client.clone();
        match client.batch_read(&names, last, level).await {
            Ok(items) => {
                for (caller, (_, item)) in callers.iter_mut().zip(items) {
                    caller.end(
                        item.map(|page| api::page(&page)).map_err(|error| api::refusal(&error)),
                    );
                }
            }
            Err(error) => {
                for caller in callers.iter_mut().take(names.len()) {
                    caller.end(Err(api::refusal(&error)));
                }
            }
        }
    }

    /// Asks what became of a message.
    ///
    /// # Errors
    ///
    /// What the client says.
    pub async fn outcome(&mut self, of: &Recent, settle: bool) -> Result<(), Error> {
        let call = OutcomeCall {
            conversation: of.conversation.clone(),
            sender: of.sender.clone(),
            client_msg_id: of.client_msg_id.clone(),
            issued_at_us: of.issued_at_us,
            settle,
        };
        let request = api::get_outcome(&call);
        self.record(EventKind::Invoke(Call::Outcome(call)));
        match self.client.outcome(request).await {
            Ok(response) => {
                let answer = api::outcome(&response);
                self.end(Ok(answer));
                Ok(())
            }
            Err(error) => {
                self.end(Err(api::refusal(&error)));
                Err(error)
            }
        }
    }
}

impl Recent {
    /// The same id with another content.
    pub(super) fn altered(&self) -> Recent {
        Recent { payload_bytes: self.payload_bytes + self.client_msg_id.len(), ..self.clone() }
    }

    /// The same payload for every attempt, and for no other message.
    fn payload(&self) -> String {
        let id = &self.client_msg_id;
        format!("{id}:{}", id.repeat(self.payload_bytes / id.len()))
    }

    fn sent(&self) -> Sent {
        Sent {
            client_msg_id: self.client_msg_id.clone(),
            issued_at_us: self.issued_at_us,
            hash: api::hash(self.payload().as_bytes()),
        }
    }

    fn message(&self) -> NewMessage {
        let message = NewMessage::text(self.payload());
        message.client_msg_id(&self.client_msg_id).issued_at_us(self.issued_at_us)
    }
}
