//! How a connection begins. Whoever does not begin as the port's protocol does is refused before anything is set up
//! for it.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// How every HTTP/2 connection begins (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How requests of grpc-web, of a browser and of Prometheus begin.
const HTTP1_METHODS: [&[u8]; 4] = [b"GET ", b"HEAD ", b"OPTIONS ", b"POST "];
/// Clients of both protocols speak first, and at once.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

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

/// Reads the first bytes until they tell what is spoken. Whoever serves the connection reads them again.
pub async fn greet(
    stream: &mut (impl AsyncRead + Unpin),
    protocol: Protocol,
) -> Result<Vec<u8>, Refusal> {
    let greeting = timeout(GREETING_TIMEOUT, wait_for_greeting(stream, protocol)).await;
    greeting.unwrap_or(Err(Refusal::Silent))
}

async fn wait_for_greeting(
    stream: &mut (impl AsyncRead + Unpin),
    protocol: Protocol,
) -> Result<Vec<u8>, Refusal> {
    let mut beginning = Vec::with_capacity(HTTP2_PREFACE.len());
    loop {
        let length = stream.read_buf(&mut beginning).await.map_err(|_| Refusal::Gone)?;
        match is_greeting(&beginning, protocol) {
            _ if length == 0 => return Err(Refusal::Gone),
            Some(true) => return Ok(beginning),
            Some(false) => return Err(Refusal::OtherProtocol),
            None => {}
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
    use tokio::io::AsyncWriteExt;

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
        let (mut slow, mut accepted) = tokio::io::duplex(5);
        let speak = async { slow.write_all(HTTP2_PREFACE).await.unwrap() };
        let (greeted, ()) = tokio::join!(greet(&mut accepted, Protocol::Http2), speak);
        assert_eq!(greeted.unwrap(), HTTP2_PREFACE);

        let (mut stranger, mut accepted) = tokio::io::duplex(64);
        stranger.write_all(b"hello?").await.unwrap();
        let refused = greet(&mut accepted, Protocol::Http2).await.unwrap_err();
        assert_eq!(refused, Refusal::OtherProtocol);
        let (gone, mut accepted) = tokio::io::duplex(64);
        drop(gone);
        assert_eq!(greet(&mut accepted, Protocol::Http2).await.unwrap_err(), Refusal::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_one_is_given_up() {
        let (_silent, mut accepted) = tokio::io::duplex(64);
        assert_eq!(greet(&mut accepted, Protocol::Http1).await.unwrap_err(), Refusal::Silent);
    }
}
