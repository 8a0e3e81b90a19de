//! Linearizable reads of a load's lanes through each node, while things happen.
//!
//! A read must hold whatever was acknowledged before it began, and whatever a read that had ended before it began, on
//! whichever node, has returned (G3). It may fail; it may never be stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_client::{Client, Read, Start};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Cluster, Lane, Load, NODES, eventually};

/// How long one read may try: shorter than a link is broken, so that reads through it fail meanwhile.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// Readers on each node, so that one whose read hangs does not keep the others.
const READERS: usize = 3;
/// Between two reads through one node.
const PAUSE: Duration = Duration::from_millis(10);

/// Readers through all nodes.
pub struct Witness {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    counts: Arc<[Counts; 3]>,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Witness {
    /// Reads through each node until it is told to finish.
    pub async fn start(cluster: &Cluster, load: &Load) -> Witness {
        let counts: Arc<[Counts; 3]> = Arc::default();
        let seen: Vec<AtomicU64> = load.lanes.iter().map(|_| AtomicU64::new(0)).collect();
        let (seen, stop) = (Arc::new(seen), CancellationToken::new());
        let mut tasks = JoinSet::new();
        for (node, reader) in NODES.into_iter().flat_map(|n| (0..READERS).map(move |r| (n, r))) {
            let client = cluster.impatient_client_of(node, READ_TIMEOUT).await;
            let (lanes, seen) = (load.lanes.clone(), seen.clone());
            let (counts, stop) = (counts.clone(), stop.clone());
            tasks.spawn(async move {
                let counts = &counts[node as usize - 1];
                let own = lanes.iter().zip(seen.iter()).skip(reader).step_by(READERS);
                for (lane, seen) in own.cycle().take_while(|_| !stop.is_cancelled()) {
                    look(&client, node, lane, seen, counts).await;
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Witness { tasks, stop, counts }
    }

    /// Reads that a node has answered so far.
    pub fn answered_by(&self, node: u32) -> u64 {
        self.counts[node as usize - 1].answered.load(Ordering::Relaxed)
    }

    /// Reads through a node that have failed so far.
    pub fn failed_at(&self, node: u32) -> u64 {
        self.counts[node as usize - 1].failed.load(Ordering::Relaxed)
    }

    /// Waits until a node has answered so many reads more.
    pub async fn wait_answered(&self, node: u32, more: u64) {
        let then = self.answered_by(node);
        eventually("the node answers reads", async || {
            (self.answered_by(node) >= then + more).then_some(())
        })
        .await;
    }

    /// Ends all reads. Panics if one was wrong.
    pub async fn finish(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

async fn look(client: &Client, node: u32, lane: &Lane, seen: &AtomicU64, counts: &Counts) {
    let acknowledged = lane.acknowledged();
    let due = acknowledged.max(seen.load(Ordering::Acquire));
    match client.read(Read::new(&lane.conversation).start(Start::Last(1)).limit(1)).await {
        Ok(page) => {
            let last = page.tail - 1;
            let name = &lane.conversation;
            assert!(last >= due, "a stale read of {name} through node {node}: {last} after {due}");
            assert_eq!(page.messages.last().map_or(0, |message| message.seq), last, "{name}");
            page.messages.iter().for_each(|message| lane.check(message));
            seen.fetch_max(last, Ordering::AcqRel);
            counts.answered.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) => {
            assert!(error.retryable(), "a read through node {node}: {error}");
            assert!(!error.may_have_taken_effect(), "a read has no effect: {error}");
            counts.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
