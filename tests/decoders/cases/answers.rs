//! What nodes answer to clients, through the client library. The first byte tells the call; then comes the status that
//! the answer ends with, a code and details as `google.rpc.Status`, and then its messages, each behind its length.
//! What is asked again is answered the same once more, and then for good.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quorate::types::{ConversationName, HashRange, PlacementHash};
use quorate_client::{
    Append, Client, ClientOptions, Consistency, Credit, Delivery, Error, NewMessage, Page, Read,
    Routing, SessionOptions, Start, proto,
};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{Case, choosing, chosen};
use crate::ground::{Reply, Script, dial, messages, runtime, stream};

pub const CASE: Case = Case { seeds, check };

/// The conversation that is read.
pub const NAME: &str = "acme/room";
const OTHER: &str = "acme/hall";
/// Of simulated time: a call has ended by then, whatever it was answered.
const LONG: Duration = Duration::from_secs(3_600);
/// Bounds what is taken of a stream that is opened again and again.
const DELIVERIES_MAX: usize = 200;
const CALLS: usize = 11;
/// What some calls are called by the first byte of an input.
pub const SESSION: usize = 1;
pub const READ: usize = 2;
pub const READ_BACKWARD: usize = 3;
pub const BATCH_READ: usize = 4;
pub const FOLLOW: usize = 5;
pub const SUBSCRIBE: usize = 6;
pub const READ_EARLIEST: usize = 10;

fn check(input: &[u8]) {
    if let Some((which, reply)) = reply(input) {
        holds(which, reply);
    }
}

fn reply(input: &[u8]) -> Option<(usize, Reply)> {
    let (which, body) = chosen(input, CALLS)?;
    let mut messages = messages(body);
    let status = status(messages.first()?);
    messages.remove(0);
    Some((which, Reply { messages, status }))
}

fn holds(which: usize, reply: Reply) {
    let holds = async {
        match which {
            0 => append(reply).await,
            SESSION => session(reply).await,
            READ => read(reply, Read::new(NAME).start(Start::Seq(3))).await,
            READ_BACKWARD => read(reply, Read::new(NAME).backward()).await,
            BATCH_READ => batch_read(reply).await,
            FOLLOW => follow(reply).await,
            SUBSCRIBE => subscribe(reply).await,
            7 => as_it_is(reply).await,
            8 => replace(reply).await,
            9 => topology(reply).await,
            _ => read(reply, Read::new(NAME)).await,
        }
    };
    runtime().block_on(async {
        let ended = timeout(LONG, holds).await;
        // A stream is opened again for as long as anybody asks, as late as the node says.
        assert!(ended.is_ok() || matches!(which, FOLLOW | SUBSCRIBE), "a call does not end");
    });
}

fn status(of: &Bytes) -> Status {
    let (code, details) = of.split_first().map_or((0, &[][..]), |(code, rest)| (*code, rest));
    let details = Bytes::copy_from_slice(details);
    Status::with_details(Code::from_i32(i32::from(code)), "it failed", details)
}

fn options(script: Script) -> ClientOptions {
    let options = ClientOptions::new(["node:7101"]).routing(Routing::Proxy);
    options.dial(dial(script)).request_timeout(Duration::from_secs(2))
}

/// A client whose first two calls are answered so.
async fn client(reply: &Reply) -> Client {
    let script = Script::new([reply.clone(), reply.clone()]);
    Client::connect(options(script)).await.expect("a node answers")
}

/// What a call of one answer comes to: the message as it is, or an error.
fn unary<M>(reply: &Reply, result: Result<M, Error>, writes: bool)
where
    M: Message + Default + PartialEq + std::fmt::Debug,
{
    let first = reply.messages.first().map(|first| M::decode(first.clone()));
    match result {
        Ok(answer) => {
            assert_eq!(reply.status.code(), Code::Ok);
            assert_eq!(first.expect("it was answered").as_ref(), Ok(&answer));
        }
        Err(error) => {
            failed(&error);
            // What was answered and not understood may be that it was done.
            let is_lost = reply.status.code() == Code::Ok && matches!(first, Some(Err(_)));
            assert!(!(is_lost && writes) || error.may_have_taken_effect(), "{error}");
        }
    }
}

fn failed(error: &Error) {
    assert!(error.code() != Code::Ok || !error.to_string().is_empty());
    let _ = (error.tail(), error.first_seq(), error.seqs(), error.retry_delay());
}

async fn append(reply: Reply) {
    let message = NewMessage::text("hello").client_msg_id("one").issued_at_us(1_000_000);
    let result = client(&reply).await.append(Append::new(NAME, "ann", message)).await;
    unary(&reply, result, true);
}

/// Each append has its outcome, whatever is answered.
async fn session(reply: Reply) {
    let options = SessionOptions { append_timeout: Duration::from_secs(2), ..Default::default() };
    let session = client(&reply).await.session(options).expect("they are in range");
    let mut handles = Vec::new();
    for (conversation, id) in [(NAME, "one"), (NAME, "two"), (OTHER, "three")] {
        let message = NewMessage::text("hello").client_msg_id(id).issued_at_us(1_000_000);
        handles.push(session.append(Append::new(conversation, "ann", message)).await);
    }
    let answers =
        reply.messages.iter().map_while(|m| proto::SessionResponse::decode(m.clone()).ok());
    let appended: Vec<_> = answers
        .filter_map(|answer| match answer.result {
            Some(proto::session_response::Result::Appended(appended)) => Some(appended),
            _ => None,
        })
        .collect();
    for handle in handles {
        match handle.await {
            Ok(answer) => assert!(appended.contains(&answer), "nobody has answered {answer:?}"),
            Err(error) => failed(&error),
        }
    }
    session.flush().await;
    assert_eq!(session.in_flight(), 0);
}

async fn read(reply: Reply, read: Read) {
    match client(&reply).await.read(read.clone()).await {
        Ok(page) => sound(&page, format!("{read:?}").contains("backward: true")),
        Err(error) => failed(&error),
    }
}

/// What a page promises.
fn sound(page: &Page, is_backward: bool) {
    for pair in page.messages.windows(2) {
        let (before, after) = (pair[0].seq, pair[1].seq);
        let (low, high) = if is_backward { (after, before) } else { (before, after) };
        assert_eq!(low.checked_add(1), Some(high));
    }
    page.messages.iter().for_each(whole);
}

fn whole(message: &proto::Message) {
    assert!(message.seq > 0);
    assert_eq!(crc32c::crc32c(&message.payload), message.payload_crc32c);
}

async fn batch_read(reply: Reply) {
    let read = client(&reply).await.batch_read([NAME, OTHER], 3, Consistency::Local).await;
    match read {
        Ok(items) => {
            assert!(items.iter().map(|(name, _)| name.as_str()).eq([NAME, OTHER]));
            for (_, item) in items {
                match item {
                    Ok(page) => sound(&page, false),
                    Err(error) => failed(&error),
                }
            }
        }
        Err(error) => failed(&error),
    }
}

/// What of one conversation has been delivered.
#[derive(Default)]
struct Delivered {
    next: Option<u64>,
    caught_up: bool,
    ended: bool,
}

impl Delivered {
    /// Each message once, in order, without a gap that is not announced (G6).
    fn take(&mut self, delivery: Delivery) {
        assert!(!self.ended, "something follows the end");
        match delivery {
            Delivery::Messages { messages, .. } => {
                assert!(!messages.is_empty());
                for message in &messages {
                    whole(message);
                    assert!(self.next.is_none_or(|next| next == message.seq));
                    self.next = message.seq.checked_add(1);
                }
            }
            Delivery::Gap { from_seq, to_seq, .. } => {
                assert!(from_seq < to_seq && self.next.is_none_or(|next| next == from_seq));
                self.next = Some(to_seq);
            }
            Delivery::CaughtUp { next_seq, .. } => {
                assert!(!self.caught_up && self.next.is_none_or(|next| next == next_seq));
                (self.caught_up, self.next) = (true, Some(next_seq));
            }
            Delivery::Ended { error, .. } => {
                self.ended = true;
                error.iter().for_each(failed);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn name_of(delivery: &Delivery) -> &str {
    match delivery {
        Delivery::Messages { conversation, .. }
        | Delivery::Gap { conversation, .. }
        | Delivery::CaughtUp { conversation, .. }
        | Delivery::Ended { conversation, .. } => conversation,
        other => panic!("{other:?}"),
    }
}

async fn follow(reply: Reply) {
    let client = client(&reply).await;
    let mut follow = client.follow([(NAME, Start::Earliest)]).expect("it is one");
    let mut delivered = Delivered::default();
    for _ in 0..DELIVERIES_MAX {
        match follow.next().await {
            Some(Ok(delivery)) => {
                assert_eq!(name_of(&delivery), NAME);
                delivered.take(delivery);
            }
            Some(Err(error)) => return failed(&error),
            None => panic!("a follow ends with an error"),
        }
    }
}

/// What a node says of a conversation that was not added is not passed on.
async fn subscribe(reply: Reply) {
    let mut subscription = client(&reply).await.subscribe();
    let added = [(NAME, Start::Seq(3)), (OTHER, Start::Last(2))];
    let mut delivered = added.map(|(name, start)| {
        let next = if let Start::Seq(seq) = start { Some(seq) } else { None };
        (name, Delivered { next, ..Delivered::default() })
    });
    for (name, start) in added {
        subscription.add(name, start, Credit::Automatic(1_000)).await.expect("it is not there yet");
    }
    for _ in 0..DELIVERIES_MAX {
        if delivered.iter().all(|(_, delivered)| delivered.ended) {
            return;
        }
        let delivery = subscription.next().await;
        let known = delivered.iter_mut().find(|(name, _)| *name == name_of(&delivery));
        known.expect("it was added").1.take(delivery);
    }
}

async fn as_it_is(reply: Reply) {
    let outcome = client(&reply).await.outcome(proto::GetOutcomeRequest::default()).await;
    unary(&reply, outcome, false);
    let settled = proto::GetOutcomeRequest { settle: true, ..Default::default() };
    unary(&reply, client(&reply).await.outcome(settled).await, true);
    unary(&reply, client(&reply).await.describe(NAME, Consistency::Local).await, false);
    unary(&reply, client(&reply).await.list(proto::ListRequest::default()).await, false);
    unary(&reply, client(&reply).await.describe_cluster().await, false);
    unary(&reply, client(&reply).await.init(proto::InitRequest::default()).await, true);
}

async fn replace(reply: Reply) {
    let replacing = client(&reply).await.replace(proto::ReplaceRequest::default()).await;
    let mut replacing = match replacing {
        Ok(replacing) => replacing,
        Err(error) => return failed(&error),
    };
    let mut told = reply.messages.iter();
    loop {
        match replacing.next().await {
            Ok(Some(step)) => {
                let sent = told.next().expect("it was told").clone();
                assert_eq!(proto::ReplaceResponse::decode(sent), Ok(step));
            }
            Ok(None) => {
                assert_eq!((told.next(), reply.status.code()), (None, Code::Ok));
                return;
            }
            Err(error) => return failed(&error),
        }
    }
}

/// A group that is found holds the conversation, and calls go somewhere, wherever the nodes are said to be.
async fn topology(reply: Reply) {
    // A watch that begins without one is given up.
    let first = reply.messages.first();
    let first = first.and_then(|m| proto::WatchTopologyResponse::decode(m.clone()).ok());
    let told = first.and_then(|first| first.topology);
    let script = Script::new([]).with_topology(reply);
    let options = options(script).routing(Routing::Leader);
    let client = match Client::connect(options).await {
        Ok(client) => client,
        Err(error) => return failed(&error),
    };
    let mut changes = client.watch_topology();
    let first = timeout(Duration::from_secs(1), changes.next()).await;
    if told.is_some() {
        let first = first.expect("what was told is heard");
        if let Some(group) = client.group_of(NAME) {
            let known = client.topology().unwrap_or(first);
            let place = ConversationName(NAME.to_owned()).id().placement();
            let holds = |group: &proto::Group| {
                let start = PlacementHash(group.range_start);
                HashRange { start, end: group.range_end.map(PlacementHash) }.contains(place)
            };
            assert!(known.groups.iter().any(|known| known.group_id == group && holds(known)));
        }
    }
    let read = client.read(Read::new(NAME)).await;
    failed(&read.expect_err("nothing is there to be read"));
}

fn seeds() -> Vec<Vec<u8>> {
    let ok = vec![0];
    let answered = |which: usize, parts: Vec<Vec<u8>>| {
        choosing(which, &stream([vec![ok.clone()], parts].concat()))
    };
    let retried = quorate::service::CallError::not_leader(None);
    let retried = Status::from(retried);
    let code = [i32::from(retried.code()) as u8];
    let retried = [&code, retried.details()].concat();
    let appended = proto::AppendResponse { first_seq: 3, last_seq: 3, ..Default::default() };
    let outcome = proto::GetOutcomeResponse { state: 1, seq: 3, ..Default::default() };
    let step = proto::ReplaceResponse { group_id: 1, ..Default::default() };
    let part = |seqs: &[u64]| proto::ReadResponse {
        messages: seqs.iter().copied().map(message).collect(),
        first_seq: 1,
        tail: 6,
        position: None,
    };
    let item = |conversation: &str, read, failed| proto::batch_read_response::Item {
        conversation: conversation.into(),
        read,
        failed,
    };
    let failure = proto::Failure { code: 5, reason: "NOT_FOUND".into(), ..Default::default() };
    let items = vec![item(NAME, Some(part(&[4, 5])), None), item(OTHER, None, Some(failure))];
    let batch = proto::BatchReadResponse { items };
    let topology = proto::WatchTopologyResponse { topology: Some(cluster()) };
    let mut seeds = vec![
        answered(0, vec![appended.encode_to_vec()]),
        choosing(0, &stream([&retried])),
        answered(SESSION, session_answers(&appended)),
        answered(READ, vec![part(&[3, 4]).encode_to_vec(), part(&[5]).encode_to_vec()]),
        choosing(READ, &stream([retried, part(&[3, 4]).encode_to_vec()])),
        answered(READ_BACKWARD, vec![part(&[5, 4]).encode_to_vec()]),
        answered(BATCH_READ, vec![batch.encode_to_vec()]),
        answered(7, vec![outcome.encode_to_vec()]),
        answered(8, vec![step.encode_to_vec(), step.encode_to_vec()]),
        answered(9, vec![topology.encode_to_vec()]),
    ];
    let followed = deliveries(NAME).map(|kind| {
        let delivery = Some(proto::Delivery { kind: Some(kind) });
        proto::FollowResponse { delivery }.encode_to_vec()
    });
    seeds.push(answered(FOLLOW, followed.to_vec()));
    seeds.push(answered(SUBSCRIBE, subscribed()));
    seeds
}

/// A message that is whole.
pub fn message(seq: u64) -> proto::Message {
    let payload = Bytes::from_static(b"payload");
    let payload_crc32c = crc32c::crc32c(&payload);
    proto::Message { seq, payload, payload_crc32c, sender: "ann".into(), ..Default::default() }
}

fn session_answers(appended: &proto::AppendResponse) -> Vec<Vec<u8>> {
    use proto::session_response::Result;
    let failure = proto::Failure { code: 9, reason: "WRONG_TAIL".into(), ..Default::default() };
    let results = [
        Result::Appended(appended.clone()),
        Result::Failed(failure),
        Result::Appended(appended.clone()),
    ];
    let answers = results.into_iter().zip(1..).map(|(result, request_id)| {
        proto::SessionResponse { request_id, result: Some(result) }.encode_to_vec()
    });
    answers.collect()
}

/// What comes of a conversation.
fn deliveries(name: &str) -> [proto::delivery::Kind; 5] {
    use proto::delivery::{CaughtUp, Gap, Heartbeat, Kind, Messages};
    let conversation = || name.to_owned();
    let messages = |seqs: [u64; 2]| {
        let messages = seqs.map(message).to_vec();
        Kind::Messages(Messages { conversation: conversation(), messages })
    };
    [
        messages([3, 4]),
        Kind::Gap(Gap { conversation: conversation(), from_seq: 5, to_seq: 8 }),
        Kind::CaughtUp(CaughtUp { conversation: conversation(), next_seq: 8 }),
        Kind::Heartbeat(Heartbeat { node_id: 1 }),
        messages([8, 9]),
    ]
}

fn subscribed() -> Vec<Vec<u8>> {
    use proto::subscribe_response::{Ended, Kind};
    let delivery = |kind| Kind::Delivery(proto::Delivery { kind: Some(kind) });
    let kinds = deliveries(NAME).into_iter().chain(deliveries(OTHER)).map(delivery);
    let failure = proto::Failure { code: 11, reason: "TRIMMED".into(), ..Default::default() };
    let ended = [NAME, OTHER].map(|name| {
        Kind::Ended(Ended { conversation: name.to_owned(), failed: Some(failure.clone()) })
    });
    let response = |kind| proto::SubscribeResponse { kind: Some(kind) }.encode_to_vec();
    kinds.chain(ended).map(response).collect()
}

fn cluster() -> proto::Topology {
    let node = |node_id: u64| proto::Node {
        node_id,
        client_address: format!("node-{node_id}:7101"),
        ..Default::default()
    };
    let replicas = [1, 2].map(|node_id| proto::Replica { node_id, incarnation: 1 }).to_vec();
    let lower = proto::Group {
        group_id: 1,
        range_end: Some(1 << 63),
        leader_node_id: 1,
        leader_term: 7,
        replicas,
        active: true,
        ..Default::default()
    };
    let upper = proto::Group {
        group_id: 2,
        range_start: 1 << 63,
        range_end: None,
        leader_node_id: 2,
        ..lower.clone()
    };
    proto::Topology {
        cluster_id: "42".into(),
        version: 1,
        nodes: vec![node(1), node(2)],
        groups: vec![lower, upper],
        ..Default::default()
    }
}
