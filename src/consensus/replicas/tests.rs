//! A replica that was just made is not missing, however its making and the look at what is missing fall together
//! (availability).

use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{Instant, sleep};

use super::*;
use crate::consensus::solitary::{Disks, EVENTUALLY, NODE};
use crate::types::Incarnation;

const GROUP: GroupId = GroupId(1);
const REPLICA: ReplicaId = ReplicaId { node: NODE, incarnation: Incarnation(1) };

/// One look that comes too late is enough, and in each round it is all but certain to come while a replica is started.
const ROUNDS: u64 = 10;

/// Holds what is known of problems until it is dropped.
struct Held {
    release: Option<mpsc::Sender<()>>,
    holder: JoinHandle<()>,
}

impl Held {
    async fn begin(replicas: &Arc<Replicas>) -> Held {
        let (release, released) = mpsc::channel::<()>();
        let (locked, is_locked) = oneshot::channel();
        let replicas = replicas.clone();
        let holder = tokio::spawn(async move {
            block_in_place(|| {
                let _problems = replicas.problems.lock().expect("no panic while locked");
                locked.send(()).expect("the test waits for it");
                let _ = released.recv();
            });
        });
        is_locked.await.expect("it is locked");
        Held { release: Some(release), holder }
    }

    async fn end(mut self) {
        drop(self.release.take());
        self.holder.await.expect("it only waits");
    }
}

async fn stands(replicas: &Replicas) -> bool {
    let deadline = Instant::now() + EVENTUALLY;
    while replicas.get(GROUP).is_none() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(1)).await;
    }
    true
}

fn problems(replicas: &Replicas) -> Vec<String> {
    let statuses = replicas.statuses().into_iter();
    statuses.filter(|status| !status.problem.is_empty()).map(|status| status.problem).collect()
}

/// Otherwise whoever looks in between finds neither the replica nor its problem, and says that it is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replica_that_is_made_stands_before_its_problem_goes() {
    let disks = Disks::default();
    let process = disks.start().await;
    let replicas = process.replicas.clone();
    replicas.note_missing(GROUP, REPLICA);
    assert_eq!(problems(&replicas).len(), 1);

    let held = Held::begin(&replicas).await;
    let making = tokio::spawn({
        let replicas = replicas.clone();
        async move { replicas.make(GROUP, REPLICA).await }
    });
    let stands = stands(&replicas).await;
    held.end().await;
    making.await.unwrap().unwrap();
    assert!(stands, "the problem was to go first");
    assert_eq!(problems(&replicas), [""; 0]);
    disks.crash(process).await;
}

/// Otherwise a replica that comes to stand, and whose problem goes, after the look has it come back for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whether_a_replica_stands_is_looked_at_while_its_problem_cannot_go() {
    let disks = Disks::default();
    let process = disks.start().await;
    let replicas = process.replicas.clone();
    for group in (1..=ROUNDS).map(GroupId) {
        let held = Held::begin(&replicas).await;
        let (begins, has_begun) = oneshot::channel();
        let noting = tokio::spawn({
            let replicas = replicas.clone();
            async move {
                block_in_place(|| {
                    begins.send(()).expect("the test waits for it");
                    replicas.note_missing(group, REPLICA);
                });
            }
        });
        has_begun.await.unwrap();
        // As making one does, up to where its problem goes.
        let log = GroupLog::new(group, replicas.log.clone(), None);
        let (state, row) = (replicas.state.clone(), GroupRow::blank(REPLICA));
        let applied = Arc::new(Applied::open(group, state, row, replicas.live.clone()));
        replicas.start(group, log, applied).await.unwrap();
        held.end().await;
        noting.await.unwrap();
    }
    assert_eq!(problems(&replicas), [""; 0]);
    disks.crash(process).await;
}
