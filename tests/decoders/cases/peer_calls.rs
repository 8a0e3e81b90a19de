//! What other nodes ask of this one, through the server. The first byte tells the method, and each message of a stream
//! stands behind its length. Who does not say hello is refused; then the hello is made right, so that what lies behind
//! it is reached.

use bytes::Bytes;
use prost::Message;
use quorate::transport::proto::change_membership_request::Step;
use quorate::transport::proto::{
    self, append_frame, append_response, raft_request, snapshot_frame,
};
use quorate::transport::{Introduction, wire};
use quorate::types::{ClusterId, GroupId, NodeId, limits};
use tonic::{Code, Status};

use super::{Case, choosing, chosen, peers, records};
use crate::ground::{Answer, Asked, NODE, PULSE, here, messages, stream};

pub const CASE: Case = Case { seeds, check };

/// Who calls.
const FROM: NodeId = NodeId(1);

const CALLS: [fn(&[Bytes]); 12] = [
    adopt,
    ensure_replica,
    change_topology,
    topology,
    change_membership,
    status,
    read_index,
    park,
    pulse,
    raft,
    send_snapshot,
    append,
];

fn check(input: &[u8]) {
    if let Some((which, body)) = chosen(input, CALLS.len()) {
        CALLS[which](&messages(body));
    }
}

fn introduced() -> Introduction {
    Introduction::new(FROM, Some(ClusterId(42)))
}

/// Whether a hello is taken; `is_stranger` where one of no cluster may call.
fn is_greeted(hello: Option<&proto::Hello>, is_stranger: bool) -> bool {
    let own = &here().own;
    if is_stranger { own.greet_stranger(hello).is_ok() } else { own.greet(hello).is_ok() }
}

/// A message that says who calls.
trait Introduced: Message + Default {
    const METHOD: &'static str;
    const IS_FOR_STRANGERS: bool;

    fn hello(&mut self) -> &mut Option<proto::Hello>;
}

macro_rules! introduced {
    ($($message:ident is $method:literal, for strangers $strangers:literal;)*) => {
        $(impl Introduced for proto::$message {
            const METHOD: &'static str = $method;
            const IS_FOR_STRANGERS: bool = $strangers;

            fn hello(&mut self) -> &mut Option<proto::Hello> {
                &mut self.hello
            }
        })*
    };
}

introduced! {
    AdoptRequest is "Adopt", for strangers true;
    EnsureReplicaRequest is "EnsureReplica", for strangers false;
    ChangeTopologyRequest is "ChangeTopology", for strangers false;
    TopologyRequest is "Topology", for strangers false;
    ChangeMembershipRequest is "ChangeMembership", for strangers false;
    StatusRequest is "Status", for strangers true;
    ReadIndexRequest is "ReadIndex", for strangers false;
    ParkRequest is "Park", for strangers false;
    PulseRequest is "Pulse", for strangers false;
    RaftRequest is "Raft", for strangers false;
}

/// A call of one message, once as it came and once with a hello that is taken. Gives what that came to.
fn greeted<M: Introduced>(sent: &[Bytes]) -> Option<(M, Answer, Option<Asked>)> {
    let message = sent.first()?;
    let (answer, asked) = here().answer_peer(M::METHOD, std::slice::from_ref(message));
    let Ok(mut decoded) = M::decode(message.clone()) else {
        assert!(answer.status.code() != Code::Ok && asked.is_none());
        return None;
    };
    if !is_greeted(decoded.hello().as_ref(), M::IS_FOR_STRANGERS) {
        assert_eq!(answer.status.code(), Code::FailedPrecondition, "{:?}", answer.status);
        assert!(asked.is_none(), "a stranger is listened to");
    }
    *decoded.hello() = Some(introduced().hello(NODE));
    let (answer, asked) = here().answer_peer(M::METHOD, &[decoded.encode_to_vec().into()]);
    Some((decoded, answer, asked))
}

fn refused(status: &Status) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(!status.message().is_empty());
}

fn adopt(sent: &[Bytes]) {
    let Some((request, answer, asked)) = greeted::<proto::AdoptRequest>(sent) else { return };
    let Some(asked) = asked else {
        assert_ne!(request.cluster_id.len(), 16, "{:?}", answer.status);
        return refused(&answer.status);
    };
    assert_eq!(answer.status.code(), Code::FailedPrecondition);
    let Asked::Adopt(adoption) = asked else { panic!("{asked:?}") };
    assert_eq!(wire::cluster_to_wire(adoption.cluster), request.cluster_id);
    assert_eq!(adoption.meta_incarnation.0, request.meta_incarnation);
    assert_eq!(adoption.process, request.process_id);
    let peers = adoption.peers.into_iter();
    let peers = peers.map(|(node, address)| proto::PeerAddress { node: node.0, address });
    assert!(peers.eq(request.peers));
}

fn ensure_replica(sent: &[Bytes]) {
    let Some((request, answer, asked)) = greeted::<proto::EnsureReplicaRequest>(sent) else {
        return;
    };
    match (asked, request.replica) {
        (Some(Asked::EnsureReplica(group, replica)), Some(meant)) => {
            answer.message::<proto::EnsureReplicaReply>();
            assert_eq!((group.0, wire::replica_to_wire(replica)), (request.group, meant));
        }
        (None, None) => refused(&answer.status),
        other => panic!("{other:?}"),
    }
}

fn change_topology(sent: &[Bytes]) {
    let Some((request, answer, asked)) = greeted::<proto::ChangeTopologyRequest>(sent) else {
        return;
    };
    let Some(Asked::ChangeTopology(change)) = asked else { panic!("{asked:?}") };
    assert_eq!(change, request.change);
    assert!(!answer.message::<proto::ChangeTopologyReply>().refused.is_empty());
}

fn topology(sent: &[Bytes]) {
    let Some((_, answer, asked)) = greeted::<proto::TopologyRequest>(sent) else { return };
    assert!(matches!(asked, Some(Asked::Topology)), "{asked:?}");
    assert!(answer.message::<proto::TopologyReply>().topology.is_empty());
}

/// A step that is not known is none, and is not guessed.
fn change_membership(sent: &[Bytes]) {
    let Some((request, answer, asked)) = greeted::<proto::ChangeMembershipRequest>(sent) else {
        return;
    };
    match (asked, request.replica) {
        (Some(Asked::ChangeMembership(group, step, replica)), Some(meant)) => {
            answer.message::<proto::ChangeMembershipReply>();
            assert_eq!((group.0, wire::replica_to_wire(replica)), (request.group, meant));
            let is_known = (0..=4).contains(&request.step);
            assert_eq!(i32::from(step), if is_known { request.step } else { 0 });
        }
        (None, None) => refused(&answer.status),
        other => panic!("{other:?}"),
    }
}

fn status(sent: &[Bytes]) {
    let Some((_, answer, asked)) = greeted::<proto::StatusRequest>(sent) else { return };
    assert!(asked.is_none());
    let reply = answer.message::<proto::StatusReply>();
    let own = &here().own;
    assert_eq!(reply.process_id, own.process());
    assert_eq!(wire::cluster_from_wire(&reply.cluster_id), own.cluster());
}

fn read_index(sent: &[Bytes]) {
    let Some((_, answer, _)) = greeted::<proto::ReadIndexRequest>(sent) else { return };
    assert_eq!(answer.status.code(), Code::NotFound);
}

/// No group is here that could rest.
fn park(sent: &[Bytes]) {
    let Some((request, answer, _)) = greeted::<proto::ParkRequest>(sent) else { return };
    if request.groups.iter().any(|group| wire::at_rest_from_wire(group).is_err()) {
        return refused(&answer.status);
    }
    let groups = request.groups.into_iter().map(|group| group.route.expect("it is there").group);
    assert!(groups.eq(answer.message::<proto::ParkReply>().refused));
}

fn pulse(sent: &[Bytes]) {
    let Some((_, answer, _)) = greeted::<proto::PulseRequest>(sent) else { return };
    let reply = answer.message::<proto::PulseReply>();
    assert_eq!(reply.disk(), proto::pulse_reply::Disk::Soft);
    assert_eq!(reply.now_us, PULSE.0.0);
}

/// No replica is here that could be meant.
fn raft(sent: &[Bytes]) {
    let Some((request, answer, _)) = greeted::<proto::RaftRequest>(sent) else { return };
    match wire::route_from_wire(request.route.as_ref()) {
        Ok(_) => assert_eq!(answer.status.code(), Code::NotFound),
        Err(_) => refused(&answer.status),
    }
}

fn send_snapshot(sent: &[Bytes]) {
    use snapshot_frame::Step;
    let (answer, _) = here().answer_peer("SendSnapshot", sent);
    assert!(answer.status.code() != Code::Ok && answer.messages.is_empty());
    let Some(first) = sent.first() else { return };
    let Ok(first) = proto::SnapshotFrame::decode(first.clone()) else { return };
    let Some(Step::Open(mut open)) = first.step else { return refused(&answer.status) };
    if !is_greeted(open.hello.as_ref(), false) {
        assert_eq!(answer.status.code(), Code::FailedPrecondition);
    }
    open.hello = Some(introduced().hello(NODE));
    let has_route = wire::route_from_wire(open.route.as_ref()).is_ok();
    let first = proto::SnapshotFrame { step: Some(Step::Open(open)) };
    let sent = [&[first.encode_to_vec().into()], &sent[1..]].concat();
    let (answer, _) = here().answer_peer("SendSnapshot", &sent);
    match has_route {
        true => assert_eq!(answer.status.code(), Code::NotFound),
        false => refused(&answer.status),
    }
}

/// Streams are opened by requests with a route, and refused, since no replica is here.
fn append(sent: &[Bytes]) {
    let hello = proto::AppendFrames { hello: Some(introduced().hello(NODE)), frames: Vec::new() };
    let with_hello = [&[hello.encode_to_vec().into()], sent].concat();
    let (answer, _) = here().answer_peer("Append", &with_hello);
    assert_eq!(answer.status.code(), Code::Ok, "{:?}", answer.status);
    let decode = |message: Bytes| proto::AppendFrames::decode(message).expect("a node encodes it");
    let mut replies = answer.messages.into_iter().map(decode);
    let first = replies.next().expect("a hello comes first");
    assert!(first.frames.is_empty() && introduced().greet(first.hello.as_ref()).is_ok());
    let refused: Vec<u64> = replies.flat_map(|reply| reply.frames).map(refused_stream).collect();
    // A peer that lets more than that lie is given up.
    let is_whole = refused.len() < limits::PEER_QUEUE_MAX;
    let taken = sent.iter().map_while(|sent| proto::AppendFrames::decode(sent.clone()).ok());
    let opened = taken.flat_map(|message| message.frames).filter_map(|frame| match frame.step {
        Some(append_frame::Step::Request(request)) if request.route.is_some() => Some(frame.stream),
        _ => None,
    });
    let opened: Vec<u64> = opened.collect();
    assert!(opened.starts_with(&refused) && (opened.len() == refused.len() || !is_whole));
}

fn refused_stream(frame: proto::AppendFrame) -> u64 {
    use append_response::Result::Failed;
    let Some(append_frame::Step::Response(response)) = frame.step else { panic!("{frame:?}") };
    assert!(matches!(&response.result, Some(Failed(why)) if !why.is_empty()), "{response:?}");
    frame.stream
}

fn seeds() -> Vec<Vec<u8>> {
    let hello = || Some(introduced().hello(NODE));
    let replica = Some(wire::replica_to_wire(records::OWN));
    let GroupId(group) = GroupId(1);
    let route = Some(proto::Route { group, from: replica, to: replica });
    let log_id = proto::LogId { term: 7, leader: replica, index: 9 };
    let vote = Some(proto::Vote { term: 7, candidate: replica, committed: true });
    let last = Some(log_id);
    let adopt = proto::AdoptRequest {
        hello: hello(),
        cluster_id: wire::cluster_to_wire(ClusterId(42)),
        meta_incarnation: 1,
        peers: vec![proto::PeerAddress { node: 1, address: "10.0.0.1:7201".into() }],
        process_id: 8,
    };
    let ensure = proto::EnsureReplicaRequest { hello: hello(), group, replica };
    let change = proto::ChangeTopologyRequest { hello: hello(), change: "change".into() };
    let step = Step::Promote.into();
    let membership = proto::ChangeMembershipRequest { hello: hello(), group, step, replica };
    let rest = proto::AtRest { route, vote, last };
    let park = proto::ParkRequest { hello: hello(), groups: vec![rest, rest] };
    let request = proto::VoteRequest { vote, last, leadership_transfer: false };
    let message = Some(raft_request::Message::PreVote(request));
    let raft = proto::RaftRequest { hello: hello(), route, message };
    let open = proto::SnapshotOpen { hello: hello(), route, vote, ..Default::default() };
    let end = snapshot_frame::Step::End(proto::SnapshotEnd { rows: 0 });
    let snapshot = [snapshot_frame::Step::Open(open), end]
        .map(|step| proto::SnapshotFrame { step: Some(step) }.encode_to_vec());
    let one = |which: usize, message: Vec<u8>| choosing(which, &stream([message]));
    vec![
        one(0, adopt.encode_to_vec()),
        one(1, ensure.encode_to_vec()),
        one(2, change.encode_to_vec()),
        one(3, proto::TopologyRequest { hello: hello() }.encode_to_vec()),
        one(4, membership.encode_to_vec()),
        one(5, proto::StatusRequest { hello: hello() }.encode_to_vec()),
        one(6, proto::ReadIndexRequest { hello: hello(), group }.encode_to_vec()),
        one(7, park.encode_to_vec()),
        one(8, proto::PulseRequest { hello: hello() }.encode_to_vec()),
        one(9, raft.encode_to_vec()),
        choosing(10, &stream(snapshot)),
        choosing(11, &stream([peers::frames().encode_to_vec(), peers::frames().encode_to_vec()])),
    ]
}
