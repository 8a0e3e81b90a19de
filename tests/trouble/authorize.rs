//! An authorizer that says no: every RPC that the descriptors have is denied on every port that serves it, and has no
//! effect. Together with the test that compares descriptors and operations, no new RPC gets past it.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use prost::Message;
use quorate::server::Config;
use quorate::service::{Authorizer, Operation, Principal, Resource};
use quorate::transport::proto::Hello;
use quorate_client::proto::cluster_client::ClusterClient;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::session_response::Result as Answered;
use quorate_client::proto::subscribe_request::{Add, Change};
use quorate_client::proto::subscribe_response::{Ended, Kind as Response};
use quorate_client::proto::{
    BatchReadRequest, BatchReadResponse, DescribeClusterRequest, DescribeRequest, FollowRequest,
    FollowStart, GetOutcomeRequest, InitRequest, ReadRequest, ReplaceRequest, SessionRequest,
    SessionResponse, SubscribeRequest, SubscribeResponse, init_request,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use super::harness::{Everything, append, append_surely, connect_lazily, eventually, message};
use super::wire::{Api, Refusal, ask, ask_as};

const ROOM: &str = "acme/room";

/// What is denied.
const NOTHING: u8 = 0;
const EVERYTHING: u8 = 1;
/// Streams and batches may be opened; no conversation in them may be touched.
const CONVERSATIONS: u8 = 2;

#[derive(Default)]
struct Switch(AtomicU8);

impl Authorizer for Switch {
    fn allows(&self, _: &Principal, _: Operation, resource: Resource<'_>) -> bool {
        match self.0.load(Ordering::SeqCst) {
            NOTHING => true,
            CONVERSATIONS => !matches!(resource, Resource::Conversation(_)),
            _ => false,
        }
    }
}

/// A whole node in this process, because an authorizer is code.
struct Node {
    switch: Arc<Switch>,
    client: String,
    peer: String,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    _data: tempfile::TempDir,
}

impl Node {
    async fn start() -> Node {
        let data = tempfile::tempdir().unwrap();
        let held: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |at: usize| held[at].local_addr().unwrap().to_string();
        let (client, peer) = (address(0), address(1));
        let settings = [
            ("NODE_ID", "1".to_owned()),
            ("DATA_DIR", data.path().join("data").display().to_string()),
            ("CLIENT__LISTEN", client.clone()),
            ("PEER__LISTEN", peer.clone()),
            ("HTTP__LISTEN", address(2)),
            ("STORAGE__BALLAST_BYTES", "0".to_owned()),
            ("STORAGE__DISK_SOFT_FREE_BYTES", "16777217".to_owned()),
            ("STORAGE__DISK_HARD_FREE_BYTES", "16777216".to_owned()),
        ];
        let settings = settings.map(|(key, value)| (format!("QUORATE_{key}"), value));
        let config = Config::load_with(None, settings).unwrap();
        drop(held);
        let (switch, shutdown) = (Arc::new(Switch::default()), CancellationToken::new());
        let running = tokio::spawn(quorate::server::run(config, switch.clone(), shutdown.clone()));
        let node = Node { switch, client, peer, shutdown, running, _data: data };
        eventually("the node listens", async || {
            tokio::net::TcpStream::connect(&node.client).await.ok()
        })
        .await;
        node
    }

    fn deny(&self, what: u8) {
        self.switch.0.store(what, Ordering::SeqCst);
    }

    fn nodes(&self) -> Vec<init_request::Node> {
        vec![init_request::Node { node_id: 1, peer_address: self.peer.clone() }]
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }
}

/// A request that would have an effect, or show something, if it were allowed.
fn good(method: &str, nodes: Vec<init_request::Node>) -> Bytes {
    let conversation = || ROOM.to_owned();
    let new = || Some(append(ROOM, vec![message("new", "new")]));
    let encoded = match method {
        "Append" => new().unwrap().encode_to_vec(),
        "AppendSession" => {
            SessionRequest { request_id: 1, append: new(), reset_lane: false }.encode_to_vec()
        }
        "Read" => {
            ReadRequest { conversation: conversation(), ..Default::default() }.encode_to_vec()
        }
        "BatchRead" => {
            let conversations = vec![conversation()];
            BatchReadRequest { conversations, last: 1, consistency: None }.encode_to_vec()
        }
        "Follow" => {
            let start = FollowStart { conversation: conversation(), start: None };
            FollowRequest { conversations: vec![start], heartbeat_ms: 0 }.encode_to_vec()
        }
        "Subscribe" => {
            let add = Add { conversation: conversation(), ..Add::default() };
            SubscribeRequest { change: Some(Change::Add(add)) }.encode_to_vec()
        }
        "GetOutcome" => GetOutcomeRequest {
            conversation: conversation(),
            sender: "ann".into(),
            client_msg_id: "burnt".into(),
            issued_at_us: super::harness::now_us(),
            settle: true,
        }
        .encode_to_vec(),
        "Describe" => {
            DescribeRequest { conversation: conversation(), consistency: None }.encode_to_vec()
        }
        "Init" => InitRequest { nodes, ..InitRequest::default() }.encode_to_vec(),
        "Replace" => {
            ReplaceRequest { node_id: 1, peer_address: String::new(), all: true }.encode_to_vec()
        }
        // They ask for nothing in particular.
        "List" | "DescribeCluster" | "WatchTopology" => Vec::new(),
        other => panic!("{other} is a new RPC: say here what a good request of it is"),
    };
    encoded.into()
}

/// The hello of another node of the cluster, without which the peer port takes no call.
async fn hello_to(cluster: &mut ClusterClient<Channel>) -> Hello {
    let described = cluster.describe_cluster(DescribeClusterRequest {}).await.unwrap().into_inner();
    let id = described.topology.expect("a cluster has a topology").cluster_id;
    let id = u128::from_str_radix(&id, 16).expect("a cluster id");
    Hello {
        cluster_id: id.to_be_bytes().to_vec().into(),
        from_node: 2,
        to_node: 1,
        protocol_min: 1,
        protocol_max: 1,
        feature_level: 1,
        process_id: 7,
    }
}

fn assert_denied(what: &str, refusal: &Refusal) {
    assert_eq!(refusal.code, Code::PermissionDenied, "{what}: {refusal:?}");
    assert_eq!(refusal.reason, "PERMISSION_DENIED", "{what}: {refusal:?}");
    assert!(!refusal.retryable && !refusal.may_have_taken_effect, "{what}: {refusal:?}");
}

/// Asks every RPC of some services with a good request, with an empty one and with nonsense.
async fn every_rpc_is_denied(
    node: &Node,
    address: &str,
    services: &[&str],
    hello: Option<&Hello>,
) -> usize {
    let channel = connect_lazily(address);
    let mut asked = 0;
    for method in Api::load().methods {
        let name = method.path.rsplit('/').next().unwrap();
        if !services.contains(&&*method.service) {
            let status = ask(&channel, &method.path, Bytes::new()).await.expect_err(name);
            assert_eq!(status.code(), Code::Unimplemented, "{name} is not served at {address}");
            continue;
        }
        asked += 1;
        for request in [good(name, node.nodes()), Bytes::new()] {
            match ask_as(&channel, &method.path, request, hello).await {
                Err(status) => assert_denied(&method.path, &Refusal::of(&status)),
                Ok(answer) => panic!("{} was answered: {answer:?}", method.path),
            }
        }
    }
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_do_nothing_is_denied_every_rpc_on_both_ports_without_effect() {
    let node = Node::start().await;
    node.deny(EVERYTHING);
    // A node that belongs to no cluster yet does not become one either.
    assert_eq!(
        every_rpc_is_denied(&node, &node.client, &["MessageLog", "Cluster"], None).await,
        13
    );
    node.deny(NOTHING);
    let mut cluster = ClusterClient::new(connect_lazily(&node.client));
    let init = InitRequest { nodes: node.nodes(), groups: 2, ..InitRequest::default() };
    assert!(cluster.init(init).await.unwrap().into_inner().created);
    let mut log = MessageLogClient::new(connect_lazily(&node.client));
    append_surely(&mut log, append(ROOM, vec![message("first", "hello")])).await;
    let before = Everything::of(&mut log, &[ROOM]).await;
    let incarnations = |described: quorate_client::proto::DescribeClusterResponse| {
        let replicas = described.nodes.into_iter().flat_map(|node| node.replicas);
        replicas.map(|replica| (replica.group_id, replica.incarnation)).collect::<Vec<_>>()
    };
    let describe = DescribeClusterRequest {};
    let replicas = incarnations(cluster.describe_cluster(describe).await.unwrap().into_inner());

    let hello = Some(hello_to(&mut cluster).await);
    node.deny(EVERYTHING);
    assert_eq!(
        every_rpc_is_denied(&node, &node.client, &["MessageLog", "Cluster"], None).await,
        13
    );
    // What other nodes hand on comes this way.
    assert_eq!(every_rpc_is_denied(&node, &node.peer, &["MessageLog"], hello.as_ref()).await, 9);
    node.deny(NOTHING);
    assert_eq!(Everything::of(&mut log, &[ROOM]).await, before);
    let after = incarnations(cluster.describe_cluster(describe).await.unwrap().into_inner());
    assert_eq!(after, replicas);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_conversation_of_a_stream_or_batch_is_authorized_on_its_own() {
    let node = Node::start().await;
    let mut cluster = ClusterClient::new(connect_lazily(&node.client));
    let init = InitRequest { nodes: node.nodes(), groups: 2, ..InitRequest::default() };
    cluster.init(init).await.unwrap();
    let mut log = MessageLogClient::new(connect_lazily(&node.client));
    append_surely(&mut log, append(ROOM, vec![message("first", "hello")])).await;
    let before = Everything::of(&mut log, &[ROOM]).await;
    let hello = hello_to(&mut cluster).await;
    node.deny(CONVERSATIONS);
    for (address, hello) in [(&node.client, None), (&node.peer, Some(&hello))] {
        let channel: Channel = connect_lazily(address);
        for method in ["AppendSession", "BatchRead", "Follow", "Subscribe"] {
            let path = format!("/quorate.v1.MessageLog/{method}");
            let response = match ask_as(&channel, &path, good(method, node.nodes()), hello).await {
                Ok(response) => response.unwrap(),
                Err(status) => {
                    assert_denied(method, &Refusal::of(&status));
                    continue;
                }
            };
            let failure = match method {
                "AppendSession" => match SessionResponse::decode(response).unwrap().result {
                    Some(Answered::Failed(failure)) => failure,
                    other => panic!("{other:?}"),
                },
                "BatchRead" => {
                    BatchReadResponse::decode(response).unwrap().items.remove(0).failed.unwrap()
                }
                "Subscribe" => match SubscribeResponse::decode(response).unwrap().kind {
                    Some(Response::Ended(Ended { failed: Some(failure), .. })) => failure,
                    other => panic!("{other:?}"),
                },
                other => panic!("{other} was answered"),
            };
            assert_denied(method, &Refusal::in_stream(failure));
        }
    }
    node.deny(NOTHING);
    assert_eq!(Everything::of(&mut log, &[ROOM]).await, before);
    node.stop().await;
}
