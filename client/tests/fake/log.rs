use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use quorate_client::proto;
use tokio::sync::watch;

/// What all nodes of the fake cluster have committed.
pub struct Log {
    state: Mutex<State>,
    commits: watch::Sender<u64>,
}

#[derive(Default)]
pub struct State {
    pub conversations: HashMap<String, Vec<proto::Message>>,
    outcomes: HashMap<(String, String, String), proto::AppendResponse>,
}

impl Default for Log {
    fn default() -> Self {
        Log { state: Mutex::default(), commits: watch::Sender::new(0) }
    }
}

impl Log {
    /// Appends once for each id, as the real one does.
    pub fn append(&self, request: &proto::AppendRequest) -> proto::AppendResponse {
        let mut state = self.lock();
        let id = &request.messages[0].client_msg_id;
        let key = (request.conversation.clone(), request.sender.clone(), id.clone());
        if let Some(first) = state.outcomes.get(&key) {
            return proto::AppendResponse { duplicate: true, ..first.clone() };
        }
        let messages = state.conversations.entry(request.conversation.clone()).or_default();
        let first_seq = messages.len() as u64 + 1;
        for new in &request.messages {
            messages.push(proto::Message {
                seq: messages.len() as u64 + 1,
                sender: request.sender.clone(),
                client_msg_id: new.client_msg_id.clone(),
                issued_at_us: new.issued_at_us,
                payload_crc32c: crc32c::crc32c(&new.payload),
                payload: new.payload.clone(),
                ..proto::Message::default()
            });
        }
        let last_seq = messages.len() as u64;
        let response = proto::AppendResponse { first_seq, last_seq, ..Default::default() };
        state.outcomes.insert(key, response.clone());
        drop(state);
        self.commits.send_modify(|count| *count += 1);
        response
    }

    /// Appends messages `first..=last` with their number as payload.
    pub fn fill(&self, conversation: &str, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            self.append(&proto::AppendRequest {
                conversation: conversation.to_owned(),
                messages: vec![proto::NewMessage {
                    client_msg_id: number.to_string(),
                    payload: number.to_string().into(),
                    ..Default::default()
                }],
                ..Default::default()
            });
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The payloads of a conversation, in order.
    pub fn payloads(&self, conversation: &str) -> Vec<String> {
        let state = self.lock();
        let messages = state.conversations.get(conversation).map_or(&[][..], Vec::as_slice);
        messages.iter().map(|m| String::from_utf8(m.payload.to_vec()).unwrap()).collect()
    }

    /// Messages from `seq` on.
    pub fn from(&self, conversation: &str, seq: u64) -> Vec<proto::Message> {
        let state = self.lock();
        let messages = state.conversations.get(conversation).map_or(&[][..], Vec::as_slice);
        messages.iter().filter(|m| m.seq >= seq).cloned().collect()
    }

    pub fn commits(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }
}
