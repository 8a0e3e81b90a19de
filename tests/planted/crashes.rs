//! Crash points of the floors above the storage: a node in memory loses its power there, and starts again with all that
//! it had acknowledged. `tests/crash_steps` has the storage's own points, on the real storage. `log_truncated` takes two
//! nodes that disagree, and is left to the fault suite.

use std::sync::atomic::{AtomicUsize, Ordering};

use quorate::consensus::flusher::flush_once;
use quorate::log::{invariants, queries};
use quorate::seams;
use quorate::storage::GroupRecovery;
use quorate::types::{Incarnation, ReplicaId, Seq};
use tokio::time::{Instant, timeout};

use crate::node::{Disks, EVENTUALLY, GROUP, OWN, Process, append, conversation, soon};
use crate::run;

/// Cuts the power the next time but `passes` that the node comes by.
fn cut_at(point: &str, passes: usize, disks: &Disks) {
    assert!(seams::crash::NAMES.contains(&point), "there is no {point}");
    let (log, state) = (disks.log.clone(), disks.state.clone());
    let left = AtomicUsize::new(passes + 1);
    fail::cfg_callback(format!("crash::{point}"), move || {
        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
            log.crash();
            state.crash();
        }
    })
    .unwrap();
}

/// Appends and flushes until something fails, which it does once the power is cut. How many were acknowledged.
async fn work(process: &Process) -> u64 {
    let mut acknowledged = 0;
    for number in 0..200 {
        let command = append(&format!("message-{number}"), 20_000);
        let deadline = Instant::now() + std::time::Duration::from_secs(5);
        if process.group().propose(command, deadline).await.is_err() {
            return acknowledged;
        }
        acknowledged += 1;
        if number % 3 == 2 && flush_once(&process.replicas, 1).await.is_err() {
            return acknowledged;
        }
    }
    panic!("the point was not come by: {acknowledged} appends");
}

#[test]
fn no_crash_point_of_a_replica_does_harm() {
    let points = [
        "apply_decided",
        "apply_written",
        "apply_answered",
        "flush_begun",
        "flush_done",
        "flush_marked",
        "purge_handed_over",
    ];
    for (point, passes) in points.into_iter().flat_map(|point| [(point, 0), (point, 5)]) {
        let _seams = seams::begin();
        run(async {
            let disks = Disks::new();
            let process = disks.start_leading().await;
            flush_once(&process.replicas, 1).await.unwrap();
            cut_at(point, passes, &disks);
            let acknowledged = work(&process).await;
            fail::remove(format!("crash::{point}"));
            disks.crash(process).await;
            println!("{point} {passes}: {acknowledged} acknowledged");
            let process = disks.start().await;
            process.wait_leading().await;
            let group = process.group();
            group.barrier(soon()).await.unwrap();
            let view = group.pin();
            let head = queries::head(view.as_ref(), &conversation()).unwrap();
            let tail = head.map_or(Seq::FIRST, |head| head.tail);
            // The last one may have been committed without an answer.
            let expected = [Seq(acknowledged + 1), Seq(acknowledged + 2)];
            assert!(expected.contains(&tail), "{point} {passes}: {tail} and {expected:?}");
            let report = invariants::check(view.as_ref(), &mut |_| ());
            assert!(report.is_clean(), "{point}: {:?}", report.violations);
        });
    }
}

/// A vote that is durable and was not answered stands after the cut.
#[test]
fn a_vote_that_was_kept_stands() {
    let _seams = seams::begin();
    run(async {
        let disks = Disks::new();
        let process = disks.start().await;
        let group = process.replicas.make(GROUP, OWN).await.unwrap();
        cut_at("vote_kept", 0, &disks);
        // The node may fail before or behind this.
        let _ = timeout(EVENTUALLY, group.initialize(vec![OWN])).await.expect("it answers");
        let has_vote = || match disks.recovered().groups.get(&GROUP) {
            Some(GroupRecovery::Healthy(found)) => found.vote.is_some(),
            Some(GroupRecovery::Damaged { reason }) => panic!("{reason}"),
            None => false,
        };
        // The group is there before its first vote is.
        let kept = async {
            let mut ticks = tokio::time::interval(std::time::Duration::from_millis(5));
            while !has_vote() {
                ticks.tick().await;
            }
        };
        timeout(EVENTUALLY, kept).await.expect("the vote is there");
        disks.crash(process).await;
        assert!(has_vote(), "what was kept is lost");
    });
}

/// A replica that is made anew, and whose node dies between the removals: nothing of the old one is left to vote.
#[test]
fn a_replica_that_was_half_removed_is_made_anew() {
    for point in ["replica_state_removed", "replica_log_removed"] {
        let _seams = seams::begin();
        run(async {
            let disks = Disks::new();
            let process = disks.start_leading().await;
            process.append("first", 10).await;
            flush_once(&process.replicas, u64::MAX).await.unwrap();
            cut_at(point, 0, &disks);
            let anew = ReplicaId { incarnation: Incarnation(2), ..OWN };
            assert!(process.replicas.make(GROUP, anew).await.is_err(), "{point}");
            fail::remove(format!("crash::{point}"));
            disks.crash(process).await;
            let process = disks.start().await;
            assert!(process.replicas.get(GROUP).is_none(), "{point}: the old one does not serve");
            let made = process.replicas.make(GROUP, anew).await.unwrap();
            assert_eq!((made.replica(), made.applied_index().0), (anew, 0), "{point}");
        });
    }
}
