//! Learning the topology: once when connecting, then in the background for as long as the client lives.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tonic::{Code, Streaming};

use crate::backoff::Backoff;
use crate::client::Shared;
use crate::error::Effect;
use crate::router::{Destination, SOURCES, Target};
use crate::{Client, Error, Routing, channels, proto, reason};

/// The shortest pause after a node that could not tell its topology.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// How long one node is followed at least, however many calls find stale what it told.
const FOLLOWED_MIN: Duration = Duration::from_millis(100);
/// The same once those who were asked after it were found stale as well, twice as long each time: then it is the
/// cluster that is in trouble, and not for clients to be a burden to it.
const FOLLOWED_MIN_MAX: Duration = Duration::from_secs(2);

/// How long a node may take to tell its topology while one is known: a node that has just started may have none yet,
/// and another one has. Doubled, up to `attempt_timeout`, each time that it was not enough.
const PATIENCE_FIRST: Duration = Duration::from_millis(500);

/// The topology as it changes. Made by [`Client::watch_topology`].
pub struct TopologyWatch {
    /// Keeps the background task alive, which ends with the last client.
    client: Client,
    changes: watch::Receiver<Option<Arc<proto::Topology>>>,
}

impl TopologyWatch {
    pub(crate) fn new(client: Client) -> Self {
        let mut changes = client.shared.router.watch();
        changes.mark_changed();
        TopologyWatch { client, changes }
    }

    /// The topology at first, then each time it has changed; a reader that fell behind gets the newest only.
    /// Waits while the cluster is not initialized. Cancel safe.
    pub async fn next(&mut self) -> Arc<proto::Topology> {
        loop {
            if self.changes.changed().await.is_err() {
                // The sender lives in the client that this watch holds.
                unreachable!("the router of {:?} outlives its watch", self.client);
            }
            if let Some(topology) = self.changes.borrow_and_update().clone() {
                return topology;
            }
        }
    }
}

/// Asks the endpoints in turn until one answers, be it only that there is no topology yet.
pub(crate) async fn learn_first(shared: &Arc<Shared>) -> Result<(), Error> {
    let deadline = Instant::now() + shared.options.request_timeout;
    let mut backoff = Backoff::new(&shared.options);
    loop {
        let target = shared.router.target(Destination::AnyNode);
        let opening = open(shared, &target, shared.options.attempt_timeout);
        let error = match timeout_at(deadline, opening).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) if !error.is_transport() && error.code() != Code::DeadlineExceeded => {
                tracing::debug!(%error, "the node has no topology to tell");
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(_) => return Err(Error::deadline(None)),
        };
        shared.router.note_failure(&target, &error);
        let resume_at = Instant::now() + backoff.next_delay(&error);
        if resume_at >= deadline {
            return Err(Error::deadline(Some(&error)));
        }
        tokio::time::sleep_until(resume_at).await;
    }
}

/// Starts the watches that keep the topology current; they end when the guard is dropped. Proxied clients need none.
pub(crate) fn spawn(shared: &Arc<Shared>) -> Option<AbortOnDrop> {
    let wanted = shared.options.routing == Routing::Leader;
    wanted.then(|| {
        let watches = (0..SOURCES).map(|watch| keep_current(shared.clone(), watch));
        AbortOnDrop(tokio::spawn(join_all(watches).map(drop)).abort_handle())
    })
}

/// Ends a task when it is dropped.
pub(crate) struct AbortOnDrop(pub AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep_current(shared: Arc<Shared>, watch: usize) {
    let mut backoff = Backoff::new(&shared.options);
    let mut patience = PATIENCE_FIRST;
    let mut followed_min = FOLLOWED_MIN;
    let mut last = None;
    loop {
        if last.is_some() {
            // What was found stale so far was told by others than the next.
            let _ = shared.router.stale().now_or_never();
        }
        let mut topologies = shared.router.watch();
        let Some(target) = shared.router.next_source(watch, last.as_ref()) else {
            // Until there are more nodes. There is no error: the sender is the router's own.
            let _ = topologies.changed().await;
            continue;
        };
        patience = patience.min(shared.options.attempt_timeout);
        let error = match open(&shared, &target, patience).await {
            Ok(stream) => {
                backoff.reset();
                patience = PATIENCE_FIRST;
                let opened = Instant::now();
                match follow(&shared, stream, opened + followed_min).await {
                    Ended::Stale => {
                        let was_good = opened.elapsed() > 2 * FOLLOWED_MIN_MAX;
                        followed_min = match was_good {
                            true => FOLLOWED_MIN,
                            false => (2 * followed_min).min(FOLLOWED_MIN_MAX),
                        };
                        last = Some(target);
                        continue;
                    }
                    Ended::Broken(error) => error,
                }
            }
            Err(error) => {
                tracing::debug!(address = %target.address, %error, "no topology");
                if error.code() == Code::DeadlineExceeded {
                    patience *= 2;
                }
                error
            }
        };
        shared.router.note_failure(&target, &error);
        last = Some(target);
        sleep(backoff.next_delay(&error).max(PAUSE_MIN)).await;
    }
}

/// Opens a watch and takes its first topology; a node that has none is an error.
async fn open(
    shared: &Arc<Shared>,
    target: &Target,
    patience: Duration,
) -> Result<Streaming<proto::WatchTopologyResponse>, Error> {
    let channel = shared.channels.shared(&target.address)?;
    let first = async {
        let request = proto::WatchTopologyRequest {};
        let mut stream = channels::cluster(channel).watch_topology(request).await?.into_inner();
        let first = stream.message().await?;
        Ok((stream, first))
    };
    let (stream, first) = timeout(patience, first)
        .await
        .map_err(|_| Error::deadline(None))?
        .map_err(|status| Error::from_status(&status, Effect::None))?;
    let first = first.ok_or_else(|| Error::stream_ended(Effect::None))?;
    // Another endpoint may belong to a cluster.
    let none = || {
        let message = "the node belongs to no cluster";
        Error::local(Code::Unavailable, reason::NOT_INITIALIZED, message).with_retryable(true)
    };
    shared.router.learn(first.topology.ok_or_else(none)?);
    shared.router.note_success(&target.address);
    Ok(stream)
}

/// Why a watch is opened anew.
enum Ended {
    /// A call met something that the topology did not say.
    Stale,
    Broken(Error),
}

/// Takes topologies as they come, until the stream breaks or, once it has been followed for long enough, a call finds
/// the topology stale.
async fn follow(
    shared: &Shared,
    mut stream: Streaming<proto::WatchTopologyResponse>,
    long_enough: Instant,
) -> Ended {
    loop {
        let stale = async {
            sleep_until(long_enough).await;
            shared.router.stale().await;
        };
        let response = tokio::select! {
            response = stream.message() => response,
            () = stale => return Ended::Stale,
        };
        match response {
            Ok(Some(response)) => {
                if let Some(topology) = response.topology {
                    shared.router.learn(topology);
                }
            }
            Ok(None) => return Ended::Broken(Error::stream_ended(Effect::None)),
            Err(status) => return Ended::Broken(Error::from_status(&status, Effect::None)),
        }
    }
}
