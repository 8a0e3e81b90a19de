//! Sessions against nodes that misbehave.

mod fake;

use std::time::Duration;

use fake::{Cluster, Mischief, not_leader, passing, refused};
use quorate_client::{Append, Client, ClientOptions, NewMessage, Session, SessionOptions, reason};
use tonic::Code;

/// Longer than anything takes that does not wait for a timeout.
const LONG: Duration = Duration::from_secs(60);

fn numbered(conversation: &str, number: u64) -> Append {
    Append::new(conversation, "alice", NewMessage::text(number.to_string()))
}

async fn session(cluster: &Cluster) -> Session {
    cluster.client().await.session(SessionOptions::default()).unwrap()
}

fn numbers(count: u64) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn order_is_kept_and_nothing_is_doubled_whatever_happens() {
    const EACH: u64 = 100;
    let cluster = Cluster::start(3).await;
    for (place, node) in cluster.nodes.iter().enumerate() {
        for round in 0..20 {
            let elsewhere = (place as u64 + 1) % 3 + 1;
            let right = vec![Mischief::Nothing; 3 + (round * 5 + place) % 7];
            node.plan(right);
            node.plan([match (round + place) % 4 {
                0 => Mischief::CommitThenCut,
                1 => Mischief::Cut,
                2 => Mischief::Fail(not_leader(Some(elsewhere))),
                _ => Mischief::Fail(not_leader(None)),
            }]);
        }
    }
    let session = session(&cluster).await;
    let conversations = ["a", "b", "c", "d"];
    let mut handles = Vec::new();
    for number in 0..EACH {
        for conversation in conversations {
            handles.push(session.append(numbered(conversation, number)).await);
        }
        if number % 30 == 29 {
            cluster.elect(number % 3 + 1);
        }
    }
    for (place, handle) in handles.into_iter().enumerate() {
        let ack = handle.await.unwrap();
        assert_eq!(ack.first_seq, (place / conversations.len()) as u64 + 1);
    }
    for conversation in conversations {
        assert_eq!(cluster.log.payloads(conversation), numbers(EACH));
    }
    let attempts: usize = cluster.nodes.iter().map(|node| node.arrived().len()).sum();
    assert!(attempts > 4 * 100, "nothing was sent twice: the test tests nothing");
    assert_eq!(session.in_flight(), 0);
}

#[tokio::test]
async fn a_final_failure_closes_one_lane_until_it_is_resumed() {
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    cluster.node(1).plan([Mischief::Nothing, Mischief::Fail(refused(reason::WRONG_TAIL))]);
    let first = session.append(numbered("a", 0)).await;
    let second = session.append(numbered("a", 1)).await;
    let third = session.append(numbered("a", 2)).await;
    let other = session.append(numbered("b", 0)).await;

    first.await.unwrap();
    assert_eq!(second.await.unwrap_err().reason(), reason::WRONG_TAIL);
    assert_eq!(third.await.unwrap_err().reason(), reason::LANE_BROKEN);
    other.await.unwrap();

    let still = session.append(numbered("a", 3)).await.await.unwrap_err();
    assert_eq!(still.reason(), reason::LANE_BROKEN);
    session.resume("a").await;
    session.append(numbered("a", 4)).await.await.unwrap();
    assert_eq!(cluster.log.payloads("a"), ["0", "4"]);
}

#[tokio::test]
async fn a_session_keeps_bounded_many_failures_and_those_only_until_they_are_resumed() {
    const KEPT: u64 = 10_000;
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    cluster.node(1).always(Mischief::Fail(refused(reason::WRONG_TAIL)));
    for is_resumed in [true, false] {
        let mut failed = Vec::new();
        for number in 0..KEPT {
            failed.push(session.append(numbered(&number.to_string(), 0)).await);
        }
        for (number, failed) in failed.into_iter().enumerate() {
            assert_eq!(failed.await.unwrap_err().reason(), reason::WRONG_TAIL);
            if is_resumed {
                session.resume(number.to_string()).await;
            }
        }
    }

    cluster.node(1).always(Mischief::Nothing);
    let error = session.append(numbered("a", 0)).await.await.unwrap_err();
    assert_eq!(error.reason(), reason::SESSION_CLOSED);
    assert!(error.retryable() && !error.may_have_taken_effect());
    // Otherwise what came behind it would be committed without it.
    session.resume("0").await;
    let behind = session.append(numbered("a", 1)).await.await.unwrap_err();
    assert_eq!(behind.reason(), reason::SESSION_CLOSED);
    assert_eq!(cluster.log.payloads("a"), [""; 0]);
}

/// The leader cannot tell yet whose clock is wrong.
#[tokio::test]
async fn a_lane_outlives_a_leader_whose_clock_is_not_trusted() {
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    let untrusted = Mischief::Fail(passing(Code::Unavailable, reason::CLOCK_UNTRUSTED, 1));
    cluster.node(1).plan([Mischief::Nothing, untrusted.clone(), untrusted]);
    let mut handles = Vec::new();
    for number in 0..3 {
        handles.push(session.append(numbered("a", number)).await);
    }
    for (place, handle) in handles.into_iter().enumerate() {
        assert_eq!(handle.await.unwrap().first_seq, place as u64 + 1);
    }
    assert_eq!(cluster.log.payloads("a"), numbers(3));
    assert!(cluster.node(1).arrived().len() >= 5, "it was sent again");
}

#[tokio::test]
async fn an_append_that_no_server_takes_closes_its_own_lane_only() {
    const MIB: usize = 1024 * 1024;
    let sized = |bytes| Append::new("a", "alice", NewMessage::new(vec![b'x'; bytes]));
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    let before = session.append(numbered("a", 0)).await;
    // The largest that goes out: it has an id and so on beside its payload.
    let largest = session.append(sized(4 * MIB - 256)).await;
    let oversized = session.append(sized(5 * MIB)).await;
    let behind = session.append(numbered("a", 1)).await;
    let mut others = Vec::new();
    for number in 0..20 {
        others.push(session.append(numbered("b", number)).await);
    }

    before.await.unwrap();
    largest.await.unwrap();
    let error = oversized.await.unwrap_err();
    assert_eq!(error.reason(), reason::LIMIT_EXCEEDED);
    assert_eq!(
        (error.metadata("field"), error.metadata("limit")),
        (Some("request"), Some("4194304"))
    );
    assert!(!error.retryable() && !error.may_have_taken_effect());
    assert_eq!(behind.await.unwrap_err().reason(), reason::LANE_BROKEN);
    for other in others {
        other.await.unwrap();
    }
    assert_eq!(cluster.log.payloads("b"), numbers(20));
    session.resume("a").await;
    assert_eq!(session.append(numbered("a", 2)).await.await.unwrap().first_seq, 3);

    // The same without a session.
    let error = cluster.client().await.append(sized(5 * MIB)).await.unwrap_err();
    assert_eq!(error.reason(), reason::LIMIT_EXCEEDED);
}

#[tokio::test]
async fn an_append_that_nobody_answers_fails_in_time_and_says_that_it_may_have_arrived() {
    let cluster = Cluster::start(1).await;
    cluster.node(1).plan([Mischief::Stall]);
    let options =
        SessionOptions { append_timeout: Duration::from_millis(200), ..SessionOptions::default() };
    let session = cluster.client().await.session(options).unwrap();
    let error = session.append(numbered("a", 0)).await.await.unwrap_err();
    assert_eq!(error.reason(), reason::DEADLINE_PASSED);
    assert!(error.may_have_taken_effect());
}

#[tokio::test]
async fn a_leader_that_does_not_know_that_it_leads_no_more_is_left() {
    for (code, reason, delay_ms) in [
        (Code::Unavailable, reason::OUTCOME_UNKNOWN, 250),
        (Code::ResourceExhausted, reason::OVERLOADED, 50),
    ] {
        let cluster = Cluster::start(3).await;
        let options =
            SessionOptions { append_timeout: Duration::from_secs(10), ..SessionOptions::default() };
        let session = cluster.client().await.session(options).unwrap();
        cluster.elect_unheard(2, 1);
        cluster.node(1).always(Mischief::Fail(passing(code, reason, delay_ms)));
        let (first, second) =
            (session.append(numbered("a", 0)).await, session.append(numbered("a", 1)).await);
        first.await.unwrap();
        second.await.unwrap();
        assert_eq!(cluster.log.payloads("a"), numbers(2));
        assert_eq!(cluster.node(2).arrived().len(), 2);
    }
}

/// Its packets are lost: it answers nothing, and hears of no other leader. No attempt runs out of time here.
#[tokio::test]
async fn a_leader_that_is_silent_is_left_in_order_once_another_is_known() {
    const EACH: u64 = 20;
    let cluster = Cluster::start(3).await;
    let options = ClientOptions { attempt_timeout: LONG, ..cluster.options() };
    let client = Client::connect(options).await.unwrap();
    let options = SessionOptions { append_timeout: 2 * LONG, ..SessionOptions::default() };
    let session = client.session(options).unwrap();
    // One is committed there, and its answer is lost with the others.
    cluster.node(1).plan([Mischief::CommitThenStall]);
    cluster.node(1).always(Mischief::Stall);
    let mut handles = Vec::new();
    for number in 0..EACH {
        for conversation in ["a", "b"] {
            handles.push(session.append(numbered(conversation, number)).await);
        }
    }
    cluster.node(1).wait_arrived(1).await;
    cluster.elect_unheard(2, 1);
    let acks = tokio::time::timeout(LONG, futures::future::join_all(handles));
    for (place, ack) in acks.await.expect("they wait for nothing").into_iter().enumerate() {
        assert_eq!(ack.unwrap().first_seq, place as u64 / 2 + 1);
    }
    for conversation in ["a", "b"] {
        assert_eq!(cluster.log.payloads(conversation), numbers(EACH));
    }
}

#[tokio::test]
async fn the_window_bounds_what_is_in_flight() {
    let cluster = Cluster::start(1).await;
    cluster.node(1).plan([Mischief::Stall]);
    let options = SessionOptions { in_flight_max: 2, ..SessionOptions::default() };
    let session = cluster.client().await.session(options).unwrap();
    let _first = session.append(numbered("a", 0)).await;
    let _second = session.append(numbered("a", 1)).await;
    let third = session.append(numbered("a", 2));
    assert!(tokio::time::timeout(Duration::from_millis(100), third).await.is_err());
    assert_eq!(session.in_flight(), 2);
}

#[tokio::test]
async fn a_dropped_session_still_carries_what_it_was_handed() {
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    let handles = [session.append(numbered("a", 0)).await, session.append(numbered("a", 1)).await];
    drop(session);
    for handle in handles {
        handle.await.unwrap();
    }
    assert_eq!(cluster.log.payloads("a"), numbers(2));
}

#[tokio::test]
async fn a_flush_waits_for_every_outcome() {
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    for number in 0..50 {
        drop(session.append(numbered("a", number)).await);
    }
    session.flush().await;
    assert_eq!(cluster.log.payloads("a"), numbers(50));
}
