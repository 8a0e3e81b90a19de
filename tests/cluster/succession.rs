//! A leader's process dies or is stopped: its groups do not wait for Raft's timers to elect another.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Cluster, Load, NODES, Pace, Way};

/// The leader's lease, before which no voter votes for another unless it sees that the leader is dead.
const LEASE: Duration = Duration::from_millis(10_000);
const TIMEOUTS: &str = "[raft]\nelection_timeout_min_ms = 9999\nelection_timeout_max_ms = 10000\n";
/// How old the lease may be when the leader dies: it has sent many heartbeats since.
const LEASE_AGE_MAX: Duration = Duration::from_millis(1_000);

const PACE: Pace = Pace::Trickle(Duration::from_millis(25));
const WINDOW: usize = 16;
/// Acknowledgements of each lane that show that it goes on.
const GOES_ON: u64 = 20;
/// What a node that is asked to stop gives to streams that do not end.
const GOODBYE: Duration = Duration::from_secs(5);

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

/// As in a rolling restart. The lease is longer than the test waits: leadership was handed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_stopped_hands_over_what_it_leads_and_keeps_nobody_waiting() {
    let mut cluster = Cluster::start(TIMEOUTS).await;
    let ways = [&[Way::Leaders][..], &NODES.map(Way::Preferring)].concat();
    let mut load = Load::start(&cluster, "stopped", &ways, WINDOW, PACE).await;
    for node in NODES {
        load.wait_flowing(&load.progress(), GOES_ON, |_| true).await;
        let led = cluster.leaders(&NODES).await[&node].clone();
        load.take_longest_pause(|_| true);
        let (began, before) = (Instant::now(), load.progress());
        cluster.stop(node).await;
        let took = began.elapsed();
        load.wait_flowing(&before, GOES_ON, |_| true).await;
        let pause = load.take_longest_pause(|_| true);
        println!("node {node} led {led:?}, stopped in {took:?}; no acknowledgement for {pause:?}");
        let log = cluster.log_of(node);
        assert!(took < GOODBYE, "it took {took:?}: {log}");
        assert!(pause < GOODBYE, "nothing was acknowledged for {pause:?}: {log}");
        assert!(log.contains("in_time=true still_led=0"), "{log}");
        cluster.restart(&[node]).await;
    }
    load.finish().await;
    load.verify(&cluster).await;
    cluster.stop_and_check().await;
}

/// Its callers come through the others: it hears from the next leader what became of their appends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_hears_what_becomes_of_appends_that_were_handed_on_to_it() {
    let mut cluster = Cluster::start("").await;
    for node in NODES {
        let others = NODES.into_iter().filter(|other| *other != node);
        let ways: Vec<Way> = others.map(Way::Only).collect();
        let name = format!("handed-on-{node}");
        let mut load = Load::start(&cluster, &name, &ways, WINDOW, Pace::Surge).await;
        load.wait_flowing(&load.progress(), GOES_ON, |_| true).await;
        let began = Instant::now();
        cluster.stop(node).await;
        let took = began.elapsed();
        println!("node {node} stopped in {took:?}");
        let log = cluster.log_of(node);
        assert!(took < GOODBYE && !log.contains("are cut off"), "it took {took:?}: {log}");
        load.finish().await;
        cluster.restart(&[node]).await;
        load.verify(&cluster).await;
    }
    cluster.stop_and_check().await;
}
