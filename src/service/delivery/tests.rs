use std::pin::pin;

use futures::future;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use quorate_client::proto::SubscribeRequest;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;

use super::*;
use crate::consensus::RoomLeft;
use crate::consensus::solitary::{Disks, Process};
use crate::service::{Elsewhere, Operation, fixture, other_node};

/// The only node with replicas. It is another one than this.
const OTHER: NodeId = NodeId(1);
/// Of simulated time: nothing that is tested here takes as long.
const LONG: Duration = Duration::from_secs(120);
/// A node that takes no requests is full after a few.
const WINDOW_BYTES: u32 = 4_096;

/// A Subscribe stream as the other node has it.
type Opened = other_node::Opened<SubscribeRequest, SubscribeResponse>;

impl Opened {
    async fn added(&mut self) -> String {
        let request = timeout(LONG, self.requests.message()).await.unwrap().unwrap().unwrap();
        match request.change {
            Some(Change::Add(add)) => add.conversation,
            other => panic!("{other:?}"),
        }
    }

    /// The end of the requests, however it comes.
    async fn ended(&mut self) {
        let all = async { while let Ok(Some(_)) = self.requests.message().await {} };
        timeout(LONG, all).await.expect("the other node is told");
    }
}

/// A subscription on a node without replicas.
struct Fixture {
    subscription: Subscription,
    responses: BoxStream<'static, Result<SubscribeResponse, Status>>,
    opened: mpsc::Receiver<Opened>,
    elsewhere: Arc<Elsewhere>,
    process: Process,
}

impl Fixture {
    async fn start() -> Self {
        let (sender, opened) = mpsc::channel(1);
        Fixture::beside(Some(sender), opened).await
    }

    /// The other node hands over what is opened to it.
    async fn beside(sender: Option<mpsc::Sender<Opened>>, opened: mpsc::Receiver<Opened>) -> Self {
        let process = Disks::default().start().await;
        let server = Server::builder().initial_stream_window_size(WINDOW_BYTES);
        let method = "/quorate.v1.MessageLog/Subscribe";
        let peers = other_node::others(&process, &[OTHER], server, method, sender);
        let api = fixture::api(&process, OTHER, peers);
        let call = Call::new(Operation::Subscribe, &MetadataMap::new());
        let (subscription, responses) =
            Subscription::new(&api, &call, Pacing::Credits, HEARTBEAT_DEFAULT).unwrap();
        let responses = responses.map_ok(Outgoing::decoded).boxed();
        let elsewhere = api.elsewhere;
        Fixture { subscription, responses, opened, elsewhere, process }
    }

    async fn add(&mut self, conversation: &str) {
        let added = self.subscription.add(conversation.to_owned(), None, 0);
        timeout(LONG, added).await.expect("no change waits for ever").unwrap();
    }

    /// The next stream that is opened to the other node.
    async fn opened(&mut self) -> Opened {
        timeout(LONG, self.opened.recv()).await.expect("a stream is opened").unwrap()
    }

    /// The conversations of the next ends.
    async fn ends(&mut self, count: usize) -> Vec<String> {
        let ends = (&mut self.responses).filter_map(|response| {
            future::ready(match response.unwrap().kind {
                Some(Response::Ended(end)) => Some(end.conversation),
                _ => None,
            })
        });
        let mut ends: Vec<_> =
            timeout(LONG, ends.take(count).collect()).await.expect("each one is ended");
        ends.sort();
        ends
    }
}

#[tokio::test(start_paused = true)]
async fn each_conversation_of_a_stream_is_ended_though_its_node_is_asked_again() {
    let mut fixture = Fixture::start().await;
    let mut names: Vec<_> = (0..2 * places::smallest_max()).map(|n| format!("a/{n}")).collect();
    names.sort();
    fixture.add(&names[0]).await;
    let mut first = fixture.opened().await;
    assert_eq!(first.added().await, names[0]);
    for name in &names[1..] {
        fixture.add(name).await;
        assert_eq!(first.added().await, *name);
    }
    drop(first);
    // Not all ends have room.
    while !fixture.subscription.out().is_full() {
        tokio::task::yield_now().await;
    }
    fixture.add("b").await;
    let mut second = fixture.opened().await;
    assert_eq!(second.added().await, "b");
    assert_eq!(fixture.ends(names.len()).await, names);
    drop(second);
    assert_eq!(fixture.ends(1).await, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_went_silent_is_asked_anew() {
    let mut fixture = Fixture::start().await;
    fixture.add("a").await;
    let mut first = fixture.opened().await;
    assert_eq!(first.added().await, "a");
    assert_eq!(fixture.ends(1).await, ["a"]);
    first.ended().await;
    fixture.add("b").await;
    let mut second = fixture.opened().await;
    assert_eq!(second.added().await, "b");
    drop(second);
    assert_eq!(fixture.ends(1).await, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_what_it_cannot_serve_is_not_chosen_again_at_once() {
    let mut fixture = Fixture::start().await;
    fixture.add("first").await;
    let mut opened = fixture.opened().await;
    assert_eq!(opened.added().await, "first");
    for (name, error, then) in [
        ("refused", CallError::trimmed(Seq(2), Seq(3)), OTHER),
        ("cannot be served", CallError::installing(), NodeId(2)),
    ] {
        fixture.add(name).await;
        assert_eq!(opened.added().await, name);
        opened.responses.send(Ok(ended(name.into(), Some(error)).decoded())).await.unwrap();
        assert_eq!(fixture.ends(1).await, [name]);
        let chosen = fixture.elsewhere.choose(fixture::GROUP, &[OTHER, NodeId(2)]);
        assert_eq!(chosen, Some(then), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_change_waits_for_ever_for_a_node_that_takes_none() {
    let mut fixture = Fixture::start().await;
    fixture.add("a").await;
    let _takes_nothing = fixture.opened().await;
    let grants = async {
        for _ in 0..WINDOW_BYTES {
            fixture.subscription.grant("a".into(), 1).await;
        }
    };
    timeout(LONG, grants).await.expect("no change waits for ever");
    assert_eq!(fixture.ends(1).await, ["a"]);
}

/// What lies unread between two nodes leaves less room for others, who must not be given up for that.
#[tokio::test(start_paused = true)]
async fn a_caller_who_takes_nothing_is_given_up_before_others_are() {
    let mut fixture = Fixture::start().await;
    fixture.add("a").await;
    let mut opened = fixture.opened().await;
    assert_eq!(opened.added().await, "a");
    let sent = places::smallest_max() as u64 + 1;
    for seq in 1..=sent {
        opened.responses.send(Ok(caught_up("a".into(), Seq(seq)).decoded())).await.unwrap();
    }
    let began = Instant::now();
    opened.ended().await;
    assert!(began.elapsed() < HEARTBEAT_DEFAULT * 3);
    // What had its place is delivered, and then the end.
    let next = async |fixture: &mut Fixture| fixture.responses.next().await.unwrap().unwrap();
    for seq in 1..sent {
        assert_eq!(next(&mut fixture).await, caught_up("a".into(), Seq(seq)).decoded());
    }
    let not_taken = ended("a".into(), Some(CallError::not_taken())).decoded();
    assert_eq!(next(&mut fixture).await, not_taken);
    fixture.add("a").await;
    assert_eq!(fixture.opened().await.added().await, "a");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_answer_an_opening_is_given_up() {
    let (_never, opened) = mpsc::channel(1);
    let mut fixture = Fixture::beside(None, opened).await;
    fixture.add("a").await;
    assert_eq!(fixture.ends(1).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_outlives_a_subscription() {
    let mut fixture = Fixture::start().await;
    fixture.add("there").await;
    let mut opened = fixture.opened().await;
    assert_eq!(opened.added().await, "there");
    let (held, is_dropped) = oneshot::channel::<()>();
    // As each local conversation's task does, it knows the set that owns it.
    let within = fixture.subscription.conversations.clone();
    let inserted = fixture.subscription.conversations.insert_local("here".into(), None, || {
        Task::spawn(async move {
            let _held = (held, within);
            future::pending::<()>().await;
        })
    });
    inserted.unwrap();
    drop(fixture.subscription);
    assert!(timeout(LONG, is_dropped).await.expect("the task ends").is_err());
    opened.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_conversation_without_room_ends_alone() {
    let mut fixture = Fixture::start().await;
    let left = fixture.process.replicas.admission().followed().clone();
    let others = left.take(limits::FOLLOWED_BYTES_MAX).unwrap();
    let names: Vec<_> = (0..=limits::CALL_BYTES_FREE / limits::FOLLOWED_BYTES)
        .map(|number| format!("a/{number}"))
        .collect();
    let (refused, taken) = names.split_last().unwrap();
    for name in taken {
        fixture.add(name).await;
    }
    let mut opened = fixture.opened().await;
    for name in taken {
        assert_eq!(opened.added().await, *name);
    }
    fixture.add(refused).await;
    let response = fixture.responses.next().await.unwrap().unwrap();
    assert_eq!(response, ended(refused.clone(), Some(CallError::too_much_followed())).decoded());
    drop(others);
    fixture.add(refused).await;
    assert_eq!(opened.added().await, *refused);
    assert!(left.take(limits::FOLLOWED_BYTES_MAX).is_none());
    drop(fixture.subscription);
    assert!(left.take(limits::FOLLOWED_BYTES_MAX).is_some());
}

/// G12. What is free of charge is bounded too, whatever the number of streams.
#[tokio::test(start_paused = true)]
async fn what_subscriptions_have_free_takes_room_until_nobody_takes_them() {
    let mut fixture = Fixture::start().await;
    let left = fixture.process.replicas.admission().subscriptions().clone();
    let takes = |bytes: usize| {
        let others = left.take(limits::SUBSCRIPTIONS_BYTES_MAX - bytes);
        others.is_some() && left.take(limits::SUBSCRIPTIONS_BYTES_MAX - bytes + 1).is_none()
    };
    assert!(takes(limits::SUBSCRIPTION_BYTES));
    let others = left.take(limits::SUBSCRIPTIONS_BYTES_MAX - limits::SUBSCRIPTION_BYTES).unwrap();
    let api = fixture.subscription.api.clone();
    let call = fixture.subscription.call.clone();
    let another = || Subscription::new(&api, &call, Pacing::Stream, HEARTBEAT_DEFAULT);
    let refused = another().err().expect("there is no room");
    assert_eq!((refused.reason(), refused.is_retryable()), ("OVERLOADED", true));
    // Neither is there for a stream to another node.
    fixture.add("a").await;
    let response = fixture.responses.next().await.unwrap().unwrap();
    assert_eq!(response, ended("a".into(), Some(too_many())).decoded());
    drop(others);
    fixture.add("a").await;
    let mut opened = fixture.opened().await;
    assert_eq!(opened.added().await, "a");
    assert!(takes(limits::SUBSCRIPTION_BYTES + limits::RELAY_BYTES));

    // What lies unread is there until it is dropped.
    drop(fixture.subscription);
    opened.ended().await;
    assert!(takes(limits::SUBSCRIPTION_BYTES));
    drop(fixture.responses);
    assert!(takes(0));
    assert!(another().is_ok());
}

#[tokio::test]
async fn a_conversation_is_held_until_its_end_has_room() {
    let conversations = Conversations::new(&RoomLeft::new(0));
    conversations.insert_local("a".into(), None, || Task::spawn(future::pending())).unwrap();
    let (out, mut responses) = places::queue(RoomLeft::new(0).nothing());
    while !out.is_full() {
        out.send(Ok(caught_up("b".into(), Seq(1))).into(), 0).await;
    }
    let leaves = |name: &str| conversations.leave(name);
    let mut end = pin!(announce_end(&out, "a".into(), CallError::replica_gone(), leaves));
    assert_eq!((&mut end).now_or_never(), None);
    assert!(conversations.contains("a"));
    responses.next().await.unwrap().into_response().unwrap();
    end.await;
    assert!(!conversations.contains("a"));
    let other = caught_up("b".into(), Seq(1));
    let announced = loop {
        match responses.next().await.unwrap().into_response().unwrap() {
            response if response == other => {}
            response => break response,
        }
    };
    assert_eq!(announced, ended("a".into(), Some(CallError::replica_gone())));
}

/// G6. Whoever takes a stream is told that nothing more comes, and does not wait for it.
#[tokio::test]
async fn a_quiet_stream_beats_and_ends_with_an_error_where_its_source_is_gone() {
    let (out, responses) = places::queue(RoomLeft::new(0).nothing());
    let every = Duration::from_millis(10);
    let mut stream = Box::pin(with_heartbeats(responses, Taken::new(), every, NodeId(7)));
    let beat = delivered(Kind::Heartbeat(Heartbeat { node_id: 7 }));
    assert_eq!(stream.next().await.unwrap().unwrap(), beat);
    out.send(Ok(caught_up("a".into(), Seq(1))).into(), 0).await;
    assert_eq!(stream.next().await.unwrap().unwrap(), caught_up("a".into(), Seq(1)));
    assert_eq!(stream.next().await.unwrap().unwrap(), beat);
    drop(out);
    let Some(Err(last)) = stream.next().await else { panic!("it ends with an error") };
    assert_eq!(CallError::from_status(&last).unwrap(), CallError::cut_short());
    assert!(stream.next().await.is_none());
}

/// G12. A name may be as long as a request, and its end says it.
#[tokio::test(start_paused = true)]
async fn ends_of_conversations_with_long_names_wait_in_few_places() {
    let mut fixture = Fixture::start().await;
    let long = "x".repeat(1024 * 1024);
    let mut adds = 0;
    loop {
        let add = fixture.subscription.add(long.clone(), None, 0);
        if timeout(Duration::from_secs(5), add).await.is_err() {
            break;
        }
        adds += 1;
    }
    assert_eq!(adds, limits::RESPONSE_QUEUE_MAX);
}
