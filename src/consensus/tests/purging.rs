//! When the state is flushed, and that logs are purged behind what is durable, whether more comes or not.

use std::time::Duration;

use tokio::time::{Instant, interval, sleep, timeout};

use super::fixture::{EVENTUALLY, GROUP, append_to, leading, names, replica};
use super::links::Three;
use super::mortal::Mortal;
use crate::consensus::Group;
use crate::consensus::flusher::{self, FlushPolicy, flush_once};
use crate::consensus::solitary::Disks;
use crate::types::LogIndex;

#[tokio::test]
async fn the_log_of_a_group_that_has_nothing_to_apply_any_more_is_purged() {
    let disks = Disks::default();
    let process = disks.start().await;
    let own = replica(3, 1);
    let group = leading(&process, own).await;
    let deadline = || Instant::now() + EVENTUALLY;
    // Sizes are noted in steps.
    for name in names(GROUP, "room", 1_000) {
        group.propose(append_to(&name, 100), deadline()).await.unwrap();
        if group.log().index_behind(1).is_some() {
            break;
        }
    }
    let upto = group.log().index_behind(1).expect("enough was appended");
    flush_once(&process.replicas, 1).await.unwrap();
    let purging = async {
        let mut ticks = interval(Duration::from_millis(10));
        while group.status().purged_index < Some(upto) {
            ticks.tick().await;
            flush_once(&process.replicas, 1).await.unwrap();
        }
    };
    timeout(EVENTUALLY, purging).await.expect("it is purged though nothing more is applied");
    disks.crash(process).await;
}

const KEEP_ALL: u64 = u64::MAX;
/// More than the step in which the log writer says how much was written.
const SOME_MIB: usize = 2 * 1024 * 1024;

async fn append_some_mib(group: &Group) {
    let deadline = Instant::now() + EVENTUALLY;
    // Of 2,000 bytes each.
    for name in names(GROUP, "grown", SOME_MIB / 200_000 + 1) {
        group.propose(append_to(&name, 100), deadline).await.unwrap();
    }
}

#[tokio::test]
async fn the_state_is_flushed_once_the_log_has_grown_whatever_the_interval() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = leading(&process, replica(3, 1)).await;
    let policy = FlushPolicy {
        interval: Duration::from_secs(3_600),
        log_bytes: SOME_MIB as u64 / 2,
        log_keep_bytes: KEEP_ALL,
    };
    let grown = async {
        // The first flush is at once.
        let durable = || group.applied().durable().applied.map(|applied| applied.index);
        let mut ticks = interval(Duration::from_millis(10));
        while durable().is_none() {
            ticks.tick().await;
        }
        let at_first = durable();
        append_some_mib(&group).await;
        while durable() == at_first {
            ticks.tick().await;
        }
    };
    tokio::select! {
        error = flusher::run(&process.replicas, &process.storage, policy) => panic!("{error}"),
        grown = timeout(EVENTUALLY, grown) => grown.expect("it is flushed long before the interval has passed"),
    }
    disks.crash(process).await;
}

#[tokio::test]
async fn the_log_is_flushed_once_nothing_more_is_written() {
    let disks = Disks::default();
    let mut process = disks.start().await;
    let group = leading(&process, replica(3, 1)).await;
    append_some_mib(&group).await;
    // The flush tells by failing.
    process.storage.log = Mortal::after(process.storage.log.clone(), 0);
    let policy = FlushPolicy {
        interval: Duration::from_millis(20),
        log_bytes: u64::MAX / 2,
        log_keep_bytes: KEEP_ALL,
    };
    let running = flusher::run(&process.replicas, &process.storage, policy);
    let error = timeout(EVENTUALLY, running).await.expect("the log is flushed");
    assert!(error.to_string().contains("the process has died"), "{error}");
    disks.crash(process).await;
}

impl Three {
    /// Flushes on every node until it keeps one entry.
    async fn purge_all_but_the_last(&self) {
        for node in self.up() {
            let group = self.group(node);
            let upto = Some(LogIndex(group.log().next_index() - 2));
            // A follower knows with the next heartbeat that the others have it too.
            while group.status().purged_index < upto {
                self.flush(node, KEEP_ALL).await;
                sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(group.status().purged_index, upto);
        }
    }

    async fn append_some(&self, leader: u32) {
        for nth in 0..20 {
            self.append(leader, &format!("room-{nth}")).await;
        }
        let tip = self.group(leader).log().next_index();
        let reached = |three: &Three| {
            let applied = |node| three.group(node).applied_index().0 + 1;
            three.up().into_iter().filter(|node| applied(*node) == tip).count() >= 2
        };
        self.until("a majority has applied it", reached).await;
    }
}

/// The links carry no snapshot: whoever comes along does so by the log.
#[tokio::test(start_paused = true)]
async fn what_all_replicas_hold_is_purged_everywhere_and_what_one_lacks_is_kept() {
    let mut three = Three::begin().await;
    let leader = three.leader().await;
    let [away, other] = three.others(leader)[..] else { panic!("three are up") };
    three.append_some(leader).await;
    three
        .until("all have applied", |three| {
            three.up().iter().all(|node| {
                three.group(*node).applied_index().0 + 1 == three.group(leader).log().next_index()
            })
        })
        .await;
    three.purge_all_but_the_last().await;

    three.links.cut_off(away, true);
    for _ in 0..3 {
        three.append_some(leader).await;
        for node in [leader, other] {
            three.flush(node, KEEP_ALL).await;
        }
    }
    three.kill(leader).await;
    three.links.cut_off(away, false);
    let successor = three.leader().await;
    assert_eq!(successor, other, "the one that was away lacks what was acknowledged");
    three.serves(other).await;
    let caught_up =
        |three: &Three| three.group(away).applied_index() == three.group(other).applied_index();
    three.until("it has caught up by the log", caught_up).await;
}

/// A log of one entry is enough for a new leader to find out how far the others are.
#[tokio::test(start_paused = true)]
async fn a_group_whose_log_is_purged_changes_its_leader_without_a_snapshot() {
    let mut three = Three::begin().await;
    for _ in 0..3 {
        let leader = three.leader().await;
        three.append_some(leader).await;
        three.purge_all_but_the_last().await;
        three.kill(leader).await;
        let next = three.leader().await;
        three.serves(next).await;
        three.start(leader).await;
        let same = |three: &Three| {
            three.group(leader).applied_index() == three.group(next).applied_index()
        };
        three.until("the old leader follows", same).await;
    }
}
