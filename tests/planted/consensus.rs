//! Replicas over disks in memory: votes, reads, flushes and purges.

use std::time::Duration;

use quorate::consensus::flusher::flush_once;
use quorate::consensus::solitary::Disks;
use quorate::log::queries;
use quorate::seams;
use quorate::storage::records::{GroupRow, Record};
use quorate::storage::{GroupRecovery, Table, View, keys};
use quorate::types::{HashRange, Seq};
use tokio::time::{Instant, timeout};

use crate::node::{
    EVENTUALLY, GROUP, append_one, conversation, group_of, soon, start_leading, wait_leading,
};
use crate::{run, switch, without_and_with};

/// The conversation's tail as applied; the first seq if it has had no message.
fn tail(view: &dyn View) -> Seq {
    let head = queries::head(view, &conversation()).unwrap();
    head.map_or(Seq::FIRST, |head| head.tail)
}

#[test]
fn vote_not_persisted_forgets_the_vote() {
    let (right, wrong) = without_and_with("planted::vote_not_persisted", || {
        run(async {
            let disks = Disks::default();
            let process = start_leading(&disks).await;
            disks.crash(process).await;
            match &disks.recovered().groups[&GROUP] {
                GroupRecovery::Healthy(found) => found.vote.is_some(),
                GroupRecovery::Damaged { reason } => panic!("{reason}"),
            }
        })
    });
    assert!(right && !wrong);
}

/// A replica whose group has no leader: nobody can confirm a read.
#[test]
fn no_read_index_answers_without_a_quorum() {
    let (right, wrong) = without_and_with("planted::no_read_index", || {
        run(async {
            let disks = Disks::default();
            let process = start_leading(&disks).await;
            append_one(&process, "first", 10).await;
            flush_once(&process.replicas, u64::MAX).await.unwrap();
            disks.crash(process).await;
            let process = disks.start().await;
            group_of(&process).raft().runtime_config().elect(false);
            group_of(&process).barrier(Instant::now() + Duration::from_millis(500)).await.is_ok()
        })
    });
    assert!(!right && wrong);
}

/// A leader of a new term whose state lies behind what an earlier term has acknowledged: applying is held up.
#[test]
fn serve_before_term_commit_misses_what_was_acknowledged() {
    let look = |fault: &'static str| {
        let _seams = seams::begin();
        run(async {
            let disks = Disks::default();
            let process = start_leading(&disks).await;
            append_one(&process, "first", 10).await;
            flush_once(&process.replicas, u64::MAX).await.unwrap();
            append_one(&process, "second", 10).await;
            disks.crash(process).await;
            switch("crash::apply_decided", "pause");
            switch("planted::serve_before_term_commit", fault);
            let process = disks.start().await;
            wait_leading(&process).await;
            let group = group_of(&process);
            let read = group.barrier(Instant::now() + Duration::from_secs(1)).await;
            let found = read.is_ok().then(|| tail(group.pin().as_ref()));
            switch("crash::apply_decided", "off");
            found
        })
    };
    assert_eq!(look("off"), None, "the read waits for what was acknowledged");
    assert_eq!(look("return"), Some(Seq(2)), "the read misses the second message");
}

#[test]
fn flush_single_family_says_applied_of_what_is_gone() {
    let (right, wrong) = without_and_with("planted::flush_single_family", || {
        run(async {
            let disks = Disks::default();
            let process = start_leading(&disks).await;
            append_one(&process, "first", 10).await;
            let applied = group_of(&process).applied_index();
            flush_once(&process.replicas, u64::MAX).await.unwrap();
            disks.crash(process).await;
            let state = disks.state.open();
            let key = keys::group(GROUP);
            let row = state.get(Table::Groups, &key).unwrap().unwrap();
            let row = GroupRow::decode(&key, &row).unwrap();
            assert_eq!(row.applied.map(|id| id.index), Some(applied));
            assert_eq!(row.range, Some(HashRange::ALL));
            tail(&state)
        })
    });
    assert_eq!((right, wrong), (Seq(2), Seq(1)));
}

/// A purge goes by steps of 64 KiB of log.
#[test]
fn purge_before_flush_loses_what_was_purged() {
    let (right, wrong) = without_and_with("planted::purge_before_flush", || {
        run(async {
            let disks = Disks::default();
            let process = start_leading(&disks).await;
            let mut appended = 0;
            let purging = async {
                let mut first_purged_at = None;
                loop {
                    append_one(&process, &format!("message-{appended}"), 40_000).await;
                    appended += 1;
                    flush_once(&process.replicas, 1).await.unwrap();
                    let status = group_of(&process).status();
                    let Some(purged) = status.purged_index else { continue };
                    // What was applied until the first purge is flushed in either case.
                    if Some(purged) > *first_purged_at.get_or_insert(status.applied_index) {
                        break;
                    }
                }
            };
            timeout(EVENTUALLY, purging).await.expect("the log is purged");
            // The purge is written behind everything else that waits: an entry after it shows that it is.
            append_one(&process, "behind the purge", 10).await;
            appended += 1;
            disks.crash(process).await;
            let process = disks.start().await;
            wait_leading(&process).await;
            let group = group_of(&process);
            group.barrier(soon()).await.unwrap();
            let tail = tail(group.pin().as_ref());
            tail == Seq(appended + 1)
        })
    });
    assert!(right && !wrong);
}

/// What a point is called is what it does: an abort would end this process, so it is watched instead.
#[test]
fn crash_points_are_passed_on_the_way_of_an_append() {
    let _seams = seams::begin();
    let (passed, mut passes) = tokio::sync::mpsc::channel(1_000);
    for name in ["log_gathered", "log_synced", "log_marked", "log_reported", "vote_kept"] {
        let passed = passed.clone();
        fail::cfg_callback(format!("crash::{name}"), move || {
            let _ = passed.try_send(name);
        })
        .unwrap();
    }
    run(async {
        let disks = Disks::default();
        let process = start_leading(&disks).await;
        while passes.try_recv().is_ok() {}
        append_one(&process, "one", 10).await;
        let mut next = async || timeout(EVENTUALLY, passes.recv()).await.unwrap().unwrap();
        let mut found = next().await;
        if found == "log_reported" {
            // Of the write before, which is reported before this is passed.
            found = next().await;
        }
        for expected in ["log_gathered", "log_synced", "log_marked"] {
            assert_eq!(found, expected);
            found = next().await;
        }
        assert_eq!(found, "log_reported");
    });
}
