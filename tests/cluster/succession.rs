//! A leader's process dies: its groups do not wait for Raft's timers to elect another.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Cluster, NODES};

/// The leader's lease, before which no voter votes for another. Timers add the shorter timeout at least.
const LEASE: Duration = Duration::from_millis(4_000);
const TIMEOUTS: &str = "[raft]\nelection_timeout_min_ms = 3999\nelection_timeout_max_ms = 4000\n";
/// Between the two: a busy machine is slow, but no timer has run out yet.
const SOON: Duration = Duration::from_millis(7_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_groups_of_a_dead_leader_elect_another_once_its_lease_is_over() {
    let mut cluster = Cluster::start(TIMEOUTS).await;
    let leaders = cluster.leaders(&NODES).await;
    let (victim, _) = leaders.iter().max_by_key(|(_, led)| led.len()).expect("there are nodes");
    let others: Vec<u32> = NODES.into_iter().filter(|node| node != victim).collect();
    let began = Instant::now();
    cluster.kill(&[*victim]).await;
    let leaders = cluster.leaders(&others).await;
    let took = began.elapsed();
    assert!(leaders[victim].is_empty());
    assert!(took < SOON, "{took:?} passed without a leader, and the lease is {LEASE:?}");
    assert!(others.iter().all(|node| !leaders[node].is_empty()), "one took all: {leaders:?}");
}
