//! What a group does, said as plainly as possible: vectors, loops, no keys, no bytes, no hashes.

use crate::log::{Append, AppendRefusal, Appended, IdKey, NewMessage, OutcomeState, Settle};
use crate::storage::records::Kind;
use crate::types::{AttemptId, Seq, Timestamp};

const FIVE_MINUTES_US: u64 = 300_000_000;

#[derive(Default)]
pub struct Model {
    pub floor: Timestamp,
    pub conversations: Vec<ModelConversation>,
    ids: Vec<ModelId>,
}

pub struct ModelConversation {
    pub name: String,
    /// The message at seq n stands at n - 1.
    pub messages: Vec<ModelMessage>,
}

pub struct ModelMessage {
    pub sender: String,
    pub message: NewMessage,
    pub commit_time: Timestamp,
    /// As it was reported when the message was committed.
    pub digest: [u8; 32],
}

struct ModelId {
    conversation: String,
    key: IdKey,
    issued_at: Timestamp,
    /// None if burnt.
    committed: Option<u64>,
    /// The attempt on a session that was accepted last.
    attempt: Option<AttemptId>,
}

impl Model {
    pub fn raise_floor(&mut self, floor: Timestamp) {
        if floor > self.floor {
            self.floor = floor;
        }
    }

    pub fn messages(&self, conversation: &str) -> &[ModelMessage] {
        let found = self.conversations.iter().find(|known| known.name == conversation);
        found.map_or(&[], |conversation| &conversation.messages)
    }

    fn standing(&mut self, conversation: &str, key: &IdKey) -> Option<&mut ModelId> {
        let floor = self.floor;
        self.ids
            .iter_mut()
            .find(|id| id.conversation == conversation && id.key == *key && id.issued_at >= floor)
    }

    /// What became of an id; the answer to a question with a known `issued_at`.
    pub fn outcome(
        &mut self,
        conversation: &str,
        key: &IdKey,
        issued_at: Timestamp,
    ) -> OutcomeState {
        let floor = self.floor;
        let Some(id) = self.standing(conversation, key) else {
            if issued_at < floor {
                return OutcomeState::TooOld { floor };
            }
            return OutcomeState::NotCommitted;
        };
        match id.committed {
            None => OutcomeState::Burnt,
            Some(seq) => {
                let message = &self.messages(conversation)[seq as usize - 1];
                OutcomeState::Committed { seq: Seq(seq), commit_time: message.commit_time }
            }
        }
    }

    pub fn settle(
        &mut self,
        at: Timestamp,
        request: &Settle,
    ) -> Result<OutcomeState, AppendRefusal> {
        let conversation = request.conversation.0.as_str();
        self.refuse_ahead(at, conversation, &request.id, request.issued_at)?;
        let latest = Timestamp(at.0 + FIVE_MINUTES_US);
        if let Some(id) = self.standing(conversation, &request.id) {
            let until = if id.committed.is_some() { request.issued_at } else { latest };
            id.issued_at = id.issued_at.max(until);
        } else if request.issued_at >= self.floor {
            self.remember(conversation, &request.id, latest, None, None);
        }
        Ok(self.outcome(conversation, &request.id, request.issued_at))
    }

    fn remember(
        &mut self,
        conversation: &str,
        key: &IdKey,
        issued_at: Timestamp,
        committed: Option<u64>,
        attempt: Option<AttemptId>,
    ) {
        self.ids.retain(|id| id.conversation != conversation || id.key != *key);
        let (conversation, key) = (conversation.to_owned(), key.clone());
        self.ids.push(ModelId { conversation, key, issued_at, committed, attempt });
    }

    pub fn append(
        &mut self,
        at: Timestamp,
        request: &Append,
        digests: &[[u8; 32]],
    ) -> Result<Appended, AppendRefusal> {
        self.refuse_unacceptable(at, request)?;
        let conversation = request.conversation.0.clone();
        let predecessor = request.lane.as_ref().and_then(|place| place.predecessor.as_ref());
        let in_turn = predecessor.is_none_or(|before| {
            let id = self.standing(&conversation, &before.last);
            id.is_some_and(|id| id.attempt == Some(before.attempt))
        });
        if let Some(first_outcome) = self.repeated(request, in_turn)? {
            return Ok(first_outcome);
        }
        let tail = self.messages(&conversation).len() as u64 + 1;
        if !in_turn {
            return Err(AppendRefusal::PredecessorMissing);
        }
        if request.expected_tail.is_some_and(|expected| expected.0 != tail) {
            return Err(AppendRefusal::WrongTail { actual: Seq(tail) });
        }
        for message in &request.messages {
            let good = match message.kind {
                Kind::Content | Kind::System => message.target_seq.is_none(),
                Kind::Replacement => {
                    message.target_seq.is_some_and(|target| 0 < target.0 && target.0 < tail)
                }
                Kind::Redaction => false,
            };
            if !good {
                return Err(AppendRefusal::BadTarget { tail: Seq(tail) });
            }
        }
        Ok(self.commit(at, request, digests))
    }

    fn refuse_unacceptable(
        &mut self,
        at: Timestamp,
        request: &Append,
    ) -> Result<(), AppendRefusal> {
        for (place, message) in request.messages.iter().enumerate() {
            let before = &request.messages[..place];
            if before.iter().any(|other| other.client_msg_id == message.client_msg_id) {
                let client_msg_id = message.client_msg_id.clone();
                return Err(AppendRefusal::Repeated { client_msg_id });
            }
        }
        let floor = self.floor;
        if let Some(message) = request.messages.iter().find(|message| message.issued_at < floor) {
            let client_msg_id = message.client_msg_id.clone();
            return Err(AppendRefusal::TooOld { client_msg_id, floor });
        }
        for message in &request.messages {
            let key = key_of(request, message);
            self.refuse_ahead(at, request.conversation.as_str(), &key, message.issued_at)?;
        }
        Ok(())
    }

    /// Ahead of the clock, and not known from a time when the clock was further.
    fn refuse_ahead(
        &mut self,
        at: Timestamp,
        conversation: &str,
        key: &IdKey,
        issued_at: Timestamp,
    ) -> Result<(), AppendRefusal> {
        let latest = Timestamp(at.0 + FIVE_MINUTES_US);
        let known = self.standing(conversation, key).is_some_and(|id| id.issued_at >= issued_at);
        if issued_at > latest && !known {
            let client_msg_id = key.client_msg_id.clone();
            return Err(AppendRefusal::FromTheFuture { client_msg_id, issued_at, latest });
        }
        Ok(())
    }

    fn repeated(
        &mut self,
        request: &Append,
        in_turn: bool,
    ) -> Result<Option<Appended>, AppendRefusal> {
        let conversation = request.conversation.0.as_str();
        let mut seqs = Vec::new();
        let mut conflict = false;
        for message in &request.messages {
            let key = key_of(request, message);
            match self.standing(conversation, &key).map(|id| id.committed) {
                None => conflict = true,
                Some(None) => {
                    return Err(AppendRefusal::Burnt { client_msg_id: key.client_msg_id });
                }
                Some(Some(seq)) => {
                    let stored = &self.messages(conversation)[seq as usize - 1].message;
                    conflict |= stored.payload != message.payload
                        || stored.content_type != message.content_type
                        || stored.kind != message.kind
                        || stored.target_seq != message.target_seq
                        || seqs.last().is_some_and(|last| *last != Seq(seq - 1));
                    seqs.push(Seq(seq));
                }
            }
        }
        let (Some(first), Some(last)) = (seqs.first().copied(), seqs.last().copied()) else {
            return Ok(None);
        };
        if conflict {
            return Err(AppendRefusal::Conflict { seqs });
        }
        for message in &request.messages {
            let id = self.standing(conversation, &key_of(request, message));
            let id = id.expect("all ids of a repeated batch stand");
            id.issued_at = id.issued_at.max(message.issued_at);
            if in_turn && let Some(place) = &request.lane {
                id.attempt = Some(place.attempt);
            }
        }
        let stored = &self.messages(conversation)[last.0 as usize - 1];
        Ok(Some(Appended {
            first_seq: first,
            last_seq: last,
            commit_time: stored.commit_time,
            digest: stored.digest,
            duplicate: true,
        }))
    }

    fn commit(&mut self, at: Timestamp, request: &Append, digests: &[[u8; 32]]) -> Appended {
        let name = request.conversation.0.as_str();
        if !self.conversations.iter().any(|known| known.name == name) {
            let conversation = ModelConversation { name: name.to_owned(), messages: Vec::new() };
            self.conversations.push(conversation);
        }
        let position = self.conversations.iter().position(|known| known.name == name);
        let position = position.expect("it was added if it was not there");
        let first = self.conversations[position].messages.len() as u64 + 1;
        for (place, message) in request.messages.iter().enumerate() {
            let messages = &mut self.conversations[position].messages;
            let before = messages.last().map_or(Timestamp(0), |message| message.commit_time);
            messages.push(ModelMessage {
                sender: request.sender.clone(),
                message: message.clone(),
                commit_time: before.max(at),
                digest: digests.get(place).copied().unwrap_or_default(),
            });
            let seq = messages.len() as u64;
            let attempt = request.lane.as_ref().map(|place| place.attempt);
            let key = key_of(request, message);
            self.remember(name, &key, message.issued_at, Some(seq), attempt);
        }
        let last = self.conversations[position].messages.last().expect("one was appended");
        Appended {
            first_seq: Seq(first),
            last_seq: Seq(first + request.messages.len() as u64 - 1),
            commit_time: last.commit_time,
            digest: last.digest,
            duplicate: false,
        }
    }
}

fn key_of(request: &Append, message: &NewMessage) -> IdKey {
    IdKey { sender: request.sender.clone(), client_msg_id: message.client_msg_id.clone() }
}
