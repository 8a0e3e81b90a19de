//! Requests that cannot be decoded, such as text that is not UTF-8, or that are too large to be. tonic calls that
//! INTERNAL, as if it were our fault, or OUT_OF_RANGE; callers are told that it is their request, and which field it is.

use std::task::{Context, Poll};

use futures::TryFutureExt;
use futures::future::MapOk;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::errors::CallError;

/// How the text begins that tonic gives to requests which it cannot take in.
const NOT_A_MESSAGE: [&str; 4] = [
    "failed to decode Protobuf message",
    "protocol error: received message",
    "Unexpected EOF decoding stream",
    "Missing request message",
];
/// The same for a message over the limit, which stands between these two.
const TOO_LARGE: (&str, &str) = ("the limit is: ", " bytes");

/// Turns decoding failures into INVALID_ARGUMENT with a reason. Goes around the services of the API.
#[derive(Clone, Copy, Debug, Default)]
pub struct MalformedLayer;

/// See [`MalformedLayer`].
#[derive(Clone, Debug)]
pub struct MalformedService<S> {
    inner: S,
}

impl<S> Layer<S> for MalformedLayer {
    type Service = MalformedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MalformedService { inner }
    }
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for MalformedService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(S::Response) -> S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        self.inner.call(request).map_ok(told_whose_mistake)
    }
}

/// The response, as it is or with the caller's mistake in place of ours.
fn told_whose_mistake<B>(mut response: Response<B>) -> Response<B> {
    if let Some(status) = Status::from_header_map(response.headers())
        && let Some(error) = decoding_failure(&status)
        && Status::from(error).add_header(response.headers_mut()).is_err()
    {
        tracing::warn!("an error could not be put into headers");
    }
    response
}

/// The caller's mistake behind a status that tonic made of a request it could not take in.
fn decoding_failure(status: &Status) -> Option<CallError> {
    let message = status.message();
    match status.code() {
        Code::Internal => {
            let is_malformed = NOT_A_MESSAGE.iter().any(|text| message.starts_with(text));
            is_malformed.then(|| CallError::malformed(message))
        }
        Code::OutOfRange => {
            let (_, limit) = message.split_once(TOO_LARGE.0)?;
            let limit = limit.strip_suffix(TOO_LARGE.1)?;
            Some(CallError::request_too_large(message, limit))
        }
        _ => None,
    }
}

/// The caller's mistake behind the end of its stream of requests; none if its side just ended.
pub fn stream_failure(status: &Status) -> Option<CallError> {
    CallError::from_status(status).or_else(|| decoding_failure(status))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic_types::StatusExt;

    use super::*;

    async fn answered(status: Status) -> Status {
        let inner = tower::service_fn(move |_: Request<()>| {
            let response = status.clone().into_http::<tonic::body::Body>();
            async move { Ok::<_, Infallible>(response) }
        });
        let mut service = MalformedLayer.layer(inner);
        let response = service.call(Request::new(())).await.unwrap();
        Status::from_header_map(response.headers()).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_decoded_is_the_callers_mistake() {
        let text = "failed to decode Protobuf message: ReadRequest.conversation: invalid string value: \
                    data is not UTF-8 encoded";
        let status = answered(Status::internal(text)).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.reason, "MALFORMED");
        assert_eq!(info.metadata["field"], "conversation");
    }

    #[tokio::test]
    async fn a_request_that_is_too_large_is_told_the_limit() {
        let text = "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes";
        let status = answered(Status::out_of_range(text)).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.reason, "LIMIT_EXCEEDED");
        assert_eq!(info.metadata["limit"], "4194304");
    }

    #[tokio::test]
    async fn other_failures_are_left_alone() {
        let status = answered(Status::internal("a bug")).await;
        assert_eq!((status.code(), status.message()), (Code::Internal, "a bug"));
    }
}
