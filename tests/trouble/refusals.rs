//! Appends and reads that are well made and refused all the same, each with what the caller needs to go on.

use futures::StreamExt;
use quorate_client::proto::get_outcome_response::State;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::{
    AppendRequest, Direction, FollowRequest, FollowStart, GetOutcomeRequest, NewMessage,
    ReadRequest, ReadResponse, SessionRequest, Start, delivery, session_response, start,
};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

use super::harness::{Cluster, Everything, append, append_surely, eventually, message, now_us};
use super::wire::{PATIENCE, Refusal};

const ROOM: &str = "acme/room";
const DAY_US: u64 = 24 * 3600 * 1_000_000;

/// How an append is refused once the leader's clock is known to be right, as a call and on a session: both say the same.
async fn refused(client: &mut MessageLogClient<Channel>, request: AppendRequest) -> Refusal {
    let what = "the leader knows that its clock is right";
    eventually(what, async || refused_by_its_clock(client, request.clone()).await).await
}

async fn refused_by_its_clock(
    client: &mut MessageLogClient<Channel>,
    request: AppendRequest,
) -> Option<Refusal> {
    let status = client.append(request.clone()).await.expect_err("it is refused");
    let refusal = Refusal::of(&status);
    let request = SessionRequest { request_id: 1, append: Some(request), reset_lane: false };
    let mut responses =
        client.append_session(futures::stream::iter([request])).await.unwrap().into_inner();
    let response = responses.message().await.unwrap().expect("an answer");
    let Some(session_response::Result::Failed(failure)) = response.result else {
        panic!("{response:?}");
    };
    let in_session = Refusal::in_stream(failure);
    if [&refusal, &in_session].iter().any(|refusal| refusal.reason == "CLOCK_UNTRUSTED") {
        return None;
    }
    assert_eq!((in_session.code, &in_session.reason), (refusal.code, &refusal.reason));
    assert_eq!(in_session.metadata.get("seqs"), refusal.metadata.get("seqs"));
    assert_eq!(in_session.metadata.get("tail"), refusal.metadata.get("tail"));
    for refusal in [&refusal, &in_session] {
        let in_doubt = refusal.reason == "TOO_OLD";
        let told = (refusal.retryable, refusal.may_have_taken_effect);
        assert_eq!(told, (false, in_doubt), "{refusal:?}");
    }
    Some(refusal)
}

fn seqs(refusal: &Refusal) -> &str {
    refusal.metadata.get("seqs").unwrap_or_else(|| panic!("no seqs: {refusal:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_stand_and_wrong_tails_are_refused_with_what_is_there_through_every_node() {
    let cluster = Cluster::start(3, "").await;
    let mut client = cluster.messages(1);
    let one = message("one", "1");
    let two = message("two", "2");
    let three = message("three", "3");
    append_surely(&mut client, append(ROOM, vec![one.clone(), two.clone()])).await;
    append_surely(&mut client, append(ROOM, vec![three.clone()])).await;
    let before = Everything::of(&mut client, &[ROOM]).await;
    let new = || message("new", "new");
    let other = |of: &NewMessage| NewMessage { payload: "other".into(), ..of.clone() };
    let system = |of: &NewMessage| NewMessage { kind: 4, ..of.clone() };
    for node in 1..=3 {
        let mut client = cluster.messages(node);
        let conflicts = [
            (vec![other(&one)], "1"),
            (vec![system(&two)], "2"),
            (vec![one.clone(), new()], "1"),
            (vec![new(), two.clone(), three.clone()], "2,3"),
            (vec![two.clone(), one.clone()], "2,1"),
            (vec![one.clone(), three.clone()], "1,3"),
            (vec![one.clone(), other(&two)], "1,2"),
        ];
        for (messages, expected) in conflicts {
            let refusal = refused(&mut client, append(ROOM, messages)).await;
            assert_eq!(refusal.code, Code::AlreadyExists, "{refusal:?}");
            assert_eq!(refusal.reason, "ID_CONFLICT");
            assert_eq!(seqs(&refusal), expected, "{refusal:?}");
        }
        let refusal = refused(&mut client, append(ROOM, vec![new(), new()])).await;
        assert_eq!((refusal.code, &*refusal.reason), (Code::InvalidArgument, "ID_REPEATED"));
        assert_eq!(refusal.field(), Some("client_msg_id"));

        for expected_tail in [1, 3, 5, u64::MAX] {
            let request = append(ROOM, vec![new()]);
            let request = AppendRequest { expected_tail: Some(expected_tail), ..request };
            let refusal = refused(&mut client, request).await;
            assert_eq!((refusal.code, &*refusal.reason), (Code::FailedPrecondition, "WRONG_TAIL"));
            assert_eq!(refusal.metadata["tail"], "4", "{refusal:?}");
        }
        // A conversation that is not there has tail 1, and does not come to be by this.
        let request = append("acme/other", vec![new()]);
        let request = AppendRequest { expected_tail: Some(2), ..request };
        assert_eq!(refused(&mut client, request).await.metadata["tail"], "1");

        // Idempotency goes before the tail: a repeat is the first outcome, whatever tail it expects.
        let request = append(ROOM, vec![one.clone(), two.clone()]);
        let request = AppendRequest { expected_tail: Some(1), ..request };
        let repeated = client.append(request).await.unwrap().into_inner();
        assert!(repeated.duplicate);
        assert_eq!((repeated.first_seq, repeated.last_seq), (1, 2));
    }
    assert_eq!(Everything::of(&mut client, &[ROOM]).await, before);
    cluster.stop().await;
}

/// G5. The refused append's id stands, so that only the attempt itself tells that it was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_lane_is_committed_behind_a_refused_append_through_any_node() {
    let cluster = Cluster::start(3, "").await;
    let mut client = cluster.messages(1);
    let stands = message("stands", "first");
    append_surely(&mut client, append(ROOM, vec![stands.clone()])).await;
    let other = NewMessage { payload: "other".into(), ..stands.clone() };
    let before = Everything::of(&mut client, &[ROOM]).await;
    for node in 1..=3 {
        let lane =
            [other.clone(), stands.clone(), message("new", "new"), message("newer", "newer")];
        let requests = (1..).zip(lane).map(|(request_id, message)| SessionRequest {
            request_id,
            append: Some(append(ROOM, vec![message])),
            reset_lane: false,
        });
        let requests = futures::stream::iter(requests.collect::<Vec<_>>());
        let answers = cluster.messages(node).append_session(requests).await.unwrap().into_inner();
        let answers = answers.map(|answer| match answer.unwrap().result {
            Some(session_response::Result::Failed(failure)) => Refusal::in_stream(failure).reason,
            other => panic!("{other:?}"),
        });
        let reasons: Vec<String> = answers.collect().await;
        assert_eq!(reasons, ["ID_CONFLICT", "LANE_BROKEN", "LANE_BROKEN", "LANE_BROKEN"]);
    }
    assert_eq!(Everything::of(&mut client, &[ROOM]).await, before);
    cluster.stop().await;
}

/// Whether a message issued then is too old for the group of the conversation; asking changes nothing.
async fn is_too_old(client: &mut MessageLogClient<Channel>, issued_at_us: u64) -> Option<Refusal> {
    let request = GetOutcomeRequest {
        conversation: ROOM.to_owned(),
        sender: "ann".to_owned(),
        client_msg_id: "of long ago".to_owned(),
        issued_at_us,
        settle: false,
    };
    match client.get_outcome(request).await {
        Ok(outcome) => {
            assert_eq!(outcome.into_inner().state(), State::NotCommitted);
            None
        }
        Err(status) => Some(Refusal::of(&status)).filter(|refusal| refusal.reason == "TOO_OLD"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_before_the_dedup_floor_or_of_the_future_are_refused() {
    let cluster = Cluster::start(3, "").await;
    let mut client = cluster.messages(1);
    append_surely(&mut client, append(ROOM, vec![message("one", "1")])).await;
    let before = Everything::of(&mut client, &[ROOM]).await;
    // The default horizon is 30 days, and the floor follows it at most an hour behind.
    let issued = now_us() - 30 * DAY_US - 2 * DAY_US / 24;
    eventually("the floor is raised", async || is_too_old(&mut client, issued).await).await;
    let old = NewMessage { issued_at_us: issued, ..message("old", "old") };
    let recent = NewMessage { issued_at_us: now_us() - 29 * DAY_US, ..message("recent", "r") };
    let future = |ahead_us| NewMessage { issued_at_us: now_us() + ahead_us, ..message("f", "f") };
    for node in 1..=3 {
        let mut client = cluster.messages(node);
        let refusal = refused(&mut client, append(ROOM, vec![old.clone()])).await;
        assert_eq!((refusal.code, &*refusal.reason), (Code::FailedPrecondition, "TOO_OLD"));
        assert_eq!(refusal.field(), Some("issued_at_us"));
        assert!(refusal.limit().is_some_and(|floor| floor > issued), "{refusal:?}");
        // The whole batch, also if only one of it is too old.
        let refusal = refused(&mut client, append(ROOM, vec![recent.clone(), old.clone()])).await;
        assert_eq!(refusal.reason, "TOO_OLD");
        for ahead_us in [6 * 60 * 1_000_000, DAY_US, u64::MAX / 4] {
            let refusal = refused(&mut client, append(ROOM, vec![future(ahead_us)])).await;
            let expected = (Code::InvalidArgument, "ISSUED_IN_FUTURE");
            assert_eq!((refusal.code, &*refusal.reason), expected);
            assert_eq!(refusal.field(), Some("issued_at_us"));
            assert!(refusal.limit().is_some_and(|latest| latest > now_us()), "{refusal:?}");
        }
    }
    assert_eq!(Everything::of(&mut client, &[ROOM]).await, before);
    // What is within the horizon passes, and a clock that is a little ahead too.
    append_surely(&mut client, append(ROOM, vec![recent])).await;
    append_surely(&mut client, append(ROOM, vec![future(60 * 1_000_000)])).await;
    cluster.stop().await;
}

fn read(start: Option<start::At>, direction: Direction) -> ReadRequest {
    ReadRequest {
        conversation: ROOM.to_owned(),
        start: start.map(|at| Start { at: Some(at) }),
        direction: direction.into(),
        ..ReadRequest::default()
    }
}

/// The seqs that a read returns, and its first response.
async fn seqs_of(
    client: &mut MessageLogClient<Channel>,
    request: ReadRequest,
) -> (Vec<u64>, ReadResponse) {
    let mut responses = client.read(request).await.unwrap().into_inner();
    let first = responses.message().await.unwrap().expect("the first response has the bounds");
    let mut seqs: Vec<u64> = first.messages.iter().map(|message| message.seq).collect();
    while let Some(response) = responses.message().await.unwrap() {
        seqs.extend(response.messages.iter().map(|message| message.seq));
    }
    (seqs, first)
}

/// Nothing is trimmed yet, so that the first seq is always 1: a start below it is seq 0, which is none, and is among
/// the invalid fields. That a start below a later first seq is OUT_OF_RANGE is tested where reads are resolved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_beyond_the_tail_are_empty_and_say_what_there_is_and_a_follow_waits_there() {
    let cluster = Cluster::start(1, "").await;
    let mut client = cluster.messages(1);
    let numbered = |number: u32| message(&number.to_string(), number.to_string());
    append_surely(&mut client, append(ROOM, (1..=3).map(numbered).collect())).await;
    use Direction::{Backward, Forward};
    let far = now_us() + DAY_US;
    let cases = [
        (Some(start::At::Seq(4)), Forward, vec![]),
        (Some(start::At::Seq(u64::MAX)), Forward, vec![]),
        (Some(start::At::Last(0)), Forward, vec![]),
        (Some(start::At::CommitTimeUs(far)), Forward, vec![]),
        (Some(start::At::CommitTimeUs(0)), Forward, vec![1, 2, 3]),
        (Some(start::At::Last(u64::MAX)), Forward, vec![1, 2, 3]),
        (Some(start::At::Seq(u64::MAX)), Backward, vec![3, 2, 1]),
        (None, Backward, vec![3, 2, 1]),
    ];
    for (start, direction, expected) in cases {
        let (seqs, first) = seqs_of(&mut client, read(start, direction)).await;
        assert_eq!(seqs, expected, "{start:?}, {direction:?}");
        assert_eq!((first.first_seq, first.tail), (1, 4));
    }
    let absent = ReadRequest { conversation: "acme/absent".into(), ..read(None, Forward) };
    let (seqs, first) = seqs_of(&mut client, absent).await;
    assert_eq!((seqs, first.first_seq, first.tail), (vec![], 1, 1));

    let start = Some(Start { at: Some(start::At::Seq(5)) });
    let conversations = vec![FollowStart { conversation: ROOM.into(), start }];
    let request = FollowRequest { conversations, heartbeat_ms: 0 };
    let mut deliveries = client.follow(request).await.unwrap().into_inner();
    let mut next = async || {
        let next = timeout(PATIENCE, deliveries.message()).await.expect("in time");
        next.unwrap().unwrap().delivery.unwrap().kind.unwrap()
    };
    let delivery::Kind::CaughtUp(caught_up) = next().await else { panic!("not caught up") };
    assert_eq!(caught_up.next_seq, 5, "what is asked for is waited for");
    append_surely(&mut client, append(ROOM, vec![numbered(4), numbered(5)])).await;
    let delivery::Kind::Messages(messages) = next().await else { panic!("no messages") };
    assert_eq!(messages.messages[0].seq, 5);
    cluster.stop().await;
}
