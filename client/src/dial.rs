//! How connections to nodes are opened, where the operating system's TCP is not what is wanted.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::ServiceExt;

use crate::gathered::Gathered;

/// Opens connections: through a proxy, to a Unix socket, in a simulation.
///
/// TLS, where it is configured, goes on top of them. An attempt that takes longer than the connect timeout is dropped.
pub trait Dial: Send + Sync + fmt::Debug {
    /// Connects to `host:port`.
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>>;
}

/// A connection: bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A channel that connects when it is first used, by `dial` or else over TCP.
pub fn connect_lazy(endpoint: &Endpoint, dial: Option<Arc<dyn Dial>>) -> Channel {
    let Some(dial) = dial else {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(endpoint.get_tcp_nodelay());
        tcp.set_connect_timeout(endpoint.get_connect_timeout());
        let gathered =
            |connection: TokioIo<_>| TokioIo::new(Gathered::new(connection.into_inner()));
        return endpoint.connect_with_connector_lazy(tcp.map_response(gathered));
    };
    endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
        let address = uri.authority().map(ToString::to_string).unwrap_or_default();
        let dialled = dial.dial(address);
        async move { dialled.await.map(TokioIo::new) }
    }))
}
