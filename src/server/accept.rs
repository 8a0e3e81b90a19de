//! Accepting connections. Whoever does not begin as the port's protocol does is refused before anything is set up for
//! it, and the log says so, at most once a minute for each port: an open port meets all kinds of programs.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::types::limits;

/// How every HTTP/2 connection begins (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How requests of grpc-web begin.
const HTTP1_METHODS: [&[u8]; 4] = [b"GET ", b"HEAD ", b"OPTIONS ", b"POST "];
/// Clients of both protocols speak first, and at once.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at a beginning that has not arrived whole.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// A port that cannot accept, for want of file descriptors, may do so again once connections have ended.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Between two lines about refused connections of one port.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Http2,
    /// gRPC, and grpc-web over HTTP/1.
    Http2OrHttp1,
}

/// Why a connection is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("it does not speak HTTP/2")]
    OtherProtocol,
    #[error("it said nothing for {} seconds", GREETING_TIMEOUT.as_secs())]
    Silent,
    #[error("it is gone")]
    Gone,
}

/// Connections that have begun to speak the port's protocol. `port` names it in the log.
pub fn incoming(
    listener: TcpListener,
    port: &'static str,
    protocol: Protocol,
) -> impl Stream<Item = io::Result<TcpStream>> {
    let greetings = stream::unfold(listener, move |listener| async move {
        let (stream, address) = accept(&listener, port).await;
        Some((greet(stream, address, protocol), listener))
    });
    let mut report = Report { port, refused: 0, last: None };
    greetings.buffer_unordered(limits::GREETINGS_MAX).filter_map(move |greeted| {
        let accepted = match greeted {
            Ok(stream) => Some(Ok(stream)),
            Err((refusal, address)) => {
                report.refuse(&refusal, address);
                None
            }
        };
        std::future::ready(accepted)
    })
}

async fn accept(listener: &TcpListener, port: &'static str) -> (TcpStream, SocketAddr) {
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

async fn greet(
    stream: TcpStream,
    address: SocketAddr,
    protocol: Protocol,
) -> Result<TcpStream, (Refusal, SocketAddr)> {
    // Fails only if the connection is gone, which the next step finds out.
    let _ = stream.set_nodelay(true);
    let greeting = timeout(GREETING_TIMEOUT, wait_for_greeting(&stream, protocol)).await;
    match greeting.unwrap_or(Err(Refusal::Silent)) {
        Ok(()) => Ok(stream),
        Err(refusal) => Err((refusal, address)),
    }
}

/// Looks at the first bytes and leaves them to be read.
async fn wait_for_greeting(stream: &TcpStream, protocol: Protocol) -> Result<(), Refusal> {
    let mut beginning = [0; HTTP2_PREFACE.len()];
    let mut seen = 0;
    loop {
        let length = stream.peek(&mut beginning).await.map_err(|_| Refusal::Gone)?;
        match is_greeting(&beginning[..length], protocol) {
            _ if length == 0 => return Err(Refusal::Gone),
            Some(true) => return Ok(()),
            Some(false) => return Err(Refusal::OtherProtocol),
            // What was seen before is seen again at once.
            None if length == seen => sleep(LOOK_INTERVAL).await,
            None => seen = length,
        }
    }
}

/// None while it can still become one.
fn is_greeting(beginning: &[u8], protocol: Protocol) -> Option<bool> {
    let http2 = [HTTP2_PREFACE];
    let http1: &[&[u8]] = match protocol {
        Protocol::Http2 => &[],
        Protocol::Http2OrHttp1 => &HTTP1_METHODS,
    };
    let mut known = http2.iter().chain(http1);
    if known.clone().any(|greeting| beginning.starts_with(greeting)) {
        return Some(true);
    }
    if known.any(|greeting| greeting.starts_with(beginning)) { None } else { Some(false) }
}

/// What the log is told about refused connections of one port.
struct Report {
    port: &'static str,
    /// Since the last line.
    refused: u64,
    last: Option<Instant>,
}

impl Report {
    fn refuse(&mut self, refusal: &Refusal, address: SocketAddr) {
        if *refusal != Refusal::OtherProtocol {
            // Probes of load balancers and connections kept in reserve look like this.
            tracing::debug!(port = self.port, %address, %refusal, "a connection is refused");
            return;
        }
        self.refused += 1;
        if self.last.is_some_and(|last| last.elapsed() < REPORT_INTERVAL) {
            return;
        }
        tracing::warn!(port = self.port, %address, refused = self.refused, %refusal, "a connection is refused");
        (self.refused, self.last) = (0, Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn beginnings_are_told_apart_as_soon_as_they_differ() {
        use Protocol::{Http2, Http2OrHttp1};
        for length in 0..HTTP2_PREFACE.len() {
            assert_eq!(is_greeting(&HTTP2_PREFACE[..length], Http2), None);
        }
        assert_eq!(is_greeting(HTTP2_PREFACE, Http2), Some(true));
        assert_eq!(is_greeting(b"PO", Http2OrHttp1), None);
        assert_eq!(is_greeting(b"POST /", Http2OrHttp1), Some(true));
        assert_eq!(is_greeting(b"POST /", Http2), Some(false));
        assert_eq!(is_greeting(b"PRINT", Http2OrHttp1), Some(false));
        assert_eq!(is_greeting(&[0x16, 3, 1], Http2OrHttp1), Some(false), "TLS");
    }

    #[tokio::test]
    async fn a_stranger_is_cut_off_and_a_slow_client_is_waited_for_with_nothing_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accepted = Box::pin(incoming(listener, "test", Protocol::Http2));
        let mut stranger = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        stranger.write_all(b"hello?").await.unwrap();
        let client = async {
            for part in HTTP2_PREFACE.chunks(5) {
                slow.write_all(part).await.unwrap();
                sleep(2 * LOOK_INTERVAL).await;
            }
            // The refused connection is closed, not kept: with what it sent unread, by a reset.
            let mut nothing = Vec::new();
            let ended = stranger.read_to_end(&mut nothing).await;
            assert!(ended.map_or(true, |read| read == 0));
        };
        let (next, ()) = tokio::join!(accepted.next(), client);
        let mut read = [0; HTTP2_PREFACE.len()];
        next.unwrap().unwrap().read_exact(&mut read).await.unwrap();
        assert_eq!(read, HTTP2_PREFACE);
    }
}
