//! A leader's process dies: its groups do not wait for Raft's timers to elect another.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Cluster, NODES};

/// The leader's lease, before which no voter votes for another unless it sees that the leader is dead.
const LEASE: Duration = Duration::from_millis(10_000);
const TIMEOUTS: &str = "[raft]\nelection_timeout_min_ms = 9999\nelection_timeout_max_ms = 10000\n";
/// How old the lease may be when the leader dies: it has sent many heartbeats since.
const LEASE_AGE_MAX: Duration = Duration::from_millis(1_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_groups_of_a_dead_leader_elect_another_during_its_lease() {
    let mut cluster = Cluster::start(TIMEOUTS).await;
    let leaders = cluster.leaders(&NODES).await;
    let (victim, _) = leaders.iter().max_by_key(|(_, led)| led.len()).expect("there are nodes");
    let others: Vec<u32> = NODES.into_iter().filter(|node| node != victim).collect();
    let began = Instant::now();
    cluster.kill(&[*victim]).await;
    let leaders = cluster.leaders(&others).await;
    let took = began.elapsed();
    assert!(leaders[victim].is_empty());
    println!("after {took:?} every group had a leader");
    assert!(took < LEASE - LEASE_AGE_MAX, "{took:?} passed without a leader: the lease was over");
    assert!(others.iter().all(|node| !leaders[node].is_empty()), "one took all: {leaders:?}");
}
