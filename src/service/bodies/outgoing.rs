//! Responses until their connection has sent them, in whichever form it is to get them.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::future::Either;
use http_body::{Body as _, Frame};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tonic::server::NamedService;
use tower::{Layer, Service};

use crate::consensus::{Room, RoomLeft};
use crate::service::authorize::Operation;
use crate::service::{CallError, responses};

/// Takes room for responses. Goes around what translates them into other protocols, which may copy them.
#[derive(Clone, Debug)]
pub struct ResponsesLayer(RoomLeft);

/// See [`ResponsesLayer`].
#[derive(Clone, Debug)]
pub struct ResponsesService<S> {
    inner: S,
    left: RoomLeft,
}

impl ResponsesLayer {
    /// Takes it of what is left.
    pub fn new(left: RoomLeft) -> Self {
        ResponsesLayer(left)
    }
}

impl<S> Layer<S> for ResponsesLayer {
    type Service = ResponsesService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ResponsesService { inner, left: self.0.clone() }
    }
}

impl<S: NamedService> NamedService for ResponsesService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for ResponsesService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future =
        Either<S::Future, Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let tells = tells_of_a_write(request.uri().path());
        let response = self.inner.call(request);
        if tells {
            return Either::Left(response);
        }
        let left = self.left.clone();
        Either::Right(Box::pin(async move {
            let (parts, body) = response.await?.into_parts();
            let outgoing = Outgoing::begin(body, left, Form::of(&parts.headers)).await;
            Ok(Response::from_parts(parts, Body::new(outgoing)))
        }))
    }
}

/// Whether a call tells what became of a write. Such an answer is small, and is not refused.
fn tells_of_a_write(path: &str) -> bool {
    let writes = [
        Operation::Append,
        Operation::AppendSession,
        Operation::GetOutcome,
        Operation::Init,
        Operation::Replace,
    ];
    let called = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    writes.iter().any(|write| called == Some((write.service(), write.name())))
}

/// How a response says at its end what became of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// In trailers.
    Grpc,
    /// In the body, for browsers, which do not see trailers.
    Web,
    /// The same, and all of the body in base64.
    WebText,
}

impl Form {
    fn of(headers: &HeaderMap) -> Self {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        match content_type.unwrap_or_default() {
            text if text.starts_with("application/grpc-web-text") => Form::WebText,
            web if web.starts_with("application/grpc-web") => Form::Web,
            _ => Form::Grpc,
        }
    }

    /// The end of a call that fails.
    fn end(self, error: CallError) -> Frame<Bytes> {
        let mut trailers = HeaderMap::new();
        if Status::from(error).add_header(&mut trailers).is_err() {
            tracing::warn!("an error could not be put into trailers");
        }
        match self {
            Form::Grpc => Frame::trailers(trailers),
            Form::Web => Frame::data(as_message(&trailers).into()),
            Form::WebText => Frame::data(BASE64_STANDARD.encode(as_message(&trailers)).into()),
        }
    }
}

/// Trailers as grpc-web has them: lines behind a prefix that says so.
fn as_message(trailers: &HeaderMap) -> Vec<u8> {
    const IS_TRAILERS: u8 = 0x80;
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        [name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"].concat()
    };
    let lines: Vec<u8> = trailers.iter().flat_map(line).collect();
    let length = u32::try_from(lines.len()).expect("an error is short");
    [&[IS_TRAILERS][..], &length.to_be_bytes(), &lines].concat()
}

/// A response as it goes out.
struct Outgoing {
    body: Body,
    /// What was there at once.
    first: Option<Result<Frame<Bytes>, Status>>,
    left: RoomLeft,
    form: Form,
}

/// A part of a response, until the connection has sent it.
struct Sending {
    bytes: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Outgoing {
    /// Takes what is there at once. Nobody asks for it before the caller has given the connection leave to send, and
    /// until then it would lie there as it was answered, and not be counted.
    async fn begin(body: Body, left: RoomLeft, form: Form) -> Self {
        let mut outgoing = Outgoing { body, first: None, left, form };
        if !outgoing.body.is_end_stream() {
            let first = poll_fn(|cx| {
                Poll::Ready(match outgoing.poll_next(cx) {
                    Poll::Ready(first) => Some(first),
                    Poll::Pending => None,
                })
            });
            match first.await {
                Some(Some(first)) => outgoing.first = Some(first),
                Some(None) => outgoing.body = Body::empty(),
                None => {}
            }
        }
        outgoing
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(bytes) => self.let_out(bytes),
            Err(trailers) => trailers,
        })))
    }

    /// Lets a part out, or the error in its place: nothing comes after that.
    fn let_out(&mut self, bytes: Bytes) -> Frame<Bytes> {
        match responses::room_for(&self.left, bytes.len()) {
            Ok(room) => Frame::data(Bytes::from_owner(Sending { bytes, _room: room })),
            Err(error) => {
                self.body = Body::empty();
                self.form.end(error)
            }
        }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::bodies::tests::{ROOM, next, parts};
    use crate::types::limits::CALL_BYTES_FREE;

    fn is_full(left: &RoomLeft) -> bool {
        left.take(1).is_none()
    }

    #[tokio::test]
    async fn a_response_takes_room_until_it_is_sent() {
        let left = RoomLeft::new(ROOM);
        let outgoing =
            async |body| Body::new(Outgoing::begin(body, left.clone(), Form::Grpc).await);
        let mut first = outgoing(parts([CALL_BYTES_FREE, CALL_BYTES_FREE + ROOM])).await;
        let mut second =
            outgoing(parts([CALL_BYTES_FREE, CALL_BYTES_FREE, CALL_BYTES_FREE + 1])).await;
        let small = next(&mut first).await.unwrap();
        let large = next(&mut first).await.unwrap();
        drop(small);
        assert!(is_full(&left));
        for _ in 0..2 {
            let small = next(&mut second).await.unwrap();
            assert_eq!(small.into_data().unwrap().len(), CALL_BYTES_FREE, "each that is small");
        }
        let trailers = next(&mut second).await.unwrap().into_trailers().unwrap();
        let status = Status::from_header_map(&trailers).unwrap();
        let error = CallError::from_status(&status).unwrap();
        assert_eq!((error.reason(), error.is_retryable()), ("OVERLOADED", true));
        assert!(second.is_end_stream(), "nothing comes after an error");
        drop(first);
        assert!(is_full(&left), "the connection has it");
        drop(large);
        assert!(left.take(ROOM).is_some());
    }

    #[tokio::test]
    async fn what_was_answered_takes_room_before_anybody_asks_for_it() {
        let left = RoomLeft::new(ROOM);
        let answer = parts([CALL_BYTES_FREE + ROOM]);
        let answered = Outgoing::begin(answer, left.clone(), Form::Grpc).await;
        assert!(is_full(&left) && !answered.is_end_stream());
        drop(answered);
        let ended = Outgoing::begin(Body::empty(), left.clone(), Form::Grpc).await;
        assert!(ended.is_end_stream() && left.take(ROOM).is_some());
    }

    #[test]
    fn an_error_comes_in_the_form_of_its_response() {
        let form = |content_type: &str| {
            Form::of(&[(CONTENT_TYPE, content_type.parse().unwrap())].into_iter().collect())
        };
        assert_eq!(form("application/grpc"), Form::Grpc);
        assert_eq!(form("application/grpc-web+proto"), Form::Web);
        assert_eq!(form("application/grpc-web-text+proto"), Form::WebText);
        let data = |form: Form| form.end(responses::overloaded()).into_data().unwrap();
        let text = BASE64_STANDARD.decode(data(Form::WebText)).unwrap();
        for web in [data(Form::Web), text.into()] {
            let (prefix, lines) = web.split_at(5);
            assert_eq!(prefix[0], 0x80);
            assert_eq!(prefix[1..], u32::try_from(lines.len()).unwrap().to_be_bytes());
            let lines = std::str::from_utf8(lines).unwrap();
            assert!(lines.contains("grpc-status:8\r\n") && lines.ends_with("\r\n"), "{lines}");
        }
    }

    #[test]
    fn only_what_tells_of_a_write_is_not_refused() {
        let tells = |operation: &&Operation| {
            tells_of_a_write(&format!("/{}/{}", operation.service(), operation.name()))
        };
        let told: Vec<_> = Operation::ALL.iter().filter(tells).map(|o| o.name()).collect();
        assert_eq!(told, ["Append", "AppendSession", "GetOutcome", "Init", "Replace"]);
        assert!(!tells_of_a_write("/grpc.health.v1.Health/Check") && !tells_of_a_write("/"));
    }
}
