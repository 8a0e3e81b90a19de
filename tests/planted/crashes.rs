//! Crash points of the floors above the storage: a node in memory loses its power there, and starts again with all that
//! it had acknowledged. `tests/crash_steps` has the storage's own points, on the real storage.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::raft::AppendEntriesRequest;
use quorate::consensus::flusher::flush_once;
use quorate::consensus::raft_types::{TypeConfig, to_raft_entry, to_raft_log_id, to_raft_vote};
use quorate::consensus::solitary::{Disks, Process};
use quorate::log::{invariants, queries};
use quorate::seams;
use quorate::storage::GroupRecovery;
use quorate::storage::records::{EntryPayload, EntryRecord, LogId, VoteRecord};
use quorate::types::{Incarnation, LogIndex, NodeId, ReplicaId, Seq, Term};
use tokio::time::{Instant, timeout};

use crate::node::{
    EVENTUALLY, GROUP, OWN, append, append_one, conversation, group_of, soon, start_leading,
    wait_leading,
};
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
        if group_of(process).propose(command, deadline).await.is_err() {
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
            let disks = Disks::default();
            let process = start_leading(&disks).await;
            flush_once(&process.replicas, 1).await.unwrap();
            cut_at(point, passes, &disks);
            let acknowledged = work(&process).await;
            fail::remove(format!("crash::{point}"));
            disks.crash(process).await;
            println!("{point} {passes}: {acknowledged} acknowledged");
            let process = disks.start().await;
            wait_leading(&process).await;
            let group = group_of(&process);
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
        let disks = Disks::default();
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
            let disks = Disks::default();
            let process = start_leading(&disks).await;
            append_one(&process, "first", 10).await;
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

fn replica(node: u32) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation: Incarnation(1) }
}

/// What a leader sends: entries behind `prev` that have nothing in them, the first of a log excepted.
fn entries(
    leader: ReplicaId,
    term: u64,
    indexes: Range<u64>,
    prev: Option<LogId>,
) -> AppendEntriesRequest<TypeConfig> {
    let entry = |index| {
        let payload = match index {
            0 => EntryPayload::Membership {
                configs: vec![vec![replica(1), replica(2), OWN]],
                replicas: vec![replica(1), replica(2), OWN],
            },
            _ => EntryPayload::Blank,
        };
        to_raft_entry(EntryRecord { log_id: log_id(leader, term, index), payload })
    };
    AppendEntriesRequest {
        vote: to_raft_vote(&VoteRecord { term: Term(term), candidate: leader, committed: true }),
        prev_log_id: prev.as_ref().map(to_raft_log_id),
        entries: indexes.map(entry).collect(),
        leader_commit: None,
    }
}

fn log_id(leader: ReplicaId, term: u64, index: u64) -> LogId {
    LogId { term: Term(term), leader, index: LogIndex(index) }
}

/// A follower cuts off what another leader had sent, and dies before it takes what comes instead: nothing that was cut
/// off comes back, and nothing before it is lost (G1, G2).
#[test]
fn what_a_log_was_cut_short_by_stays_away() {
    let _seams = seams::begin();
    let last = |disks: &Disks| match &disks.recovered().groups[&GROUP] {
        GroupRecovery::Healthy(found) => found.last,
        GroupRecovery::Damaged { reason } => panic!("{reason}"),
    };
    run(async {
        // Its term is far beyond those that the follower tries to lead in, for want of a leader.
        let (deposed, leader, term) = (replica(1), replica(2), 1_000);
        let common = log_id(deposed, 1, 2);
        let disks = Disks::default();
        let process = disks.start().await;
        let group = process.replicas.make(GROUP, OWN).await.unwrap();
        group.raft().runtime_config().elect(false);
        let taken = group.raft().append_entries(entries(deposed, 1, 0..6, None)).await.unwrap();
        assert!(taken.is_success(), "{taken}");
        assert_eq!(last(&disks), Some(log_id(deposed, 1, 5)));

        cut_at("log_truncated", 0, &disks);
        let instead = || entries(leader, term, 3..5, Some(common));
        let cut = timeout(EVENTUALLY, group.raft().append_entries(instead())).await;
        assert!(cut.expect("it answers").is_err(), "it was taken on a disk without power");
        fail::remove("crash::log_truncated");
        disks.crash(process).await;
        assert_eq!(last(&disks), Some(common));

        let process = disks.start().await;
        let group = process.replicas.get(GROUP).expect("it serves");
        let taken = group.raft().append_entries(instead()).await.unwrap();
        assert!(taken.is_success(), "{taken}");
        disks.crash(process).await;
        assert_eq!(last(&disks), Some(log_id(leader, term, 4)));
    });
}
