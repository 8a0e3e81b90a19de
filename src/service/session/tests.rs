//! Sessions at a node that leads, and at one that hands on to another: time is simulated.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use prost::Message;
use quorate_client::proto::{AppendResponse, NewMessage};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::codec::Codec;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;

use super::*;
use crate::consensus::solitary::{Disks, NODE, NOW, Process};
use crate::consensus::{ClockSkew, Sighting};
use crate::log::Topology;
use crate::service::call::FORWARDED;
use crate::service::codec::CountedCodec;
use crate::service::fixture::{self, GROUP};
use crate::service::other_node::{self, NoPeers};
use crate::service::servers::message_log_server::MessageLog;
use crate::storage::DiskMark;
use crate::types::{HashRange, Incarnation, NodeId, PlacementHash, ReplicaId};

const ALL: HashRange = HashRange { start: PlacementHash(0), end: None };
/// Of simulated time: whatever has to happen has happened by then.
const LONG: Duration = Duration::from_secs(120);
/// The node that leads where this one does not.
const OTHER: NodeId = NodeId(7);

fn request(request_id: u64, conversation: &str, reset_lane: bool) -> SessionRequest {
    let message = NewMessage {
        client_msg_id: request_id.to_string(),
        // As the clock has it that judges it, which stands still.
        issued_at_us: 5_000_000,
        ..NewMessage::default()
    };
    let append = AppendRequest {
        conversation: conversation.to_owned(),
        sender: "alice".to_owned(),
        messages: vec![message],
        expected_tail: None,
    };
    SessionRequest { request_id, append: Some(append), reset_lane }
}

/// A caller of a session.
struct Caller {
    requests: mpsc::Sender<Result<Bytes, Infallible>>,
    responses: Responses<SessionResponse>,
}

impl Caller {
    async fn open(api: &Api) -> Self {
        let (requests, receiver) = mpsc::channel(1);
        let body = Body::from_stream(ReceiverStream::new(receiver));
        let decoder = CountedCodec::<SessionRequest, SessionRequest>::default().decoder();
        let stream = Streaming::new_request(decoder, body, None, None);
        let call = Call::new(Operation::AppendSession, &MetadataMap::new());
        let responses = open(api, &call, stream).await.unwrap();
        Caller { requests, responses }
    }

    /// Sends requests in one piece.
    async fn send(&self, requests: impl IntoIterator<Item = SessionRequest>) {
        let mut piece = Vec::new();
        for request in requests {
            let length = u32::try_from(request.encoded_len()).unwrap();
            piece.push(0);
            piece.extend(length.to_be_bytes());
            request.encode(&mut piece).unwrap();
        }
        self.requests.send(Ok(piece.into())).await.unwrap();
    }

    /// The next answer: its request, and the first seq or the reason of the failure.
    async fn answer(&mut self) -> (u64, Result<u64, String>) {
        let response = timeout(LONG, self.responses.next()).await.expect("it is answered in time");
        told(response.unwrap().unwrap())
    }

    /// Those that there are before another task goes on.
    fn answers_now(&mut self) -> Vec<(u64, Result<u64, String>)> {
        let next = || self.responses.next().now_or_never();
        std::iter::from_fn(next).map(|response| told(response.unwrap().unwrap())).collect()
    }
}

fn told(response: SessionResponse) -> (u64, Result<u64, String>) {
    match response.result.unwrap() {
        Answered::Appended(appended) => (response.request_id, Ok(appended.first_seq)),
        Answered::Failed(failed) => (response.request_id, Err(failed.reason)),
    }
}

/// A node that leads all conversations.
async fn leading() -> (Api, Process) {
    let process = Disks::default().start().await;
    let api = fixture::api(&process, NODE, Arc::new(NoPeers));
    let own = ReplicaId { node: NODE, incarnation: Incarnation(1) };
    process.leading(GROUP, own, ALL).await;
    (api, process)
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_at_once_is_answered_at_once_and_each_conversation_in_order() {
    let (api, process) = leading().await;
    let mut caller = Caller::open(&api).await;
    let name = |number: u64| format!("room-{}", number % 3);
    caller.send((1..=30).map(|number| request(number, &name(number), false))).await;
    let mut answers = vec![caller.answer().await];
    answers.extend(caller.answers_now());
    assert_eq!(answers.len(), 30, "they are one entry of the group");
    for room in 0..3 {
        let of_room = answers.iter().filter(|(number, _)| number % 3 == room);
        let seqs: Vec<_> = of_room.map(|(_, seq)| seq.clone().unwrap()).collect();
        assert_eq!(seqs, (1..=10).collect::<Vec<_>>());
    }
    // A caller who has no more to say is told the rest, and then the end.
    caller.send([request(31, "room-0", false)]).await;
    let Caller { requests, responses } = caller;
    drop(requests);
    let rest: Vec<_> = responses.map(|response| told(response.unwrap())).collect().await;
    assert_eq!(rest, [(31, Ok(11))]);
    process.replicas.get(GROUP).unwrap().stop().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_has_much_refused_lets_other_tasks_go_on() {
    let (api, process) = leading().await;
    let mut caller = Caller::open(&api).await;
    let much = 2_000;
    caller.send((1..=much).map(|number| request(number, "", false))).await;
    let mut answers = Vec::new();
    while answers.len() < much as usize {
        answers.push(caller.answer().await);
        let more = caller.answers_now();
        assert!(more.len() < 1_000, "{} at once", more.len());
        answers.extend(more);
        // Whoever sends them asks again before its task ends.
        assert_eq!(caller.answers_now(), []);
    }
    let refused = |number| (number, Err("EMPTY_FIELD".to_owned()));
    assert_eq!(answers, (1..=much).map(refused).collect::<Vec<_>>());
    // It goes on by itself.
    caller.send((1..=much).map(|number| request(much + number, "", false))).await;
    for number in much + 1..=2 * much {
        assert_eq!(caller.answer().await, refused(number));
    }
    process.replicas.get(GROUP).unwrap().stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_behind_its_answers_when_the_node_is_about_to_stop() {
    let (api, process) = leading().await;
    let mut caller = Caller::open(&api).await;
    caller.send([request(1, "a", false)]).await;
    assert_eq!(caller.answer().await, (1, Ok(1)));
    assert!(caller.responses.next().now_or_never().is_none());
    api.stopping.cancel();
    let last = timeout(LONG, caller.responses.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(CallError::from_status(&last).unwrap(), CallError::shutting_down());
    assert!(caller.responses.next().await.is_none());
    process.replicas.get(GROUP).unwrap().stop().await;
}

/// G8, and nobody waits for what the node would hear of too late.
#[tokio::test(start_paused = true)]
async fn what_is_handed_on_to_a_node_that_stops_is_waited_for_or_refused() {
    let (api, process) = leading().await;
    let mut caller = Caller::open(&api).await;
    api.stopping.cancel();
    api.under_way.close();
    let mut over = std::pin::pin!(api.under_way.wait());
    assert!(futures::poll!(over.as_mut()).is_pending(), "the session has not ended");
    assert!(timeout(LONG, caller.responses.next()).await.unwrap().unwrap().is_err());
    assert!(caller.responses.next().await.is_none());
    drop(caller);
    timeout(LONG, over).await.unwrap();

    let own = Request::new(request(1, "a", false).append.unwrap());
    let mut handed_on = Request::new(request(2, "a", false).append.unwrap());
    handed_on.metadata_mut().insert(FORWARDED, "1".parse().unwrap());
    let refused = api.append(handed_on).await.unwrap_err();
    assert_eq!(CallError::from_status(&refused).unwrap(), CallError::shutting_down());
    assert_eq!(api.append(own).await.unwrap().into_inner().first_seq, 1, "it came here by itself");
    process.replicas.get(GROUP).unwrap().stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_way_that_was_found_is_not_gone_once_it_leads_nowhere() {
    let (api, process) = leading().await;
    let mut caller = Caller::open(&api).await;
    caller.send([request(1, "a", false)]).await;
    assert_eq!(caller.answer().await, (1, Ok(1)));

    let known = api.replicas.topology().borrow().clone().unwrap();
    let mut topology = Topology { version: known.version + 1, ..Topology::clone(&known) };
    topology.groups[0].active = false;
    api.replicas.learn_topology(topology.clone());
    caller.send([request(2, "a", false)]).await;
    assert_eq!(caller.answer().await, (2, Err("NOT_INITIALIZED".to_owned())));

    topology.version += 1;
    topology.groups[0].active = true;
    api.replicas.learn_topology(topology);
    caller.send([request(3, "a", true)]).await;
    assert_eq!(caller.answer().await, (3, Ok(2)));

    process.replicas.get(GROUP).unwrap().stop().await;
    caller.send([request(4, "a", true)]).await;
    let (_, answer) = caller.answer().await;
    assert!(answer.is_err(), "{answer:?}");
}

/// G8. A caller whose clock is right is not told by a leader whose clock is behind that it will never do.
#[tokio::test(start_paused = true)]
async fn a_lane_goes_on_behind_what_a_clock_that_is_not_known_to_be_right_has_refused() {
    let (api, process) = leading().await;
    let group = process.replicas.get(GROUP).unwrap();
    let mut caller = Caller::open(&api).await;
    let ahead = |request_id| {
        let mut request = request(request_id, "a", true);
        let message = &mut request.append.as_mut().unwrap().messages[0];
        message.issued_at_us = NOW.wall.0 + limits::ISSUED_AT_AHEAD_US_MAX + 1;
        request
    };
    caller.send([ahead(1), request(2, "a", false)]).await;
    let response = timeout(LONG, caller.responses.next()).await.unwrap().unwrap().unwrap();
    let Some(Answered::Failed(failed)) = response.result else { panic!("{response:?}") };
    assert_eq!((response.request_id, &*failed.reason), (1, "CLOCK_UNTRUSTED"));
    assert!(failed.retryable && !failed.may_have_taken_effect, "{failed:?}");
    assert_eq!(caller.answer().await, (2, Err("LANE_BROKEN".to_owned())));
    caller.send([request(3, "a", true), request(4, "a", false)]).await;
    assert_eq!(caller.answer().await, (3, Ok(1)));
    assert_eq!(caller.answer().await, (4, Ok(2)));

    let own = Sighting { clock: ClockSkew::NONE, disk: DiskMark::Ok };
    group.weigh(&[(NODE, own)].into(), NOW);
    caller.send([ahead(5)]).await;
    assert_eq!(caller.answer().await, (5, Err("ISSUED_IN_FUTURE".to_owned())));
    group.stop().await;
}

/// A session as the other node has it.
type Opened = other_node::Opened<SessionRequest, SessionResponse>;

impl Opened {
    async fn request(&mut self) -> SessionRequest {
        timeout(LONG, self.requests.message()).await.unwrap().unwrap().unwrap()
    }

    async fn answer(&self, request_id: u64, first_seq: u64) {
        let appended = AppendResponse { first_seq, ..AppendResponse::default() };
        let result = Some(Answered::Appended(appended));
        self.responses.send(Ok(SessionResponse { request_id, result })).await.unwrap();
    }
}

/// A session at a node without replicas, and those that it opens to the node that has them.
async fn handing_on() -> (Caller, mpsc::Receiver<Opened>, Process) {
    let process = Disks::default().start().await;
    let (sender, opened) = mpsc::channel(1);
    let method = "/quorate.v1.MessageLog/AppendSession";
    let peers = other_node::others(&process, &[OTHER], Server::builder(), method, Some(sender));
    let api = fixture::api(&process, OTHER, peers);
    (Caller::open(&api).await, opened, process)
}

#[tokio::test(start_paused = true)]
async fn what_another_node_leaves_unanswered_is_unknown_in_time_and_late_answers_are_nobodys() {
    let (mut caller, mut opened, _process) = handing_on().await;
    caller.send([request(1, "a", false), request(2, "b", false)]).await;
    let began = Instant::now();
    assert!(caller.responses.next().now_or_never().is_none());
    let mut other = timeout(LONG, opened.recv()).await.unwrap().unwrap();
    let (first, second) = (other.request().await, other.request().await);
    assert!(first.request_id < second.request_id);
    assert!(first.reset_lane && second.reset_lane, "each lane begins");
    other.answer(second.request_id, 5).await;
    assert_eq!(caller.answer().await, (2, Ok(5)));
    let call = Call::new(Operation::AppendSession, &MetadataMap::new());
    assert_eq!(caller.answer().await, (1, Err("OUTCOME_UNKNOWN".to_owned())));
    assert!((call.timeout..2 * call.timeout).contains(&began.elapsed()), "{:?}", began.elapsed());

    // The lane waits for the caller, and the answer that comes now is of the attempt that was given up.
    caller.send([request(3, "a", true)]).await;
    assert!(caller.responses.next().now_or_never().is_none());
    let third = other.request().await;
    other.answer(first.request_id, 1).await;
    other.answer(third.request_id, 2).await;
    assert_eq!(caller.answer().await, (3, Ok(2)));
}

#[tokio::test(start_paused = true)]
async fn what_was_on_a_stream_that_ended_is_unknown_and_the_next_goes_over_another() {
    let (mut caller, mut opened, _process) = handing_on().await;
    caller.send([request(1, "a", false), request(2, "a", false)]).await;
    assert!(caller.responses.next().now_or_never().is_none());
    let mut other = timeout(LONG, opened.recv()).await.unwrap().unwrap();
    let first = other.request().await;
    other.request().await;
    other.answer(first.request_id, 1).await;
    drop(other);
    assert_eq!(caller.answer().await, (1, Ok(1)));
    assert_eq!(caller.answer().await, (2, Err("OUTCOME_UNKNOWN".to_owned())));

    caller.send([request(3, "a", true)]).await;
    assert!(caller.responses.next().now_or_never().is_none());
    let mut other = timeout(LONG, opened.recv()).await.unwrap().unwrap();
    let third = other.request().await;
    other.answer(third.request_id, 2).await;
    assert_eq!(caller.answer().await, (3, Ok(2)));
}

/// G8. It has answered everything that it has read.
#[tokio::test(start_paused = true)]
async fn what_a_node_that_stops_has_not_read_had_no_effect() {
    let (mut caller, mut opened, _process) = handing_on().await;
    caller.send([request(1, "a", false), request(2, "a", false)]).await;
    assert!(caller.responses.next().now_or_never().is_none());
    let mut other = timeout(LONG, opened.recv()).await.unwrap().unwrap();
    let first = other.request().await;
    other.answer(first.request_id, 1).await;
    other.responses.send(Err(CallError::shutting_down().into())).await.unwrap();
    assert_eq!(caller.answer().await, (1, Ok(1)));
    let last = timeout(LONG, caller.responses.next()).await.unwrap().unwrap().unwrap();
    let Some(Answered::Failed(failure)) = last.result else { panic!("{last:?}") };
    assert_eq!(CallError::from(failure), CallError::shutting_down());
}

/// G5. The other node would take it for the first of its lane.
#[tokio::test(start_paused = true)]
async fn behind_what_could_not_be_sent_nothing_of_its_lane_is_sent() {
    let (mut caller, mut opened, process) = handing_on().await;
    let calls = process.replicas.admission().calls();
    // For each once, and for the second once more.
    let left = limits::PAYLOAD_BYTES_MAX * 3 / 2;
    let others = calls.take(limits::APPEND_CALLS_BYTES_MAX - left).unwrap();
    let mut large = request(1, "a", false);
    large.append.as_mut().unwrap().messages[0].payload = vec![7; limits::PAYLOAD_BYTES_MAX].into();
    caller.send([large, request(2, "a", false)]).await;
    assert_eq!(caller.answer().await, (1, Err("OVERLOADED".to_owned())));
    assert_eq!(caller.answer().await, (2, Err("LANE_BROKEN".to_owned())));

    drop(others);
    caller.send([request(3, "a", true)]).await;
    assert!(caller.responses.next().now_or_never().is_none());
    let mut other = timeout(LONG, opened.recv()).await.unwrap().unwrap();
    let first = other.request().await;
    assert_eq!(first.append.unwrap().messages[0].client_msg_id, "3");
    other.answer(first.request_id, 1).await;
    assert_eq!(caller.answer().await, (3, Ok(1)));
}

/// Their callers were told that their time is up, and they still lie there.
#[tokio::test(start_paused = true)]
async fn appends_that_were_given_up_count_until_their_stream_takes_them() {
    let (mut caller, mut opened, process) = handing_on().await;
    let calls = process.replicas.admission().calls();
    let payload = Bytes::from(vec![7; limits::PAYLOAD_BYTES_MAX]);
    let (mut queued, mut numbers, mut other) = (0, 1.., None);
    let refused = loop {
        // Each has a lane of its own.
        let number = numbers.next().unwrap();
        let mut large = request(number, &format!("room-{number}"), false);
        large.append.as_mut().unwrap().messages[0].payload = payload.clone();
        caller.send([large]).await;
        if other.is_none() {
            assert!(caller.responses.next().now_or_never().is_none());
            // The other node takes the stream, and nothing that comes on it.
            other = Some(timeout(LONG, opened.recv()).await.unwrap().unwrap());
        }
        match caller.answer().await {
            (_, Err(reason)) if reason == "OUTCOME_UNKNOWN" => queued += payload.len(),
            (_, answer) => break answer,
        }
        assert!(queued <= limits::SESSION_STREAM_BYTES_MAX + limits::BATCH_BYTES_MAX);
    };
    assert_eq!(refused, Err("PEER_UNREACHABLE".to_owned()), "after {queued} bytes");
    let least = limits::SESSION_STREAM_BYTES_MAX - limits::BATCH_BYTES_MAX;
    assert!(queued >= least, "{queued}");
    assert!(calls.take(limits::APPEND_CALLS_BYTES_MAX - least).is_none(), "they count");

    drop(other);
    while calls.take(limits::APPEND_CALLS_BYTES_MAX).is_none() {
        // Until the session has seen that its stream has ended.
        assert!(caller.responses.next().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn broken_lanes_take_room_and_a_session_that_finds_none_ends() {
    let (api, process) = leading().await;
    let left = api.replicas.admission().lanes();
    let _followed = api.replicas.admission().followed().take(limits::FOLLOWED_BYTES_MAX).unwrap();
    let others = left.take(limits::LANES_BYTES_MAX).unwrap();
    let mut caller = Caller::open(&api).await;
    // Nobody appends without a name.
    let broken = |request_id| {
        let mut request = request(request_id, &format!("room-{request_id}"), false);
        request.append.as_mut().unwrap().sender.clear();
        request
    };
    let free = (limits::CALL_BYTES_FREE / limits::LANE_BYTES) as u64;
    for number in 1..=free {
        caller.send([broken(number)]).await;
        assert_eq!(caller.answer().await, (number, Err("EMPTY_FIELD".to_owned())));
    }
    drop(others);
    caller.send([broken(free + 1)]).await;
    assert_eq!(caller.answer().await.0, free + 1);
    let others = left.take(limits::LANES_BYTES_MAX - 2 * limits::LANE_BYTES).unwrap();
    assert!(left.take(2 * limits::LANE_BYTES).is_none(), "it holds some");
    caller.send([broken(free + 2), broken(free + 3)]).await;
    assert_eq!(caller.answer().await.0, free + 2);
    let last = timeout(LONG, caller.responses.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(CallError::from_status(&last).unwrap(), CallError::too_many_lanes());
    assert!(caller.responses.next().await.is_none());
    drop((caller, others));
    assert!(left.take(limits::LANES_BYTES_MAX).is_some());
    process.replicas.get(GROUP).unwrap().stop().await;
}
