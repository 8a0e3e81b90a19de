use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::{join, join_all};
use futures::{Stream, stream};
use openraft::async_runtime::WatchReceiver;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::proto::peer_server::{Peer, PeerServer};
use super::*;
use crate::consensus::solitary::{Disks, NODE};
use crate::types::{ClusterId, HashRange, Incarnation, ReplicaId};

const OTHER: NodeId = NodeId(2);
const FRAME_BYTES: usize = 64 * 1024;
/// Until something counts as stuck.
const STUCK: Duration = Duration::from_secs(20);

/// Another node: answers what it is asked, streams without end, and notes on which connection each call came.
#[derive(Clone, Default)]
struct Other {
    came: Arc<Mutex<HashMap<&'static str, SocketAddr>>>,
    /// Snapshots that came, and those of them that are still there.
    snapshots: Arc<(AtomicUsize, AtomicUsize)>,
    /// Lets them end.
    ends: Arc<Notify>,
}

impl Other {
    fn note<T>(&self, call: &'static str, request: &Request<T>) {
        let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        came.insert(call, request.remote_addr().unwrap());
    }

    fn connection(&self, call: &'static str) -> SocketAddr {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)[call]
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<proto::AppendFrames, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Peer for Other {
    type AppendStream = Frames;

    /// Stands for a Read.
    async fn append(&self, request: Request<Streaming<proto::AppendFrames>>) -> Answer<Frames> {
        self.note("stream", &request);
        let entries = vec![Bytes::from(vec![7; FRAME_BYTES])];
        let append = proto::AppendRequest { entries, ..proto::AppendRequest::default() };
        let frame = proto::AppendFrame { stream: 1, step: Some(append_frame(append)) };
        let frames = proto::AppendFrames { hello: None, frames: vec![frame] };
        Ok(Response::new(Box::pin(stream::repeat_with(move || Ok(frames.clone())))))
    }

    async fn raft(&self, request: Request<proto::RaftRequest>) -> Answer<proto::RaftReply> {
        self.note("raft", &request);
        let message = Some(proto::raft_reply::Message::TransferRefused(String::new()));
        Ok(Response::new(proto::RaftReply { message }))
    }

    async fn read_index(
        &self,
        request: Request<proto::ReadIndexRequest>,
    ) -> Answer<proto::ReadIndexReply> {
        self.note("read index", &request);
        Ok(Response::new(proto::ReadIndexReply { index: 3 }))
    }

    /// Stands for an Append.
    async fn pulse(&self, request: Request<proto::PulseRequest>) -> Answer<proto::PulseReply> {
        self.note("call", &request);
        Ok(Response::new(proto::PulseReply::default()))
    }

    async fn send_snapshot(
        &self,
        _: Request<Streaming<proto::SnapshotFrame>>,
    ) -> Answer<proto::SnapshotReply> {
        let (came, there) = &*self.snapshots;
        came.fetch_add(1, Ordering::SeqCst);
        there.fetch_add(1, Ordering::SeqCst);
        self.ends.notified().await;
        there.fetch_sub(1, Ordering::SeqCst);
        Err(Status::unavailable("enough"))
    }

    async fn adopt(&self, _: Request<proto::AdoptRequest>) -> Answer<proto::AdoptReply> {
        Err(Status::unimplemented(""))
    }

    async fn ensure_replica(
        &self,
        _: Request<proto::EnsureReplicaRequest>,
    ) -> Answer<proto::EnsureReplicaReply> {
        Err(Status::unimplemented(""))
    }

    async fn change_topology(
        &self,
        _: Request<proto::ChangeTopologyRequest>,
    ) -> Answer<proto::ChangeTopologyReply> {
        Err(Status::unimplemented(""))
    }

    async fn topology(&self, _: Request<proto::TopologyRequest>) -> Answer<proto::TopologyReply> {
        Err(Status::unimplemented(""))
    }

    async fn change_membership(
        &self,
        _: Request<proto::ChangeMembershipRequest>,
    ) -> Answer<proto::ChangeMembershipReply> {
        Err(Status::unimplemented(""))
    }

    async fn park(&self, _: Request<proto::ParkRequest>) -> Answer<proto::ParkReply> {
        Err(Status::unimplemented(""))
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Answer<proto::StatusReply> {
        Err(Status::unimplemented(""))
    }
}

fn append_frame(append: proto::AppendRequest) -> proto::append_frame::Step {
    proto::append_frame::Step::Request(append)
}

/// This node, which knows the other.
async fn connected() -> (Arc<Peers>, Other) {
    let other = Other::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder().add_service(PeerServer::new(other.clone()));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let own = Arc::new(Introduction::new(NodeId(1), Some(ClusterId(7))));
    let peers = Peers::new(own, None, None);
    peers.set_addresses([(OTHER, address)]);
    (peers, other)
}

/// A stream of responses that is handed on for a client.
async fn read(peers: &Peers) -> Streaming<proto::AppendFrames> {
    let mut client = PeerClient::new(peers.introduced(OTHER, HandedOn::Stream).unwrap());
    client.append(stream::pending()).await.unwrap().into_inner()
}

/// One call of each other kind is answered.
async fn ask(peers: &Peers) {
    let confirmed = peers.read_index(OTHER, GroupId(1)).await.unwrap();
    assert_eq!(confirmed, LogIndex(3));
    let raft = peers.client(OTHER).unwrap().raft(proto::RaftRequest::default()).await;
    assert!(raft.is_ok(), "{raft:?}");
    let mut client = PeerClient::new(peers.introduced(OTHER, HandedOn::Call).unwrap());
    let answer = client.pulse(proto::PulseRequest::default()).await;
    assert!(answer.is_ok(), "{answer:?}");
}

#[tokio::test]
async fn what_clients_call_shares_no_connection_with_what_nodes_ask() {
    let (peers, other) = connected().await;
    let _reading = read(&peers).await;
    ask(&peers).await;
    let [raft, read_index, call, stream] =
        ["raft", "read index", "call", "stream"].map(|call| other.connection(call));
    assert_eq!(raft, read_index);
    assert!(raft != call && raft != stream, "clients use the connection for votes");
    assert_ne!(call, stream, "streams that lie unread share a connection with calls");
}

#[tokio::test]
async fn clients_that_do_not_read_hold_up_no_others() {
    let (peers, _other) = connected().await;
    let mut unread = Vec::new();
    for _ in 0..16 {
        unread.push(read(&peers).await);
    }
    // More than the whole connection may hold: it is not stuck.
    let mut reading = read(&peers).await;
    let frames = 2 * UNHURRIED.connection_bytes as usize / FRAME_BYTES;
    for number in 0..frames {
        let frame = timeout(STUCK, reading.message()).await;
        let frame = frame.unwrap_or_else(|_| panic!("stuck at frame {number} of {frames}"));
        assert!(frame.unwrap().is_some());
    }
    timeout(STUCK, ask(&peers)).await.expect("calls are stuck");
    drop(unread);
}

/// All at once would take long side by side, and be given up together (G9).
#[tokio::test]
async fn no_more_snapshots_are_on_their_way_to_a_node_at_a_time_than_have_places() {
    const ALL: usize = 5;
    let (peers, other) = connected().await;
    let process = Disks::default().start().await;
    let own = ReplicaId { node: NODE, incarnation: Incarnation(1) };
    let group = process.leading(GroupId(1), own, HashRange::ALL).await;
    let (from, to) = (own, ReplicaId { node: OTHER, ..own });
    let route = Route { group: GroupId(1), from, to };
    let vote = group.raft().server_metrics().borrow_watched().vote;
    let send = || peers.send_snapshot(route, vote, group.snapshot_source().clone());
    let sending = join_all((0..ALL).map(|_| send()));
    let watching = async {
        let (came, there) = &*other.snapshots;
        for ended in 0..ALL {
            let due = (ended + limits::SNAPSHOTS_AT_ONCE).min(ALL);
            while came.load(Ordering::SeqCst) < due {
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(there.load(Ordering::SeqCst), due - ended);
            other.ends.notify_one();
            while there.load(Ordering::SeqCst) + ended + 1 > came.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let (sent, ()) = timeout(STUCK, join(sending, watching)).await.expect("each has its turn");
    assert!(sent.iter().all(Result::is_err), "{sent:?}");
}

#[tokio::test]
async fn that_nothing_listens_is_told_at_once_and_no_longer_once_something_does() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let own = Arc::new(Introduction::new(NodeId(1), Some(ClusterId(7))));
    let peers = Peers::new(own, None, None);
    peers.set_addresses([(OTHER, address.to_string())]);
    assert!(peers.refusals().is_empty());
    assert!(peers.links.lock().unwrap().is_empty(), "to look is not to connect");
    peers.keep_in_touch(OTHER);
    let first = refusal(&peers, |refusal| refusal.is_some()).await.unwrap();
    let later = refusal(&peers, |refusal| refusal.is_some_and(|one| one.last > first.last)).await;
    assert_eq!(later.unwrap().since, first.since);

    // It breaks off each time, which is not the same as not being there.
    let listener = TcpListener::bind(address).await.unwrap();
    let listening = async {
        loop {
            drop(listener.accept().await.unwrap());
        }
    };
    let known = async {
        while peers.refusals().contains_key(&OTHER) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = listening => {}
        known = timeout(STUCK, known) => known.expect("it is known that something listens"),
    }
}

/// What is known of the other node, after each refused connection, until it is as wanted.
async fn refusal(peers: &Peers, is_wanted: impl Fn(Option<Refusal>) -> bool) -> Option<Refusal> {
    let found = async {
        loop {
            let refusal = peers.refusals().remove(&OTHER);
            if is_wanted(refusal) {
                return refusal;
            }
            peers.refused().await;
        }
    };
    timeout(STUCK, found).await.expect("connections are refused")
}
