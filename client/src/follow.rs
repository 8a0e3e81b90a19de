use std::collections::HashMap;

use futures::Stream;
use tonic::Code;

use crate::feed::{Change, CreditMode, Feeds, Mode};
use crate::{Client, Delivery, Error, Start, reason};

/// Conversations of one Follow request.
const CONVERSATIONS_MAX: usize = 10_000;

/// History from given starts, then live messages, of a fixed set of conversations.
///
/// Each message once, in seq order, without a gap that is not announced, also across reconnects and changes of
/// leader (G6). A lost stream is opened again, elsewhere if need be, for as long as the follow is held.
pub struct Follow {
    feeds: Option<Feeds>,
}

impl Client {
    /// Follows up to 10,000 conversations, each from its start. They need not exist yet.
    ///
    /// # Errors
    ///
    /// `BAD_OPTION` for no conversation, too many, or one twice. What a server refuses comes from [`Follow::next`].
    pub fn follow(
        &self,
        conversations: impl IntoIterator<Item = (impl Into<String>, Start)>,
    ) -> Result<Follow, Error> {
        self.follow_with_heartbeat(conversations, 0)
    }

    /// As [`Client::follow`], with a heartbeat interval of 100 to 60,000 ms; 0 for the server's default. A stream
    /// that is silent for three of them is opened again.
    ///
    /// # Errors
    ///
    /// As [`Client::follow`].
    pub fn follow_with_heartbeat(
        &self,
        conversations: impl IntoIterator<Item = (impl Into<String>, Start)>,
        heartbeat_ms: u32,
    ) -> Result<Follow, Error> {
        let refuse =
            |text: String| Err(Error::local(Code::InvalidArgument, reason::BAD_OPTION, text));
        let mut starts = HashMap::new();
        for (conversation, start) in conversations {
            let conversation = conversation.into();
            if starts.insert(conversation.clone(), start).is_some() {
                return refuse(format!("{conversation} is to be followed twice"));
            }
        }
        if !(1..=CONVERSATIONS_MAX).contains(&starts.len()) {
            return refuse(format!("{} conversations: 1 to {CONVERSATIONS_MAX}", starts.len()));
        }
        let mut feeds = Feeds::new(self.clone(), Mode::Follow { heartbeat_ms });
        let mut by_group: HashMap<Option<u64>, Vec<Change>> = HashMap::new();
        for (conversation, start) in starts {
            let group = feeds.group_of(&conversation);
            // A Follow has no credit: this one is never used up nor sent.
            let credit = CreditMode::Automatic(u64::MAX);
            by_group.entry(group).or_default().push(Change::Add { conversation, start, credit });
        }
        by_group.into_iter().for_each(|(group, adds)| feeds.start(group, adds));
        Ok(Follow { feeds: Some(feeds) })
    }
}

impl Follow {
    /// What happens next; `None` after an error. Never yields [`Delivery::Ended`]. Cancel safe.
    ///
    /// # Errors
    ///
    /// What a server refuses for good, or `PROTOCOL_VIOLATION` or `DAMAGED_PAYLOAD` if what it sent is not sound.
    /// The follow is over then.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        match self.feeds.as_mut()?.next().await {
            Delivery::Ended { conversation, error } => {
                self.feeds = None;
                let lost = || Error::protocol(format!("{conversation} was ended by nobody"));
                Some(Err(error.unwrap_or_else(lost)))
            }
            delivery => Some(Ok(delivery)),
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Delivery, Error>> + Send {
        futures::stream::unfold(self, async |mut follow| {
            let next = follow.next().await?;
            Some((next, follow))
        })
    }
}
