//! Wakes those who wait for a conversation to grow.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::watch;

use crate::types::{ConversationId, Seq};

const SHARDS: usize = 64;

type Shard = Mutex<HashMap<ConversationId, Weak<watch::Sender<Seq>>>>;

/// Tails of the conversations that somebody follows on this replica. Costs nothing for all others.
#[derive(Clone)]
pub struct Tails {
    shards: Arc<[Shard]>,
}

/// One conversation's tail as it moves.
pub struct TailWatch {
    tails: Tails,
    conversation: ConversationId,
    sender: Option<Arc<watch::Sender<Seq>>>,
    receiver: watch::Receiver<Seq>,
}

impl Default for Tails {
    fn default() -> Self {
        Tails { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }
}

impl Tails {
    /// Watches a conversation. What was applied before the call is not announced: read the head after it.
    pub fn watch(&self, conversation: ConversationId) -> TailWatch {
        let mut shard = self.shard(conversation).lock().expect("no panic while locked");
        let sender = match shard.get(&conversation).and_then(Weak::upgrade) {
            Some(sender) => sender,
            None => {
                let sender = Arc::new(watch::Sender::new(Seq(0)));
                shard.insert(conversation, Arc::downgrade(&sender));
                sender
            }
        };
        let receiver = sender.subscribe();
        TailWatch { tails: self.clone(), conversation, sender: Some(sender), receiver }
    }

    /// Announces that a conversation's tail is now this: after its state can be read.
    pub fn publish(&self, conversation: ConversationId, tail: Seq) {
        let shard = self.shard(conversation).lock().expect("no panic while locked");
        if let Some(sender) = shard.get(&conversation).and_then(Weak::upgrade) {
            sender.send_replace(tail);
        }
    }

    /// Wakes every watcher: the state was replaced by a snapshot.
    pub fn publish_all(&self) {
        for shard in self.shards.iter() {
            for sender in shard.lock().expect("no panic while locked").values() {
                if let Some(sender) = sender.upgrade() {
                    sender.send_modify(|_| ());
                }
            }
        }
    }

    fn shard(&self, conversation: ConversationId) -> &Shard {
        &self.shards[usize::from(conversation.0[15]) % SHARDS]
    }
}

impl TailWatch {
    /// Waits until the conversation may have grown since the call before. Cancel safe.
    pub async fn changed(&mut self) {
        self.receiver.changed().await.expect("the watch holds its sender");
    }
}

impl Drop for TailWatch {
    fn drop(&mut self) {
        let mut shard = self.tails.shard(self.conversation).lock().expect("no panic while locked");
        self.sender = None;
        if shard.get(&self.conversation).is_some_and(|sender| sender.strong_count() == 0) {
            shard.remove(&self.conversation);
        }
    }
}
