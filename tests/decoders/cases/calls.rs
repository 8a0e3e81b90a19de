//! Requests of clients and operators, through the servers to a node whose cluster has not begun: what passes is told
//! so, and what does not is told one of the fields that are wrong. The first byte tells the method, and each request
//! stands behind its length.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use quorate::service::page_token;
use quorate::types::limits;
use quorate_client::proto::subscribe_request::{Add, Change, Credit, Remove};
use quorate_client::proto::{self, consistency, start};
use quorate_client::{Error, proto::Consistency, proto::Start};
use tonic::{Code, Status};

use super::{Case, choosing, chosen};
use crate::ground::{NODE, here, messages, stream};

pub const CASE: Case = Case { seeds, check };

/// Fields that are wrong, as errors call them.
type Wrong = BTreeSet<&'static str>;

const METHODS: [fn(&[Bytes]); 10] =
    [read, describe, batch_read, list, get_outcome, follow, subscribe, session, init, replace];

fn check(input: &[u8]) {
    if let Some((which, body)) = chosen(input, METHODS.len()) {
        METHODS[which](&messages(body));
    }
}

/// A call of one request.
fn unary<R: Message + Default>(method: &str, requests: &[Bytes], wrong: impl Fn(&R) -> Wrong) {
    let Some(request) = requests.first() else { return };
    let answer = here().answer(method, std::slice::from_ref(request));
    assert!(answer.messages.is_empty());
    match R::decode(request.clone()) {
        Ok(decoded) => told(&Error::from(&answer.status), &wrong(&decoded)),
        Err(_) => malformed(&answer.status),
    }
}

/// What is right is told that there is no cluster yet, and may be sent again; what is wrong may not.
fn told(error: &Error, wrong: &Wrong) {
    assert!(!error.may_have_taken_effect(), "{error}");
    if wrong.is_empty() {
        assert_eq!((error.reason(), error.retryable()), ("NOT_INITIALIZED", true), "{error}");
        return;
    }
    assert_eq!((error.code(), error.retryable()), (Code::InvalidArgument, false), "{error}");
    let field = error.metadata("field").expect("a field is named");
    assert!(wrong.contains(field), "{error}: wrong are {wrong:?}");
}

fn malformed(status: &Status) {
    let error = Error::from(status);
    assert_eq!((error.code(), error.reason()), (Code::InvalidArgument, "MALFORMED"), "{error}");
    assert!(!error.retryable() && !error.may_have_taken_effect());
}

/// Those of the fields that are wrong.
fn wrong<const N: usize>(fields: [(&'static str, bool); N]) -> Wrong {
    fields.into_iter().filter(|(_, is_wrong)| *is_wrong).map(|(field, _)| field).collect()
}

fn is_no_text(text: &str, limit: usize) -> bool {
    text.is_empty() || text.len() > limit
}

fn is_no_name(name: &str) -> bool {
    is_no_text(name, limits::CONVERSATION_NAME_BYTES_MAX)
}

fn is_no_level(consistency: Option<Consistency>) -> bool {
    let level = consistency.and_then(|consistency| consistency.level);
    matches!(level, Some(consistency::Level::MaxStaleness(bound))
        if !(1..=3_600_000).contains(&bound.max_staleness_ms))
}

fn is_no_start(start: Option<&Start>) -> bool {
    start.is_some_and(|start| start.at == Some(start::At::Seq(0)))
}

fn read(requests: &[Bytes]) {
    unary("Read", requests, |request: &proto::ReadRequest| {
        wrong([
            ("conversation", is_no_name(&request.conversation)),
            ("max_staleness_ms", is_no_level(request.consistency)),
            ("start.seq", is_no_start(request.start.as_ref())),
            ("limit", request.limit > limits::READ_MESSAGES_MAX),
            ("direction", proto::Direction::try_from(request.direction).is_err()),
        ])
    });
}

fn describe(requests: &[Bytes]) {
    unary("Describe", requests, |request: &proto::DescribeRequest| {
        wrong([
            ("conversation", is_no_name(&request.conversation)),
            ("max_staleness_ms", is_no_level(request.consistency)),
        ])
    });
}

fn list(requests: &[Bytes]) {
    unary("List", requests, |request: &proto::ListRequest| {
        let token = &request.page_token;
        wrong([
            ("prefix", request.prefix.len() > limits::CONVERSATION_NAME_BYTES_MAX),
            ("page_size", request.page_size > limits::LIST_PAGE_MAX),
            (
                "page_token",
                token.len() > 2 * limits::CONVERSATION_NAME_BYTES_MAX
                    || page_token::decode(token).is_err(),
            ),
        ])
    });
}

fn get_outcome(requests: &[Bytes]) {
    unary("GetOutcome", requests, |request: &proto::GetOutcomeRequest| {
        let id = &request.client_msg_id;
        wrong([
            ("conversation", is_no_name(&request.conversation)),
            ("sender", is_no_text(&request.sender, limits::SENDER_BYTES_MAX)),
            ("client_msg_id", is_no_text(id, limits::CLIENT_MSG_ID_BYTES_MAX)),
            ("issued_at_us", request.settle && request.issued_at_us == 0),
        ])
    });
}

/// What is wrong with one of the conversations is told of that one, and all are there in the order asked.
fn batch_read(requests: &[Bytes]) {
    let Some(request) = requests.first() else { return };
    let answer = here().answer("BatchRead", std::slice::from_ref(request));
    let Ok(decoded) = proto::BatchReadRequest::decode(request.clone()) else {
        return malformed(&answer.status);
    };
    let asked = decoded.conversations.len();
    let wrong_as_a_whole = wrong([
        ("conversations", !(1..=limits::BATCH_READ_CONVERSATIONS_MAX).contains(&asked)),
        ("max_staleness_ms", is_no_level(decoded.consistency)),
        ("last", decoded.last > limits::BATCH_READ_LAST_MAX),
    ]);
    if !wrong_as_a_whole.is_empty() {
        return told(&Error::from(&answer.status), &wrong_as_a_whole);
    }
    let items = answer.message::<proto::BatchReadResponse>().items;
    assert!(items.iter().map(|item| &item.conversation).eq(&decoded.conversations));
    for item in items {
        let failed = item.failed.expect("nothing can be read");
        assert!(item.read.is_none());
        let wrong = wrong([("conversation", is_no_name(&item.conversation))]);
        told(&failed.into(), &wrong);
    }
}

fn follow(requests: &[Bytes]) {
    unary("Follow", requests, |request: &proto::FollowRequest| {
        let follows = &request.conversations;
        let names: BTreeSet<_> = follows.iter().map(|follow| &follow.conversation).collect();
        wrong([
            ("heartbeat_ms", !matches!(request.heartbeat_ms, 0 | 100..=60_000)),
            ("conversations", follows.is_empty() || names.len() < follows.len()),
            ("conversation", names.iter().any(|name| is_no_name(name))),
            ("start.seq", follows.iter().any(|follow| is_no_start(follow.start.as_ref()))),
        ])
    });
}

/// Each conversation that is added ends at once, and says why; the first change that makes no sense ends the stream.
fn subscribe(requests: &[Bytes]) {
    // A subscription goes on when its caller has no more changes, so that the last is none.
    let nothing = proto::SubscribeRequest::default().encode_to_vec();
    let requests = [requests, &[nothing.into()]].concat();
    let answer = here().answer("Subscribe", &requests);
    let mut ends = answer.messages.iter();
    for request in requests {
        let Ok(request) = proto::SubscribeRequest::decode(request) else {
            malformed(&answer.status);
            break;
        };
        let wrong = match request.change {
            Some(Change::Add(add)) => {
                ended(ends.next().expect("it has ended"), &add);
                continue;
            }
            Some(
                Change::Remove(Remove { conversation })
                | Change::Credit(Credit { conversation, .. }),
            ) => wrong([("conversation", is_no_name(&conversation))]),
            None => wrong([("change", true)]),
        };
        if !wrong.is_empty() {
            told(&Error::from(&answer.status), &wrong);
            break;
        }
    }
    assert_eq!(ends.next(), None);
}

fn ended(response: &Bytes, add: &Add) {
    use proto::subscribe_response::Kind;
    let response = proto::SubscribeResponse::decode(response.clone()).expect("a node encodes it");
    let Some(Kind::Ended(ended)) = response.kind else { panic!("{response:?}") };
    assert_eq!(ended.conversation, add.conversation);
    let credit_max = limits::SUBSCRIPTION_CREDIT_BYTES_MAX;
    let wrong = wrong([
        ("conversation", is_no_name(&add.conversation)),
        ("start.seq", is_no_start(add.start.as_ref())),
        ("credit_bytes", add.credit_bytes > credit_max),
    ]);
    told(&ended.failed.expect("nobody has removed it").into(), &wrong);
}

/// Each request is answered once, until one cannot be told from the others or not be decoded.
fn session(requests: &[Bytes]) {
    let answer = here().answer("AppendSession", requests);
    let mut asked = Vec::new();
    let mut ends_with: Option<fn(&Status)> = None;
    let mut last = 0;
    for request in requests {
        match proto::SessionRequest::decode(request.clone()) {
            Ok(request) if request.request_id > last => {
                last = request.request_id;
                asked.push(request);
            }
            Ok(_) => {
                ends_with =
                    Some(|status| told(&Error::from(status), &wrong([("request_id", true)])));
                break;
            }
            Err(_) => {
                ends_with = Some(malformed);
                break;
            }
        }
    }
    match ends_with {
        Some(holds) => holds(&answer.status),
        None => assert_eq!(answer.status.code(), Code::Ok, "{:?}", answer.status),
    }
    let decoded = answer.messages.into_iter().map(proto::SessionResponse::decode);
    let mut answers: Vec<_> = decoded.map(|answer| answer.expect("a node encodes it")).collect();
    answers.sort_by_key(|answer| answer.request_id);
    assert_eq!(answers.len(), asked.len());
    for (answer, request) in answers.into_iter().zip(asked) {
        assert_eq!(answer.request_id, request.request_id);
        refused(answer, &request.append.unwrap_or_default());
    }
}

/// Nothing is appended. Which fields may be wrong `requests` knows.
fn refused(answer: proto::SessionResponse, append: &proto::AppendRequest) {
    use proto::session_response::Result;
    let Some(Result::Failed(failed)) = answer.result else { panic!("{answer:?}") };
    let error = Error::from(failed);
    assert!(!error.may_have_taken_effect());
    let has_lane = !is_no_name(&append.conversation);
    match error.reason() {
        "NOT_INITIALIZED" | "LANE_BROKEN" => assert!(has_lane && error.retryable()),
        _ => {
            assert_eq!((error.code(), error.retryable()), (Code::InvalidArgument, false));
            let field = error.metadata("field").expect("a field is named");
            assert!(has_lane || field == "conversation", "{error}");
        }
    }
}

fn init(requests: &[Bytes]) {
    let Some(request) = requests.first() else { return };
    let answer = here().answer_operator("Init", request.clone());
    let Ok(request) = proto::InitRequest::decode(request.clone()) else {
        return malformed(&answer.status);
    };
    let nodes = &request.nodes;
    let ids: BTreeSet<_> = nodes.iter().map(|node| node.node_id).collect();
    let addresses: BTreeSet<_> = nodes.iter().map(|node| &node.peer_address).collect();
    let is_out_of_range = |id: &u64| !(1..=u64::from(u32::MAX)).contains(id);
    let factor = request.replication_factor;
    let has_no_factor = factor > 0
        && (factor > limits::REPLICATION_FACTOR_MAX
            || factor.is_multiple_of(2)
            || factor as usize > nodes.len());
    let wrong = wrong([
        ("nodes", !(1..=limits::NODES_MAX).contains(&nodes.len()) || !ids.contains(&NODE.0.into())),
        ("node_id", ids.len() < nodes.len() || ids.iter().any(is_out_of_range)),
        (
            "peer_address",
            addresses.len() < nodes.len() || addresses.iter().any(|at| is_no_address(at)),
        ),
        ("groups", request.groups > limits::GROUPS_MAX),
        ("replication_factor", has_no_factor),
    ]);
    let error = Error::from(&answer.status);
    if wrong.is_empty() {
        // This node refuses to be adopted, and the others are not there.
        assert!(matches!(error.reason(), "CLUSTER_REFUSED" | "CLUSTER_UNAVAILABLE"), "{error}");
    } else {
        told(&error, &wrong);
    }
}

fn is_no_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return true };
    let has_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    address.len() > limits::ADDRESS_BYTES_MAX || host.is_empty() || !has_port
}

/// Whom it is to replace only the topology tells, and nobody has that: nothing is told to be done.
fn replace(requests: &[Bytes]) {
    let Some(request) = requests.first() else { return };
    let answer = here().answer_operator("Replace", request.clone());
    for told in answer.messages {
        let told = proto::ReplaceResponse::decode(told).expect("a node encodes it");
        assert_eq!((told.step.as_str(), told.groups_total), ("waiting", 0), "{told:?}");
    }
    match proto::ReplaceRequest::decode(request.clone()) {
        Ok(_) => assert_eq!(Error::from(&answer.status).reason(), "CLUSTER_UNAVAILABLE"),
        Err(_) => malformed(&answer.status),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let one = |which: usize, request: Vec<u8>| choosing(which, &stream([request]));
    let seq = Some(Start { at: Some(start::At::Seq(3)) });
    let bound = consistency::MaxStaleness { max_staleness_ms: 3_600_000 };
    let consistency = Some(Consistency { level: Some(consistency::Level::MaxStaleness(bound)) });
    let name = || "acme/room".to_owned();
    let read = proto::ReadRequest {
        conversation: name(),
        start: seq,
        direction: proto::Direction::Backward.into(),
        limit: limits::READ_MESSAGES_MAX,
        limit_bytes: 1_000,
        consistency,
    };
    let describe = proto::DescribeRequest { conversation: name(), consistency };
    let conversations = vec![name(), "acme/hall".to_owned()];
    let batch =
        proto::BatchReadRequest { conversations, last: limits::BATCH_READ_LAST_MAX, consistency };
    let list = proto::ListRequest {
        prefix: "acme/".into(),
        page_size: limits::LIST_PAGE_MAX,
        page_token: page_token::encode("acme/room"),
    };
    let outcome = proto::GetOutcomeRequest {
        conversation: name(),
        sender: "ann".into(),
        client_msg_id: "one".into(),
        issued_at_us: 1_000_000,
        settle: true,
    };
    let follow =
        |conversation: &str| proto::FollowStart { conversation: conversation.into(), start: seq };
    let conversations = vec![follow("acme/room"), follow("acme/hall")];
    let follow = proto::FollowRequest { conversations, heartbeat_ms: 100 };
    let node = |node_id, address: &str| proto::init_request::Node {
        node_id,
        peer_address: address.into(),
    };
    let nodes = vec![node(2, "10.0.0.2:7201"), node(1, "10.0.0.1:7201"), node(3, "c:7201")];
    let init = proto::InitRequest { nodes, groups: 3, replication_factor: 3 };
    let replace = proto::ReplaceRequest {
        node_id: 1,
        peer_address: "10.0.0.1:7201".into(),
        ..Default::default()
    };
    vec![
        one(0, read.encode_to_vec()),
        one(1, describe.encode_to_vec()),
        one(2, batch.encode_to_vec()),
        one(3, list.encode_to_vec()),
        one(4, outcome.encode_to_vec()),
        one(5, follow.encode_to_vec()),
        choosing(6, &stream(changes())),
        choosing(7, &stream(appends())),
        one(8, init.encode_to_vec()),
        one(9, replace.encode_to_vec()),
    ]
}

fn changes() -> Vec<Vec<u8>> {
    let conversation = || "acme/room".to_owned();
    let start = Some(Start { at: Some(start::At::Last(2)) });
    let credit_bytes = limits::SUBSCRIPTION_CREDIT_BYTES_MAX;
    let changes = [
        Change::Add(Add { conversation: conversation(), start, credit_bytes }),
        Change::Credit(Credit { conversation: conversation(), credit_bytes: 7 }),
        Change::Remove(Remove { conversation: conversation() }),
        Change::Add(Add { conversation: conversation(), start: None, credit_bytes: 0 }),
    ];
    changes.map(|change| proto::SubscribeRequest { change: Some(change) }.encode_to_vec()).to_vec()
}

fn appends() -> Vec<Vec<u8>> {
    let message = proto::NewMessage {
        client_msg_id: "one".into(),
        issued_at_us: 1_000_000,
        payload: "payload".into(),
        ..Default::default()
    };
    let request = |request_id: u64, conversation: &str, reset_lane| {
        let append = proto::AppendRequest {
            conversation: conversation.into(),
            sender: "ann".into(),
            messages: vec![message.clone()],
            expected_tail: None,
        };
        proto::SessionRequest { request_id, append: Some(append), reset_lane }.encode_to_vec()
    };
    vec![
        request(1, "acme/room", false),
        request(2, "acme/room", false),
        request(3, "acme/hall", false),
        request(7, "acme/room", true),
    ]
}
