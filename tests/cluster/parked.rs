//! Groups that are parked: a node dies and comes back meanwhile, and whatever is asked wakes them (G1, G9).

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_client::{Append, Client, NewMessage, Read, Start};
use tokio::time::{Instant, sleep};

use crate::harness::{Cluster, NODES};

/// The node that dies.
const VICTIM: u32 = 1;
/// Longer than all timeouts.
const LONG: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_groups_survive_their_leader_and_whoever_comes_back_deposes_nobody() {
    let mut cluster = Cluster::start("").await;
    let topology = cluster.client_of_leaders().await;
    let mut rooms = BTreeMap::new();
    for room in (0..200).map(|number| format!("parked/{number}")) {
        rooms.entry(topology.group_of(&room).unwrap()).or_insert(room);
    }
    drop(topology);
    append(&cluster.client(2).await, rooms.values(), 1).await;
    cluster.wait_parked().await;
    let (leaders, before) = (cluster.leaders(&NODES).await, cluster.terms().await);
    sleep(LONG).await;

    cluster.kill(&[VICTIM]).await;
    let began = Instant::now();
    let orphans = leaders[&VICTIM].iter().map(|group| &rooms[group]);
    append(&cluster.client_of(2).await, orphans, 2).await;
    println!("{:?} after the kill its groups had taken an append each", began.elapsed());

    cluster.restart(&[VICTIM]).await;
    cluster.wait_parked().await;
    sleep(LONG).await;
    // Through the node that was away. Whoever leads is woken, and has been all the time.
    let others: Vec<_> =
        rooms.iter().filter(|(group, _)| !leaders[&VICTIM].contains(group)).collect();
    append(&cluster.client_of(VICTIM).await, others.iter().map(|(_, room)| *room), 2).await;
    let after = cluster.terms().await;
    for (group, _) in others {
        assert_eq!(after[group], before[group], "group {group} was parked, and had a leader");
    }
    cluster.wait_parked().await;
    for (node, room) in NODES.iter().cycle().zip(rooms.values()) {
        let read = Read::new(room).start(Start::Earliest);
        let page = cluster.client_of(*node).await.read(read).await.unwrap();
        assert_eq!(page.tail, 3, "{room} through node {node}");
    }
    cluster.stop_and_check().await;
}

/// One message to each of these, which gets this seq.
async fn append(client: &Client, rooms: impl Iterator<Item = &String>, seq: u64) {
    for room in rooms {
        let append = Append::new(room, "somebody", NewMessage::text("is anybody there?"));
        assert_eq!(client.append(append).await.unwrap().first_seq, seq, "{room}");
    }
}
