//! The link between two nodes lost, in one direction or both, while appends and linearizable reads go on.
//!
//! Every node leads some groups, so each loss hits groups with their leader on either side of it, and groups whose
//! leader both sides still reach. No group loses its quorum, so none may stop: callers that can go to another node
//! are served within [`SERVED_WITHIN`], and nothing that anybody is told turns out to be wrong.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Cluster, Direction, Heal, Load, Loss, NODES, Pace, Way, Witness};

/// How long a caller may have to wait for an acknowledgement, whichever node it prefers. A node that forwards finds out
/// after 4 s that a leader does not answer, and the caller then goes elsewhere; the rest is for a busy machine.
const SERVED_WITHIN: Duration = Duration::from_secs(15);
/// How long each loss lasts at least: several elections could be held.
const LASTS: Duration = Duration::from_secs(4);
const PACE: Pace = Pace::Trickle(Duration::from_millis(25));
const WINDOW: usize = 16;
/// Acknowledgements of each lane that show that it goes on.
const GOES_ON: u64 = 10;
/// Reads through a node that show that it serves.
const READS: u64 = 20;

const ONE_WAY: [Direction; 1] = [(1, 2)];
const OTHER_WAY: [Direction; 1] = [(2, 1)];
const BOTH_WAYS: [Direction; 2] = [(1, 2), (2, 1)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_link_stops_nobody_and_what_comes_late_does_no_harm() {
    let losses = [&ONE_WAY[..], &OTHER_WAY, &BOTH_WAYS];
    lose_links(&losses, Loss::Held, Heal::Late).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_link_stops_nobody_and_broken_connections_are_made_again() {
    let losses = [&BOTH_WAYS[..], &ONE_WAY];
    lose_links(&losses, Loss::Swallowed, Heal::Cut).await;
}

async fn lose_links(losses: &[&[Direction]], loss: Loss, heal: Heal) {
    let mut cluster = Cluster::start_with_links().await;
    for (number, directions) in losses.iter().enumerate() {
        // Callers that have not yet learnt whom to avoid.
        let ways = [&[Way::Leaders][..], &[1, 2, 3].map(Way::Preferring)].concat();
        let name = format!("loss-{number}");
        let mut load = Load::start(&cluster, &name, &ways, WINDOW, PACE).await;
        let witness = Witness::start(&cluster, &load).await;
        load.wait_flowing(&load.progress(), GOES_ON, |_| true).await;
        lose_link(&cluster, directions, loss, heal, &load, &witness).await;
        witness.finish().await;
        load.finish().await;
        cluster.wait_level().await;
        load.verify(&cluster).await;
    }
    cluster.stop_and_check().await;
}

async fn lose_link(
    cluster: &Cluster,
    directions: &[Direction],
    loss: Loss,
    heal: Heal,
    load: &Load,
    witness: &Witness,
) {
    let leaders = cluster.leaders(&[3]).await;
    assert!(NODES.iter().all(|node| !leaders[node].is_empty()), "{leaders:?}");
    load.take_longest_pause(|_| true);
    let began = Instant::now();
    cluster.links().lose(directions, loss);
    load.wait_flowing(&load.progress(), GOES_ON, |_| true).await;
    for node in NODES {
        witness.wait_answered(node, READS).await;
    }
    // And so it stays: the lanes go on for as long as the loss lasts.
    tokio::time::sleep_until(began + LASTS).await;
    load.wait_flowing(&load.progress(), GOES_ON, |_| true).await;
    for direction in directions {
        assert!(cluster.links().was_hit(*direction), "nothing was sent {direction:?}");
    }
    let lost = Waits::take(load);
    cluster.links().heal(heal);
    load.wait_flowing(&load.progress(), GOES_ON, |_| true).await;
    let healed = Waits::take(load);
    let failed = NODES.map(|node| witness.failed_at(node));
    println!(
        "{directions:?} {loss:?}: {lost}; {heal:?}: {healed}; reads failed through {failed:?}"
    );
    for waits in [lost, healed] {
        assert!(waits.straight.max(waits.others) < SERVED_WITHIN, "callers waited for too long");
    }
}

/// The longest waits for an acknowledgement.
struct Waits {
    straight: Duration,
    others: Duration,
}

impl Waits {
    fn take(load: &Load) -> Waits {
        let straight = load.take_longest_pause(|lane| lane.way == Way::Leaders);
        Waits { straight, others: load.take_longest_pause(|_| true) }
    }
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (straight, others) = (self.straight.as_secs_f64(), self.others.as_secs_f64());
        write!(
            f,
            "longest wait {straight:.2} s straight to the leader, {others:.2} s through others"
        )
    }
}
