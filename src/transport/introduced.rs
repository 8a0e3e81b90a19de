//! The hello of calls that are handed on: they are calls of the public API, so it travels in their metadata.

use std::sync::Arc;

use prost::Message as _;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::hello::Introduction;
use super::proto::Hello;
use crate::types::NodeId;

/// Metadata: the encoded `quorate.peer.v1.Hello` of the node that hands a call on.
const HELLO: &str = "x-quorate-hello-bin";

/// What is handed on. Each kind has a connection of its own, and none shares one with what nodes ask of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandedOn {
    /// A call whose answer this node takes as soon as it comes.
    Call,
    /// A stream of responses that a client takes when it likes.
    Stream,
}

/// A connection to another node whose calls carry this node's hello.
pub type IntroducedChannel = InterceptedService<Channel, Introducing>;

/// Adds this node's hello to each call.
#[derive(Clone)]
pub struct Introducing {
    own: Arc<Introduction>,
    to: NodeId,
}

impl Introducing {
    /// Calls to a node.
    pub fn new(own: Arc<Introduction>, to: NodeId) -> Self {
        Introducing { own, to }
    }
}

impl Interceptor for Introducing {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let hello = self.own.hello(self.to).encode_to_vec();
        request.metadata_mut().insert_bin(HELLO, MetadataValue::from_bytes(&hello));
        Ok(request)
    }
}

/// Lets no call pass without the hello of a node of this cluster.
#[derive(Clone)]
pub struct IntroducedOnly(pub Arc<Introduction>);

impl Interceptor for IntroducedOnly {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let hello = request.metadata().get_bin(HELLO).and_then(|value| value.to_bytes().ok());
        let hello = hello.and_then(|bytes| Hello::decode(bytes).ok());
        self.0.greet(hello.as_ref())?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::types::ClusterId;

    fn node(node: u32, cluster: u128) -> Arc<Introduction> {
        Arc::new(Introduction::new(NodeId(node), Some(ClusterId(cluster))))
    }

    #[test]
    fn a_call_passes_with_the_hello_of_a_node_of_the_cluster_only() {
        let mut door = IntroducedOnly(node(2, 7));
        let refused = door.call(Request::new(())).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("hello"), "{refused}");

        let introduced =
            |own, to| Introducing::new(own, NodeId(to)).call(Request::new(())).unwrap();
        assert!(door.call(introduced(node(1, 7), 2)).is_ok());
        assert!(door.call(introduced(node(1, 8), 2)).is_err(), "another cluster");
        assert!(door.call(introduced(node(1, 7), 3)).is_err(), "another node is meant");

        let mut nonsense = Request::new(());
        nonsense.metadata_mut().insert_bin(HELLO, MetadataValue::from_bytes(&[0xff; 9]));
        assert!(door.call(nonsense).is_err());
    }
}
