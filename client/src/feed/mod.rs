//! What [`Follow`](crate::Follow) and [`Subscription`](crate::Subscription) share: streams of conversations that
//! resume where they broke off.
//!
//! Conversations are gathered by group, so that each stream goes straight to the leader of all it carries. One
//! [task](task::Feed) drives each stream; all of them hand over through one bounded queue.

mod conversation;
mod task;
mod upstream;

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tonic::transport::Channel;

pub(crate) use self::conversation::{CREDIT_BYTES_MAX, CreditMode};
use self::task::Feed;
use crate::client::Shared;
use crate::{Client, Error, Start, proto};

/// Deliveries that wait for the caller. A delivery is one response of a server, which stays near 512 KiB, or one
/// large message.
const DELIVERIES_MAX: usize = 16;
/// Changes that wait for a feed.
const CHANGES_MAX: usize = 64;

/// What happens to followed conversations. Order holds within each conversation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Delivery {
    /// Messages in seq order, contiguous with those before, each payload checked against its checksum.
    Messages {
        /// The conversation.
        conversation: String,
        /// At least one.
        messages: Vec<proto::Message>,
    },
    /// All messages that stood at the start have been delivered. Told once, also across reconnects.
    CaughtUp {
        /// The conversation.
        conversation: String,
        /// The seq of the next message to be delivered.
        next_seq: u64,
    },
    /// Messages `[from_seq, to_seq)` can no longer be read.
    Gap {
        /// The conversation.
        conversation: String,
        /// The first seq that is gone.
        from_seq: u64,
        /// The first seq that is there again.
        to_seq: u64,
    },
    /// The conversation has left the subscription; the others go on. Nothing of it follows.
    Ended {
        /// The conversation.
        conversation: String,
        /// Why, unless the caller removed it.
        error: Option<Error>,
    },
}

/// How a set of conversations is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By Follow: a fixed set, with this heartbeat interval.
    Follow { heartbeat_ms: u32 },
    /// By Subscribe: conversations come and go.
    Subscribe,
}

/// A change of the set.
#[derive(Debug)]
pub(crate) enum Change {
    Add { conversation: String, start: Start, credit: CreditMode },
    Remove { conversation: String },
    Grant { conversation: String, bytes: u64 },
}

/// The feeds of one follow or subscription. Dropping it ends them.
pub(crate) struct Feeds {
    client: Client,
    mode: Mode,
    by_group: HashMap<Option<u64>, mpsc::Sender<Change>>,
    connections: Arc<Connections>,
    tasks: JoinSet<()>,
    deliver: mpsc::Sender<Delivery>,
    deliveries: mpsc::Receiver<Delivery>,
}

impl Feeds {
    pub fn new(client: Client, mode: Mode) -> Self {
        let (deliver, deliveries) = mpsc::channel(DELIVERIES_MAX);
        let connections =
            Arc::new(Connections { shared: client.shared.clone(), open: Mutex::default() });
        Feeds {
            client,
            mode,
            by_group: HashMap::new(),
            connections,
            tasks: JoinSet::new(),
            deliver,
            deliveries,
        }
    }

    /// The group whose feed carries a conversation.
    pub fn group_of(&self, conversation: &str) -> Option<u64> {
        self.client.group_of(conversation)
    }

    /// Starts the feed of a group with these conversations.
    pub fn start(&mut self, group: Option<u64>, first: Vec<Change>) {
        let (changes, receiver) = mpsc::channel(CHANGES_MAX);
        let mut feed = Feed::new(
            self.client.clone(),
            self.mode,
            self.connections.clone(),
            self.deliver.clone(),
            group,
        );
        first.into_iter().for_each(|change| feed.apply(change));
        self.tasks.spawn(feed.run(receiver));
        self.by_group.insert(group, changes);
    }

    /// Hands a change to the feed of a group, which is started if need be. The feed takes it whether or not deliveries
    /// are taken meanwhile. Cancel safe: dropped before it returns, nothing was changed.
    pub async fn change(&mut self, group: Option<u64>, change: Change) {
        match self.by_group.get(&group) {
            // A feed of a subscription ends only with the subscription.
            Some(feed) => drop(feed.send(change).await),
            None => self.start(group, vec![change]),
        }
    }

    /// The next delivery. Cancel safe.
    ///
    /// # Panics
    ///
    /// If a feed has: nothing else would say that its conversations stand still.
    pub async fn next(&mut self) -> Delivery {
        loop {
            tokio::select! {
                biased;
                delivery = self.deliveries.recv() => {
                    return delivery.expect("a sender is kept beside the receiver");
                }
                // None ends before it is dropped, unless its runtime ends, or by a panic.
                Some(ended) = self.tasks.join_next() => {
                    if let Err(Ok(panic)) = ended.map_err(JoinError::try_into_panic) {
                        resume_unwind(panic);
                    }
                }
            }
        }
    }
}

/// Connections of one follow or subscription, so that what it leaves unread stalls nobody else.
struct Connections {
    shared: Arc<Shared>,
    /// One for each node.
    open: Mutex<HashMap<Arc<str>, Channel>>,
}

impl Connections {
    fn to(&self, address: &Arc<str>) -> Result<Channel, Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.shared.channels.dedicated(address)?;
        open.insert(address.clone(), channel.clone());
        Ok(channel)
    }
}
