//! Follows and subscriptions against nodes that misbehave.

mod fake;

use std::collections::HashMap;
use std::time::Duration;

use fake::{Cluster, Mischief, not_leader, refused};
use futures::FutureExt;
use quorate_client::proto::subscribe_request::Change;
use quorate_client::{Credit, Delivery, Follow, Start, Subscription, reason};

/// No test waits longer than this for a delivery.
const PATIENCE: Duration = Duration::from_secs(20);

async fn next_followed(follow: &mut Follow) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, follow.next()).await.expect("nothing came");
    next.expect("the follow goes on").unwrap()
}

async fn next_subscribed(subscription: &mut Subscription) -> Delivery {
    tokio::time::timeout(PATIENCE, subscription.next()).await.expect("nothing came")
}

/// Takes deliveries until each conversation has come to `last`, and checks that no seq was left out or repeated.
async fn take_until(
    last: u64,
    conversations: usize,
    mut next: impl AsyncFnMut() -> Delivery,
) -> HashMap<String, u64> {
    let mut reached: HashMap<String, u64> = HashMap::new();
    while reached.values().filter(|seq| **seq == last).count() < conversations {
        match next().await {
            Delivery::Messages { conversation, messages } => {
                let seq = reached.entry(conversation).or_default();
                for message in messages {
                    assert_eq!(message.seq, *seq + 1);
                    assert_eq!(message.payload, message.seq.to_string());
                    *seq = message.seq;
                }
            }
            Delivery::CaughtUp { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    reached
}

fn trouble(round: usize) -> [Mischief; 3] {
    let now = match round % 3 {
        0 => Mischief::Cut,
        1 => Mischief::Repeat,
        _ => Mischief::Stall,
    };
    [Mischief::Nothing, Mischief::Nothing, now]
}

#[tokio::test]
async fn a_follow_has_no_gap_and_no_repeat_across_reconnects() {
    let cluster = Cluster::start(3).await;
    for node in &cluster.nodes {
        (0..8).for_each(|round| node.plan(trouble(round)));
    }
    let log = cluster.log.clone();
    let writer = tokio::spawn(async move {
        for number in 1..=60 {
            log.fill("a", number..=number);
            log.fill("b", number..=number);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let client = cluster.client().await;
    let starts = [("a", Start::Earliest), ("b", Start::Seq(1))];
    let mut follow = client.follow_with_heartbeat(starts, 100).unwrap();
    take_until(60, 2, async || next_followed(&mut follow).await).await;
    writer.await.unwrap();
    let left: usize = cluster.nodes.iter().map(|n| n.mischief.lock().unwrap().len()).sum();
    assert!(left <= 3 * 24 - 9, "{left} left: no trouble of each kind was met");
}

#[tokio::test]
async fn a_follow_tells_once_that_it_has_caught_up() {
    let cluster = Cluster::start(1).await;
    cluster.log.fill("a", 1..=5);
    let client = cluster.client().await;
    let mut follow = client.follow([("a", Start::Last(2))]).unwrap();
    let Delivery::Messages { messages, .. } = next_followed(&mut follow).await else { panic!() };
    assert_eq!(messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [4, 5]);
    let next = next_followed(&mut follow).await;
    assert!(matches!(next, Delivery::CaughtUp { next_seq: 6, .. }), "{next:?}");

    cluster.node(1).proxy.cut();
    cluster.log.fill("a", 6..=6);
    let Delivery::Messages { messages, .. } = next_followed(&mut follow).await else { panic!() };
    assert_eq!(messages[0].seq, 6);
}

#[tokio::test]
async fn a_hole_that_was_not_announced_ends_a_follow() {
    let cluster = Cluster::start(1).await;
    cluster.log.fill("a", 1..=9);
    let client = cluster.client().await;
    for (mischief, expected) in
        [(Mischief::Skip, reason::PROTOCOL_VIOLATION), (Mischief::Damage, reason::DAMAGED_PAYLOAD)]
    {
        cluster.node(1).plan([Mischief::Nothing, mischief]);
        let mut follow = client.follow([("a", Start::Earliest)]).unwrap();
        next_followed(&mut follow).await;
        let error = follow.next().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), expected);
        assert!(follow.next().await.is_none());
    }
}

#[tokio::test]
async fn an_announced_gap_is_passed_on() {
    let cluster = Cluster::start(1).await;
    cluster.log.fill("a", 1..=5);
    cluster.log.lock().conversations.get_mut("a").unwrap().drain(..3);
    let client = cluster.client().await;
    let mut follow = client.follow([("a", Start::Seq(2))]).unwrap();
    let gap = next_followed(&mut follow).await;
    assert!(matches!(gap, Delivery::Gap { from_seq: 2, to_seq: 4, .. }), "{gap:?}");
    let Delivery::Messages { messages, .. } = next_followed(&mut follow).await else { panic!() };
    assert_eq!(messages[0].seq, 4);
}

#[tokio::test]
async fn a_subscription_resumes_every_conversation_where_it_was() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut subscription = client.subscribe();
    for conversation in ["a", "b", "c"] {
        // So little credit that it has to be given again many times.
        subscription.add(conversation, Start::Earliest, Credit::Automatic(8)).await.unwrap();
    }
    let log = cluster.log.clone();
    let nodes = cluster.nodes.clone();
    let writer = tokio::spawn(async move {
        for number in 1..=60 {
            ["a", "b", "c"].iter().for_each(|name| log.fill(name, number..=number));
            tokio::time::sleep(Duration::from_millis(3)).await;
            if number % 15 == 0 {
                nodes.iter().for_each(|node| node.proxy.cut());
            }
        }
    });
    take_until(60, 3, async || next_subscribed(&mut subscription).await).await;
    writer.await.unwrap();
}

#[tokio::test]
async fn a_removed_conversation_ends_and_can_come_back() {
    let cluster = Cluster::start(1).await;
    cluster.log.fill("a", 1..=2);
    let mut subscription = cluster.client().await.subscribe();
    subscription.add("a", Start::Earliest, Credit::default()).await.unwrap();
    let twice = subscription.add("a", Start::Earliest, Credit::default()).await.unwrap_err();
    assert_eq!(twice.reason(), reason::BAD_OPTION);
    take_until(2, 1, async || next_subscribed(&mut subscription).await).await;

    subscription.remove("a").await;
    loop {
        match next_subscribed(&mut subscription).await {
            Delivery::Ended { error, .. } => break assert!(error.is_none(), "{error:?}"),
            Delivery::CaughtUp { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    subscription.add("a", Start::Earliest, Credit::default()).await.unwrap();
    take_until(2, 1, async || next_subscribed(&mut subscription).await).await;
}

#[tokio::test]
async fn what_a_node_cannot_serve_now_is_added_again_and_what_it_refuses_ends() {
    let cluster = Cluster::start(1).await;
    cluster.log.fill("a", 1..=2);
    let mut subscription = cluster.client().await.subscribe();
    cluster.node(1).plan([Mischief::Fail(not_leader(None))]);
    subscription.add("a", Start::Earliest, Credit::default()).await.unwrap();
    take_until(2, 1, async || next_subscribed(&mut subscription).await).await;

    cluster.node(1).plan([Mischief::Fail(refused(reason::PERMISSION_DENIED))]);
    subscription.add("b", Start::Earliest, Credit::default()).await.unwrap();
    loop {
        match next_subscribed(&mut subscription).await {
            Delivery::Ended { conversation, error } => {
                assert_eq!(conversation, "b");
                break assert_eq!(error.unwrap().reason(), reason::PERMISSION_DENIED);
            }
            Delivery::CaughtUp { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// How often a node was asked to deliver something.
fn adds_at(node: &fake::Node) -> usize {
    let changes = node.changes.lock().unwrap();
    changes.iter().filter(|change| matches!(change, Change::Add(_))).count()
}

#[tokio::test]
async fn a_node_that_answers_and_cannot_serve_is_left() {
    // A stream for one group is left at once; one for several carries others too.
    for (is_proxied, adds) in [(false, 1), (true, 4)] {
        let cluster = Cluster::start(2).await;
        cluster.log.fill("a", 1..=2);
        cluster.node(1).plan(vec![Mischief::Fail(not_leader(None)); 1_000]);
        let client = match is_proxied {
            true => cluster.proxied_client().await,
            false => cluster.client().await,
        };
        let mut subscription = client.subscribe();
        subscription.add("a", Start::Earliest, Credit::default()).await.unwrap();
        take_until(2, 1, async || next_subscribed(&mut subscription).await).await;
        assert_eq!(adds_at(cluster.node(1)), adds, "proxied: {is_proxied}");
        assert_eq!(adds_at(cluster.node(2)), 1);
    }
}

#[tokio::test]
async fn what_was_not_added_because_nobody_waited_for_it_can_be_added() {
    let cluster = Cluster::start(1).await;
    let mut subscription = cluster.client().await.subscribe();
    subscription.add("a", Start::Earliest, Credit::default()).await.unwrap();
    // Whoever is to take changes has no turn meanwhile, so that there is room for some only.
    let mut names = (0..).map(|number: u32| number.to_string());
    let too_much = loop {
        let name = names.next().unwrap();
        let adding = subscription.add(&name, Start::Earliest, Credit::default());
        match adding.now_or_never() {
            Some(added) => added.unwrap(),
            None => break name,
        }
    };
    let again = subscription.add(&too_much, Start::Earliest, Credit::default());
    again.await.expect("it is not there already");
}

/// Neither does the caller while it makes changes, so that the node is not listened to.
#[tokio::test]
async fn changes_are_taken_though_nobody_takes_deliveries_and_the_node_no_changes() {
    for is_lost in [false, true] {
        let cluster = Cluster::start(1).await;
        let node = cluster.node(1);
        cluster.log.fill("a", 1..=300);
        // More deliveries than wait for a caller. Then it delivers nothing, and takes no changes.
        node.plan(vec![Mischief::Nothing; 40]);
        node.plan((!is_lost).then_some(Mischief::Stall));
        let mut subscription = cluster.client().await.subscribe();
        subscription.add("a", Start::Earliest, Credit::default()).await.unwrap();
        while !node.mischief.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        if is_lost {
            node.proxy.cut();
        }

        // So long that the connection does not hold them all.
        let long = "x".repeat(if is_lost { 1 } else { 16 * 1024 });
        let changes = async {
            for number in 0..500 {
                let name = format!("{number}/{long}");
                subscription.add(&name, Start::Earliest, Credit::Manual(1)).await.unwrap();
                subscription.grant(&name, 1).await.unwrap();
                subscription.grant("a", 1).await.unwrap();
            }
            subscription.remove(&format!("0/{long}")).await;
        };
        tokio::time::timeout(PATIENCE, changes).await.expect("a change waits for ever");
        if is_lost {
            // The next stream is told of what all that came to.
            let (mut last, mut caught_up) = (0, 0);
            while last < 300 || caught_up < 500 {
                match next_subscribed(&mut subscription).await {
                    Delivery::Messages { messages, .. } => last = messages.last().unwrap().seq,
                    Delivery::CaughtUp { .. } => caught_up += 1,
                    Delivery::Ended { conversation, error: None } => {
                        assert!(conversation.starts_with("0/"));
                    }
                    other => panic!("{other:?}"),
                }
            }
            let changes = node.changes.lock().unwrap();
            let with_all_credit =
                |change: &&Change| matches!(change, Change::Add(add) if add.credit_bytes == 2);
            assert_eq!(changes.iter().filter(with_all_credit).count(), 499);
            assert_eq!(
                changes.len(),
                1 + 500,
                "one Add each, on the stream before and on this one"
            );
        }
    }
}

#[tokio::test]
async fn manual_credit_survives_a_reconnect_as_what_was_left() {
    let cluster = Cluster::start(1).await;
    cluster.log.fill("a", 1..=3);
    let mut subscription = cluster.client().await.subscribe();
    subscription.add("a", Start::Earliest, Credit::Manual(5)).await.unwrap();
    take_until(3, 1, async || next_subscribed(&mut subscription).await).await;

    cluster.node(1).proxy.cut();
    cluster.log.fill("a", 4..=9);
    let seqs = |delivery| match delivery {
        Delivery::Messages { messages, .. } => messages.iter().map(|m| m.seq).collect(),
        _ => Vec::new(),
    };
    let mut taken: Vec<u64> = Vec::new();
    while taken.len() < 3 {
        taken.extend(seqs(next_subscribed(&mut subscription).await));
    }
    let adds = |change: &Change| match change {
        Change::Add(add) => Some(add.credit_bytes),
        _ => None,
    };
    let credits: Vec<u64> =
        cluster.node(1).changes.lock().unwrap().iter().filter_map(adds).collect();
    assert_eq!(credits, [5, 2]);

    // Three bytes came on a credit of two: nothing more comes before it is paid and exceeded.
    let more = subscription.next();
    assert!(tokio::time::timeout(Duration::from_millis(200), more).await.is_err());
    subscription.grant("a", 4).await.unwrap();
    assert_eq!(seqs(next_subscribed(&mut subscription).await), [7, 8, 9]);
}
