//! A call as its bytes reach a service: in frames, through what tonic generates, and back.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::{Body as _, Frame};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Request, Response};

const FRAME_HEADER_BYTES: usize = 5;

/// What comes of a call.
#[derive(Debug)]
pub struct Answer {
    pub messages: Vec<Bytes>,
    pub status: Status,
}

impl Answer {
    /// The only message of a call that has succeeded.
    pub fn message<M: Message + Default>(&self) -> M {
        assert_eq!(self.status.code(), tonic::Code::Ok, "{:?}", self.status);
        assert_eq!(self.messages.len(), 1);
        M::decode(self.messages[0].clone()).expect("a node sends what can be decoded")
    }
}

/// Calls a method with these requests, and takes what it answers to its end.
pub async fn call<S>(mut service: S, path: &str, requests: &[Bytes]) -> Answer
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let mut request = Request::new(framed(requests, None));
    *request.method_mut() = tonic::codegen::http::Method::POST;
    *request.uri_mut() = path.parse().expect("a path");
    poll_fn(|cx| service.poll_ready(cx)).await.unwrap_or_else(|never| match never {});
    let response = service.call(request).await.unwrap_or_else(|never| match never {});
    let (head, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return Answer { messages: Vec::new(), status };
    }
    let (bytes, trailers) = taken(body).await;
    let status = Status::from_header_map(&trailers).expect("an answer ends with a status");
    Answer { messages: unframed(bytes), status }
}

async fn taken(mut body: Body) -> (Bytes, HeaderMap) {
    let (mut bytes, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame.expect("nothing breaks").into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    (bytes.freeze(), trailers)
}

/// A body of these messages, and behind them a status, if there is one.
pub fn framed(messages: &[Bytes], status: Option<&Status>) -> Body {
    let mut bytes = BytesMut::new();
    for message in messages {
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(message.len()).expect("it is short"));
        bytes.extend_from_slice(message);
    }
    let trailers = status.map(|status| {
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers).expect("what is no text is escaped");
        trailers
    });
    Body::new(Whole { data: Some(bytes.freeze()), trailers })
}

fn unframed(mut bytes: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while bytes.len() >= FRAME_HEADER_BYTES {
        assert_eq!(bytes.get_u8(), 0, "nothing is compressed");
        let length = bytes.get_u32() as usize;
        messages.push(bytes.split_to(length));
    }
    assert!(bytes.is_empty(), "a frame is cut off");
    messages
}

/// A body that comes at once.
struct Whole {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().filter(|data| !data.is_empty()).map(Frame::data);
        let next = data.or_else(|| self.trailers.take().map(Frame::trailers));
        std::task::Poll::Ready(next.map(Ok))
    }
}
