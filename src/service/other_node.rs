//! For tests: another node, to which streams are handed on. What comes there is the test's to answer.

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

/// A stream as the other node has it.
pub struct Opened<Asked, Told> {
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

struct OneOther(Arc<transport::Peers>);

impl Peers for OneOther {
    fn message_log(&self, node: NodeId, what: HandedOn) -> Option<PeerLog> {
        Some(PeerLog::new(self.0.introduced(node, what).ok()?))
    }
}

/// Takes connections to the other node.
#[derive(Clone, Debug)]
struct Connections(mpsc::Sender<io::Result<DuplexStream>>);

impl Dial for Connections {
    fn dial(&self, _address: String) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        let incoming = self.0.clone();
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(1 << 16);
            incoming.send(Ok(far)).await.map_err(io::Error::other)?;
            Ok(Box::new(near) as Box<dyn Duplex>)
        })
    }
}

/// Peers of a process: the node `other`, where `server` hands out the streams of one method that are opened to it, or
/// answers none at all.
pub fn one_other<Asked, Told>(
    process: &Process,
    other: NodeId,
    server: Server,
    method: &'static str,
    opened: Option<mpsc::Sender<Opened<Asked, Told>>>,
) -> Arc<dyn Peers>
where
    Asked: Message + Default + 'static,
    Told: Message + 'static,
{
    let (connections, incoming) = mpsc::channel(1);
    tokio::spawn(serve(incoming, server, method, opened));
    let own = Arc::new(Introduction::new(process.replicas.node(), Some(ClusterId(7))));
    let peers = transport::Peers::new(own, None, Some(Arc::new(Connections(connections))));
    peers.set_addresses([(other, "other:1".to_owned())]);
    Arc::new(OneOther(peers))
}

async fn serve<Asked, Told>(
    connections: mpsc::Receiver<io::Result<DuplexStream>>,
    server: Server,
    method: &'static str,
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
                let stream = Opened { requests: request.into_inner(), responses };
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
