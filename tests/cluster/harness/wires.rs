//! One connection between two nodes, carried through this process: each direction on its own, as the weather allows.
//!
//! What a broken direction would not tell is not told: an end of stream waits like bytes do, and that a receiver has
//! gone travels in the opposite direction.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::links::{Direction, Hits, Loss, Weather};

const BUFFER_BYTES: usize = 64 * 1024;

/// Carries a connection that `ends.0` opened to `ends.1` until one of them ends it, or it is cut.
pub(super) async fn carry(
    inbound: TcpStream,
    target: SocketAddr,
    ends: Direction,
    mut weather: watch::Receiver<Weather>,
    hits: Arc<Hits>,
) {
    let (opener, node) = ends;
    let born = weather.borrow().cuts_of(opener, node);
    let mut cuts = weather.clone();
    let carried = async {
        // A connection is made by packets in both directions.
        whole(&mut weather, (opener, node)).await;
        whole(&mut weather, (node, opener)).await;
        // The node may not listen: then the opener learns it as it would without us.
        let Ok(outbound) = TcpStream::connect(target).await else { return };
        inbound.set_nodelay(true).unwrap();
        outbound.set_nodelay(true).unwrap();
        let (from_opener, to_opener) = inbound.into_split();
        let (from_node, to_node) = outbound.into_split();
        let wire = |direction| {
            let (weather, hits) = (weather.clone(), hits.clone());
            Wire { direction, weather, hits, holed: false }
        };
        let there = wire((opener, node)).run(from_opener, to_node);
        let back = wire((node, opener)).run(from_node, to_opener);
        tokio::pin!(there, back);
        // An end of stream in one direction leaves the other open; a receiver that has gone ends both.
        tokio::select! {
            ended = &mut there => if ended == Ended::OfStream { back.await; },
            ended = &mut back => if ended == Ended::OfStream { there.await; },
        }
    };
    tokio::select! {
        () = carried => {}
        _ = cuts.wait_for(|weather| weather.cuts_of(opener, node) != born) => {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    OfStream,
    ReceiverGone,
}

/// One direction of a connection.
struct Wire {
    direction: Direction,
    weather: watch::Receiver<Weather>,
    hits: Arc<Hits>,
    /// Bytes were swallowed: nothing may follow them, until the connection is cut.
    holed: bool,
}

impl Wire {
    async fn run(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Ended {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let bytes = match self.loss() {
                Some(Loss::Held) => {
                    self.hold(&mut from).await;
                    continue;
                }
                // A change of the weather is seen after the read, which takes nothing if it is dropped.
                _ => tokio::select! {
                    read = from.read(&mut buffer) => read.unwrap_or(0),
                    _ = self.weather.changed() => continue,
                },
            };
            match self.loss() {
                Some(Loss::Swallowed) if bytes > 0 => {
                    self.hit();
                    self.holed = true;
                }
                // Read before the direction broke, and lost with it all the same.
                _ => {
                    self.whole().await;
                    if bytes == 0 {
                        // The other end may be gone already.
                        let _ = to.shutdown().await;
                        return Ended::OfStream;
                    }
                    if to.write_all(&buffer[..bytes]).await.is_err() {
                        let (sender, receiver) = self.direction;
                        whole(&mut self.weather, (receiver, sender)).await;
                        return Ended::ReceiverGone;
                    }
                }
            }
        }
    }

    fn loss(&mut self) -> Option<Loss> {
        self.weather.borrow_and_update().broken.get(&self.direction).copied()
    }

    fn hit(&self) {
        self.hits[&self.direction].fetch_add(1, Ordering::Relaxed);
    }

    /// Leaves bytes where they are until the weather changes, and notes if there were any.
    async fn hold(&mut self, from: &mut OwnedReadHalf) {
        let mut first = [0];
        tokio::select! {
            found = from.peek(&mut first) => if found.is_ok_and(|bytes| bytes > 0) { self.hit(); },
            _ = self.weather.changed() => return,
        }
        // A sender of the weather that is gone leaves nothing to wait for: the links are being dropped.
        let _ = self.weather.changed().await;
    }

    async fn whole(&mut self) {
        if self.holed {
            std::future::pending::<()>().await;
        }
        whole(&mut self.weather, self.direction).await;
    }
}

/// Waits until a direction carries.
async fn whole(weather: &mut watch::Receiver<Weather>, direction: Direction) {
    // As above.
    let _ = weather.wait_for(|weather| !weather.broken.contains_key(&direction)).await;
}
