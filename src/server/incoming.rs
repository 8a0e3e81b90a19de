//! Connections of a port, plain or behind a TLS handshake. How they begin is looked at side by side: a slow or silent
//! stranger delays nobody. Whoever does not begin as the port's protocol does is refused, and so is whoever comes when
//! the port has all connections that it may have. The log says so, at most once a minute for each port: an open port
//! meets all kinds of programs.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use quorate_client::dial::Duplex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::connections::Places;
use super::greeting::{Protocol, Refusal, greet};
use super::listening::{Accepted, Listen};
use crate::types::limits;

/// A client that is there speaks at once.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A port that cannot accept, for want of file descriptors, may do so again once connections have ended.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Between two lines about refused connections of one port.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// A connection that is ready to be used.
pub struct Connection {
    io: Box<dyn Duplex>,
    /// What was read of it to see what it speaks, and was not handed on yet.
    beginning: Bytes,
    ends: TcpConnectInfo,
    /// Free again once the connection is gone.
    _place: OwnedSemaphorePermit,
}

/// The connections of a port.
pub type Incoming = Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>;

/// Accepts from a port as long as it has places. Every connection has said what it speaks, behind TLS too.
pub fn incoming(
    listener: Box<dyn Listen>,
    tls: Option<Arc<ServerConfig>>,
    protocol: Protocol,
    places: Places,
) -> Incoming {
    let acceptor = tls.map(TlsAcceptor::from);
    let local_addr = listener.local_addr().ok();
    let mut report = Report { port: places.port(), refused: 0, last: None };
    let beginnings = stream::unfold(listener, move |mut listener| {
        let (acceptor, places) = (acceptor.clone(), places.clone());
        async move {
            let (io, address) = accept(listener.as_mut(), places.port()).await;
            let ends = TcpConnectInfo { local_addr, remote_addr: Some(address) };
            let place = places.take();
            let begun = async move {
                let place = place.ok_or((NotBegun::Full, address))?;
                let begun = begin(io, acceptor, protocol).await;
                let (io, beginning) = begun.map_err(|reason| (reason, address))?;
                Ok(Connection { io, beginning, ends, _place: place })
            };
            Some((begun, listener))
        }
    });
    let accepted = beginnings.buffer_unordered(limits::GREETINGS_MAX).filter_map(move |begun| {
        let connection = match begun {
            Ok(connection) => Some(Ok(connection)),
            Err((reason, address)) => {
                report.refuse(&reason, address);
                None
            }
        };
        std::future::ready(connection)
    });
    Box::pin(accepted)
}

/// Why a connection is not let in.
#[derive(Debug, thiserror::Error)]
enum NotBegun {
    #[error(transparent)]
    Greeting(#[from] Refusal),
    #[error("its TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("the port has all connections that it may have")]
    Full,
}

async fn accept(listener: &mut dyn Listen, port: &'static str) -> Accepted {
    let mut has_failed = false;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                if !has_failed {
                    tracing::warn!(port, %error, "connections cannot be accepted");
                }
                has_failed = true;
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn begin(
    io: Box<dyn Duplex>,
    acceptor: Option<TlsAcceptor>,
    protocol: Protocol,
) -> Result<(Box<dyn Duplex>, Bytes), NotBegun> {
    let mut io = match acceptor {
        Some(acceptor) => shake_hands(io, acceptor).await?,
        None => io,
    };
    let beginning = greet(&mut io, protocol).await?;
    Ok((io, beginning.into()))
}

async fn shake_hands(
    io: Box<dyn Duplex>,
    acceptor: TlsAcceptor,
) -> Result<Box<dyn Duplex>, NotBegun> {
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(io)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(NotBegun::Handshake(error)),
        Err(_) => Err(NotBegun::Greeting(Refusal::Silent)),
    }
}

/// What the log is told about refused connections of one port.
struct Report {
    port: &'static str,
    /// Since the last line.
    refused: u64,
    last: Option<Instant>,
}

impl Report {
    fn refuse(&mut self, reason: &NotBegun, address: SocketAddr) {
        let port = self.port;
        if let NotBegun::Greeting(Refusal::Silent | Refusal::Gone) = reason {
            tracing::debug!(port, %address, %reason, "a connection is refused");
            return;
        }
        self.refused += 1;
        if self.last.is_some_and(|last| last.elapsed() < REPORT_INTERVAL) {
            return;
        }
        tracing::warn!(port, %address, refused = self.refused, %reason, "a connection is refused");
        (self.refused, self.last) = (0, Some(Instant::now()));
    }
}

/// Where it comes from.
impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.ends.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.beginning.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let length = self.beginning.len().min(buffer.remaining());
        buffer.put_slice(&self.beginning.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;
    use crate::server::Metrics;
    use crate::server::listening::called::called;

    /// Of simulated time: nothing waits as long.
    const LONG: Duration = Duration::from_secs(3_600);

    /// Both ends of a port whose certificate is its own authority.
    fn port() -> (Arc<ServerConfig>, TlsConnector) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Arc::new(server), TlsConnector::from(Arc::new(client)))
    }

    fn places(connections_max: usize) -> Places {
        Places::new("test", connections_max, Arc::new(Metrics::new()))
    }

    async fn encrypted<S: AsyncRead + AsyncWrite + Unpin>(
        client: &TlsConnector,
        stream: S,
    ) -> TlsStream<S> {
        let name = ServerName::try_from("localhost").unwrap();
        client.connect(name, stream).await.unwrap()
    }

    #[tokio::test]
    async fn strangers_to_tls_are_cut_off_and_hold_nobody_up() {
        const SAID: &str = "GET / HTTP/1.1\r\n\r\n";
        let (server, client) = port();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Box::new(listener);
        let mut connections = incoming(listener, Some(server), Protocol::Http1, places(3));
        // One says nothing at all, one speaks plain HTTP; both came first.
        let silent = TcpStream::connect(address).await.unwrap();
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(SAID.as_bytes()).await.unwrap();
        let (tell, heard) = tokio::sync::oneshot::channel();
        let serve = async {
            let mut connection = connections.next().await.unwrap().unwrap();
            assert!(connection.connect_info().remote_addr().is_some());
            let mut said = String::new();
            connection.read_to_string(&mut said).await.unwrap();
            tell.send(said).unwrap();
            connections.next().await
        };
        let speak = async {
            let mut stream = encrypted(&client, TcpStream::connect(address).await.unwrap()).await;
            stream.write_all(SAID.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(heard.await.unwrap(), SAID);
            // What the plain one gets is an alert and the end.
            let mut answer = Vec::new();
            let _ = plain.read_to_end(&mut answer).await;
            assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
        };
        tokio::select! {
            _ = serve => panic!("a stranger was let in"),
            () = speak => {}
        }
        drop(silent);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_behind_the_handshake_is_cut_off() {
        let (server, client) = port();
        let (callers, listener) = called();
        let mut connections =
            incoming(Box::new(listener), Some(server), Protocol::Http2OrHttp1, places(1));
        let silent = async {
            let mut stream = encrypted(&client, callers.call().await).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        tokio::select! {
            _ = connections.next() => panic!("who says nothing is let in"),
            ended = timeout(LONG, silent) => ended.expect("it is cut off"),
        }
    }

    #[tokio::test]
    async fn who_comes_to_a_full_port_is_refused_until_somebody_leaves() {
        const SAID: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
        let (callers, listener) = called();
        let mut connections = incoming(Box::new(listener), None, Protocol::Http1, places(1));
        let mut first = callers.call().await;
        first.write_all(SAID).await.unwrap();
        let served = connections.next().await.unwrap().unwrap();
        let mut second = callers.call().await;
        let refused = async { second.read_to_end(&mut Vec::new()).await.unwrap() };
        tokio::select! {
            _ = connections.next() => panic!("there is no place"),
            bytes = refused => assert_eq!(bytes, 0),
        }
        drop(served);
        let mut third = callers.call().await;
        third.write_all(SAID).await.unwrap();
        assert!(connections.next().await.unwrap().is_ok());
    }
}
