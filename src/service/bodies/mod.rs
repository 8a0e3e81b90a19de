//! What is on its way takes room (G12): requests until they have come in and are decoded, responses until their
//! connection has sent them. How many calls there are is up to callers, and so is when they send and take: what they
//! make a node hold meanwhile is bounded here, for all of them together. What finds no room is refused and does not wait.

mod incoming;
mod outgoing;

pub use incoming::RequestsLayer;
pub use outgoing::ResponsesLayer;

use tonic_web::GrpcWebLayer;

use super::malformed::MalformedLayer;
use crate::consensus::RoomLeft;

/// What goes around the services of the client port, from the outside in. grpc-web is translated between the two that
/// count: as text it copies every part of a response.
pub fn client_layers(
    responses: RoomLeft,
) -> (ResponsesLayer, GrpcWebLayer, RequestsLayer, MalformedLayer) {
    let (requests, web) = (RequestsLayer::default(), GrpcWebLayer::new());
    (ResponsesLayer::new(responses), web, requests, MalformedLayer)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use bytes::Bytes;
    use http_body::{Body as _, Frame};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc;
    use tokio::time::{sleep, timeout};
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::Status;
    use tonic::body::Body;
    use tonic::codegen::http::{Request, Response};
    use tonic::transport::{Endpoint, Server};
    use tower::Service;

    use super::*;
    use crate::types::limits::{CALL_BYTES_FREE, RESPONSE_BYTES_TARGET, RESPONSES_BYTES_MAX};

    /// What a room of the tests holds.
    pub const ROOM: usize = 1_000;
    /// Of simulated time: whatever has to happen has happened by then.
    const LONG: Duration = Duration::from_secs(120);

    /// Parts that come one by one, and then nothing more.
    pub struct Parts(pub VecDeque<Bytes>);

    /// Parts of these lengths.
    pub fn parts<const N: usize>(lengths: [usize; N]) -> Body {
        Body::new(Parts(lengths.map(|length| vec![1; length].into()).into()))
    }

    impl http_body::Body for Parts {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0
                .pop_front()
                .map_or(Poll::Pending, |part| Poll::Ready(Some(Ok(Frame::data(part)))))
        }
    }

    pub async fn next(body: &mut Body) -> Result<Frame<Bytes>, Status> {
        std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.unwrap()
    }

    /// Serves as the client port does what answers each call with parts of a response.
    fn served(left: &RoomLeft) -> mpsc::Sender<io::Result<DuplexStream>> {
        let (connections, incoming) = mpsc::channel(1);
        let service = tower::service_fn(|_: Request<Body>| async {
            let response = Response::builder().header("content-type", "application/grpc");
            let body = parts([RESPONSE_BYTES_TARGET; 20]);
            Ok::<_, Infallible>(response.body(body).unwrap())
        });
        let server = Server::builder().accept_http1(true).layer(client_layers(left.clone()));
        tokio::spawn(server.serve_with_incoming(service, ReceiverStream::new(incoming)));
        connections
    }

    /// A connection that begins to follow over HTTP/1.1, and reads nothing.
    async fn follow_http1(
        connections: &mpsc::Sender<io::Result<DuplexStream>>,
        content_type: &str,
    ) -> DuplexStream {
        let (mut near, far) = duplex(1 << 16);
        connections.send(Ok(far)).await.unwrap();
        let request = format!(
            "POST /quorate.v1.MessageLog/Follow HTTP/1.1\r\nhost: node\r\ncontent-length: 0\r\n\
             content-type: {content_type}\r\naccept: {content_type}\r\n\r\n"
        );
        near.write_all(request.as_bytes()).await.unwrap();
        near
    }

    /// The same over HTTP/2.
    async fn follow_http2(
        connections: &mpsc::Sender<io::Result<DuplexStream>>,
        content_type: &str,
    ) -> Response<Body> {
        let (near, far) = duplex(1 << 16);
        connections.send(Ok(far)).await.unwrap();
        let mut near = Some(TokioIo::new(near));
        let connector = tower::service_fn(move |_| {
            let near = near.take().ok_or_else(|| io::Error::other("there is one connection"));
            std::future::ready(near)
        });
        let endpoint = Endpoint::from_static("http://node").initial_stream_window_size(1 << 16);
        let mut channel = endpoint.connect_with_connector(connector).await.unwrap();
        let request = Request::post("http://node/quorate.v1.MessageLog/Follow")
            .header("content-type", content_type)
            .header("accept", content_type)
            .body(Body::empty())
            .unwrap();
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
        channel.call(request).await.unwrap()
    }

    async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
        let all = async {
            while !is_so() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, all).await.unwrap_or_else(|_| panic!("{what}"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_unread_counts_in_whatever_form_it_is_sent() {
        let left = RoomLeft::new(RESPONSES_BYTES_MAX);
        let connections = served(&left);
        let holds = |bytes: usize| left.take(RESPONSES_BYTES_MAX - bytes + 1).is_none();
        for (content_type, bytes) in [
            ("application/grpc", RESPONSE_BYTES_TARGET),
            ("application/grpc-web+proto", RESPONSE_BYTES_TARGET),
            ("application/grpc-web-text", RESPONSE_BYTES_TARGET * 4 / 3),
        ] {
            let unread = follow_http2(&connections, content_type).await;
            let least = bytes - CALL_BYTES_FREE;
            eventually(content_type, || holds(least)).await;
            drop(unread);
            eventually("nothing is held any more", || !holds(1)).await;
            if content_type != "application/grpc" {
                let unread = follow_http1(&connections, content_type).await;
                eventually(content_type, || holds(least)).await;
                drop(unread);
                eventually("nothing is held any more", || !holds(1)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_text_is_told_that_there_is_no_room() {
        let left = RoomLeft::new(0);
        let connections = served(&left);
        let mut caller = follow_http1(&connections, "application/grpc-web-text").await;
        let mut told = Vec::new();
        while !told.ends_with(b"0\r\n\r\n") {
            assert!(timeout(LONG, caller.read_buf(&mut told)).await.unwrap().unwrap() > 0);
        }
        let told = String::from_utf8(told).unwrap();
        let lines = told.lines().filter_map(|line| BASE64_STANDARD.decode(line).ok());
        let lines = String::from_utf8_lossy(&lines.flatten().collect::<Vec<_>>()).into_owned();
        assert!(lines.contains("grpc-status:8\r\n"), "{told}");
    }
}
