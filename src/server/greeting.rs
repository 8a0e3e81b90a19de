//! How a connection begins. Whoever does not begin as the port's protocol does is refused before anything is set up
//! for it.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How every HTTP/2 connection begins (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How requests of grpc-web, of a browser and of Prometheus begin.
const HTTP1_METHODS: [&[u8]; 4] = [b"GET ", b"HEAD ", b"OPTIONS ", b"POST "];
/// Clients of both protocols speak first, and at once.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at a beginning that has not arrived whole.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Http2,
    /// gRPC, and grpc-web over HTTP/1.
    Http2OrHttp1,
    /// Pages for people and Prometheus.
    Http1,
}

/// Why a connection is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It began with something else.
    #[error("it does not speak the port's protocol")]
    OtherProtocol,
    /// Load balancers' probes and connections kept in reserve look like this.
    #[error("it said nothing for {} seconds", GREETING_TIMEOUT.as_secs())]
    Silent,
    /// It ended.
    #[error("it is gone")]
    Gone,
}

/// Waits for the first bytes, looks at them, and leaves them to be read.
pub async fn greet(stream: &TcpStream, protocol: Protocol) -> Result<(), Refusal> {
    let greeting = timeout(GREETING_TIMEOUT, wait_for_greeting(stream, protocol)).await;
    greeting.unwrap_or(Err(Refusal::Silent))
}

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
    let (http2, http1): (&[&[u8]], &[&[u8]]) = match protocol {
        Protocol::Http2 => (&[HTTP2_PREFACE], &[]),
        Protocol::Http2OrHttp1 => (&[HTTP2_PREFACE], &HTTP1_METHODS),
        Protocol::Http1 => (&[], &HTTP1_METHODS),
    };
    let mut known = http2.iter().chain(http1);
    if known.clone().any(|greeting| beginning.starts_with(greeting)) {
        return Some(true);
    }
    if known.any(|greeting| greeting.starts_with(beginning)) { None } else { Some(false) }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn beginnings_are_told_apart_as_soon_as_they_differ() {
        use Protocol::{Http1, Http2, Http2OrHttp1};
        for length in 0..HTTP2_PREFACE.len() {
            assert_eq!(is_greeting(&HTTP2_PREFACE[..length], Http2), None);
        }
        assert_eq!(is_greeting(HTTP2_PREFACE, Http2), Some(true));
        assert_eq!(is_greeting(HTTP2_PREFACE, Http1), Some(false));
        assert_eq!(is_greeting(b"PO", Http2OrHttp1), None);
        assert_eq!(is_greeting(b"POST /", Http2OrHttp1), Some(true));
        assert_eq!(is_greeting(b"GET /livez", Http1), Some(true));
        assert_eq!(is_greeting(b"POST /", Http2), Some(false));
        assert_eq!(is_greeting(b"PRINT", Http2OrHttp1), Some(false));
        assert_eq!(is_greeting(&[0x16, 3, 1], Http2OrHttp1), Some(false), "TLS");
    }

    #[tokio::test]
    async fn a_slow_client_is_waited_for_with_nothing_lost_and_a_stranger_is_told_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        let speak = async {
            for part in HTTP2_PREFACE.chunks(5) {
                slow.write_all(part).await.unwrap();
                sleep(2 * LOOK_INTERVAL).await;
            }
        };
        let (greeted, ()) = tokio::join!(greet(&accepted, Protocol::Http2), speak);
        assert_eq!(greeted, Ok(()));
        let mut read = [0; HTTP2_PREFACE.len()];
        accepted.read_exact(&mut read).await.unwrap();
        assert_eq!(read, HTTP2_PREFACE);

        let mut stranger = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        stranger.write_all(b"hello?").await.unwrap();
        assert_eq!(greet(&accepted, Protocol::Http2).await, Err(Refusal::OtherProtocol));
        drop(stranger);
        let gone = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        drop(gone);
        assert_eq!(greet(&accepted, Protocol::Http2).await, Err(Refusal::Gone));
    }
}
