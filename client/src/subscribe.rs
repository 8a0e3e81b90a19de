use std::collections::HashMap;

use futures::Stream;
use tonic::Code;

use crate::feed::{CREDIT_BYTES_MAX, Change, CreditMode, Feeds, Mode};
use crate::{Client, Delivery, Error, Start, reason};

/// Conversations of one subscription.
const CONVERSATIONS_MAX: usize = 10_000;
/// Byte credit of a conversation that names none.
const CREDIT_BYTES_DEFAULT: u64 = 1024 * 1024;

/// How much of a conversation may be on its way to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// Up to this many payload and header bytes (16 MiB at most), given again as deliveries are taken.
    Automatic(u64),
    /// This many to begin with, and then only what [`Subscription::grant`] gives.
    Manual(u64),
}

impl Default for Credit {
    /// 1 MiB, automatic.
    fn default() -> Self {
        Credit::Automatic(CREDIT_BYTES_DEFAULT)
    }
}

/// History and live messages of a set of conversations that changes while it runs.
///
/// Each message of a conversation once from its start on, in seq order, without a gap that is not announced, also
/// across reconnects and changes of leader (G6). After a lost stream each conversation is added again from where it
/// was, with the credit that it had left.
pub struct Subscription {
    feeds: Feeds,
    /// The group whose feed carries each conversation.
    conversations: HashMap<String, Option<u64>>,
}

impl Client {
    /// Opens a subscription without conversations. Connections are made when they are needed.
    pub fn subscribe(&self) -> Subscription {
        let feeds = Feeds::new(self.clone(), Mode::Subscribe);
        Subscription { feeds, conversations: HashMap::new() }
    }
}

impl Subscription {
    /// Starts delivering a conversation, which need not exist yet. Waits for no node, nor until deliveries are taken.
    /// Cancel safe: dropped before it returns, nothing was added.
    ///
    /// # Errors
    ///
    /// `BAD_OPTION` for credit out of range, for one conversation too many, or for one that is there: one that
    /// was removed or failed can be added again once its [`Delivery::Ended`] was taken.
    pub async fn add(
        &mut self,
        conversation: impl Into<String>,
        start: Start,
        credit: Credit,
    ) -> Result<(), Error> {
        let conversation = conversation.into();
        let credit = match credit {
            Credit::Automatic(bytes) => CreditMode::Automatic(in_range(bytes)?),
            Credit::Manual(bytes) => CreditMode::Manual(in_range(bytes)?),
        };
        if self.conversations.contains_key(&conversation) {
            return Err(refused(format!("{conversation} is in the subscription already")));
        }
        if self.conversations.len() >= CONVERSATIONS_MAX {
            return Err(refused(format!("a subscription holds {CONVERSATIONS_MAX} conversations")));
        }
        let group = self.feeds.group_of(&conversation);
        let add = Change::Add { conversation: conversation.clone(), start, credit };
        self.feeds.change(group, add).await;
        self.conversations.insert(conversation, group);
        Ok(())
    }

    /// Stops delivering a conversation. Deliveries that are on their way still come, then [`Delivery::Ended`]
    /// without an error. Does nothing for a conversation that is not there. Waits for nothing that
    /// [`Subscription::add`] does not. Cancel safe.
    pub async fn remove(&mut self, conversation: &str) {
        if let Some(group) = self.conversations.get(conversation) {
            let change = Change::Remove { conversation: conversation.to_owned() };
            self.feeds.change(*group, change).await;
        }
    }

    /// Lets more of a conversation with manual credit be sent; the sum is held at 16 MiB. Waits for nothing that
    /// [`Subscription::add`] does not. Cancel safe.
    ///
    /// # Errors
    ///
    /// `BAD_OPTION` for credit out of range.
    pub async fn grant(&mut self, conversation: &str, bytes: u64) -> Result<(), Error> {
        let bytes = in_range(bytes)?;
        if let Some(group) = self.conversations.get(conversation) {
            let change = Change::Grant { conversation: conversation.to_owned(), bytes };
            self.feeds.change(*group, change).await;
        }
        Ok(())
    }

    /// What happens next; waits while nothing does. What goes wrong with a conversation comes as
    /// [`Delivery::Ended`]. Cancel safe.
    pub async fn next(&mut self) -> Delivery {
        let delivery = self.feeds.next().await;
        if let Delivery::Ended { conversation, .. } = &delivery {
            self.conversations.remove(conversation);
        }
        delivery
    }

    /// The same as a stream, for a set that does not change any more.
    pub fn into_stream(self) -> impl Stream<Item = Delivery> + Send {
        futures::stream::unfold(self, async |mut subscription| {
            Some((subscription.next().await, subscription))
        })
    }
}

fn in_range(bytes: u64) -> Result<u64, Error> {
    match bytes {
        1..=CREDIT_BYTES_MAX => Ok(bytes),
        _ => Err(refused(format!("credit of {bytes} bytes is not within 1 to {CREDIT_BYTES_MAX}"))),
    }
}

fn refused(text: String) -> Error {
    Error::local(Code::InvalidArgument, reason::BAD_OPTION, text)
}
