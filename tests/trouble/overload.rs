//! More than a node can take: refused with a delay, in bounded memory, and what was acknowledged is unaffected.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use quorate::types::limits::{REQUESTS_BYTES_MAX, RESPONSES_BYTES_MAX};
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::{
    FollowRequest, FollowResponse, FollowStart, ReadRequest, SessionRequest, SubscribeRequest,
    delivery, subscribe_request,
};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tower::Service;

use super::harness::{Cluster, append, append_surely, eventually, message, read_all};
use super::wire::{PATIENCE, Refusal, ask, delimited};

const MIB: u64 = 1 << 20;

const CALLS: u32 = 1_600;
/// The bounds of one group's proposals, and of what is around them: encoded entries, connections, and the allocator.
/// While nothing can be committed: what is committed afterwards goes into memtables, whose bounds are their own.
const GROWTH_MAX: u64 = 128 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_its_followers_refuses_what_it_cannot_hold() {
    let cluster = Cluster::start(3, "").await;
    let conversation = cluster.conversation_led_by(1).await;
    let mut client = cluster.messages(1);
    append_surely(&mut client, append(&conversation, vec![message("first", "x")])).await;
    let before = cluster.resident_bytes(1);
    cluster.signal(2, Signal::STOP);
    cluster.signal(3, Signal::STOP);

    // 1,600 × 128 KiB: 200 MiB, far beyond the 32 MiB of one group that wait for a quorum at one time.
    let payload = bytes::Bytes::from(vec![7; 128 << 10]);
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let mut client = client.clone();
        let payload = payload.clone();
        let conversation = conversation.clone();
        calls.spawn(async move {
            let id = number.to_string();
            let mut request = Request::new(append(&conversation, vec![message(&id, payload)]));
            request.set_timeout(Duration::from_secs(60));
            (id, client.append(request).await)
        });
    }
    let (mut reasons, mut no_effect, mut largest) = (BTreeMap::new(), BTreeSet::new(), 0);
    let mut held = true;
    while let Some(answered) = calls.join_next().await {
        if held {
            largest = largest.max(cluster.resident_bytes(1));
        }
        let (id, result) = answered.unwrap();
        let status = match result {
            Err(status) => status,
            Ok(_) if held => panic!("{id} is acknowledged without a quorum"),
            Ok(_) => continue,
        };
        let refusal = Refusal::of(&status);
        assert!(refusal.retryable && refusal.retry_delay.is_some(), "{refusal:?}");
        if refusal.reason == "OVERLOADED" {
            assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal:?}");
            assert!(!refusal.may_have_taken_effect, "{refusal:?}");
        }
        *reasons.entry(refusal.reason.clone()).or_insert(0) += 1;
        if !refusal.may_have_taken_effect {
            no_effect.insert(id);
        }
        if held && reasons.get("OVERLOADED").is_some_and(|refused| *refused > CALLS / 2) {
            // Those that wait are now to be committed.
            cluster.signal(2, Signal::CONT);
            cluster.signal(3, Signal::CONT);
            held = false;
        }
    }
    let growth = largest.saturating_sub(before);
    println!("{reasons:?} of {CALLS}; {} MiB more at most", growth / MIB);
    assert!(!held, "{reasons:?}");
    assert!(growth < GROWTH_MAX, "{} MiB", growth / MIB);

    append_surely(&mut client, append(&conversation, vec![message("last", "x")])).await;
    let all = read_all(&mut client, &conversation, None).await.unwrap();
    assert_eq!(all[0].client_msg_id, "first");
    let there =
        |message: &&quorate_client::proto::Message| no_effect.contains(&message.client_msg_id);
    assert_eq!(all.iter().find(there), None, "what was refused is not there");
    cluster.assert_no_panic(3);
    cluster.stop().await;
}

/// Sends on a session without reading a response, until nothing more is taken.
async fn flood_session(client: &mut MessageLogClient<Channel>, name: &str) -> usize {
    let (requests, receiver) = mpsc::channel(1);
    let call = client.append_session(ReceiverStream::new(receiver));
    let _unread = call.await.unwrap().into_inner();
    let payload = bytes::Bytes::from(vec![7; 1_024]);
    for request_id in 1..=200_000 {
        let messages = vec![message(&format!("{name}-{request_id}"), payload.clone())];
        let append = Some(append(&format!("flood/{name}-{}", request_id % 50), messages));
        let request = SessionRequest { request_id, append, reset_lane: false };
        if timeout(Duration::from_secs(3), requests.send(request)).await.is_err() {
            return request_id as usize;
        }
    }
    panic!("the session takes requests without end while nobody reads its responses");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_do_not_read_are_waited_for_in_bounded_memory() {
    let cluster = Cluster::start(1, "").await;
    let mut client = cluster.messages(1);
    let payload = bytes::Bytes::from(vec![7; 1 << 20]);
    for number in 0..64 {
        let messages = vec![message(&number.to_string(), payload.clone())];
        append_surely(&mut client, append("long", messages)).await;
    }
    let before = cluster.resident_bytes(1);

    // Streams of history that nobody reads: 3 kinds × 20 × 64 MiB, if they were not held back.
    let mut unread = Vec::new();
    for _ in 0..20 {
        let mut client = cluster.messages(1);
        let conversations = vec![FollowStart { conversation: "long".into(), start: None }];
        let follow = client.follow(FollowRequest { conversations, heartbeat_ms: 0 }).await.unwrap();
        let add = subscribe_request::Add {
            conversation: "long".into(),
            start: None,
            credit_bytes: 16 << 20,
        };
        let change = Some(subscribe_request::Change::Add(add));
        let (changes, receiver) = mpsc::channel(1);
        changes.send(SubscribeRequest { change }).await.unwrap();
        let subscribe = client.subscribe(ReceiverStream::new(receiver)).await.unwrap();
        let request = ReadRequest { conversation: "long".into(), ..ReadRequest::default() };
        let read = client.read(request).await.unwrap();
        unread.push((client, follow, subscribe, read, changes));
    }
    // What each stream holds: four responses of one of these messages each, one being read, and as many again on the
    // way through the connection. Wait until nothing moves any more.
    let mut held = cluster.resident_bytes(1);
    eventually("the streams are held back", async || {
        let last = std::mem::replace(&mut held, cluster.resident_bytes(1));
        sleep(Duration::from_millis(500)).await;
        (cluster.resident_bytes(1).abs_diff(last) < 2 * MIB).then_some(())
    })
    .await;
    let growth = held.saturating_sub(before);
    println!("60 streams of 64 MiB unread: {} MiB more", growth / MIB);
    assert!(growth < 60 * 10 * MIB, "{} MiB", growth / MIB);

    let taken = flood_session(&mut cluster.messages(1), "one").await;
    let growth = cluster.resident_bytes(1).saturating_sub(held);
    println!("{taken} requests taken of a session; {} MiB more", growth / MIB);
    // Beside the session's own bounds there is what it has appended, in the memtables of both databases.
    assert!(growth < 256 * MIB, "{} MiB", growth / MIB);

    // Others are served as if nothing were.
    for number in 0..20 {
        let mut client = cluster.messages(1);
        let request = append("short", vec![message(&number.to_string(), "x")]);
        timeout(Duration::from_secs(5), client.append(request)).await.unwrap().unwrap();
    }
    drop(unread);
    cluster.assert_no_panic(1);
    cluster.stop().await;
}

/// Elements of two bytes in each request below.
const ELEMENTS: usize = 2_000_000;
/// Twenty requests of 4 MB on their way in, copied once, and the allocator. Decoded, each takes 60 to 400 MB.
const DECODING_GROWTH_MAX: u64 = 256 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_empty_elements_is_refused_before_it_grows() {
    let cluster = Cluster::start(1, "").await;
    let mut client = cluster.messages(1);
    append_surely(&mut client, append("room", vec![message("first", "x")])).await;
    let before = cluster.resident_bytes_peak(1);

    let empty = |tag| delimited(tag, &[]).repeat(ELEMENTS);
    let requests = [
        ("MessageLog/Append", empty(3)),
        ("MessageLog/Append", delimited(3, &empty(5))),
        ("MessageLog/AppendSession", delimited(2, &empty(3))),
        ("MessageLog/BatchRead", empty(1)),
        ("MessageLog/Follow", empty(1)),
        ("Cluster/Init", empty(1)),
    ];
    let mut calls = JoinSet::new();
    for (method, request) in requests.into_iter().cycle().take(20) {
        let channel = cluster.channel(1);
        let path = format!("/quorate.v1.{method}");
        calls.spawn(async move { (method, ask(&channel, &path, request.into()).await) });
    }
    while let Some(answered) = calls.join_next().await {
        let (method, result) = answered.unwrap();
        let refusal = Refusal::of(&result.expect_err(method));
        assert_eq!(refusal.code, Code::InvalidArgument, "{method}: {refusal:?}");
        assert_eq!(refusal.reason, "LIMIT_EXCEEDED", "{method}: {refusal:?}");
        assert_eq!(refusal.field(), Some("request"), "{method}: {refusal:?}");
        assert_eq!(refusal.limit(), Some(66_000), "{method}: {refusal:?}");
    }
    let grown = cluster.resident_bytes_peak(1) - before;
    assert!(grown < DECODING_GROWTH_MAX, "{grown} bytes for requests of 4 MB");
    append_surely(&mut client, append("room", vec![message("second", "x")])).await;
    cluster.stop().await;
}

/// A request that stops short of its end.
struct Unfinished(Option<bytes::Bytes>);

impl http_body::Body for Unfinished {
    type Data = bytes::Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Infallible>>> {
        let frame = |bytes| Poll::Ready(Some(Ok(http_body::Frame::data(bytes))));
        self.0.take().map_or(Poll::Pending, frame)
    }
}

/// Sends a part of an append, and waits for what is said to that.
async fn append_unfinished(mut channel: Channel, part: bytes::Bytes) -> Status {
    let request = http::Request::post("http://node/quorate.v1.MessageLog/Append")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Unfinished(Some(part))))
        .unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let response = channel.call(request).await.unwrap();
    Status::from_header_map(response.headers()).expect("a refusal without a body")
}

const REQUESTS: usize = 600;
/// As large as a request may be, and never whole.
const REQUEST_BYTES: u32 = 4 * MIB as u32 - 1;
/// What requests on their way may take; as much again that refused ones have just given back, which the allocator keeps
/// for some seconds; and connections.
const REQUESTS_GROWTH_MAX: u64 = 2 * REQUESTS_BYTES_MAX as u64 + 128 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_take_bounded_memory() {
    let cluster = Cluster::start(1, "").await;
    let mut client = cluster.messages(1);
    append_surely(&mut client, append("room", vec![message("first", "x")])).await;
    let before = cluster.resident_bytes(1);

    let mut part = vec![0];
    part.extend_from_slice(&REQUEST_BYTES.to_be_bytes());
    part.resize(REQUEST_BYTES as usize, 0);
    let part = bytes::Bytes::from(part);
    let channels: Vec<_> = (0..5).map(|_| cluster.channel(1)).collect();
    let mut calls = JoinSet::new();
    for number in 0..REQUESTS {
        calls.spawn(append_unfinished(channels[number % 5].clone(), part.clone()));
    }
    // Those that came whole as far as they go hold what there is; all others are refused.
    let most = REQUESTS_BYTES_MAX / REQUEST_BYTES as usize + 1;
    for _ in most..REQUESTS {
        let status =
            timeout(PATIENCE, calls.join_next()).await.expect("refusals").unwrap().unwrap();
        let refusal = Refusal::of(&status);
        assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal:?}");
        assert_eq!(refusal.reason, "OVERLOADED", "{refusal:?}");
        assert!(refusal.retryable && refusal.retry_delay.is_some(), "{refusal:?}");
        assert!(!refusal.may_have_taken_effect, "{refusal:?}");
    }
    let growth = cluster.resident_bytes_peak(1).saturating_sub(before);
    println!("{} refused of {REQUESTS}; {} MiB more at most", REQUESTS - most, growth / MIB);
    assert!(growth < REQUESTS_GROWTH_MAX, "{} MiB", growth / MIB);

    // What is small gets through meanwhile, and what is large as soon as they are gone.
    let mut client = cluster.messages(1);
    client.append(append("room", vec![message("second", "x")])).await.unwrap();
    drop(calls);
    let large = vec![7; MIB as usize];
    append_surely(&mut client, append("room", vec![message("third", large)])).await;
    cluster.assert_no_panic(1);
    cluster.stop().await;
}

const FOLLOWS: usize = 300;
/// What responses that wait may take, the unused part of the buffers that they were encoded in, and what is around
/// them: connections, what is read at the moment, and the allocator.
const FOLLOWS_GROWTH_MAX: u64 = RESPONSES_BYTES_MAX as u64 + 288 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_that_nobody_reads_take_bounded_memory() {
    const MESSAGES: usize = 16;
    let cluster = Cluster::start(1, "").await;
    let mut client = cluster.messages(1);
    let payload = bytes::Bytes::from(vec![7; MIB as usize]);
    for number in 0..MESSAGES {
        let messages = vec![message(&number.to_string(), payload.clone())];
        append_surely(&mut client, append("long", messages)).await;
    }
    append_surely(&mut client, append("short", vec![message("first", "x")])).await;
    let before = cluster.resident_bytes(1);

    let follow = || {
        let conversations = vec![FollowStart { conversation: "long".into(), start: None }];
        FollowRequest { conversations, heartbeat_ms: 0 }
    };
    let mut clients: Vec<_> = (0..5).map(|_| cluster.messages(1)).collect();
    let mut unread = Vec::new();
    for number in 0..FOLLOWS {
        unread.push(clients[number % 5].follow(follow()).await.unwrap());
    }
    let refused = eventually("there is no room for one more", async || {
        let mut responses = client.follow(follow()).await.unwrap().into_inner();
        loop {
            match responses.message().await {
                Ok(Some(response)) if caught_up(&response) => return None,
                Ok(response) => assert!(response.is_some()),
                Err(status) => return Some(Refusal::of(&status)),
            }
        }
    })
    .await;
    assert_eq!(refused.reason, "OVERLOADED", "{refused:?}");
    assert!(refused.retryable && !refused.may_have_taken_effect, "{refused:?}");
    let growth = cluster.resident_bytes_peak(1).saturating_sub(before);
    println!("{FOLLOWS} follows of 16 MiB unread: {} MiB more at most", growth / MIB);
    assert!(growth < FOLLOWS_GROWTH_MAX, "{} MiB", growth / MIB);

    // What is small gets through meanwhile, and everything once they are gone.
    let mut other = cluster.messages(1);
    other.append(append("short", vec![message("second", "x")])).await.unwrap();
    assert_eq!(read_all(&mut other, "short", None).await.unwrap().len(), 2);
    drop(unread);
    eventually("there is room again", async || {
        let all = read_all(&mut other, "long", None).await.ok()?;
        (all.len() == MESSAGES).then_some(())
    })
    .await;
    cluster.assert_no_panic(1);
    cluster.stop().await;
}

fn caught_up(response: &FollowResponse) -> bool {
    let kind = response.delivery.as_ref().and_then(|delivery| delivery.kind.as_ref());
    matches!(kind, Some(delivery::Kind::CaughtUp(_)))
}
