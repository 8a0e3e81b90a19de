use futures::FutureExt;
use tonic::Code;

use super::*;
use crate::error::Effect;

fn address(text: &str) -> Arc<str> {
    Arc::from(text)
}

fn topology(version: u64, leader_node_id: u64) -> proto::Topology {
    let node = |node_id: u64| proto::Node {
        node_id,
        client_address: format!("n{node_id}:1"),
        ..proto::Node::default()
    };
    let replica = |node_id| proto::Replica { node_id, incarnation: 1 };
    proto::Topology {
        version,
        nodes: (1..=3).map(node).collect(),
        groups: vec![proto::Group {
            group_id: 9,
            leader_node_id,
            replicas: (1..=3).map(replica).collect(),
            ..proto::Group::default()
        }],
        ..proto::Topology::default()
    }
}

fn router(routing: Routing) -> Router {
    let router = Router::new(routing, vec![address("n1:1"), address("n3:1")]);
    router.learn(topology(1, 2));
    router
}

fn not_leader(hint: &str) -> Error {
    Error::from_failure(proto::Failure {
        code: Code::Unavailable.into(),
        reason: reason::NOT_LEADER.to_owned(),
        retryable: true,
        metadata: [("leader".to_owned(), hint.to_owned())].into(),
        ..proto::Failure::default()
    })
}

#[tokio::test]
async fn calls_go_to_the_leader_and_to_the_one_named_instead() {
    let router = router(Routing::Leader);
    let target = router.target(Destination::LeaderOf("c"));
    assert_eq!(target, Target { address: address("n2:1"), group: Some(9) });

    for hint in ["3", "n3:1"] {
        router.note_failure(&target, &not_leader(hint));
        assert_eq!(&*router.target(Destination::LeaderOf("c")).address, "n3:1");
        router.learn(topology(2, 2));
    }
    assert_eq!(&*router.target(Destination::LeaderOf("c")).address, "n2:1");
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_passed_over_for_a_while() {
    let router = router(Routing::Leader);
    let target = router.target(Destination::LeaderOf("c"));
    router.note_failure(&target, &Error::stream_ended(Effect::Possible));
    assert_eq!(&*router.target(Destination::LeaderOf("c")).address, "n1:1");
    tokio::time::advance(UNREACHABLE_PASSED_OVER).await;
    assert_eq!(&*router.target(Destination::LeaderOf("c")).address, "n2:1");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_asks_to_wait_is_not_the_one_that_is_tried_next() {
    let router = router(Routing::Leader);
    let target = router.target(Destination::LeaderOf("c"));
    let error = Error::from_failure(proto::Failure {
        code: Code::Unavailable.into(),
        reason: reason::OUTCOME_UNKNOWN.to_owned(),
        retryable: true,
        retry_delay_ms: 250,
        ..proto::Failure::default()
    });
    router.note_failure(&target, &error);
    tokio::time::advance(error.retry_delay().unwrap()).await;
    assert_ne!(router.target(Destination::LeaderOf("c")).address, target.address);
    tokio::time::advance(UNAVAILABLE_PASSED_OVER).await;
    assert_eq!(router.target(Destination::LeaderOf("c")).address, target.address);
}

#[tokio::test]
async fn what_a_leader_that_is_cut_off_may_answer_makes_its_topology_stale() {
    let router = router(Routing::Leader);
    let target = router.target(Destination::LeaderOf("c"));
    let other = Target { address: "n9:1".into(), group: target.group };
    let tells = |watch, last: Option<&Target>| router.next_source(watch, last).unwrap().address;
    let before = Target { address: address("n3:1"), group: None };
    assert_eq!(tells(1, Some(&before)), target.address);
    for (code, reason, makes_stale, so_elsewhere) in [
        (Code::Unavailable, reason::OUTCOME_UNKNOWN, true, true),
        (Code::Unavailable, reason::EXPIRED, true, true),
        // A leader that others have named may just be that.
        (Code::ResourceExhausted, reason::OVERLOADED, true, false),
        (Code::ResourceExhausted, reason::DISK_LOW, false, false),
        (Code::FailedPrecondition, reason::WRONG_TAIL, false, false),
    ] {
        let (code, reason) = (code.into(), reason.to_owned());
        let failure = proto::Failure { code, reason, ..proto::Failure::default() };
        for (at, makes_stale) in [(&target, makes_stale), (&other, so_elsewhere)] {
            router.note_failure(at, &Error::from_failure(failure.clone()));
            assert_eq!(router.stale().now_or_never().is_some(), makes_stale, "{failure:?}");
        }
    }
}

#[tokio::test]
async fn every_node_is_asked_for_the_topology_in_turn() {
    let router = router(Routing::Leader);
    let mut last = None;
    let mut asked = Vec::new();
    for _ in 0..4 {
        let source = router.next_source(0, last.as_ref()).unwrap();
        asked.push(source.address.to_string());
        last = Some(source);
    }
    // The endpoints come first.
    assert_eq!(asked, ["n1:1", "n3:1", "n2:1", "n1:1"]);
    // Not the one that tells it already.
    let other = router.next_source(1, None).unwrap();
    assert_eq!(&*other.address, "n3:1");
    assert_eq!(&*router.next_source(0, last.as_ref()).unwrap().address, "n2:1");
    assert_eq!(&*router.next_source(1, Some(&other)).unwrap().address, "n1:1");
}

#[tokio::test]
async fn with_one_node_only_one_watch_asks() {
    let router = Router::new(Routing::Leader, vec![address("n1:1")]);
    assert!(router.next_source(0, None).is_some());
    assert_eq!(router.next_source(1, None), None);
    router.learn(topology(1, 2));
    assert_eq!(&*router.next_source(1, None).unwrap().address, "n2:1");
}

#[tokio::test(start_paused = true)]
async fn a_call_leaves_who_leads_no_more_and_only_that() {
    let router = router(Routing::Leader);
    let destination = Destination::LeaderOf("c");
    let target = router.target(destination);
    let left = || Box::pin(router.led_elsewhere(destination, &target, router.watch()));
    let mut waits = left();
    assert!(waits.as_mut().now_or_never().is_none());
    // The same, and nobody that is known.
    for leader in [2, 0] {
        router.learn(topology(1, leader));
        assert!(waits.as_mut().now_or_never().is_none());
    }
    let began = Instant::now();
    router.learn(topology(1, 3));
    waits.await;
    assert_eq!(began.elapsed(), DEPOSED_PATIENCE, "an answer on its way still comes");
    // It is said to lead again before that.
    let mut waits = left();
    router.learn(topology(1, 1));
    assert!(waits.as_mut().now_or_never().is_none());
    router.learn(topology(1, 2));
    let stays = tokio::time::timeout(10 * DEPOSED_PATIENCE, waits).await;
    assert!(stays.is_err());
    // The next one did not answer a moment ago.
    let mut waits = left();
    router.learn(topology(1, 1));
    let next = Target { address: address("n1:1"), ..target.clone() };
    router.note_failure(&next, &Error::stream_ended(Effect::Possible));
    assert!(waits.as_mut().now_or_never().is_none());
    let stays = tokio::time::timeout(10 * DEPOSED_PATIENCE, waits).await;
    assert!(stays.is_err());
}

#[tokio::test]
async fn with_every_node_dead_there_is_still_a_target() {
    let router = router(Routing::Leader);
    for _ in 0..5 {
        let target = router.target(Destination::LeaderOf("c"));
        router.note_failure(&target, &Error::stream_ended(Effect::Possible));
    }
    assert_eq!(router.target(Destination::LeaderOf("c")).group, Some(9));
}

#[tokio::test]
async fn a_proxy_is_kept_until_it_fails() {
    let router = router(Routing::Proxy);
    let target = router.target(Destination::LeaderOf("c"));
    assert_eq!(target, Target { address: address("n1:1"), group: None });
    router.note_failure(&target, &not_leader("2"));
    router.note_failure(&target, &Error::stream_ended(Effect::None));
    let next = router.target(Destination::LeaderOf("c"));
    assert_eq!(&*next.address, "n3:1");
    // It stays with the one that works even once the first could be used again.
    router.note_success(&target.address);
    assert_eq!(&*router.target(Destination::AnyNode).address, "n3:1");
}

#[tokio::test]
async fn an_older_topology_is_ignored() {
    let router = router(Routing::Leader);
    router.learn(topology(5, 3));
    router.learn(topology(4, 1));
    assert_eq!(&*router.target(Destination::LeaderOf("c")).address, "n3:1");
}

#[tokio::test(start_paused = true)]
async fn whoever_rests_goes_on_once_a_leader_is_named_that_did_not_fail() {
    let router = router(Routing::Leader);
    let old = router.target(Destination::LeaderOf("c"));
    router.note_failure(&old, &Error::stream_ended(Effect::Possible));
    let follower = router.target(Destination::LeaderOf("c"));
    router.note_failure(&follower, &not_leader(""));
    let (mut topologies, mut same) = (router.watch(), router.watch());
    let led = router.next_usable_leader(Destination::LeaderOf("c"), &mut topologies);
    let mut led = Box::pin(led);
    let mut any = Box::pin(router.next_usable_leader(Destination::AnyNode, &mut same));
    assert!(led.as_mut().now_or_never().is_none());
    // It is known of old that this one does not answer.
    router.learn(topology(1, 2));
    assert!(led.as_mut().now_or_never().is_none());
    router.learn(topology(1, 0));
    assert!(led.as_mut().now_or_never().is_none());
    // Asked a moment ago, before it led.
    router.learn(topology(1, 1));
    let began = Instant::now();
    led.await;
    assert!(began.elapsed() < UNAVAILABLE_PASSED_OVER);
    assert!(any.as_mut().now_or_never().is_none(), "it is not about a leader");
    assert_eq!(router.target(Destination::LeaderOf("c")).address, follower.address);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_that_was_not_ready_is_asked_again_soon() {
    let router = router(Routing::Leader);
    let target = router.target(Destination::LeaderOf("c"));
    router.note_failure(&target, &not_leader(""));
    let began = Instant::now();
    let mut topologies = router.watch();
    // It comes before it is waited for.
    router.learn(topology(1, 2));
    let led = router.next_usable_leader(Destination::LeaderOf("c"), &mut topologies);
    let led = tokio::time::timeout(UNREACHABLE_PASSED_OVER, led).await;
    led.expect("the leader is not passed over for so long");
    assert_eq!(began.elapsed(), UNAVAILABLE_PASSED_OVER);
}
