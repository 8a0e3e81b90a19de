//! Appends that go on while things happen, and know what must come of them.
//!
//! Each lane is one conversation that one session writes. Its message n is a function of the lane and n, each is sent
//! once, and nobody else writes there: so message n has to be acknowledged at seq n + 1, and stand there for ever.
//! Counts are all that has to be remembered.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use quorate_client::proto::{AppendResponse, Message};
use quorate_client::{
    Append, AppendHandle, Client, Consistency, Error, NewMessage, Read, Session, SessionOptions,
    Start,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cluster::GROUPS;
use super::{Cluster, NODES, TIMEOUT, eventually};

/// Messages that one read of the verification asks for.
const PAGE: u32 = 10_000;
/// Senders of one lane.
const SENDERS: u64 = 3;

/// How a lane's appends reach the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Straight.
    Leaders,
    /// Through this node, and through others while that one does not serve.
    Preferring(u32),
    /// Through this node only.
    Only(u32),
    /// Through these two nodes.
    Among(u32, u32),
}

/// How fast each lane sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as its window lets it.
    Surge,
    /// One message in this time.
    Trickle(Duration),
    /// Nothing any more.
    Stop,
}

/// One conversation and how far it has come.
pub struct Lane {
    pub conversation: String,
    pub group: u64,
    pub way: Way,
    handed_in: AtomicU64,
    acknowledged: AtomicU64,
    longest_pause: Mutex<Duration>,
    /// What anybody was ever told of a seq.
    told: Mutex<HashMap<u64, Told>>,
}

/// What must never be told otherwise: commit time and digest of all history up to here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    commit_time_us: u64,
    digest: Vec<u8>,
}

/// How far each lane had come at some moment.
#[derive(Clone, Debug)]
pub struct Progress(Vec<LaneProgress>);

#[derive(Clone, Copy, Debug)]
struct LaneProgress {
    group: u64,
    handed_in: u64,
    acknowledged: u64,
}

/// Lanes in every group.
pub struct Load {
    pub lanes: Vec<Arc<Lane>>,
    pace: watch::Sender<Pace>,
    failure: Arc<OnceLock<String>>,
    tasks: JoinSet<()>,
}

impl Lane {
    fn new(conversation: String, group: u64, way: Way) -> Self {
        Lane {
            conversation,
            group,
            way,
            handed_in: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            longest_pause: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Seqs up to and including this one were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// Messages that were handed in so far.
    pub fn handed_in(&self) -> u64 {
        self.handed_in.load(Ordering::Acquire)
    }

    /// The longest time without an acknowledgement, while one was waited for, since this was asked last.
    pub fn take_longest_pause(&self) -> Duration {
        std::mem::take(&mut self.longest_pause.lock().unwrap())
    }

    fn append(&self, number: u64) -> Append {
        let message = NewMessage::text(self.text(number)).client_msg_id(number.to_string());
        Append::new(&self.conversation, sender(number), message)
    }

    fn text(&self, number: u64) -> String {
        format!("{} of {}. ", number, self.conversation).repeat(1 + number as usize % 7)
    }

    /// Panics unless this is what was sent to be at this seq.
    pub fn check(&self, message: &Message) {
        let number = message.seq - 1;
        let place = format!("{} at {}", self.conversation, message.seq);
        // One may have been committed already and not be counted yet.
        assert!(number <= self.handed_in(), "{place}: nobody sent this: {message:?}");
        assert_eq!(message.client_msg_id, number.to_string(), "{place}");
        assert_eq!(message.sender, sender(number), "{place}");
        assert_eq!(message.payload, self.text(number), "{place}");
        let told = Told { commit_time_us: message.commit_time_us, digest: message.digest.to_vec() };
        self.note(message.seq, told).unwrap();
    }

    /// Fails if something else was told of this seq before.
    fn note(&self, seq: u64, told: Told) -> Result<(), String> {
        let mut before = self.told.lock().unwrap();
        let first = before.entry(seq).or_insert_with(|| told.clone());
        let name = &self.conversation;
        (*first == told).then_some(()).ok_or(format!("{name} at {seq}: {told:?} after {first:?}"))
    }

    /// Takes an acknowledgement, which has to be for this seq.
    fn acknowledge(&self, due: u64, outcome: Result<AppendResponse, Error>) -> Result<(), String> {
        match outcome {
            Ok(appended) if appended.first_seq == due => {
                let commit_time_us = appended.commit_time_us;
                self.note(due, Told { commit_time_us, digest: appended.digest.to_vec() })
            }
            wrong => {
                let (name, way) = (&self.conversation, self.way);
                Err(format!("{name} ({way:?}): seq {due} was due: {wrong:?}"))
            }
        }
    }
}

fn sender(number: u64) -> String {
    format!("sender-{}", number % SENDERS)
}

impl Load {
    /// One lane for each group and way, each with so many appends in flight at most. `name` begins the names of its
    /// conversations, which nobody may have written before.
    pub async fn start(
        cluster: &Cluster,
        name: &str,
        ways: &[Way],
        window: usize,
        pace: Pace,
    ) -> Load {
        let topology = cluster.client_of_leaders().await;
        let (pace, paces) = watch::channel(pace);
        let failure = Arc::new(OnceLock::new());
        let (mut lanes, mut tasks) = (Vec::new(), JoinSet::new());
        let mut names = 0..;
        for way in ways {
            let client = client_for(cluster, *way).await;
            let mut missing: BTreeSet<u64> = (1..=u64::from(GROUPS)).collect();
            while !missing.is_empty() {
                let conversation = format!("{name}/{}", names.next().unwrap());
                let group = topology.group_of(&conversation).expect("the topology is known");
                if !missing.remove(&group) {
                    continue;
                }
                let lane = Arc::new(Lane::new(conversation, group, *way));
                lanes.push(lane.clone());
                let options = SessionOptions {
                    in_flight_max: window,
                    append_timeout: TIMEOUT,
                    ..SessionOptions::default()
                };
                let session = client.session(options).unwrap();
                let (handles, pending) = mpsc::channel(window);
                tasks.spawn(send(lane.clone(), session, paces.clone(), handles));
                tasks.spawn(collect(lane, pending, failure.clone()));
            }
        }
        Load { lanes, pace, failure, tasks }
    }

    pub fn set_pace(&self, pace: Pace) {
        self.pace.send_replace(pace);
    }

    /// How far every lane is.
    pub fn progress(&self) -> Progress {
        if let Some(failure) = self.failure.get() {
            panic!("{failure}");
        }
        let of_lane = |lane: &Arc<Lane>| LaneProgress {
            group: lane.group,
            // In this order: what is acknowledged in between was in flight.
            acknowledged: lane.acknowledged(),
            handed_in: lane.handed_in(),
        };
        Progress(self.lanes.iter().map(of_lane).collect())
    }

    /// Waits until each lane that is asked for had so many more acknowledgements.
    pub async fn wait_flowing(&self, since: &Progress, more: u64, of: impl Fn(&Lane) -> bool) {
        eventually("every lane is acknowledged again", async || {
            self.progress();
            let mut lanes = self.lanes.iter().zip(&since.0).filter(|(lane, _)| of(lane));
            lanes.all(|(lane, then)| lane.acknowledged() >= then.acknowledged + more).then_some(())
        })
        .await;
    }

    /// The longest pause of the lanes that are asked for since this was asked last.
    pub fn take_longest_pause(&self, of: impl Fn(&Lane) -> bool) -> Duration {
        let lanes = self.lanes.iter().filter(|lane| of(lane));
        lanes.map(|lane| lane.take_longest_pause()).max().unwrap_or_default()
    }

    /// Messages acknowledged over all lanes.
    pub fn acknowledged(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.acknowledged()).sum()
    }

    /// Stops sending and waits until everything that was handed in is acknowledged.
    pub async fn finish(&mut self) {
        self.set_pace(Pace::Stop);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.progress();
        for lane in &self.lanes {
            assert_eq!(lane.acknowledged(), lane.handed_in(), "{}", lane.conversation);
        }
    }

    /// Reads everything from every node's own replica: each message that was sent, once, at its seq, and no other.
    pub async fn verify(&self, cluster: &Cluster) {
        let mut tasks = JoinSet::new();
        for node in NODES {
            let (lanes, client) = (self.lanes.clone(), cluster.client_of(node).await);
            tasks.spawn(async move {
                for lane in &lanes {
                    verify(&client, node, lane).await;
                }
            });
        }
        tasks.join_all().await;
    }
}

impl Progress {
    /// Appends of these groups that were in flight here and had no answer in `later` either.
    pub fn in_flight_through(&self, later: &Progress, groups: &BTreeSet<u64>) -> u64 {
        let lanes = self.0.iter().zip(&later.0).filter(|(then, _)| groups.contains(&then.group));
        lanes.map(|(then, later)| then.handed_in.saturating_sub(later.acknowledged)).sum()
    }
}

async fn client_for(cluster: &Cluster, way: Way) -> Client {
    match way {
        Way::Leaders => cluster.client_of_leaders().await,
        Way::Preferring(node) => cluster.client(node).await,
        Way::Only(node) => cluster.client_of(node).await,
        Way::Among(first, second) => cluster.client_among(&[first, second]).await,
    }
}

type Pending = (Instant, AppendHandle);

async fn send(
    lane: Arc<Lane>,
    session: Session,
    mut pace: watch::Receiver<Pace>,
    handles: mpsc::Sender<Pending>,
) {
    for number in 0.. {
        if !may_send(&mut pace).await {
            return;
        }
        let handle = session.append(lane.append(number)).await;
        lane.handed_in.store(number + 1, Ordering::Release);
        if handles.send((Instant::now(), handle)).await.is_err() {
            return; // The collector has noted why.
        }
    }
}

/// Waits for the turn of the next message; false if there is none.
async fn may_send(pace: &mut watch::Receiver<Pace>) -> bool {
    loop {
        let now = *pace.borrow_and_update();
        let pause = match now {
            Pace::Surge => return true,
            Pace::Stop => return false,
            Pace::Trickle(pause) => pause,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => return true,
            _ = pace.changed() => {}
        }
    }
}

async fn collect(
    lane: Arc<Lane>,
    mut pending: mpsc::Receiver<Pending>,
    failure: Arc<OnceLock<String>>,
) {
    let mut last = Instant::now();
    while let Some((handed_in, handle)) = pending.recv().await {
        let due = lane.acknowledged() + 1;
        if let Err(wrong) = lane.acknowledge(due, handle.await) {
            let _ = failure.set(wrong); // The first to fail is enough.
            return;
        }
        let now = Instant::now();
        let pause = now - last.max(handed_in);
        last = now;
        let mut longest = lane.longest_pause.lock().unwrap();
        *longest = pause.max(*longest);
        drop(longest);
        lane.acknowledged.store(due, Ordering::Release);
    }
}

/// Compares a lane with what a node's own replica has, and so the replicas with each other.
async fn verify(client: &Client, node: u32, lane: &Lane) {
    let end = Read::new(&lane.conversation).start(Start::Last(1)).limit(1);
    let tail = client.read(end).await.unwrap().tail;
    assert_eq!(tail, lane.handed_in() + 1, "{} on node {node}", lane.conversation);
    let mut next = 1;
    while next < tail {
        let read = Read::new(&lane.conversation).start(Start::Seq(next)).limit(PAGE);
        let page = client.read(read.consistency(Consistency::Local)).await.unwrap();
        let position = page.position.as_ref().unwrap();
        assert_eq!(position.node_id, u64::from(node), "LOCAL is not forwarded");
        assert!(!page.messages.is_empty(), "{} at {next} on node {node}", lane.conversation);
        for message in &page.messages {
            assert_eq!(message.seq, next, "{} on node {node}", lane.conversation);
            lane.check(message);
            next += 1;
        }
    }
}
