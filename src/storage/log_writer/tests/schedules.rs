//! Every order in which a few changes of two groups can reach the writer, in every way in which they can be gathered,
//! with a power cut or a failing disk at every point.
//!
//! Why not loom or shuttle: the writer is one task, and all that it shares are tokio's queue and one mutex that is held
//! for a single map operation. Neither loom nor shuttle can look into tokio's queue, and with a queue of theirs in its
//! place they would check that one. What can differ in the writer is the order in which changes leave the queue, how many
//! leave it together, and where it ends. These are few for a few changes, so here they are all tried, none at random: on
//! one thread the writer runs only where this test yields to it, and takes all that was submitted up to then.

use super::*;

/// A change by name: whose, and what.
type Change = (GroupId, u64);

/// Changes of each group in their order: a vote, entries, and a truncation of most of them.
const STEPS: usize = 3;
const GROUPS: [GroupId; 2] = [GROUP, OTHER];

/// All orders that keep each group's own.
fn orders() -> Vec<Vec<Change>> {
    fn extend(so_far: &[Change], next: [u64; GROUPS.len()], found: &mut Vec<Vec<Change>>) {
        if so_far.len() == GROUPS.len() * STEPS {
            found.push(so_far.to_vec());
        }
        for (at, group) in GROUPS.into_iter().enumerate() {
            if next[at] < STEPS as u64 {
                let mut after = next;
                after[at] += 1;
                extend(&[so_far, &[(group, next[at])]].concat(), after, found);
            }
        }
    }
    let mut found = Vec::new();
    extend(&[], [0; GROUPS.len()], &mut found);
    found
}

/// How the disk behaves: whether the writer's next write fails from this change on.
#[derive(Clone, Copy, PartialEq)]
enum Disk {
    Sound,
    FailsBefore(usize),
}

fn change((group, step): Change, done: Done) -> LogWrite {
    match step {
        0 => LogWrite::SaveVote { group, vote: vote(1), done },
        1 => append(group, 1, 0..3, done),
        _ => LogWrite::Truncate { group, after: Some(log_id(1, 0)), done },
    }
}

/// What a group's log holds after so many of its changes.
fn expected(steps: usize) -> (bool, Vec<u64>) {
    match steps {
        0 => (false, vec![]),
        1 => (true, vec![]),
        2 => (true, vec![0, 1, 2]),
        _ => (true, vec![0]),
    }
}

/// Lets the writer take what waits and report it.
async fn let_it_write() {
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
}

/// Runs one order; bit `n` of `breaks` says that the writer runs behind change `n`. The power is cut behind the last
/// change, without a further turn for the writer.
async fn run(order: &[Change], breaks: usize, behaviour: Disk) {
    let fixture = start();
    let reports = Arc::new(Mutex::new(Vec::new()));
    for (at, changed) in order.iter().enumerate() {
        if behaviour == Disk::FailsBefore(at) {
            fixture.disk.set_failing(Some("EIO"));
        }
        let (reports, changed) = (reports.clone(), *changed);
        let done: Done = Box::new(move |result| {
            reports.lock().unwrap().push((changed, result.is_ok()));
        });
        fixture.writer.submit(change(changed, done)).await;
        if breaks & (1 << at) != 0 {
            let_it_write().await;
        }
    }
    fixture.disk.set_failing(None);
    fixture.disk.crash();
    let by_then = reports.lock().unwrap().clone();
    // Reported in the order submitted, and after a failure nothing is reported done.
    let all: Vec<Change> = by_then.iter().map(|(changed, _)| *changed).collect();
    assert_eq!(all, order[..all.len()], "{breaks:b}");
    let done = by_then.iter().take_while(|(_, is_done)| *is_done).count();
    assert!(by_then[done..].iter().all(|(_, is_done)| !is_done), "{by_then:?}");
    for group in GROUPS {
        let steps = by_then[..done].iter().filter(|((of, _), _)| *of == group).count();
        let mark = fixture.stored().groups.get(&group).cloned().unwrap_or_default();
        let held = (holds_vote(&fixture, group), fixture.indexes(group));
        assert_eq!(held, expected(steps), "group {group} of {order:?} {breaks:b}");
        // A vote is in the watermark before it is answered, and the watermark claims no more than there is.
        assert_eq!(mark.vote.is_some(), steps > 0, "{order:?} {breaks:b}");
        assert!(mark.last.map(|last| last.index.0) <= held.1.last().copied(), "{mark:?} {held:?}");
    }
    let_it_write().await;
    fixture.writer.close().await;
    assert_eq!(reports.lock().unwrap().len(), order.len(), "each is reported once");
}

fn holds_vote(fixture: &Fixture, group: GroupId) -> bool {
    let key = keys::raft_meta(group, RaftMetaField::Vote);
    fixture.disk.open().get(Table::RaftMeta, &key).unwrap().is_some()
}

#[tokio::test]
async fn every_schedule_keeps_order_and_loses_nothing_reported() {
    let (orders, mut runs) = (orders(), 0);
    assert_eq!(orders.len(), 20);
    for order in &orders {
        for breaks in 0..1 << order.len() {
            run(order, breaks, Disk::Sound).await;
            for fails_before in 0..order.len() {
                run(order, breaks, Disk::FailsBefore(fails_before)).await;
                runs += 1;
            }
            runs += 1;
        }
    }
    assert_eq!(runs, 20 * 64 * 7);
}
