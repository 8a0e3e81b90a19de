//! Follows and subscriptions of a load's lanes, while things happen.
//!
//! Each yields every message of each conversation from seq 1 on, once, in seq order, without a gap, across all
//! reconnects of the client library (G6); what it has yielded is what stands there in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_client::{Client, Credit, Delivery, Follow, Start, Subscription};
use tokio::task::JoinSet;

use super::{Cluster, Lane, Load, NODES, eventually};

/// Less than what is sent of a lane, so that credit has to be given again.
const CREDIT_BYTES: u64 = 16 * 1024;

/// Streams of all lanes through all nodes.
pub struct Readers {
    tasks: JoinSet<()>,
    readers: Vec<Arc<Reader>>,
}

/// One stream and how far it has come.
struct Reader {
    name: String,
    by_conversation: BTreeMap<String, Place>,
}

struct Place {
    lane: Arc<Lane>,
    delivered: AtomicU64,
}

enum Stream {
    Follow(Follow),
    Subscription(Subscription),
}

impl Readers {
    /// On each node a follow and a subscription, which know other nodes to go to and which do not, and one follow that
    /// goes to leaders.
    pub async fn start(cluster: &Cluster, load: &Load) -> Readers {
        let mut readers = Readers::none();
        for node in NODES {
            let stream = follow(&cluster.client(node).await, load);
            readers.add(format!("follow preferring node {node}"), stream, load);
            let stream = subscribe(&cluster.client(node).await, load).await;
            readers.add(format!("subscription preferring node {node}"), stream, load);
            let stream = subscribe(&cluster.client_of(node).await, load).await;
            readers.add(format!("subscription on node {node}"), stream, load);
        }
        let stream = follow(&cluster.client_of_leaders().await, load);
        readers.add("follow on the leaders".to_owned(), stream, load);
        readers
    }

    /// None yet.
    pub fn none() -> Readers {
        Readers { tasks: JoinSet::new(), readers: Vec::new() }
    }

    /// Begins a follow and a subscription that prefer this node, and both once more, to leaders as this node knows them.
    pub async fn begin_through(&mut self, node: u32, cluster: &Cluster, load: &Load) {
        let clients = [
            ("preferring", cluster.client(node).await),
            ("on the leaders that are known to", cluster.client_of_leaders_by(node).await),
        ];
        for (what, client) in &clients {
            self.add(format!("follow {what} node {node}"), follow(client, load), load);
            let stream = subscribe(client, load).await;
            self.add(format!("subscription {what} node {node}"), stream, load);
        }
    }

    fn add(&mut self, name: String, stream: Stream, load: &Load) {
        let place = |lane: &Arc<Lane>| Place { lane: lane.clone(), delivered: AtomicU64::new(0) };
        let lanes = load.lanes.iter();
        let by_conversation = lanes.map(|lane| (lane.conversation.clone(), place(lane))).collect();
        let reader = Arc::new(Reader { name, by_conversation });
        self.readers.push(reader.clone());
        self.tasks.spawn(run(stream, reader));
    }

    /// Waits until each stream has yielded everything that was sent; nothing more may come.
    pub async fn wait_complete(&mut self) {
        self.wait_come_to(Lane::handed_in).await;
    }

    /// Waits until each stream has yielded everything that is acknowledged by now.
    pub async fn wait_acknowledged(&mut self, load: &Load) {
        let of = |lane: &Arc<Lane>| (lane.conversation.clone(), lane.acknowledged());
        let by_now: BTreeMap<String, u64> = load.lanes.iter().map(of).collect();
        self.wait_come_to(|lane| by_now[&lane.conversation]).await;
    }

    async fn wait_come_to(&mut self, due: impl Fn(&Lane) -> u64) {
        eventually("every stream yields everything", async || {
            let is_complete = self.readers.iter().all(|reader| reader.has_come_to(&due));
            // Asked last: one that fails at what is due has failed by then.
            if let Some(ended) = self.tasks.try_join_next() {
                ended.unwrap();
                panic!("a stream has ended");
            }
            is_complete.then_some(())
        })
        .await;
    }

    /// Streams.
    pub fn count(&self) -> usize {
        self.readers.len()
    }
}

impl Reader {
    fn has_come_to(&self, due: impl Fn(&Lane) -> u64) -> bool {
        let mut places = self.by_conversation.values();
        places.all(|place| place.delivered.load(Ordering::Acquire) >= due(&place.lane))
    }
}

fn follow(client: &Client, load: &Load) -> Stream {
    let names = load.lanes.iter().map(|lane| (lane.conversation.clone(), Start::Seq(1)));
    Stream::Follow(client.follow(names).unwrap())
}

async fn subscribe(client: &Client, load: &Load) -> Stream {
    let mut subscription = client.subscribe();
    for lane in &load.lanes {
        let credit = Credit::Automatic(CREDIT_BYTES);
        subscription.add(&lane.conversation, Start::Seq(1), credit).await.unwrap();
    }
    Stream::Subscription(subscription)
}

async fn run(mut stream: Stream, reader: Arc<Reader>) {
    loop {
        let delivery = match &mut stream {
            Stream::Follow(follow) => {
                follow.next().await.unwrap().unwrap_or_else(|e| panic!("{}: {e}", reader.name))
            }
            Stream::Subscription(subscription) => subscription.next().await,
        };
        match delivery {
            Delivery::Messages { conversation, messages } => {
                let place = &reader.by_conversation[&conversation];
                for message in messages {
                    let due = place.delivered.load(Ordering::Acquire) + 1;
                    assert_eq!(message.seq, due, "{}: {conversation}", reader.name);
                    place.lane.check(&message);
                    place.delivered.store(due, Ordering::Release);
                }
            }
            Delivery::CaughtUp { .. } => {}
            other => panic!("{}: {other:?}", reader.name),
        }
    }
}
