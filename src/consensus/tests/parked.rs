//! A group that is parked: who sleeps, who wakes, and who must not be deposed (G3, G9).

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, sleep};

use super::fixture::{GROUP, append_to, names, range_of, replica};
use super::links::{TIMING, Three, refuses};
use super::scripted::Scripted;
use crate::consensus::parking::{self, Footing};
use crate::consensus::solitary::Disks;
use crate::log::Command;
use crate::types::NodeId;

const LEASE: Duration = Duration::from_millis(TIMING.election_timeout_max_ms);
/// Longer than every timeout.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_in_a_parked_group_and_its_first_append_needs_no_election() {
    let three = Three::begin().await;
    let leader = three.leader().await;
    three.parked().await;
    let term = three.term(leader);
    for nth in 0..3 {
        // Not a whole number of anything.
        let sent = three.links.sent();
        sleep(LONG + Duration::from_millis(1_234)).await;
        assert_eq!(three.links.sent(), sent, "{:?}", three.statuses());
        let room = format!("room-{nth}");
        let took = three.append(leader, &room).await;
        assert!(took < LEASE / 4, "{took:?}");
        assert_eq!(three.term(leader), term);
        three
            .until("all are awake", |three| {
                three.up().iter().all(|node| !three.group(*node).parking().is_parked())
            })
            .await;
        three.parked().await;
    }
}

/// The leader's machine is gone without a word.
#[tokio::test(start_paused = true)]
async fn a_parked_group_whose_leader_is_gone_elects_another() {
    let mut three = Three::begin().await;
    let dead = three.leader().await;
    three.parked().await;
    sleep(LONG).await;
    let (term, began) = (three.term(dead), Instant::now());
    three.kill(dead).await;
    let leader = three.leader().await;
    three.serves(leader).await;
    let took = began.elapsed();
    assert!(took < LEASE + LEASE / 2, "{took:?}");
    three.append(leader, "room").await;
    assert!(three.term(leader) > term);
    three.start(dead).await;
    three.parked().await;
    assert_eq!(three.group(dead).leader_and_term(), three.group(leader).leader_and_term());
}

/// Its machine refuses connections.
#[tokio::test(start_paused = true)]
async fn a_parked_group_whose_leader_is_known_to_be_dead_elects_another_at_once() {
    let mut three = Three::begin().await;
    let dead = three.leader().await;
    three.parked().await;
    sleep(LONG).await;
    three.kill(dead).await;
    let (refuses, began) = (refuses(dead), Instant::now());
    let looking = async {
        loop {
            for node in three.up() {
                three.group(node).succeed(&refuses).await;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let leader = tokio::select! {
        leader = three.leader() => leader,
        () = looking => unreachable!("it looks for ever"),
    };
    three.serves(leader).await;
    let took = began.elapsed();
    assert!(took < LEASE / 4, "{took:?}");
    three.append(leader, "room").await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_restarts_while_all_are_parked_deposes_nobody_and_catches_up() {
    let mut three = Three::begin().await;
    let leader = three.leader().await;
    three.append(leader, "room").await;
    three.parked().await;
    let (term, last) = (three.term(leader), three.group(leader).applied_index());
    for node in three.others(leader) {
        three.kill(node).await;
        // One that comes back at once, and one that was away for longer than all timeouts.
        sleep(if node % 2 == 0 { Duration::ZERO } else { LONG }).await;
        three.start(node).await;
        three.until("it catches up", |three| three.group(node).applied_index() == last).await;
        three.parked().await;
        assert_eq!(three.term(leader), term);
        assert!(three.group(leader).is_leader(), "{:?}", three.statuses());
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_alone_does_not_hear_the_leader_deposes_nobody() {
    let three = Three::begin().await;
    let leader = three.leader().await;
    let term = three.term(leader);
    let cut = three.others(leader)[0];
    for (from, to) in [(leader, cut), (cut, leader)] {
        three.parked().await;
        three.links.cut(leader, cut, true);
        three.links.cut(cut, leader, true);
        sleep(LONG).await;
        assert_eq!(three.leader().await, leader, "{:?}", three.statuses());
        three.append(leader, &format!("room-{from}")).await;
        // In one direction at first.
        three.links.cut(from, to, false);
        sleep(LONG).await;
        three.links.cut(to, from, false);
        three.parked().await;
        assert_eq!((three.leader().await, three.term(leader)), (leader, term));
    }
}

/// It sleeps on, while the others elect another and acknowledge more (G3).
#[tokio::test(start_paused = true)]
async fn a_parked_leader_that_was_deposed_reads_nothing_and_appends_nothing() {
    let three = Three::begin().await;
    let deposed = three.leader().await;
    three.parked().await;
    three.links.cut_off(deposed, true);
    let others = three.others(deposed);
    three
        .until("another leads", |three| others.iter().any(|node| three.group(*node).is_leader()))
        .await;
    let leader = three.leader().await;
    three.serves(leader).await;
    three.append(leader, "room").await;
    sleep(LONG).await;
    let old = three.group(deposed);
    assert!(old.is_leader(), "it has not heard of it");
    assert!(old.barrier(Instant::now() + 3 * LEASE).await.is_err());
    let late = append_to(&names(GROUP, "late", 1)[0], 1);
    assert!(old.propose(late, Instant::now() + 3 * LEASE).await.is_err());
    three.links.cut_off(deposed, false);
    three.parked().await;
    assert_eq!(old.applied_index(), three.group(leader).applied_index());
}

/// A leader whose question one follower has agreed to, and whose other follower cannot answer.
#[tokio::test(start_paused = true)]
async fn who_has_agreed_alone_is_woken_by_the_leader() {
    let three = Three::begin().await;
    let leader = three.leader().await;
    let others = three.others(leader);
    let (agrees, cut) = (others[0], others[1]);
    let term = three.term(leader);
    three.links.cut(cut, leader, true);
    three.until("one agrees", |three| three.group(agrees).parking().is_parked()).await;
    assert!(!three.group(leader).parking().is_parked());
    three.until("it wakes", |three| !three.group(agrees).parking().is_parked()).await;
    three.links.cut(cut, leader, false);
    three.parked().await;
    assert_eq!((three.leader().await, three.term(leader)), (leader, term));
}

#[tokio::test(start_paused = true)]
async fn a_read_or_a_transfer_wakes_a_parked_group() {
    let three = Three::begin().await;
    let leader = three.leader().await;
    three.parked().await;
    sleep(LONG).await;
    let barrier = three.group(leader).barrier(Instant::now() + LEASE).await.unwrap();
    assert_eq!(barrier.index, three.group(leader).applied_index());
    let term = three.term(leader);
    three.parked().await;
    sleep(LONG).await;
    let heir = three.others(leader)[0];
    let began = Instant::now();
    three.group(leader).transfer_leader(super::links::of(heir)).await;
    three.until("it leads", |three| three.group(heir).is_leader()).await;
    assert!(began.elapsed() < LEASE / 4 && three.term(heir) > term);
    three.parked().await;
}

#[tokio::test(start_paused = true)]
async fn a_parked_group_of_one_waits_for_nobody() {
    let disks = Disks::default();
    let process = disks.start_at(NodeId(3), Arc::new(Scripted::new().0), TIMING).await;
    let group = process.replicas.make(GROUP, replica(3, 1)).await.unwrap();
    group.initialize(vec![replica(3, 1)]).await.unwrap();
    let configure = Command::Configure { range: range_of(GROUP), epoch: 1 };
    let elected = group.raft().wait(Some(LONG));
    elected.state(ServerState::Leader, "a group of one elects itself").await.unwrap();
    group.propose(configure, Instant::now() + LONG).await.unwrap();
    let parking = tokio::spawn(parking::run(process.replicas.clone()));
    for nth in 0..2 {
        while !group.parking().is_parked() {
            sleep(Duration::from_millis(5)).await;
        }
        let began = Instant::now();
        match nth {
            0 => drop(group.barrier(began + LEASE).await.unwrap()),
            _ => {
                let append = append_to(&names(GROUP, "room", 1)[0], 1);
                group.propose(append, began + LEASE).await.unwrap();
            }
        }
        assert!(began.elapsed() < LEASE / 4, "{:?}", began.elapsed());
    }
    parking.abort();
    disks.crash(process).await;
}

/// What its old leader's node says comes late: the follower rests on that as it is elected.
#[tokio::test(start_paused = true)]
async fn a_follower_at_rest_that_is_elected_wakes() {
    let mut three = Three::begin().await;
    let dead = three.leader().await;
    let heir = three.others(dead)[0];
    three.append(dead, "room").await;
    let last = three.group(dead).applied_index();
    three.until("it has all", |three| three.group(heir).applied_index() == last).await;
    let metrics = three.group(heir).raft().metrics().borrow_watched().clone();
    let footing = Footing { vote: metrics.vote, last: metrics.last_applied.unwrap() };
    three.kill(dead).await;
    let began = Instant::now();
    while !three.group(heir).is_leader() {
        assert!(began.elapsed() < LONG, "{:?}", three.statuses());
        assert!(three.group(heir).told(footing), "{:?}", three.statuses());
        three.group(heir).raft().trigger().elect(false).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    let began = Instant::now();
    three.until("it wakes", |three| !three.group(heir).parking().is_parked()).await;
    assert!(began.elapsed() <= LEASE / 4, "{:?}", began.elapsed());
}
