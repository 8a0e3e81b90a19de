//! Which node a call goes to.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::topology::IndexedTopology;
use crate::{Error, Routing, proto, reason};

/// How long a node that could not be reached is passed over.
const UNREACHABLE_PASSED_OVER: Duration = Duration::from_secs(1);
/// How much longer than it asks to wait a node that answered "unavailable" is passed over: long enough that the retry
/// goes to another, short enough that a leader in the making is asked again soon.
const UNAVAILABLE_PASSED_OVER: Duration = Duration::from_millis(200);

/// Nodes that tell the topology at the same time: one of them may be dead without a sign, or cut off from the others.
pub(crate) const SOURCES: usize = 2;

/// How long a leader that was deposed may take to answer what it was asked before. One that is cut off never does.
pub(crate) const DEPOSED_PATIENCE: Duration = Duration::from_millis(50);

/// Whom a call is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination<'a> {
    /// The leader of the group that holds this conversation.
    LeaderOf(&'a str),
    /// Any replica of that group.
    ReplicaOf(&'a str),
    /// Any node.
    AnyNode,
}

impl<'a> Destination<'a> {
    fn conversation(self) -> Option<&'a str> {
        match self {
            Destination::LeaderOf(name) | Destination::ReplicaOf(name) => Some(name),
            Destination::AnyNode => None,
        }
    }
}

/// Where a call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub address: Arc<str>,
    /// The group it is about, where the topology tells.
    pub group: Option<u64>,
}

/// What is known of the cluster, from the topology and from how nodes answered.
pub(crate) struct Router {
    routing: Routing,
    endpoints: Vec<Arc<str>>,
    /// The endpoint in use when calls may go anywhere.
    preferred: AtomicUsize,
    topology: ArcSwapOption<IndexedTopology>,
    changes: watch::Sender<Option<Arc<proto::Topology>>>,
    /// Read on each call, changed by failures.
    experience: ArcSwap<Experience>,
    /// Held while a topology is taken.
    learning: Mutex<()>,
    stale: Notify,
    /// Counts what may have changed a target.
    lessons: AtomicU64,
    born: Instant,
}

#[derive(Clone, Default)]
struct Experience {
    /// Leaders that nodes have named since the topology came, by group.
    leaders: HashMap<u64, Arc<str>>,
    /// Nodes that failed, and until when they are passed over. One entry for each address of the cluster at most.
    passed_over: HashMap<Arc<str>, Instant>,
    /// Where the topology comes from, by watch.
    sources: [Option<Arc<str>>; SOURCES],
}

impl Experience {
    /// The first candidate that did not fail lately, or the one that may be asked again soonest if every one did.
    fn first_usable<'a>(
        &self,
        candidates: impl Iterator<Item = &'a Arc<str>> + Clone,
    ) -> &'a Arc<str> {
        let usable = |address: &&Arc<str>| {
            self.passed_over.get(*address).is_none_or(|until| *until <= Instant::now())
        };
        let soonest = || candidates.clone().min_by_key(|address| self.passed_over.get(*address));
        candidates
            .clone()
            .find(usable)
            .or_else(soonest)
            .expect("the endpoints are among the candidates and there is one at least")
    }
}

impl Router {
    pub fn new(routing: Routing, endpoints: Vec<Arc<str>>) -> Self {
        Router {
            routing,
            endpoints,
            preferred: AtomicUsize::new(0),
            topology: ArcSwapOption::empty(),
            changes: watch::Sender::new(None),
            experience: ArcSwap::default(),
            learning: Mutex::default(),
            stale: Notify::new(),
            lessons: AtomicU64::new(0),
            born: Instant::now(),
        }
    }

    /// The newest topology heard of.
    pub fn topology(&self) -> Option<Arc<proto::Topology>> {
        self.topology.load().as_ref().map(|indexed| indexed.topology().clone())
    }

    /// The topology as it changes.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<proto::Topology>>> {
        self.changes.subscribe()
    }

    /// Takes a topology that a node has sent. Leaders named before it are forgotten: if the node knew less than
    /// they did, the next call is told again. A node that now leads is asked, also if it did not a moment ago.
    pub fn learn(&self, topology: proto::Topology) {
        // What two nodes tell at the same time is learned one after the other.
        let learning = self.learning.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.topology.load();
        if current.as_ref().is_some_and(|c| c.topology().version > topology.version) {
            return;
        }
        let indexed = Arc::new(IndexedTopology::told_after(current.as_deref(), topology));
        let leaders = indexed.leaders_unlike(current.as_deref());
        self.change_experience(|experience| {
            experience.leaders.clear();
            experience.passed_over.retain(|address, _| !leaders.contains(&address));
        });
        let announced = indexed.topology().clone();
        // Whoever is woken looks at what is stored.
        self.topology.store(Some(indexed));
        drop(learning);
        self.changes.send_replace(Some(announced));
        self.lessons.fetch_add(1, Ordering::Relaxed);
    }

    /// From when on the leader that the topology names for a conversation may be asked: now, or once it is not passed
    /// over any more. None if there is no leader.
    pub fn leader_usable_at(&self, conversation: &str) -> Option<Instant> {
        let topology = self.topology.load();
        let topology = topology.as_ref()?;
        let leader = topology.address_of(topology.group_of(conversation)?.leader_node_id)?;
        let now = Instant::now();
        Some(self.experience.load().passed_over.get(leader).map_or(now, |until| now.max(*until)))
    }

    /// Resolves once a topology has come that `changes` has not seen and names a leader that may be asked: then a call
    /// need not rest any longer. Cancel safe.
    pub async fn next_usable_leader(
        &self,
        destination: Destination<'_>,
        changes: &mut watch::Receiver<Option<Arc<proto::Topology>>>,
    ) {
        let Destination::LeaderOf(conversation) = destination else {
            return std::future::pending().await;
        };
        let mut usable_at = None;
        loop {
            let usable = async {
                match usable_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = usable => return,
                // The sender is this router's own, so that there is no error.
                _ = changes.changed() => usable_at = self.leader_usable_at(conversation),
            }
        }
    }

    /// Whether another node than this one leads a conversation, as far as the topology tells, and is asked next.
    pub fn is_led_elsewhere(&self, conversation: &str, address: &Arc<str>) -> bool {
        let topology = self.topology.load();
        let group = topology.as_ref().and_then(|topology| topology.group_of(conversation));
        let leader = group.and_then(|group| topology.as_ref()?.address_of(group.leader_node_id));
        leader.filter(|leader| *leader != address).is_some_and(|leader| {
            self.target(Destination::LeaderOf(conversation)).address == *leader
        })
    }

    /// Resolves once a topology that `changes` has not seen has named another leader than whom a call went to, and an
    /// answer that was on its way would have come. Cancel safe.
    pub async fn led_elsewhere(
        &self,
        destination: Destination<'_>,
        target: &Target,
        mut changes: watch::Receiver<Option<Arc<proto::Topology>>>,
    ) {
        let Destination::LeaderOf(conversation) = destination else {
            return std::future::pending().await;
        };
        // The sender is this router's own, so that there is no error.
        while changes.changed().await.is_ok() {
            if self.is_led_elsewhere(conversation, &target.address) {
                sleep(DEPOSED_PATIENCE).await;
                if self.is_led_elsewhere(conversation, &target.address) {
                    return;
                }
            }
        }
    }

    /// While this is the same, targets are too. Nodes that were passed over come back with time, so it also moves
    /// once a second.
    pub fn generation(&self) -> u64 {
        self.lessons.load(Ordering::Relaxed) + self.born.elapsed().as_secs()
    }

    /// Asks for the topology of another node.
    pub fn note_stale(&self) {
        self.stale.notify_one();
    }

    /// Resolves once somebody has asked for that.
    pub async fn stale(&self) {
        self.stale.notified().await;
    }

    /// The group that holds a conversation, where the topology tells and routing cares.
    pub fn group_of(&self, conversation: &str) -> Option<u64> {
        if self.routing == Routing::Proxy {
            return None;
        }
        Some(self.topology.load().as_ref()?.group_of(conversation)?.group_id)
    }

    /// Where to go.
    pub fn target(&self, destination: Destination<'_>) -> Target {
        let topology = self.topology.load();
        let topology = topology.as_deref().filter(|_| self.routing == Routing::Leader);
        let experience = self.experience.load();
        let group = topology.and_then(|topology| topology.group_of(destination.conversation()?));
        let candidates = self.candidates(destination, topology, group, &experience);
        let address = experience.first_usable(candidates).clone();
        Target { address, group: group.map(|group| group.group_id) }
    }

    /// Whom a watch asks for the topology: after each node the next, all in turn, since one that is cut off from the
    /// others goes on telling what it knew. None if other watches ask all there are.
    pub fn next_source(&self, watch: usize, last: Option<&Target>) -> Option<Target> {
        let topology = self.topology.load();
        let topology = topology.as_deref().filter(|_| self.routing == Routing::Leader);
        let experience = self.experience.load();
        let candidates = self.candidates(Destination::AnyNode, topology, None, &experience);
        let mut seen = HashSet::new();
        let mut nodes: Vec<_> = candidates.filter(|address| seen.insert(*address)).collect();
        let place = last.and_then(|last| nodes.iter().position(|node| **node == last.address));
        nodes.rotate_left(place.map_or(0, |place| place + 1));
        let others = (0..SOURCES).filter(|other| *other != watch);
        let others: Vec<_> =
            others.filter_map(|other| experience.sources[other].as_ref()).collect();
        nodes.retain(|address| !others.contains(address));
        if nodes.is_empty() {
            return None;
        }
        let address = experience.first_usable(nodes.iter().copied()).clone();
        self.change_experience(|experience| experience.sources[watch] = Some(address.clone()));
        Some(Target { address, group: None })
    }

    /// Learns from a failure where the next attempt should go.
    pub fn note_failure(&self, target: &Target, error: &Error) {
        let named = error.leader_hint().and_then(|hint| self.resolve(hint));
        // A leader that cannot commit, because it is one no more, answers late or is overloaded: others know better. One
        // that is overloaded may also just be that, which says something only of what it tells itself.
        let experience = self.experience.load();
        let is_source = experience.sources.iter().flatten().any(|one| *one == target.address);
        if error.is_of_reach() || error.reason() == reason::OVERLOADED && is_source {
            self.note_stale();
        }
        self.lessons.fetch_add(1, Ordering::Relaxed);
        match (target.group, named) {
            (Some(group), Some(leader)) if leader != target.address => {
                return self.change_experience(|experience| {
                    experience.leaders.insert(group, leader.clone());
                });
            }
            (Some(group), _) => self.change_experience(|experience| {
                experience.leaders.remove(&group);
            }),
            (None, _) => {}
        }
        let pause = match error.code() {
            _ if error.is_transport() => UNREACHABLE_PASSED_OVER,
            tonic::Code::DeadlineExceeded => UNREACHABLE_PASSED_OVER,
            tonic::Code::Unavailable => {
                UNAVAILABLE_PASSED_OVER + error.retry_delay().unwrap_or_default()
            }
            _ => return,
        };
        let now = Instant::now();
        self.change_experience(|experience| {
            experience.passed_over.retain(|_, until| *until > now);
            experience.passed_over.insert(target.address.clone(), now + pause);
        });
        self.advance_preferred(&target.address);
    }

    /// Notes that a node answers.
    pub fn note_success(&self, address: &Arc<str>) {
        if self.experience.load().passed_over.contains_key(address) {
            self.change_experience(|experience| {
                experience.passed_over.remove(address);
            });
        }
    }

    /// `change` may run more than once, if others learn at the same time.
    fn change_experience(&self, change: impl Fn(&mut Experience)) {
        self.experience.rcu(|experience| {
            let mut experience = Experience::clone(experience);
            change(&mut experience);
            experience
        });
    }

    /// Nodes in the order in which they are to be asked; some come twice. Of a group the leader comes first; or all in
    /// random order, so that reads spread.
    fn candidates<'a>(
        &'a self,
        destination: Destination<'_>,
        topology: Option<&'a IndexedTopology>,
        group: Option<&'a proto::Group>,
        experience: &'a Experience,
    ) -> impl Iterator<Item = &'a Arc<str>> + Clone {
        let address_of = move |node_id: u64| topology.and_then(|known| known.address_of(node_id));
        let replicas = group.map_or(&[][..], |group| &group.replicas);
        let led = group.filter(|_| matches!(destination, Destination::LeaderOf(_)));
        let leader = led.and_then(|group| {
            let named = experience.leaders.get(&group.group_id);
            named.or_else(|| address_of(group.leader_node_id))
        });
        let first = match replicas.len() {
            count if count > 1 && led.is_none() => rand::random_range(0..count),
            _ => 0,
        };
        let (last, replicas) = replicas.split_at(first);
        let replicas = replicas.iter().chain(last);
        leader
            .into_iter()
            .chain(replicas.filter_map(move |replica| address_of(replica.node_id)))
            .chain(self.rotated_endpoints())
            .chain(topology.into_iter().flat_map(IndexedTopology::all_addresses))
    }

    fn rotated_endpoints(&self) -> impl Iterator<Item = &Arc<str>> + Clone {
        let first = self.preferred.load(Ordering::Relaxed) % self.endpoints.len();
        let (last, endpoints) = self.endpoints.split_at(first);
        endpoints.iter().chain(last)
    }

    /// Goes on to the next endpoint if the one in use is the one that failed.
    fn advance_preferred(&self, failed: &Arc<str>) {
        let current = self.preferred.load(Ordering::Relaxed);
        if self.endpoints[current % self.endpoints.len()] == *failed {
            // Another task that saw the same failure may have gone on already: then nothing is left to do.
            let _ = self.preferred.compare_exchange(
                current,
                current.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// A leader hint as an address: servers name a host:port, or a node id.
    fn resolve(&self, hint: &str) -> Option<Arc<str>> {
        match hint.parse() {
            Ok(node_id) => self.topology.load().as_ref()?.address_of(node_id).cloned(),
            Err(_) => Some(Arc::from(hint)),
        }
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
