//! Fields that are empty, too long, not UTF-8 or impossible: INVALID_ARGUMENT with field and limit, for every RPC, and
//! nothing changes.

use bytes::Bytes;
use prost::Message;
use quorate_client::proto::session_response::Result as Answered;
use quorate_client::proto::subscribe_request::{Add, Change, Credit, Remove};
use quorate_client::proto::subscribe_response::{Ended, Kind as Response};
use quorate_client::proto::{
    AppendRequest, BatchReadRequest, BatchReadResponse, Consistency, DescribeRequest,
    FollowRequest, FollowStart, GetOutcomeRequest, Header, InitRequest, Kind, ListRequest,
    NewMessage, ReadRequest, ReplaceRequest, SessionRequest, SessionResponse, Start,
    SubscribeRequest, SubscribeResponse, consistency, init_request, start,
};
use tonic::Code;
use tonic::transport::Channel;

use super::harness::{Cluster, Everything, append, append_surely, at, eventually, message};
use super::wire::{Api, Refusal, ask};

const LOG: &str = "/quorate.v1.MessageLog";
const CLUSTER: &str = "/quorate.v1.Cluster";

/// One request that is wrong in one way: method, encoded request, field, and the limit if there is one to name.
struct Case {
    path: String,
    request: Bytes,
    field: &'static str,
    limit: Option<u64>,
}

fn case(
    path: String,
    request: impl Message,
    field: &'static str,
    limit: impl Into<Option<u64>>,
) -> Case {
    Case { path, request: request.encode_to_vec().into(), field, limit: limit.into() }
}

fn long(limit: usize) -> String {
    "x".repeat(limit + 1)
}

/// How a request is refused, wherever its method says so.
async fn refusal(channel: &Channel, path: &str, request: Bytes) -> Refusal {
    let response = match ask(channel, path, request).await {
        Err(status) => return Refusal::of(&status),
        Ok(response) => response.unwrap_or_else(|| panic!("{path} ended without an answer")),
    };
    let failure = match path.rsplit('/').next() {
        Some("AppendSession") => match SessionResponse::decode(response).unwrap().result {
            Some(Answered::Failed(failure)) => failure,
            other => panic!("{path}: {other:?}"),
        },
        Some("Subscribe") => match SubscribeResponse::decode(response).unwrap().kind {
            Some(Response::Ended(Ended { failed: Some(failure), .. })) => failure,
            other => panic!("{path}: {other:?}"),
        },
        Some("BatchRead") => {
            let item = BatchReadResponse::decode(response).unwrap().items.remove(0);
            item.failed.unwrap_or_else(|| panic!("{path}: {:?}", item.read))
        }
        _ => panic!("{path} was answered"),
    };
    Refusal::in_stream(failure)
}

/// An append that is good until it is changed.
fn changed(change: impl FnOnce(&mut AppendRequest)) -> AppendRequest {
    let mut request = append("acme/room", vec![message("new", "text")]);
    change(&mut request);
    request
}

fn with_message(change: impl FnOnce(&mut NewMessage)) -> AppendRequest {
    changed(|request| change(&mut request.messages[0]))
}

/// Everything that can be wrong with an append.
fn bad_appends() -> Vec<(AppendRequest, &'static str, Option<u64>)> {
    let header =
        |name: usize, value: usize| Header { name: "n".repeat(name), value: vec![0; value].into() };
    let big = || NewMessage { payload: vec![7; 1 << 20].into(), ..message("", "") };
    let batch = |count: usize, of: NewMessage| -> Vec<NewMessage> {
        let numbered = |number| NewMessage { client_msg_id: format!("b{number}"), ..of.clone() };
        (0..count).map(numbered).collect()
    };
    vec![
        (changed(|r| r.conversation.clear()), "conversation", None),
        (changed(|r| r.conversation = long(512)), "conversation", Some(512)),
        (changed(|r| r.sender.clear()), "sender", None),
        (changed(|r| r.sender = long(256)), "sender", Some(256)),
        (changed(|r| r.expected_tail = Some(0)), "expected_tail", None),
        (changed(|r| r.messages.clear()), "messages", None),
        (changed(|r| r.messages = batch(1_001, message("", "x"))), "messages", Some(1_000)),
        (
            changed(|r| {
                r.messages = batch(3, big());
                r.messages.push(message("one more", "x"));
            }),
            "messages",
            Some(3 << 20),
        ),
        // Over what is read of one message at all.
        (changed(|r| r.messages = batch(5, big())), "request", Some(4 << 20)),
        (with_message(|m| m.client_msg_id.clear()), "client_msg_id", None),
        (with_message(|m| m.client_msg_id = long(128)), "client_msg_id", Some(128)),
        (with_message(|m| m.issued_at_us = 0), "issued_at_us", None),
        (with_message(|m| m.kind = Kind::Redaction.into()), "kind", None),
        (with_message(|m| m.kind = 99), "kind", None),
        (with_message(|m| m.kind = Kind::Replacement.into()), "target_seq", None),
        (with_message(|m| m.target_seq = 1), "target_seq", None),
        (
            with_message(|m| (m.kind, m.target_seq) = (Kind::Replacement.into(), 99)),
            "target_seq",
            None,
        ),
        (with_message(|m| m.content_type = long(128)), "content_type", Some(128)),
        (with_message(|m| m.traceparent = long(55)), "traceparent", Some(55)),
        (with_message(|m| m.headers = vec![header(1, 1); 33]), "headers", Some(32)),
        (with_message(|m| m.headers = vec![header(0, 1)]), "headers.name", None),
        (with_message(|m| m.headers = vec![header(129, 1)]), "headers.name", Some(128)),
        (with_message(|m| m.headers = vec![header(1, 4_096); 2]), "headers", Some(8_192)),
        (with_message(|m| m.payload = vec![0; (1 << 20) + 1].into()), "payload", Some(1 << 20)),
        (with_message(|m| m.payload_crc32c = Some(1)), "payload_crc32c", None),
        (with_message(|m| m.issued_at_us = u64::MAX), "issued_at_us", None),
    ]
}

fn appends() -> Vec<Case> {
    let mut cases = Vec::new();
    for (request, field, limit) in bad_appends() {
        cases.push(case(format!("{LOG}/Append"), request.clone(), field, limit));
        let request = SessionRequest { request_id: 1, append: Some(request), reset_lane: false };
        cases.push(case(format!("{LOG}/AppendSession"), request, field, limit));
    }
    let good = Some(changed(|_| ()));
    let request = SessionRequest { request_id: 0, append: good, reset_lane: false };
    cases.push(case(format!("{LOG}/AppendSession"), request, "request_id", None));
    cases
}

fn staleness(max_staleness_ms: u64) -> Option<Consistency> {
    let bound = consistency::MaxStaleness { max_staleness_ms };
    at(consistency::Level::MaxStaleness(bound))
}

fn seq(seq: u64) -> Option<Start> {
    Some(Start { at: Some(start::At::Seq(seq)) })
}

fn reads() -> Vec<Case> {
    let mut cases = Vec::new();
    let read = |field, limit: Option<u64>, change: &dyn Fn(&mut ReadRequest)| {
        let mut request = ReadRequest { conversation: "acme/room".into(), ..Default::default() };
        change(&mut request);
        case(format!("{LOG}/Read"), request, field, limit)
    };
    cases.push(read("conversation", None, &|r| r.conversation.clear()));
    cases.push(read("conversation", Some(512), &|r| r.conversation = long(512)));
    cases.push(read("start.seq", None, &|r| r.start = seq(0)));
    cases.push(read("direction", None, &|r| r.direction = 99));
    cases.push(read("limit", Some(100_000), &|r| r.limit = 100_001));
    cases.push(read("max_staleness_ms", None, &|r| r.consistency = staleness(0)));
    let hour = Some(3_600_000);
    cases.push(read("max_staleness_ms", hour, &|r| r.consistency = staleness(3_600_001)));

    let batch = |field, limit: Option<u64>, conversations: Vec<String>, last, consistency| {
        let request = BatchReadRequest { conversations, last, consistency };
        case(format!("{LOG}/BatchRead"), request, field, limit)
    };
    let one = || vec!["acme/room".to_owned()];
    cases.push(batch("conversations", None, Vec::new(), 1, None));
    cases.push(batch("conversations", Some(500), vec!["a".into(); 501], 1, None));
    cases.push(batch("last", Some(1_000), one(), 1_001, None));
    cases.push(batch("max_staleness_ms", None, one(), 1, staleness(0)));
    cases.push(batch("conversation", None, vec![String::new()], 1, None));
    cases.push(batch("conversation", Some(512), vec![long(512)], 1, None));

    let describe = |field, limit: Option<u64>, conversation: String, consistency| {
        let request = DescribeRequest { conversation, consistency };
        case(format!("{LOG}/Describe"), request, field, limit)
    };
    cases.push(describe("conversation", None, String::new(), None));
    cases.push(describe("conversation", Some(512), long(512), None));
    cases.push(describe("max_staleness_ms", None, "acme/room".into(), staleness(0)));

    let list = |field, limit: Option<u64>, request: ListRequest| {
        case(format!("{LOG}/List"), request, field, limit)
    };
    cases.push(list("prefix", Some(512), ListRequest { prefix: long(512), ..Default::default() }));
    let page_size = ListRequest { page_size: 1_001, ..Default::default() };
    cases.push(list("page_size", Some(1_000), page_size));
    for nonsense in ["zz", "abc", "ff"] {
        let request = ListRequest { page_token: nonsense.into(), ..Default::default() };
        cases.push(list("page_token", None, request));
    }
    let endless = ListRequest { page_token: "61".repeat(513), ..Default::default() };
    cases.push(list("page_token", Some(1_024), endless));
    cases
}

fn outcomes() -> Vec<Case> {
    let outcome = |field, limit: Option<u64>, change: &dyn Fn(&mut GetOutcomeRequest)| {
        let mut request = GetOutcomeRequest {
            conversation: "acme/room".into(),
            sender: "ann".into(),
            client_msg_id: "new".into(),
            ..Default::default()
        };
        change(&mut request);
        case(format!("{LOG}/GetOutcome"), request, field, limit)
    };
    vec![
        outcome("conversation", None, &|r| r.conversation.clear()),
        outcome("conversation", Some(512), &|r| r.conversation = long(512)),
        outcome("sender", None, &|r| r.sender.clear()),
        outcome("sender", Some(256), &|r| r.sender = long(256)),
        outcome("client_msg_id", None, &|r| r.client_msg_id.clear()),
        outcome("client_msg_id", Some(128), &|r| r.client_msg_id = long(128)),
        outcome("issued_at_us", None, &|r| r.settle = true),
        outcome("issued_at_us", None, &|r| (r.settle, r.issued_at_us) = (true, u64::MAX)),
    ]
}

fn streams() -> Vec<Case> {
    let start = |conversation: &str| FollowStart { conversation: conversation.into(), start: None };
    let follow = |field, limit: Option<u64>, conversations: Vec<FollowStart>, heartbeat_ms| {
        let request = FollowRequest { conversations, heartbeat_ms };
        case(format!("{LOG}/Follow"), request, field, limit)
    };
    let many = (0..10_001).map(|number| start(&number.to_string())).collect();
    let from_zero = vec![FollowStart { start: seq(0), ..start("acme/room") }];
    let mut cases = vec![
        follow("conversations", None, Vec::new(), 0),
        follow("conversations", Some(10_000), many, 0),
        follow("conversations", None, vec![start("a"), start("a")], 0),
        follow("conversation", None, vec![start("")], 0),
        follow("conversation", Some(512), vec![start(&long(512))], 0),
        follow("start.seq", None, from_zero, 0),
        follow("heartbeat_ms", None, vec![start("a")], 99),
        follow("heartbeat_ms", None, vec![start("a")], 60_001),
    ];
    let mut subscribe = |field, limit: Option<u64>, change: Option<Change>| {
        let request = SubscribeRequest { change };
        cases.push(case(format!("{LOG}/Subscribe"), request, field, limit));
    };
    let add = |conversation: String| Add { conversation, ..Add::default() };
    subscribe("change", None, None);
    subscribe("conversation", None, Some(Change::Add(add(String::new()))));
    subscribe("conversation", Some(512), Some(Change::Add(add(long(512)))));
    let from_zero = Add { start: seq(0), ..add("acme/room".into()) };
    subscribe("start.seq", None, Some(Change::Add(from_zero)));
    let credit = Add { credit_bytes: (16 << 20) + 1, ..add("acme/room".into()) };
    subscribe("credit_bytes", Some(16 << 20), Some(Change::Add(credit)));
    subscribe("conversation", None, Some(Change::Remove(Remove::default())));
    let remove = Remove { conversation: long(512) };
    subscribe("conversation", Some(512), Some(Change::Remove(remove)));
    subscribe("conversation", None, Some(Change::Credit(Credit::default())));
    cases
}

fn cluster() -> Vec<Case> {
    let node = |node_id: u64, peer_address: &str| init_request::Node {
        node_id,
        peer_address: peer_address.to_owned(),
    };
    let init = |field, limit: Option<u64>, request: InitRequest| {
        case(format!("{CLUSTER}/Init"), request, field, limit)
    };
    let of = |nodes: Vec<init_request::Node>| InitRequest { nodes, ..Default::default() };
    let one = || vec![node(1, "127.0.0.1:1")];
    let many = (1..=100).map(|id| node(id, &format!("127.0.0.1:{id}"))).collect();
    let replace = |field, limit: Option<u64>, node_id, peer_address: &str| {
        let request = ReplaceRequest { node_id, peer_address: peer_address.into(), all: false };
        case(format!("{CLUSTER}/Replace"), request, field, limit)
    };
    vec![
        init("nodes", None, of(Vec::new())),
        init("nodes", Some(99), of(many)),
        init("node_id", None, of(vec![node(0, "127.0.0.1:1")])),
        init("node_id", None, of(vec![node(1 << 32, "127.0.0.1:1")])),
        init("node_id", None, of(vec![node(1, "127.0.0.1:1"), node(1, "127.0.0.1:2")])),
        init("nodes", None, of(vec![node(9, "127.0.0.1:1")])),
        init("peer_address", None, of(vec![node(1, "")])),
        init("peer_address", None, of(vec![node(1, "nowhere")])),
        init("peer_address", None, of(vec![node(1, "host:70000")])),
        init("peer_address", Some(260), of(vec![node(1, &format!("{}:1", long(260)))])),
        init("peer_address", None, of(vec![node(1, "127.0.0.1:1"), node(2, "127.0.0.1:1")])),
        init("groups", Some(1_024), InitRequest { groups: 1_025, ..of(one()) }),
        init("replication_factor", None, InitRequest { replication_factor: 2, ..of(one()) }),
        init("replication_factor", None, InitRequest { replication_factor: 3, ..of(one()) }),
        init("replication_factor", Some(7), InitRequest { replication_factor: 9, ..of(one()) }),
        replace("node_id", None, 0, ""),
        replace("node_id", None, 99, ""),
        replace("node_id", None, u64::MAX, ""),
        replace("peer_address", None, 1, "nowhere"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_request_may_hold_is_refused_with_field_and_limit_and_changes_nothing() {
    let cluster_of_three = Cluster::start(3, "").await;
    let mut client = cluster_of_three.messages(1);
    append_surely(&mut client, append("acme/room", vec![message("first", "hello")])).await;
    let before = Everything::of(&mut client, &["acme/room"]).await;
    let channel = cluster_of_three.channel(1);
    let cases = [appends(), reads(), outcomes(), streams(), cluster()];
    for Case { path, request, field, limit } in cases.into_iter().flatten() {
        // What is of the future is known only once the leader's clock was compared with others'.
        let refusal = eventually("it is refused for good", async || {
            let refusal = refusal(&channel, &path, request.clone()).await;
            (refusal.reason != "CLOCK_UNTRUSTED").then_some(refusal)
        })
        .await;
        let context = format!("{path}, {field}, {limit:?}: {refusal:?}");
        assert_eq!(refusal.code, Code::InvalidArgument, "{context}");
        assert_eq!(refusal.field(), Some(field), "{context}");
        if let Some(limit) = limit {
            assert_eq!(refusal.limit(), Some(limit), "{context}");
            assert_eq!(refusal.reason, "LIMIT_EXCEEDED", "{context}");
            assert!(refusal.message.contains(&limit.to_string()), "{context}");
        }
        let leaf = field.rsplit('.').next().unwrap();
        assert!(refusal.message.contains(leaf) || field == "request", "{context}");
        assert!(!refusal.retryable && !refusal.may_have_taken_effect, "{context}");
        let named = |violation: &String| violation.ends_with(field);
        assert!(refusal.violations.iter().all(named), "{context}");
    }
    assert_eq!(Everything::of(&mut client, &["acme/room"]).await, before);
    cluster_of_three.assert_no_panic(3);
    cluster_of_three.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_utf_8_or_no_message_at_all_is_refused_in_every_field_of_every_rpc() {
    let cluster = Cluster::start(1, "").await;
    let mut client = cluster.messages(1);
    append_surely(&mut client, append("acme/room", vec![message("first", "hello")])).await;
    let before = Everything::of(&mut client, &["acme/room"]).await;
    let channel = cluster.channel(1);
    let api = Api::load();
    let (mut methods, mut fields) = (0, 0);
    for method in &api.methods {
        methods += 1;
        for (field, request) in api.texts_that_are_not(&method.input) {
            fields += 1;
            let refusal = refusal(&channel, &method.path, request.into()).await;
            let context = format!("{}, {field}: {refusal:?}", method.path);
            assert_eq!(refusal.code, Code::InvalidArgument, "{context}");
            assert_eq!(refusal.reason, "MALFORMED", "{context}");
            assert_eq!(refusal.field(), Some(&*field), "{context}");
            assert!(!refusal.retryable && !refusal.may_have_taken_effect, "{context}");
        }
        // A length that goes beyond the end; a wire type that does not exist.
        for garbage in [&[0x0a, 0x7f, 1][..], &[0x0f, 0xff, 0xff]] {
            let garbage = Bytes::from_static(garbage);
            let refusal = refusal(&channel, &method.path, garbage).await;
            let context = format!("{}: {refusal:?}", method.path);
            assert_eq!(refusal.code, Code::InvalidArgument, "{context}");
            assert_eq!(refusal.reason, "MALFORMED", "{context}");
        }
    }
    assert_eq!(methods, 13, "the descriptors were read");
    assert!(fields >= 20, "{fields}");
    assert_eq!(Everything::of(&mut client, &["acme/room"]).await, before);
    cluster.assert_no_panic(1);
    cluster.stop().await;
}
