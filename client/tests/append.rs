//! Appends and reads against nodes that misbehave.

mod fake;

use std::time::Duration;

use fake::{Cluster, Mischief, dead_address, not_leader, passing, refused};
use quorate_client::{Append, Client, ClientOptions, NewMessage, Read, Routing, Start, reason};
use tonic::Code;

/// Longer than anything takes that does not wait for a timeout.
const LONG: Duration = Duration::from_secs(60);

fn hello() -> Append {
    Append::new("c", "alice", NewMessage::text("hello"))
}

#[tokio::test]
async fn a_retry_after_a_lost_answer_carries_the_same_ids_and_commits_once() {
    let cluster = Cluster::start(3).await;
    cluster.node(1).plan([Mischief::CommitThenCut]);
    let client = cluster.client().await;
    let ack = tokio::spawn(async move { client.append(hello()).await }).await.unwrap().unwrap();
    assert!(ack.duplicate);
    assert_eq!(cluster.log.payloads("c"), ["hello"]);

    let attempts: Vec<_> = cluster.nodes.iter().flat_map(|n| n.arrived().clone()).collect();
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0], attempts[1]);
    assert!(!attempts[0].messages[0].client_msg_id.is_empty());
    assert_ne!(attempts[0].messages[0].issued_at_us, 0);
}

#[tokio::test]
async fn the_leader_that_a_node_names_is_asked_next_and_remembered() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    cluster.node(1).plan([Mischief::Fail(not_leader(Some(3)))]);
    client.append(hello()).await.unwrap();
    assert_eq!(cluster.node(3).arrived().len(), 1);
    assert_eq!(cluster.node(2).arrived().len(), 0);
}

#[tokio::test]
async fn without_a_known_leader_others_are_asked_until_there_is_one() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    for node in &cluster.nodes {
        node.plan([Mischief::Fail(not_leader(None)), Mischief::Fail(not_leader(None))]);
    }
    client.append(hello()).await.unwrap();
    assert_eq!(cluster.log.payloads("c"), ["hello"]);
}

#[tokio::test]
async fn a_final_refusal_is_told_at_once() {
    let cluster = Cluster::start(1).await;
    cluster.node(1).plan([Mischief::Fail(refused(reason::LIMIT_EXCEEDED))]);
    let error = cluster.client().await.append(hello()).await.unwrap_err();
    assert_eq!(error.reason(), reason::LIMIT_EXCEEDED);
    assert!(!error.retryable() && !error.may_have_taken_effect());
    assert_eq!(cluster.node(1).arrived().len(), 1);
}

#[tokio::test]
async fn a_refusal_after_a_lost_answer_still_may_have_taken_effect() {
    let cluster = Cluster::start(1).await;
    let refusal = Mischief::Fail(refused(reason::WRONG_TAIL));
    cluster.node(1).plan([Mischief::CommitThenCut, refusal]);
    let error = cluster.client().await.append(hello()).await.unwrap_err();
    assert_eq!(error.reason(), reason::WRONG_TAIL);
    assert!(error.may_have_taken_effect());
}

#[tokio::test]
async fn a_node_that_does_not_answer_costs_one_attempt() {
    let cluster = Cluster::start(3).await;
    cluster.node(1).plan([Mischief::Stall]);
    cluster.client().await.append(hello()).await.unwrap();
    assert_eq!(cluster.log.payloads("c"), ["hello"]);
}

#[tokio::test]
async fn the_deadline_holds_and_tells_the_truth() {
    let cluster = Cluster::start(1).await;
    cluster.node(1).plan(vec![Mischief::Stall; 9]);
    let options = cluster.options().request_timeout(Duration::from_millis(700));
    let client = Client::connect(options).await.unwrap();
    let began = tokio::time::Instant::now();
    let error = client.append(hello()).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(error.reason(), reason::DEADLINE_PASSED);
    assert!(error.retryable() && error.may_have_taken_effect());
}

#[tokio::test]
async fn nobody_there_means_nothing_was_sent() {
    let options = ClientOptions::new([dead_address().await.to_string()])
        .request_timeout(Duration::from_millis(300));
    let error = Client::connect(options).await.unwrap_err();
    assert_eq!(error.reason(), reason::DEADLINE_PASSED);
    assert!(error.message().contains(reason::CONNECT_FAILED), "{error}");
    assert!(!error.may_have_taken_effect());
}

#[tokio::test]
async fn a_proxied_client_stays_with_one_endpoint_and_leaves_a_dead_one() {
    let cluster = Cluster::start(3).await;
    let mut options = cluster.options().routing(Routing::Proxy);
    options.endpoints.insert(0, dead_address().await.to_string());
    let client = Client::connect(options).await.unwrap();
    cluster.elect(3);
    for _ in 0..5 {
        client.append(hello()).await.unwrap();
    }
    assert_eq!(cluster.node(1).arrived().len(), 5);
}

#[tokio::test]
async fn a_changed_leader_is_learnt_without_a_failure() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut topologies = client.watch_topology();
    cluster.elect(2);
    while topologies.next().await.groups[0].leader_node_id != 2 {}
    client.append(hello()).await.unwrap();
    assert_eq!(cluster.node(2).arrived().len(), 1);
}

#[tokio::test]
async fn a_leader_that_does_not_know_that_it_leads_no_more_is_left() {
    let failures = [
        passing(Code::Unavailable, reason::OUTCOME_UNKNOWN, 250),
        passing(Code::Unavailable, reason::EXPIRED, 250),
        passing(Code::ResourceExhausted, reason::OVERLOADED, 50),
    ];
    for failure in failures {
        let cluster = Cluster::start(3).await;
        // It alone is where the topology is learnt.
        let mut options = cluster.options();
        options.endpoints.truncate(1);
        let client = Client::connect(options).await.unwrap();
        cluster.elect_unheard(2, 1);
        cluster.node(1).always(Mischief::Fail(failure));
        client.append(hello()).await.unwrap();
        assert_eq!(cluster.node(2).arrived().len(), 1);
    }
}

/// Its packets are lost: it answers nothing, and hears of no other leader. No attempt runs out of time here.
#[tokio::test]
async fn a_leader_that_is_silent_is_left_once_another_is_known() {
    let cluster = Cluster::start(3).await;
    let options = ClientOptions { attempt_timeout: LONG, ..cluster.options() };
    let client = Client::connect(options.request_timeout(2 * LONG)).await.unwrap();
    cluster.node(1).always(Mischief::Stall);
    let appending = tokio::spawn(async move { client.append(hello()).await });
    cluster.node(1).wait_arrived(1).await;
    cluster.elect_unheard(2, 1);
    let ack = tokio::time::timeout(LONG, appending).await.expect("it waits for nothing");
    assert_eq!(ack.unwrap().unwrap().first_seq, 1);
    let ids = |node| cluster.node(node).arrived()[0].messages[0].client_msg_id.clone();
    assert_eq!(ids(1), ids(2), "it could be appended twice");
}

#[tokio::test]
async fn a_node_that_belongs_to_no_cluster_is_enough_to_connect() {
    let cluster = Cluster::start(1).await;
    cluster.dissolve();
    let client = cluster.client().await;
    assert_eq!(client.topology(), None);
    let mut topologies = client.watch_topology();
    cluster.elect(1);
    assert_eq!(topologies.next().await.groups.len(), 1);
    client.append(hello()).await.unwrap();
}

#[tokio::test]
async fn the_topology_is_learnt_from_another_endpoint_than_a_node_of_no_cluster() {
    let (blank, cluster) = (Cluster::start(1).await, Cluster::start(1).await);
    blank.dissolve();
    let mut options = cluster.options();
    options.endpoints.splice(0..0, blank.options().endpoints);
    let client = Client::connect(options).await.unwrap();
    let mut topologies = client.watch_topology();
    if client.topology().is_none() {
        let learnt = tokio::time::timeout(Duration::from_secs(10), topologies.next()).await;
        assert_eq!(learnt.expect("it is learnt in time").groups.len(), 1);
    }
    client.append(hello()).await.unwrap();
    assert_eq!(cluster.node(1).arrived().len(), 1);
}

#[tokio::test]
async fn reads_are_checked() {
    let cluster = Cluster::start(1).await;
    cluster.log.fill("c", 1..=10);
    let client = cluster.client().await;
    let read = || Read::new("c").start(Start::Seq(4)).limit(5);

    cluster.node(1).plan([Mischief::Fail(not_leader(None))]);
    let page = client.read(read()).await.unwrap();
    let seqs: Vec<u64> = page.messages.iter().map(|m| m.seq).collect();
    assert_eq!((seqs.as_slice(), page.first_seq, page.tail), (&[4, 5, 6, 7, 8][..], 1, 11));

    let backward = client.read(Read::new("c").backward().limit(2)).await.unwrap();
    assert_eq!(backward.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [10, 9]);

    cluster.node(1).plan([Mischief::Skip, Mischief::Damage]);
    let error = client.read(read()).await.unwrap_err();
    assert_eq!(error.reason(), reason::PROTOCOL_VIOLATION);
    let error = client.read(read()).await.unwrap_err();
    assert_eq!(error.reason(), reason::DAMAGED_PAYLOAD);
}

/// Its first part is an answer already.
#[tokio::test]
async fn a_read_that_breaks_off_rests_before_it_starts_over_and_says_why_in_the_end() {
    let cluster = Cluster::start(1).await;
    cluster.log.fill("c", 1..=10);
    let overloaded = passing(Code::ResourceExhausted, reason::OVERLOADED, 600);
    cluster.node(1).plan(vec![Mischief::BreakOff(overloaded); 1_000]);
    let options = cluster.options().request_timeout(Duration::from_secs(1));
    let client = Client::connect(options).await.unwrap();
    let error = client.read(Read::new("c")).await.unwrap_err();
    assert_eq!(error.reason(), reason::DEADLINE_PASSED);
    assert!(error.message().contains(reason::OVERLOADED), "{error}");
    let left = cluster.node(1).mischief.lock().unwrap().len();
    assert_eq!(left, 998, "asked once more in a second, after the 600 ms that the node asks for");
}

#[tokio::test]
async fn a_read_that_breaks_off_starts_over_at_another_node() {
    let cluster = Cluster::start(2).await;
    cluster.log.fill("c", 1..=10);
    let stopped = passing(Code::Unavailable, reason::REPLICA_STOPPED, 0);
    cluster.node(1).plan(vec![Mischief::BreakOff(stopped); 1_000]);
    let page = cluster.client().await.read(Read::new("c")).await.unwrap();
    assert_eq!(page.messages.len(), 10);
    assert_eq!(cluster.node(1).mischief.lock().unwrap().len(), 999);
}
