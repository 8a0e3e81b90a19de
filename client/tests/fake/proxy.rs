use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Passes connections on to a server, and can cut them.
pub struct Proxy {
    address: SocketAddr,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let accepted = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                accepted.lock().unwrap().spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(server).await {
                        // How a connection ends concerns its two ends.
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Proxy { address, connections }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection at once; new ones are passed on.
    pub fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }
}
