//! What clients do. Each kind of work is one file and one line of [`ALL`]; a run mixes them over the same conversations.

mod append;
mod caller;
mod final_read;
mod follow;
mod outcome;
mod read;
mod retry;
mod session;
mod stream;
mod subscribe;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use quorate_client::proto::cluster_client::ClusterClient;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::{Client, ClientOptions, Routing};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

pub use caller::Caller;
pub use final_read::read_everything;

use crate::history::Process;
use crate::record::Recorder;

/// How long a call may take before it is given up.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a node to which a stream is kept is asked whether it is there, and how long it may take to say so.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages that retries and outcome queries choose from.
const RECENT_MAX: usize = 256;

/// A kind of work.
pub struct Workload {
    /// As on the command line.
    pub name: &'static str,
    /// What it does, and which guarantees it is about.
    pub about: &'static str,
    /// How many workers it has.
    pub workers: u32,
    /// Its share of the rate; 0 if it follows what others do.
    pub share: u32,
    work: fn(Worker) -> BoxFuture<'static, ()>,
}

/// Every kind of work.
pub const ALL: &[Workload] = &[
    append::WORKLOAD,
    read::WORKLOAD,
    retry::WORKLOAD,
    session::SESSION,
    outcome::WORKLOAD,
    follow::WORKLOAD,
    subscribe::WORKLOAD,
    stream::WORKLOAD,
    session::BENCHMARK,
];

/// What is done where nobody says what: all but what leaves no room for anything else.
pub fn by_default() -> impl Iterator<Item = &'static Workload> {
    ALL.iter().filter(|one| one.name != session::BENCHMARK.name)
}

/// The kind of this name.
pub fn named(name: &str) -> Option<&'static Workload> {
    ALL.iter().find(|one| one.name == name)
}

/// What all workers of a run share.
pub struct Floor {
    /// Where everything is written down.
    pub recorder: Recorder,
    /// The conversations: the first few are hot.
    pub conversations: Vec<String>,
    endpoints: Vec<String>,
    processes: AtomicU64,
    messages: AtomicU64,
    tails: Mutex<HashMap<String, u64>>,
    recent: Mutex<Vec<Recent>>,
    acknowledged: AtomicU64,
    /// Cancelled once everything is mended.
    pub healed: CancellationToken,
}

/// A message that somebody has sent.
#[derive(Clone, Debug)]
pub struct Recent {
    conversation: String,
    sender: String,
    client_msg_id: String,
    issued_at_us: u64,
    payload_bytes: usize,
}

/// One of those who work.
pub struct Worker {
    /// What it shares with the others.
    pub floor: Arc<Floor>,
    /// Its number among those of its kind.
    pub number: u32,
    /// Its number among all, which decides through which nodes it calls.
    pub place: u32,
    /// Its dice.
    pub dice: StdRng,
    /// How long it waits between two calls on average.
    pub pause: Duration,
    /// When to stop.
    pub stop: CancellationToken,
}

/// Workers of a run, at work.
pub struct Crew {
    workers: JoinSet<()>,
    stop: CancellationToken,
}

impl Floor {
    /// With conversations of these names, and nodes with these client addresses.
    pub fn new(recorder: Recorder, conversations: Vec<String>, endpoints: Vec<String>) -> Floor {
        Floor {
            recorder,
            conversations,
            endpoints,
            processes: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            tails: Mutex::default(),
            recent: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            healed: CancellationToken::new(),
        }
    }

    /// A process that has never called.
    pub fn fresh_process(&self) -> Process {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// A message id that nobody has.
    fn fresh_message(&self) -> u64 {
        self.messages.fetch_add(1, Ordering::Relaxed)
    }

    /// How many appends have been acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn note_acknowledged(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// The highest tail that anybody has seen.
    fn tail(&self, conversation: &str) -> u64 {
        lock(&self.tails).get(conversation).copied().unwrap_or(1)
    }

    fn note_tail(&self, conversation: &str, tail: u64) {
        let mut tails = lock(&self.tails);
        let known = tails.entry(conversation.to_owned()).or_insert(1);
        *known = tail.max(*known);
    }

    /// Keeps a message for those who choose one, in place of any other: most are recent, and some are old.
    fn note_sent(&self, sent: Recent) {
        let mut recent = lock(&self.recent);
        match recent.len() < RECENT_MAX {
            true => recent.push(sent),
            false => recent[rand::random_range(0..RECENT_MAX)] = sent,
        }
    }

    fn any_recent(&self, dice: &mut StdRng) -> Option<Recent> {
        let recent = lock(&self.recent);
        let at = dice.random_range(0..recent.len().max(1));
        recent.get(at).cloned()
    }

    /// A conversation, the hot ones more often.
    pub fn any_conversation(&self, dice: &mut StdRng) -> String {
        let hot = (self.conversations.len() / 6).max(1);
        let among =
            if dice.random_bool(0.6) { &self.conversations[..hot] } else { &self.conversations };
        among.choose(dice).expect("there are conversations").clone()
    }

    /// Every conversation, with the first seq there is.
    fn starts(&self) -> HashMap<String, u64> {
        self.conversations.iter().map(|name| (name.clone(), 1)).collect()
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> u32 {
        self.endpoints.len() as u32
    }

    /// The API of a node as it is, without the client library.
    fn api(&self, node: u32) -> anyhow::Result<MessageLogClient<Channel>> {
        Ok(MessageLogClient::new(self.endpoint(node)?.connect_lazy()))
    }

    /// The same for operating the cluster. A node that is silent is given up, so that another connection is made.
    ///
    /// # Errors
    ///
    /// If its address is none.
    pub fn cluster(&self, node: u32) -> anyhow::Result<ClusterClient<Channel>> {
        let endpoint = self.endpoint(node)?.keep_alive_while_idle(true);
        let endpoint = endpoint.http2_keep_alive_interval(KEEP_ALIVE_INTERVAL);
        Ok(ClusterClient::new(endpoint.keep_alive_timeout(KEEP_ALIVE_TIMEOUT).connect_lazy()))
    }

    fn endpoint(&self, node: u32) -> anyhow::Result<Endpoint> {
        let address = format!("http://{}", self.endpoints[node as usize - 1]);
        Ok(Endpoint::from_shared(address)?.connect_timeout(CONNECT_TIMEOUT))
    }

    /// A caller that asks this node and no other; none for one that goes to leaders.
    pub async fn caller(self: &Arc<Self>, node: Option<u32>) -> Option<Caller> {
        let mut options = match node {
            Some(node) => ClientOptions::new([&self.endpoints[node as usize - 1]]),
            None => ClientOptions::new(&self.endpoints),
        };
        options.routing = if node.is_some() { Routing::Proxy } else { Routing::Leader };
        options.request_timeout = CALL_TIMEOUT;
        options.attempt_timeout = CALL_TIMEOUT / 2;
        let client = Client::connect(options).await.ok()?;
        Some(Caller::new(self.clone(), client, node))
    }

    /// Callers pinned to each node in turn, and every fourth one that roams.
    async fn caller_of(self: &Arc<Self>, place: u32, stop: &CancellationToken) -> Option<Caller> {
        let node = (place % 4 != 3).then(|| place % self.nodes() + 1);
        loop {
            if let Some(caller) = self.caller(node).await {
                return Some(caller);
            }
            if stop.is_cancelled() {
                return None;
            }
        }
    }
}

impl Worker {
    /// Its caller; none if the run ends before a node answers.
    async fn caller(&self) -> Option<Caller> {
        self.floor.caller_of(self.place, &self.stop).await
    }

    /// Waits as long as one does between two calls. False when it is time to stop.
    async fn pause(&mut self) -> bool {
        let uniform: f64 = self.dice.random_range(f64::EPSILON..1.0);
        let pause = self.pause.mul_f64(-uniform.ln()).min(self.pause * 8);
        tokio::select! {
            () = tokio::time::sleep(pause) => !self.stop.is_cancelled(),
            () = self.stop.cancelled() => false,
        }
    }
}

impl Crew {
    /// Puts the workers of these kinds to work, at this many calls a second together.
    pub fn start(floor: &Arc<Floor>, kinds: &[&'static Workload], rate: u32, seed: u64) -> Crew {
        let stop = CancellationToken::new();
        let shares: u32 = kinds.iter().map(|kind| kind.share).sum();
        let mut workers = JoinSet::new();
        let mut place = 0;
        for kind in kinds {
            let rate_each = f64::from(rate * kind.share) / f64::from(shares.max(1) * kind.workers);
            for number in 0..kind.workers {
                let of_worker = seed.wrapping_mul(1_000_003).wrapping_add(u64::from(place) + 1);
                let worker = Worker {
                    floor: floor.clone(),
                    number,
                    place,
                    dice: StdRng::seed_from_u64(of_worker),
                    pause: Duration::from_secs_f64(1.0 / rate_each.max(0.01)),
                    stop: stop.clone(),
                };
                workers.spawn((kind.work)(worker));
                place += 1;
            }
        }
        Crew { workers, stop }
    }

    /// Lets everybody finish what they are at. Fails if one of them has failed, or does not come to an end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        let all = async {
            while let Some(ended) = self.workers.join_next().await {
                ended?;
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(Duration::from_secs(60), all).await {
            Ok(ended) => ended,
            Err(_) => anyhow::bail!("clients did not come to an end"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
