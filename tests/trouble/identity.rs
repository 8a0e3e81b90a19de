//! Nodes that are not who they should be: of another cluster, with another node's data, at another node's address.

use std::collections::BTreeSet;

use quorate::consensus::network::Route;
use quorate::storage::keys;
use quorate::storage::records::{GroupRow, LogId, Record};
use quorate::transport::proto::peer_client::PeerClient;
use quorate::transport::proto::{
    AdoptRequest, AppendFrames, ChangeMembershipRequest, ChangeTopologyRequest,
    EnsureReplicaRequest, Hello, ParkRequest, PulseRequest, RaftRequest, ReadIndexRequest,
    SnapshotEnd, SnapshotFrame, SnapshotOpen, StatusRequest, TopologyRequest, Vote, snapshot_frame,
};
use quorate::transport::wire as peer_wire;
use quorate::types::{GroupId, Incarnation, LogIndex, NodeId, ReplicaId, Term};
use quorate_client::proto::cluster_client::ClusterClient;
use quorate_client::proto::{DescribeRequest, InitRequest, init_request};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::harness::{
    Cluster, Everything, append, append_surely, connect_lazily, copy, eventually, message, read_all,
};
use super::wire::{Refusal, peer_methods};

const ROOM: &str = "acme/room";

/// A hello that is right, for the node that is asked.
fn hello(cluster: &Cluster, from: u32, to: u32) -> Hello {
    let id = u128::from_str_radix(&cluster.cluster_id(), 16).expect("a cluster id");
    Hello {
        cluster_id: id.to_be_bytes().to_vec().into(),
        from_node: from,
        to_node: to,
        protocol_min: 1,
        protocol_max: 1,
        feature_level: 1,
        process_id: 7,
    }
}

/// Says one hello over every RPC that nodes have between them.
async fn say(channel: &Channel, hello: Option<&Hello>) -> Vec<(&'static str, Result<(), Status>)> {
    let mut peer = PeerClient::new(channel.clone());
    let hello = hello.cloned();
    let frames = AppendFrames { hello: hello.clone(), ..Default::default() };
    let append = async {
        let mut answers = peer.clone().append(futures::stream::iter([frames])).await?.into_inner();
        answers.message().await.map(drop)
    };
    let append = append.await;
    let open = SnapshotOpen { hello: hello.clone(), ..Default::default() };
    let frame = SnapshotFrame { step: Some(snapshot_frame::Step::Open(open)) };
    let snapshot = peer.send_snapshot(futures::stream::iter([frame])).await.map(drop);
    let raft = RaftRequest { hello: hello.clone(), ..Default::default() };
    let read_index = ReadIndexRequest { hello: hello.clone(), group: 1 };
    let adopt = AdoptRequest {
        hello: hello.clone(),
        cluster_id: vec![9; 16].into(),
        meta_incarnation: 1,
        peers: Vec::new(),
        process_id: 1,
    };
    let ensure = EnsureReplicaRequest { hello: hello.clone(), ..Default::default() };
    let topology = ChangeTopologyRequest { hello: hello.clone(), ..Default::default() };
    let membership = ChangeMembershipRequest { hello: hello.clone(), ..Default::default() };
    let park = ParkRequest { hello: hello.clone(), groups: Vec::new() };
    let answers = vec![
        ("Append", append),
        ("SendSnapshot", snapshot),
        ("Raft", peer.raft(raft).await.map(drop)),
        ("ReadIndex", peer.read_index(read_index).await.map(drop)),
        ("Adopt", peer.adopt(adopt).await.map(drop)),
        ("EnsureReplica", peer.ensure_replica(ensure).await.map(drop)),
        ("ChangeTopology", peer.change_topology(topology).await.map(drop)),
        ("Topology", peer.topology(TopologyRequest { hello: hello.clone() }).await.map(drop)),
        ("ChangeMembership", peer.change_membership(membership).await.map(drop)),
        ("Park", peer.park(park).await.map(drop)),
        ("Pulse", peer.pulse(PulseRequest { hello: hello.clone() }).await.map(drop)),
        ("Status", peer.status(StatusRequest { hello }).await.map(drop)),
    ];
    let said: BTreeSet<&str> = answers.iter().map(|(rpc, _)| *rpc).collect();
    assert_eq!(said, peer_methods().into_iter().collect(), "an RPC is new: say hello over it here");
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_means_another_cluster_or_node_is_refused_over_every_rpc_and_logged_once() {
    let cluster = Cluster::start(1, "").await;
    let mut client = cluster.messages(1);
    append_surely(&mut client, append(ROOM, vec![message("first", "hello")])).await;
    let before = Everything::of(&mut client, &[ROOM]).await;
    let lines_before = cluster.log_lines(1);
    let channel = connect_lazily(&cluster.peer_address(1).await);
    let right = hello(&cluster, 2, 1);
    let strangers = [
        ("no hello", None),
        ("another node", Some(Hello { to_node: 3, ..right.clone() })),
        ("a twin", Some(Hello { from_node: 1, ..right.clone() })),
        ("of the future", Some(Hello { protocol_min: 9, protocol_max: 9, ..right.clone() })),
        ("another cluster", Some(Hello { cluster_id: vec![1; 16].into(), ..right.clone() })),
        ("no cluster", Some(Hello { cluster_id: Vec::new().into(), ..right.clone() })),
        ("half a cluster", Some(Hello { cluster_id: vec![1; 7].into(), ..right.clone() })),
    ];
    for (who, stranger) in &strangers {
        for _ in 0..10 {
            for (rpc, answer) in say(&channel, stranger.as_ref()).await {
                // What a node without a cluster may ask as well.
                if rpc == "Status" && who.contains("cluster") {
                    continue;
                }
                let status = answer.expect_err(rpc);
                assert_eq!(status.code(), Code::FailedPrecondition, "{who}, {rpc}: {status:?}");
            }
        }
    }
    assert_eq!(Everything::of(&mut client, &[ROOM]).await, before);
    let log = cluster.log_of(1);
    let new: Vec<&str> = log.lines().skip(lines_before).collect();
    let refused = new.iter().filter(|line| line.contains("a peer is refused")).count();
    // Those without a cluster, and those with half of one, say the same.
    assert_eq!(refused, strangers.len() - 1, "{new:#?}");
    assert!(new.len() <= strangers.len() + 2, "{new:#?}");

    // The right hello passes, so that it was the hello that was refused before.
    let (_, status) = say(&channel, Some(&right)).await.pop().unwrap();
    status.unwrap();

    // Whoever decided by another process's status did not look at what this one has (G1).
    let adopt = AdoptRequest {
        cluster_id: right.cluster_id.clone(),
        hello: Some(right),
        meta_incarnation: 2,
        peers: Vec::new(),
        process_id: 1,
    };
    let refused = PeerClient::new(channel).adopt(adopt).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("started anew"), "{refused:?}");
    cluster.assert_no_panic(1);
    cluster.stop().await;
}

/// What openraft asserts of a snapshot would end the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_contradicts_itself_or_the_log_is_refused() {
    let cluster = Cluster::start(1, "").await;
    let mut client = cluster.messages(1);
    append_surely(&mut client, append(ROOM, vec![message("first", "hello")])).await;
    let before = Everything::of(&mut client, &[ROOM]).await;
    let group =
        client.describe(DescribeRequest { conversation: ROOM.to_owned(), ..Default::default() });
    let group = GroupId(group.await.unwrap().into_inner().position.unwrap().group_id);
    let sender = ReplicaId { node: NodeId(2), incarnation: Incarnation(1) };
    let receiver = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
    const TERM: u64 = 1_000;
    let mut peer = PeerClient::new(connect_lazily(&cluster.peer_address(1).await));
    for (what, committed, term, index, code) in [
        ("its sender does not lead", false, TERM, 1_000, Code::InvalidArgument),
        ("it is newer than its sender", true, TERM + 1, 1_000, Code::InvalidArgument),
        ("it is newer than what is committed, and shorter", true, TERM, 1, Code::DataLoss),
    ] {
        let applied = LogId { term: Term(term), leader: sender, index: LogIndex(index) };
        let row = GroupRow { applied: Some(applied), ..GroupRow::blank(receiver) };
        let open = SnapshotOpen {
            hello: Some(hello(&cluster, 2, 1)),
            route: Some(peer_wire::route_to_wire(Route { group, from: sender, to: receiver })),
            vote: Some(Vote {
                term: TERM,
                candidate: Some(peer_wire::replica_to_wire(sender)),
                committed,
            }),
            group_row: row.encode(&keys::group(group)).into(),
        };
        let end = snapshot_frame::Step::End(SnapshotEnd { rows: 0 });
        let frames = [snapshot_frame::Step::Open(open), end];
        let frames = frames.map(|step| SnapshotFrame { step: Some(step) });
        let refused = peer.send_snapshot(futures::stream::iter(frames)).await.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
    }
    assert_eq!(Everything::of(&mut client, &[ROOM]).await, before);
    append_surely(&mut client, append(ROOM, vec![message("second", "still here")])).await;
    cluster.assert_no_panic(1);
    cluster.stop().await;
}

async fn init(cluster: &Cluster, nodes: Vec<(u64, String)>) -> Refusal {
    let node = |(node_id, peer_address)| init_request::Node { node_id, peer_address };
    let request =
        InitRequest { nodes: nodes.into_iter().map(node).collect(), ..Default::default() };
    let refused = ClusterClient::new(cluster.channel(1)).init(request).await;
    Refusal::of(&refused.expect_err("it is refused"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_the_data_of_another_node_or_cluster_does_no_harm() {
    let mut ours = Cluster::start(3, "").await;
    let mut theirs = Cluster::start(1, "").await;
    let mut client = ours.messages(2);
    append_surely(&mut client, append(ROOM, vec![message("first", "hello")])).await;
    append_surely(&mut theirs.messages(1), append("their/room", vec![message("1", "x")])).await;

    // A node that is in another cluster is not taken into this one, nor this one's nodes anew under other names.
    let (address, other) = (ours.peer_address(1).await, theirs.peer_address(1).await);
    let refusal = init(&theirs, vec![(1, other.clone()), (2, address.clone())]).await;
    assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
    let refusal = init(&ours, vec![(1, address), (2, other)]).await;
    assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");

    // The data of node 2 under the name of node 1.
    ours.kill(1).await;
    let kept = ours.dir().join("kept");
    std::fs::rename(ours.data(1), &kept).unwrap();
    copy(&ours.data(2), &ours.data(1));
    let (status, said) = ours.run_to_its_end(1).await;
    assert!(!status.success());
    assert!(said.contains("belongs to node 2, and this is node 1"), "{said}");
    assert!(!said.contains("panicked"), "{said}");

    // The data of node 1 of another cluster.
    theirs.kill(1).await;
    std::fs::remove_dir_all(ours.data(1)).unwrap();
    copy(&theirs.data(1), &ours.data(1));
    let before = read_all(&mut client, ROOM, None).await.unwrap();
    let lines: Vec<usize> = (1..=3).map(|node| ours.log_lines(node)).collect();
    ours.spawn(1);
    ours.wait_alive(1).await;
    eventually("the impostor refuses its peers", async || {
        ours.log_of(1).lines().skip(lines[0]).any(|l| l.contains("a peer is refused")).then_some(())
    })
    .await;
    // Ours go on, and several elections and reconnections later nobody has logged more than a few lines.
    for number in 0..50 {
        let request =
            append(&format!("acme/{}", number % 7), vec![message(&number.to_string(), "x")]);
        append_surely(&mut client, request).await;
    }
    for (node, before) in (1..=3).zip(&lines) {
        let log = ours.log_of(node);
        let new: Vec<&str> = log.lines().skip(*before).collect();
        assert!(new.len() <= 15, "node {node}: {new:#?}");
    }
    assert_eq!(read_all(&mut client, ROOM, None).await.unwrap(), before);

    // With its own data it is one of us again.
    ours.kill(1).await;
    std::fs::remove_dir_all(ours.data(1)).unwrap();
    std::fs::rename(&kept, ours.data(1)).unwrap();
    ours.restart(1).await;
    ours.wait_ready().await;
    ours.assert_no_panic(3);
    ours.stop().await;
}

/// G1: a voter that has voted must not be made blank under its id, whoever asks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_init_makes_no_node_anew_that_has_lost_its_data() {
    let mut cluster = Cluster::start(3, "").await;
    let mut client = cluster.messages(3);
    append_surely(&mut client, append(ROOM, vec![message("first", "hello")])).await;
    let mut nodes = Vec::new();
    for node in 1..=3 {
        nodes.push((node.into(), cluster.peer_address(node).await));
    }

    // Node 1 still knows that it belongs to the cluster, and node 2 knows nothing any more. Without a leader of the meta
    // group, node 1 does not hear what the cluster is.
    cluster.kill(1).await;
    cluster.kill(2).await;
    let kept = cluster.dir().join("kept");
    std::fs::rename(cluster.data(2), &kept).unwrap();
    let identity = std::fs::read(cluster.data(1).join("IDENTITY")).unwrap();
    std::fs::remove_dir_all(cluster.data(1)).unwrap();
    std::fs::create_dir(cluster.data(1)).unwrap();
    std::fs::write(cluster.data(1).join("IDENTITY"), identity).unwrap();
    for node in [1, 2] {
        cluster.spawn(node);
        cluster.wait_alive(node).await;
    }
    let refusal = init(&cluster, nodes.clone()).await;
    assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
    assert!(refusal.message.contains("node 2 does not know of it"), "{refusal:?}");
    assert_without_meta(&cluster, &[1, 2]).await;

    // With node 2 there is a leader, and node 1 may or may not have heard from it.
    cluster.kill(2).await;
    std::fs::remove_dir_all(cluster.data(2)).unwrap();
    std::fs::rename(&kept, cluster.data(2)).unwrap();
    cluster.restart(2).await;
    let refusal = init(&cluster, nodes).await;
    assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
    assert!(refusal.message.contains("node 1 has lost its data"), "{refusal:?}");
    assert_without_meta(&cluster, &[1]).await;
    cluster.assert_no_panic(3);
    cluster.stop().await;
}

/// None of these has a replica of the meta group that votes or learns.
async fn assert_without_meta(cluster: &Cluster, nodes: &[u32]) {
    for node in nodes {
        let described = cluster.describe(*node).await.unwrap();
        let own = described.nodes.iter().find(|status| status.node_id == u64::from(*node)).unwrap();
        let has_meta = |role: &str| own.replicas.iter().any(|r| r.group_id == 0 && r.role == role);
        assert!(!has_meta("learner") && !has_meta("follower"), "{own:?}");
    }
}
