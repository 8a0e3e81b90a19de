//! Requests until they have come in and are decoded.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::server::NamedService;
use tower::{Layer, Service};

use crate::consensus::{Room, RoomLeft};
use crate::service::CallError;
use crate::types::limits;

/// Takes room for requests. Goes inside of what translates other protocols into gRPC, because it counts messages.
#[derive(Clone, Debug)]
pub struct RequestsLayer(RoomLeft);

/// See [`RequestsLayer`].
#[derive(Clone, Debug)]
pub struct RequestsService<S> {
    inner: S,
    left: RoomLeft,
}

impl Default for RequestsLayer {
    /// For one port, whose requests have room of their own: callers of one do not take what those of another need.
    fn default() -> Self {
        RequestsLayer(RoomLeft::new(limits::REQUESTS_BYTES_MAX))
    }
}

impl<S> Layer<S> for RequestsLayer {
    type Service = RequestsService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestsService { inner, left: self.0.clone() }
    }
}

impl<S: NamedService> NamedService for RequestsService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for RequestsService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let room = self.left.nothing();
        let incoming = |body| Body::new(Incoming { body, gathered: Gathered::default(), room });
        self.inner.call(request.map(incoming))
    }
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::service::bodies::tests::{Parts, ROOM, next, parts};
    use crate::types::limits::CALL_BYTES_FREE;

    fn incoming(left: &RoomLeft, body: Body) -> Body {
        Body::new(Incoming { body, gathered: Gathered::default(), room: left.nothing() })
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
}
