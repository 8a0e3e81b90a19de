//! Follows and subscriptions across real kills: G6.

use std::time::Duration;

use crate::harness::{Cluster, Load, NODES, Pace, Readers, Way};

const PACE: Pace = Pace::Trickle(Duration::from_millis(20));
const WINDOW: usize = 32;
/// Acknowledgements of each lane between two kills.
const BETWEEN: u64 = 20;
/// Kills of the node that leads most; the last one takes all nodes.
const KILLS: u32 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_yields_every_message_once_across_kills() {
    let mut cluster = Cluster::start("").await;
    let ways = [Way::Leaders, Way::Preferring(1), Way::Preferring(2), Way::Preferring(3)];
    let mut load = Load::start(&cluster, "delivery", &ways, WINDOW, PACE).await;
    // Something stands before the streams begin: they start with history.
    load.wait_flowing(&load.progress(), BETWEEN, |_| true).await;
    let mut readers = Readers::start(&cluster, &load).await;
    for kill in 1..=KILLS {
        load.wait_flowing(&load.progress(), BETWEEN, |_| true).await;
        let leaders = cluster.leaders(&NODES).await;
        let busiest = NODES.into_iter().max_by_key(|node| leaders[node].len()).unwrap();
        let victims = if kill == KILLS { NODES.to_vec() } else { vec![busiest] };
        cluster.kill(&victims).await;
        cluster.restart(&victims).await;
    }
    load.wait_flowing(&load.progress(), BETWEEN, |_| true).await;
    load.finish().await;
    readers.wait_complete().await;
    load.verify(&cluster).await;
    let (streams, messages) = (readers.count(), load.acknowledged());
    println!("{streams} streams yielded all {messages} messages over {KILLS} kills");
    drop(readers);
    cluster.stop_and_check().await;
}
