//! What is on its way takes room (G12): requests until they have come in and are decoded, responses until their
//! connection has sent them. How many calls there are is up to callers, and so is when they send and take: what they
//! make a node hold meanwhile is bounded here, for all of them together. What finds no room is refused and does not wait.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::Either;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::server::NamedService;
use tower::{Layer, Service};

use super::authorize::Operation;
use super::errors::CallError;
use super::responses;
use super::servers::message_log_server::SERVICE_NAME;
use crate::consensus::{Room, RoomLeft};
use crate::types::limits;

/// Takes room for the bodies of calls. Goes around services, inside of what translates other protocols into gRPC.
#[derive(Clone, Debug)]
pub struct BodiesLayer {
    requests: RoomLeft,
    responses: RoomLeft,
}

/// See [`BodiesLayer`].
#[derive(Clone, Debug)]
pub struct BodiesService<S> {
    inner: S,
    rooms: BodiesLayer,
}

impl BodiesLayer {
    /// For one port, whose requests have room of their own: callers of one do not take what those of another need.
    pub fn new(responses: RoomLeft) -> Self {
        BodiesLayer { requests: RoomLeft::new(limits::REQUESTS_BYTES_MAX), responses }
    }
}

impl<S> Layer<S> for BodiesLayer {
    type Service = BodiesService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BodiesService { inner, rooms: self.clone() }
    }
}

impl<S: NamedService> NamedService for BodiesService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for BodiesService<S>
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
        let is_read = is_read(request.uri().path());
        let room = self.rooms.requests.nothing();
        let incoming = |body| Body::new(Incoming { body, gathered: Gathered::default(), room });
        let response = self.inner.call(request.map(incoming));
        if !is_read {
            return Either::Left(response);
        }
        let left = self.rooms.responses.clone();
        Either::Right(Box::pin(async move {
            let outgoing = |body| Body::new(Outgoing { body, left });
            Ok(response.await?.map(outgoing))
        }))
    }
}

/// Whether a call answers with messages or names. The others' answers are small, and tell what became of a write: such
/// an answer is not refused.
fn is_read(path: &str) -> bool {
    let method = path.strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE_NAME));
    let Some(method) = method.and_then(|path| path.strip_prefix('/')) else { return false };
    let operation = Operation::ALL.into_iter().find(|operation| operation.name() == method);
    let reads = [
        Operation::Read,
        Operation::BatchRead,
        Operation::Follow,
        Operation::Subscribe,
        Operation::List,
    ];
    operation.is_some_and(|operation| reads.contains(&operation))
}

/// A request as it comes in. tonic gathers each message of it in one piece before it looks at it; the room for the
/// largest so far is kept, as tonic keeps its buffer.
struct Incoming {
    body: Body,
    gathered: Gathered,
    room: Room,
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let polled = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref()
        {
            let counted =
                (this.gathered.bytes + data.len()).saturating_sub(limits::CALL_BYTES_FREE);
            if this.room.grow_to(counted).is_none() {
                let message =
                    "the requests on their way into this node take all the memory that they may";
                let error = CallError::overloaded(message, limits::REQUESTS_BYTES_MAX);
                return Poll::Ready(Some(Err(error.into())));
            }
            this.gathered.pass(data);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of gRPC's prefix to each message: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// How much of a message has come. Those that came whole have been taken out before more is asked for.
struct Gathered {
    bytes: usize,
    /// To the end of the prefix, or of the message after it.
    wanted: usize,
    in_prefix: bool,
    /// The prefix, as far as it has come.
    prefix: u64,
}

impl Default for Gathered {
    fn default() -> Self {
        Gathered { bytes: 0, wanted: PREFIX_BYTES, in_prefix: true, prefix: 0 }
    }
}

impl Gathered {
    fn pass(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (part, rest) = data.split_at(data.len().min(self.wanted));
            data = rest;
            self.bytes += part.len();
            self.wanted -= part.len();
            if self.in_prefix {
                self.prefix =
                    part.iter().fold(self.prefix, |all, byte| all << 8 | u64::from(*byte));
            }
            if self.wanted > 0 {
                return;
            }
            let length = (self.prefix & u64::from(u32::MAX)) as usize;
            match self.in_prefix && length > 0 {
                true => (self.in_prefix, self.wanted) = (false, length),
                false => *self = Gathered::default(),
            }
        }
    }
}

/// A response as it goes out.
struct Outgoing {
    body: Body,
    left: RoomLeft,
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
    /// Lets a part out, or the error in its place: nothing comes after that.
    fn let_out(&mut self, bytes: Bytes) -> Frame<Bytes> {
        let error = match responses::room_for(&self.left, bytes.len()) {
            Ok(room) => return Frame::data(Bytes::from_owner(Sending { bytes, _room: room })),
            Err(error) => error,
        };
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        if Status::from(error).add_header(&mut trailers).is_err() {
            tracing::warn!("an error could not be put into trailers");
        }
        Frame::trailers(trailers)
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(bytes) => self.let_out(bytes),
            Err(trailers) => trailers,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http_body::Body as _;

    use super::*;
    use crate::types::limits::CALL_BYTES_FREE;

    /// What a room of the tests holds.
    const ROOM: usize = 1_000;

    /// Parts that come one by one, and then nothing more.
    struct Parts(VecDeque<Bytes>);

    /// Parts of these lengths.
    fn parts<const N: usize>(lengths: [usize; N]) -> Body {
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

    async fn next(body: &mut Body) -> Result<Frame<Bytes>, Status> {
        std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.unwrap()
    }

    fn incoming(left: &RoomLeft, body: Body) -> Body {
        Body::new(Incoming { body, gathered: Gathered::default(), room: left.nothing() })
    }

    fn is_full(left: &RoomLeft) -> bool {
        left.take(1).is_none()
    }

    #[tokio::test]
    async fn requests_that_are_not_whole_take_room_until_they_are_dropped() {
        let left = RoomLeft::new(ROOM);
        let mut first = incoming(&left, parts([CALL_BYTES_FREE, ROOM - 1, 2]));
        let mut second = incoming(&left, parts([CALL_BYTES_FREE, 2]));
        next(&mut first).await.unwrap();
        next(&mut first).await.unwrap();
        // What any call has is free.
        next(&mut second).await.unwrap();
        let error = CallError::from_status(&next(&mut second).await.unwrap_err()).unwrap();
        assert_eq!(error.reason(), "OVERLOADED");
        assert!(error.is_retryable() && !error.may_have_taken_effect());
        drop(first);
        assert!(left.take(ROOM).is_some());
    }

    #[tokio::test]
    async fn a_stream_of_requests_keeps_the_room_of_its_largest() {
        let message = |length: usize| {
            let prefix = [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
            [prefix, vec![7; length]].concat()
        };
        let large = CALL_BYTES_FREE + ROOM / 2 - PREFIX_BYTES;
        let sent = [message(10), message(0), message(large), message(large), message(1)].concat();
        // However they are cut. A part may end one message and begin the next.
        for part in [1, 7, 100] {
            let left = RoomLeft::new(ROOM / 2 + part);
            let parts: VecDeque<_> = sent.chunks(part).map(Bytes::copy_from_slice).collect();
            let count = parts.len();
            let mut body = incoming(&left, Body::new(Parts(parts)));
            for _ in 0..count {
                next(&mut body).await.unwrap();
            }
            assert!(left.take(part + 1).is_none(), "in parts of {part}");
        }
    }

    #[tokio::test]
    async fn a_response_takes_room_until_it_is_sent() {
        let left = RoomLeft::new(ROOM);
        let outgoing = |body| Body::new(Outgoing { body, left: left.clone() });
        let mut first = outgoing(parts([CALL_BYTES_FREE, CALL_BYTES_FREE + ROOM]));
        let mut second = outgoing(parts([CALL_BYTES_FREE, CALL_BYTES_FREE, CALL_BYTES_FREE + 1]));
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

    #[test]
    fn only_answers_of_reads_are_refused() {
        let counted =
            |operation: &&Operation| is_read(&format!("/{SERVICE_NAME}/{}", operation.name()));
        let counted: Vec<_> = Operation::ALL.iter().filter(counted).map(|o| o.name()).collect();
        assert_eq!(counted, ["Read", "BatchRead", "Follow", "Subscribe", "List"]);
        assert!(!is_read("/grpc.health.v1.Health/Check") && !is_read("/"));
    }
}
