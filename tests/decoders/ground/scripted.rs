//! A node that answers what it is told to, over connections in memory.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Ready, ready};
use quorate_client::Dial;
use quorate_client::dial::Duplex;
use tokio::io::duplex;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::transport::Server;

use super::called::framed;

const NAMES: [&str; 3] = ["quorate.v1.MessageLog", "quorate.v1.Cluster", "quorate.peer.v1.Peer"];
/// Of a connection, each way.
const BUFFER_BYTES: usize = 64 * 1024;
/// A call that is answered beside all others.
const WATCH_TOPOLOGY: &str = "/quorate.v1.Cluster/WatchTopology";

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub messages: Vec<Bytes>,
    pub status: Status,
}

impl Reply {
    /// What is answered to calls beyond the script: no client tries again.
    fn over() -> Reply {
        Reply { messages: Vec::new(), status: Status::invalid_argument("that is all") }
    }
}

/// What is answered, call by call.
#[derive(Clone)]
pub struct Script {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    topology: Reply,
}

impl Script {
    /// These answers.
    pub fn new(replies: impl IntoIterator<Item = Reply>) -> Script {
        let replies = replies.into_iter().collect();
        Script { replies: Arc::new(Mutex::new(replies)), topology: Reply::over() }
    }

    /// The same, and this to all who ask for the topology.
    pub fn with_topology(mut self, topology: Reply) -> Script {
        self.topology = topology;
        self
    }

    fn next(&self, path: &str) -> Reply {
        if path == WATCH_TOPOLOGY {
            return self.topology.clone();
        }
        let next = self.replies.lock().expect("no panic while locked").pop_front();
        next.unwrap_or_else(Reply::over)
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

/// Whatever address is dialled, it is that of a node which answers so.
pub fn dial(script: Script) -> Arc<dyn Dial> {
    Arc::new(script)
}

impl Dial for Script {
    fn dial(&self, _address: String) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        let (near, far) = duplex(BUFFER_BYTES);
        let connection = futures::stream::iter([Ok::<_, io::Error>(far)]);
        let serving = Server::builder()
            .add_service(Scripted::<0>(self.clone()))
            .add_service(Scripted::<1>(self.clone()))
            .add_service(Scripted::<2>(self.clone()))
            .serve_with_incoming(connection);
        tokio::spawn(serving);
        ready(Ok(Box::new(near) as Box<dyn Duplex>)).boxed()
    }
}

/// One of the services by its place in `NAMES`.
#[derive(Clone)]
struct Scripted<const WHICH: usize>(Script);

impl<const WHICH: usize> NamedService for Scripted<WHICH> {
    const NAME: &'static str = NAMES[WHICH];
}

impl<const WHICH: usize> Service<Request<Body>> for Scripted<WHICH> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let reply = self.0.next(request.uri().path());
        let mut response = Response::new(framed(&reply.messages, Some(&reply.status)));
        let kind = tonic::metadata::GRPC_CONTENT_TYPE;
        response.headers_mut().insert("content-type", kind);
        ready(Ok(response))
    }
}
