//! Reading what has been committed.

use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Request, Status, Streaming};

use crate::backoff::Backoff;
use crate::client::Attempt;
use crate::error::Effect;
use crate::message::{is_seq, verify_payload};
use crate::router::Destination;
use crate::{Client, Error, proto};

use proto::consistency::Level;
use proto::start::At;

/// Messages that a read returns if it names no limit.
const LIMIT_DEFAULT: u32 = 1_000;
/// Bytes that a read returns if it names no limit.
const LIMIT_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;

/// Where a read, a follow or a subscription starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// The first message that can still be read; for a backward read, the last.
    #[default]
    Earliest,
    /// This seq, from 1.
    Seq(u64),
    /// The first message committed at or after this, microseconds since the Unix epoch.
    CommitTimeUs(u64),
    /// The last n messages; 0 for those to come only.
    Last(u64),
}

impl From<Start> for Option<proto::Start> {
    fn from(start: Start) -> Self {
        let at = match start {
            Start::Earliest => return None,
            Start::Seq(seq) => At::Seq(seq),
            Start::CommitTimeUs(time) => At::CommitTimeUs(time),
            Start::Last(count) => At::Last(count),
        };
        Some(proto::Start { at: Some(at) })
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Reads everything acknowledged before the call. Needs a quorum.
    #[default]
    Linearizable,
    /// Reads from a replica that has applied this seq of the conversation.
    AtLeast(u64),
    /// Reads from a replica whose state was confirmed by a quorum at most this many milliseconds ago.
    MaxStalenessMs(u64),
    /// Reads what the node asked has applied. Most useful with [`Routing::Proxy`](crate::Routing::Proxy) and one
    /// endpoint, which decides what node that is.
    Local,
}

impl From<Consistency> for proto::Consistency {
    fn from(consistency: Consistency) -> Self {
        use proto::consistency as level;
        let level = match consistency {
            Consistency::Linearizable => Level::Linearizable(level::Linearizable {}),
            Consistency::AtLeast(seq) => Level::AtLeast(level::AtLeast { seq }),
            Consistency::MaxStalenessMs(max_staleness_ms) => {
                Level::MaxStaleness(level::MaxStaleness { max_staleness_ms })
            }
            Consistency::Local => Level::Local(level::Local {}),
        };
        proto::Consistency { level: Some(level) }
    }
}

impl Consistency {
    /// Linearizable reads go to the leader, which needs no hop to confirm them; the others spread.
    fn destination(self, conversation: &str) -> Destination<'_> {
        match self {
            Consistency::Linearizable => Destination::LeaderOf(conversation),
            _ => Destination::ReplicaOf(conversation),
        }
    }
}

/// A read of a part of one conversation.
#[derive(Clone, Debug)]
pub struct Read {
    conversation: String,
    start: Start,
    backward: bool,
    limit: u32,
    limit_bytes: u64,
    consistency: Consistency,
}

impl Read {
    /// The first 1,000 messages, linearizably.
    pub fn new(conversation: impl Into<String>) -> Self {
        Read {
            conversation: conversation.into(),
            start: Start::Earliest,
            backward: false,
            limit: LIMIT_DEFAULT,
            limit_bytes: LIMIT_BYTES_DEFAULT,
            consistency: Consistency::Linearizable,
        }
    }

    /// Where to start.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Descending seq.
    #[must_use]
    pub fn backward(mut self) -> Self {
        self.backward = true;
        self
    }

    /// At most this many messages: 1 to 100,000.
    #[must_use]
    pub fn limit(mut self, messages: u32) -> Self {
        self.limit = messages;
        self
    }

    /// At most this many payload and header bytes, but one message if there is one.
    #[must_use]
    pub fn limit_bytes(mut self, bytes: u64) -> Self {
        self.limit_bytes = bytes;
        self
    }

    /// How fresh.
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    fn request(&self) -> proto::ReadRequest {
        let direction = match self.backward {
            true => proto::Direction::Backward,
            false => proto::Direction::Forward,
        };
        proto::ReadRequest {
            conversation: self.conversation.clone(),
            start: self.start.into(),
            direction: direction.into(),
            limit: self.limit,
            limit_bytes: self.limit_bytes,
            consistency: Some(self.consistency.into()),
        }
    }
}

/// What a read returned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In the order read, contiguous, each payload checked against its checksum.
    pub messages: Vec<proto::Message>,
    /// The lowest seq that can be read.
    pub first_seq: u64,
    /// The seq that the next message will get.
    pub tail: u64,
    /// Where this was read.
    pub position: Option<proto::Position>,
}

impl Page {
    /// Adds a part of the answer, unless it is not what has to come next.
    fn extend(&mut self, read: &Read, part: proto::ReadResponse) -> Result<(), Error> {
        for message in part.messages {
            let due = match (self.messages.last(), read.start) {
                (Some(last), _) if read.backward => Some(last.seq - 1),
                (Some(last), _) => Some(last.seq + 1),
                // A backward read from above the tail starts at the last message.
                (None, Start::Seq(seq)) if !read.backward => Some(seq),
                (None, _) => None,
            };
            if due.is_some_and(|due| due != message.seq) || !is_seq(message.seq) {
                let due = due.map_or("one".to_owned(), |due| due.to_string());
                let text = format!("seq {} came where {due} was due", message.seq);
                return Err(Error::protocol(text));
            }
            verify_payload(&read.conversation, &message)?;
            self.messages.push(message);
        }
        self.first_seq = self.first_seq.max(part.first_seq);
        self.tail = self.tail.max(part.tail);
        self.position = part.position.or(self.position.take());
        Ok(())
    }
}

impl Client {
    /// Reads a part of one conversation. Retried as a whole until `request_timeout`.
    ///
    /// # Errors
    ///
    /// `OUT_OF_RANGE` below the first seq; `DAMAGED_PAYLOAD` or `PROTOCOL_VIOLATION` if the answer is not sound.
    pub async fn read(&self, read: Read) -> Result<Page, Error> {
        let deadline = Instant::now() + self.shared.options.request_timeout;
        let destination = read.consistency.destination(&read.conversation);
        let mut backoff = Backoff::new(&self.shared.options);
        loop {
            // An attempt ends with the first part: the whole may take longer than one attempt is given.
            let (target, (page, rest)) = self
                .call_until(deadline, destination, Effect::None, |attempt| {
                    open(&read, attempt, deadline)
                })
                .await?;
            let error = match timeout_at(deadline, collect(&read, page, rest)).await {
                Ok(Ok(page)) => return Ok(page),
                Ok(Err(error)) => error,
                Err(_) => return Err(Error::deadline(None)),
            };
            self.shared.router.note_failure(&target, &error);
            if !error.retryable() {
                return Err(error);
            }
            let resume_at = Instant::now() + backoff.next_delay(&error);
            if resume_at >= deadline {
                return Err(Error::deadline(Some(&error)));
            }
            tracing::debug!(address = %target.address, %error, "a read broke off, starting over");
            sleep_until(resume_at).await;
        }
    }

    /// Reads the last n messages of up to 500 conversations, with an outcome for each in the order asked.
    ///
    /// # Errors
    ///
    /// Those of the call as a whole; a conversation that could not be read says so in its own outcome.
    pub async fn batch_read(
        &self,
        conversations: impl IntoIterator<Item = impl Into<String>>,
        last: u32,
        consistency: Consistency,
    ) -> Result<Vec<(String, Result<Page, Error>)>, Error> {
        let request = proto::BatchReadRequest {
            conversations: conversations.into_iter().map(Into::into).collect(),
            last,
            consistency: Some(consistency.into()),
        };
        let response = self
            .call(Destination::AnyNode, Effect::None, |attempt| {
                let request = attempt.request(request.clone());
                async move { attempt.log().batch_read(request).await }
            })
            .await?;
        let names = response.items.iter().map(|item| &item.conversation);
        if !names.eq(&request.conversations) {
            return Err(Error::protocol("the answers are not those of the conversations asked"));
        }
        Ok(response.items.into_iter().map(batch_item).collect())
    }

    /// Describes one conversation.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` if it has never had a message.
    pub async fn describe(
        &self,
        conversation: &str,
        consistency: Consistency,
    ) -> Result<proto::DescribeResponse, Error> {
        let request = proto::DescribeRequest {
            conversation: conversation.to_owned(),
            consistency: Some(consistency.into()),
        };
        self.call(consistency.destination(conversation), Effect::None, |attempt| {
            let request = attempt.request(request.clone());
            async move { attempt.log().describe(request).await }
        })
        .await
    }

    /// Lists conversations by prefix, one page of up to 1,000 at a time.
    ///
    /// # Errors
    ///
    /// As the server says.
    pub async fn list(&self, request: proto::ListRequest) -> Result<proto::ListResponse, Error> {
        self.call(Destination::AnyNode, Effect::None, |attempt| {
            let request = attempt.request(request.clone());
            async move { attempt.log().list(request).await }
        })
        .await
    }
}

/// Opens the stream of a read and takes its first part, which tells the bounds.
async fn open(
    read: &Read,
    attempt: Attempt,
    deadline: Instant,
) -> Result<(Page, Streaming<proto::ReadResponse>), Error> {
    let mut request = Request::new(read.request());
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    let mut parts = attempt.log().read(request).await.map_err(decoded)?.into_inner();
    let first = parts.message().await.map_err(decoded)?;
    let mut page = Page::default();
    page.extend(read, first.ok_or_else(|| Error::stream_ended(Effect::None))?)?;
    Ok((page, parts))
}

/// Takes the other parts.
async fn collect(
    read: &Read,
    mut page: Page,
    mut parts: Streaming<proto::ReadResponse>,
) -> Result<Page, Error> {
    while let Some(part) = parts.message().await.map_err(decoded)? {
        page.extend(read, part)?;
    }
    Ok(page)
}

fn decoded(status: Status) -> Error {
    Error::from_status(&status, Effect::None)
}

fn batch_item(item: proto::batch_read_response::Item) -> (String, Result<Page, Error>) {
    let mut page = Page::default();
    let read = Read::new(item.conversation);
    let result = match (item.read, item.failed) {
        (_, Some(failure)) => Err(failure.into()),
        (Some(part), None) => page.extend(&read, part).map(|()| page),
        (None, None) => Err(Error::protocol("an answer is neither a read nor a failure")),
    };
    (read.conversation, result)
}
