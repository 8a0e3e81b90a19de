use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use prost::bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::backoff::Backoff;
use crate::channels::{self, Channels};
use crate::error::Effect;
use crate::proto::cluster_client::ClusterClient;
use crate::proto::message_log_client::MessageLogClient;
use crate::router::{Destination, Router, Target};
use crate::topology_watch::{self, AbortOnDrop, TopologyWatch};
use crate::{Append, ClientOptions, Error, encoded, limits, message, proto};

/// A connection to a cluster. Cheap to clone: clones share connections and what is known of the topology.
///
/// # Cancellation
///
/// Every call may be dropped at any time. A dropped append may still take effect; reads have none.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    /// Keeps the topology current until the last clone is dropped.
    _topology: Option<Arc<AbortOnDrop>>,
}

pub(crate) struct Shared {
    pub options: ClientOptions,
    pub channels: Channels,
    pub router: Router,
}

/// One attempt of a call.
pub(crate) struct Attempt {
    channel: Channel,
    timeout: Duration,
}

impl Attempt {
    /// The message log service of the node.
    pub fn log(self) -> MessageLogClient<Channel> {
        channels::message_log(self.channel)
    }

    /// The cluster service of the node.
    pub fn cluster(self) -> ClusterClient<Channel> {
        channels::cluster(self.channel)
    }

    /// The request with the deadline that the server is to keep.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

impl Client {
    /// Connects to a cluster and, with [`Routing::Leader`](crate::Routing::Leader), learns its topology.
    ///
    /// A node that answers is enough, also one that belongs to no cluster yet ([`Client::init`] needs that).
    ///
    /// # Errors
    ///
    /// `BAD_OPTION` if the options make no sense; otherwise what the last endpoint tried answered, once
    /// `request_timeout` has passed and none could be reached.
    pub async fn connect(options: ClientOptions) -> Result<Client, Error> {
        options.validate()?;
        let channels = Channels::new(options.clone());
        for endpoint in &options.endpoints {
            channels.check(endpoint)?;
        }
        let endpoints = options.endpoints.iter().map(|e| Arc::from(e.as_str())).collect();
        let router = Router::new(options.routing, endpoints);
        let shared = Arc::new(Shared { options, channels, router });
        topology_watch::learn_first(&shared).await?;
        let topology = topology_watch::spawn(&shared).map(Arc::new);
        Ok(Client { shared, _topology: topology })
    }

    /// The topology that this client last heard of; absent before the cluster is initialized.
    pub fn topology(&self) -> Option<Arc<proto::Topology>> {
        self.shared.router.topology()
    }

    /// The topology now and whenever it changes.
    pub fn watch_topology(&self) -> TopologyWatch {
        TopologyWatch::new(self.clone())
    }

    /// The group that holds a conversation, where the topology is known.
    pub fn group_of(&self, conversation: &str) -> Option<u64> {
        self.shared.router.group_of(conversation)
    }

    /// Appends one to 1,000 messages to one conversation and returns once they are durable on a quorum.
    ///
    /// Retried until `request_timeout`, always with the same ids, so that it takes effect once at most. Not ordered
    /// against other calls that run at the same time: a [`Session`](crate::Session) is.
    ///
    /// # Errors
    ///
    /// `LIMIT_EXCEEDED`, without being sent, for what is over [`limits`] as a whole; otherwise as the server says.
    /// [`Error::may_have_taken_effect`] covers all attempts; where it is set the message is not to be sent under another
    /// id before its outcome is known.
    pub async fn append(&self, append: Append) -> Result<proto::AppendResponse, Error> {
        let request = append.seal(message::now_us());
        limits::check(&request)?;
        let encoded = Bytes::from(request.encode_to_vec());
        let destination = Destination::LeaderOf(&request.conversation);
        self.call(destination, Effect::Possible, |attempt| {
            encoded::append(attempt.channel.clone(), attempt.request(encoded.clone()))
        })
        .await
    }

    /// Tells, linearizably, whether a message was committed.
    ///
    /// Give the message's `issued_at_us`. Without it "not committed" holds only for a message that was issued at or after
    /// the response's `dedup_floor_us`, if there is one: what became of older ones is not kept. With `settle` the answer
    /// is final, an id that was not committed never will be, and `issued_at_us` is required; if that was a guess, look at
    /// `dedup_floor_us` too.
    ///
    /// # Errors
    ///
    /// `TOO_OLD` if the message was issued before the dedup floor: it is not committed from now on, and whether it was is
    /// not known any more. Otherwise as the server says. A settle that failed may have taken effect; it can be repeated.
    pub async fn outcome(
        &self,
        request: proto::GetOutcomeRequest,
    ) -> Result<proto::GetOutcomeResponse, Error> {
        let effect = if request.settle { Effect::Possible } else { Effect::None };
        self.call(Destination::LeaderOf(&request.conversation), effect, |attempt| {
            let request = attempt.request(request.clone());
            async move { attempt.log().get_outcome(request).await }
        })
        .await
    }

    /// Tries a call on one node after another until it succeeds, fails for good, or the deadline passes.
    pub(crate) async fn call<T, A>(
        &self,
        destination: Destination<'_>,
        effect: Effect,
        attempt: impl Fn(Attempt) -> A,
    ) -> Result<T, Error>
    where
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.shared.options.request_timeout;
        let decoded = |one| {
            let answer = attempt(one);
            async move {
                let answer = answer.await.map_err(|status| Error::from_status(&status, effect))?;
                Ok(answer.into_inner())
            }
        };
        let (_, answer) = self.call_until(deadline, destination, effect, decoded).await?;
        Ok(answer)
    }

    /// As [`Client::call`], with a deadline of the caller's and errors that are decoded already. Tells who answered.
    pub(crate) async fn call_until<T, A>(
        &self,
        deadline: Instant,
        destination: Destination<'_>,
        effect: Effect,
        attempt: impl Fn(Attempt) -> A,
    ) -> Result<(Target, T), Error>
    where
        A: Future<Output = Result<T, Error>>,
    {
        let mut backoff = Backoff::new(&self.shared.options);
        let mut uncertain = false;
        let mut topologies = self.shared.router.watch();
        loop {
            // What comes while the attempt is under way counts too: it went by what was known before.
            topologies.mark_unchanged();
            let target = self.shared.router.target(destination);
            let deposed =
                self.shared.router.led_elsewhere(destination, &target, topologies.clone());
            let answer = tokio::select! {
                biased;
                answer = self.attempt(&target, deadline, effect, &attempt) => answer,
                // It keeps its ids, so that it takes effect once at most (G4).
                () = deposed => {
                    tracing::debug!(address = %target.address, "another node leads now");
                    uncertain |= effect == Effect::Possible;
                    continue;
                }
            };
            let error = match answer {
                Ok(answer) => {
                    self.shared.router.note_success(&target.address);
                    return Ok((target, answer));
                }
                Err(error) => error.with_effect(uncertain),
            };
            self.shared.router.note_failure(&target, &error);
            uncertain = error.may_have_taken_effect();
            if !error.retryable() {
                return Err(error);
            }
            let resume_at = Instant::now() + backoff.next_delay(&error);
            if resume_at >= deadline {
                return Err(Error::deadline(Some(&error)));
            }
            tracing::debug!(address = %target.address, %error, "an attempt failed, retrying");
            tokio::select! {
                () = sleep_until(resume_at) => {}
                () = self.shared.router.next_usable_leader(destination, &mut topologies),
                    if error.is_of_reach() => {}
            }
        }
    }

    async fn attempt<T, A>(
        &self,
        target: &Target,
        deadline: Instant,
        effect: Effect,
        attempt: impl Fn(Attempt) -> A,
    ) -> Result<T, Error>
    where
        A: Future<Output = Result<T, Error>>,
    {
        let channel = self.shared.channels.shared(&target.address)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = left.min(self.shared.options.attempt_timeout);
        let until = Instant::now() + timeout;
        match timeout_at(until, attempt(Attempt { channel, timeout })).await {
            Ok(result) => result,
            Err(_) => Err(Error::deadline(None).with_effect(effect == Effect::Possible)),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.shared.options).finish_non_exhaustive()
    }
}
