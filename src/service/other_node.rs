//! For tests: other nodes, to which calls are handed on. What comes there is the test's to answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use futures::future::{self, BoxFuture};
use prost::Message;
use quorate_client::dial::{Dial, Duplex};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{PeerLog, Peers};
use crate::consensus::solitary::Process;
use crate::transport::{self, HandedOn, Introduction};
use crate::types::{ClusterId, NodeId};

/// A call as the other node has it.
pub struct Opened<Asked, Told> {
    /// Who is asked.
    pub node: NodeId,
    /// What is asked.
    pub requests: Streaming<Asked>,
    /// What is answered.
    pub responses: mpsc::Sender<Result<Told, Status>>,
}

/// There is no other node.
pub struct NoPeers;

impl Peers for NoPeers {
    fn message_log(&self, _node: NodeId, _what: HandedOn) -> Option<PeerLog> {
        None
    }
}

struct Others(Arc<transport::Peers>);

impl Peers for Others {
    fn message_log(&self, node: NodeId, what: HandedOn) -> Option<PeerLog> {
        Some(PeerLog::new(self.0.introduced(node, what).ok()?))
    }
}

/// Takes connections to the other nodes, by their addresses.
#[derive(Clone, Debug)]
struct Connections(Arc<BTreeMap<String, mpsc::Sender<io::Result<DuplexStream>>>>);

impl Dial for Connections {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        let incoming = self.0[&address].clone();
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(1 << 16);
            incoming.send(Ok(far)).await.map_err(io::Error::other)?;
            Ok(Box::new(near) as Box<dyn Duplex>)
        })
    }
}

/// Peers of a process: the `nodes`, where `server` hands out the calls of one method that are made to them, or answers
/// none at all.
pub fn others<Asked, Told>(
    process: &Process,
    nodes: &[NodeId],
    server: Server,
    method: &'static str,
    opened: Option<mpsc::Sender<Opened<Asked, Told>>>,
) -> Arc<dyn Peers>
where
    Asked: Message + Default + 'static,
    Told: Message + 'static,
{
    let address = |node: NodeId| format!("other:{node}");
    let mut connections = BTreeMap::new();
    for node in nodes {
        let (sender, incoming) = mpsc::channel(1);
        connections.insert(address(*node), sender);
        tokio::spawn(serve(incoming, server.clone(), method, *node, opened.clone()));
    }
    let own = Arc::new(Introduction::new(process.replicas.node(), Some(ClusterId(7))));
    let dial = Arc::new(Connections(Arc::new(connections)));
    let peers = transport::Peers::new(own, None, Some(dial));
    peers.set_addresses(nodes.iter().map(|node| (*node, address(*node))));
    Arc::new(Others(peers))
}

async fn serve<Asked, Told>(
    connections: mpsc::Receiver<io::Result<DuplexStream>>,
    server: Server,
    method: &'static str,
    node: NodeId,
    opened: Option<mpsc::Sender<Opened<Asked, Told>>>,
) where
    Asked: Message + Default + 'static,
    Told: Message + 'static,
{
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let opened = opened.clone();
        let stream = tower::service_fn(move |request: Request<Streaming<Asked>>| {
            let opened = opened.clone();
            async move {
                let Some(opened) = opened else { return future::pending().await };
                let (responses, receiver) = mpsc::channel(1);
                let stream = Opened { node, requests: request.into_inner(), responses };
                opened.send(stream).await.map_err(|_| Status::aborted("the test is over"))?;
                Ok::<_, Status>(Response::new(ReceiverStream::new(receiver)))
            }
        });
        async move {
            // Connections between nodes bring other calls too.
            if request.uri().path() != method {
                return Ok(Status::unimplemented("not here").into_http());
            }
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Told, Asked>::default());
            Ok::<_, Infallible>(grpc.streaming(stream, request).await)
        }
    });
    server.serve_with_incoming(service, ReceiverStream::new(connections)).await.unwrap();
}
