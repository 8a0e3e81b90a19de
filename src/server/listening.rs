//! The ports of a node: the machine's, or a simulator's.

use std::io;
use std::net::SocketAddr;

use futures::future::BoxFuture;
use quorate_client::dial::Duplex;
use tokio::net::TcpListener;

use super::Config;

/// A connection that has come in.
pub type Accepted = (Box<dyn Duplex>, SocketAddr);

/// A port that is open.
pub trait Listen: Send {
    /// Waits for a connection; tells where it comes from. Cancel safe: a connection not returned is not lost.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>>;

    /// Where it listens.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

impl Listen for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async {
            let (stream, address) = TcpListener::accept(self).await?;
            // Fails only if the connection is gone, which the next step finds out.
            let _ = stream.set_nodelay(true);
            Ok((Box::new(stream) as Box<dyn Duplex>, address))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}

/// The ports of a node, bound. Who connects waits until the node serves.
pub struct Listeners {
    /// Serves clients.
    pub client: Box<dyn Listen>,
    /// Serves the other nodes.
    pub peer: Box<dyn Listen>,
    /// Serves metrics and health.
    pub http: Box<dyn Listen>,
}

/// A port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {address}")]
pub struct ListenError {
    /// The key of the configuration that names it.
    key: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl Listeners {
    /// Binds this machine's ports.
    ///
    /// # Errors
    /// The operating system refuses one.
    pub async fn bind(config: &Config) -> Result<Listeners, ListenError> {
        Ok(Listeners {
            client: listen("client.listen", config.client.listen).await?,
            peer: listen("peer.listen", config.peer.listen).await?,
            http: listen("http.listen", config.http.listen).await?,
        })
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<Box<dyn Listen>, ListenError> {
    let bound = TcpListener::bind(address).await;
    Ok(Box::new(bound.map_err(|source| ListenError { key, address, source })?))
}

/// For tests: a port without a network.
#[cfg(test)]
pub(super) mod called {
    use std::net::Ipv4Addr;

    use tokio::io::DuplexStream;
    use tokio::sync::mpsc;

    use super::*;

    const BUFFER_BYTES: usize = 64 * 1024;

    /// Whoever connects to it.
    #[derive(Clone)]
    pub struct Callers(mpsc::Sender<DuplexStream>);

    /// The port. Nobody comes any more once all callers are gone.
    pub struct Called(mpsc::Receiver<DuplexStream>);

    pub fn called() -> (Callers, Called) {
        let (sender, receiver) = mpsc::channel(1);
        (Callers(sender), Called(receiver))
    }

    impl Callers {
        /// Connects.
        pub async fn call(&self) -> DuplexStream {
            let (near, far) = tokio::io::duplex(BUFFER_BYTES);
            self.0.send(far).await.unwrap();
            near
        }
    }

    impl Listen for Called {
        fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
            Box::pin(async {
                match self.0.recv().await {
                    Some(stream) => Ok((Box::new(stream) as Box<dyn Duplex>, self.local_addr()?)),
                    None => std::future::pending().await,
                }
            })
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok((Ipv4Addr::LOCALHOST, 1).into())
        }
    }
}
