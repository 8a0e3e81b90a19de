//! What servers take of one request at all, whatever is in it; they have these bounds from here. An append over them is
//! refused before it is sent: it would end the stream of its session, and fail every other append on it.

use prost::Message;
use tonic::Code;

use crate::{Error, proto, reason};

/// Encoded bytes of one request: gRPC's usual limit.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Elements of all lists in one request: twice those of the largest that can be valid, a batch of 1,000 messages with
/// 32 headers each. What is over the limits of its fields and under this one is told the field.
pub const REQUEST_ELEMENTS_MAX: usize = 2 * 1_000 * (1 + 32);

/// Refuses what no server takes, as a server does. The same for appends on a session and without one, so that none
/// depends on how it is sent.
pub(crate) fn check(append: &proto::AppendRequest) -> Result<(), Error> {
    // A session's request has the append as one element, and an id besides.
    let elements = 1 + append.messages.iter().map(|m| 1 + m.headers.len()).sum::<usize>();
    if elements > REQUEST_ELEMENTS_MAX {
        let limit = REQUEST_ELEMENTS_MAX;
        let message = format!("the lists of the request have more than {limit} elements");
        return Err(over(limit, message));
    }
    let append_bytes = append.encoded_len();
    let others = proto::SessionRequest { request_id: u64::MAX, append: None, reset_lane: true };
    let bytes = others.encoded_len() + 1 + prost::length_delimiter_len(append_bytes) + append_bytes;
    if bytes > REQUEST_BYTES_MAX {
        let limit = REQUEST_BYTES_MAX;
        return Err(over(limit, format!("the request has {bytes} bytes, the limit is {limit}")));
    }
    Ok(())
}

fn over(limit: usize, message: String) -> Error {
    Error::local(Code::InvalidArgument, reason::LIMIT_EXCEEDED, message)
        .with_metadata("field", "request")
        .with_metadata("limit", limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest(append: proto::AppendRequest) -> usize {
        let append = Some(append);
        proto::SessionRequest { request_id: u64::MAX, append, reset_lane: true }.encoded_len()
    }

    fn with_payload(bytes: usize) -> proto::AppendRequest {
        let message = proto::NewMessage { payload: vec![0; bytes].into(), ..Default::default() };
        proto::AppendRequest { messages: vec![message], ..Default::default() }
    }

    #[test]
    fn the_last_byte_that_fits_is_taken() {
        let around = largest(with_payload(REQUEST_BYTES_MAX)) - REQUEST_BYTES_MAX;
        let fits = with_payload(REQUEST_BYTES_MAX - around);
        assert!(check(&fits).is_ok());
        assert_eq!(largest(fits), REQUEST_BYTES_MAX);
        let error = check(&with_payload(REQUEST_BYTES_MAX - around + 1)).unwrap_err();
        assert_eq!((error.code(), error.reason()), (Code::InvalidArgument, "LIMIT_EXCEEDED"));
        assert_eq!(error.metadata("field"), Some("request"));
        assert_eq!(error.metadata("limit"), Some("4194304"));
        assert!(!error.retryable() && !error.may_have_taken_effect());
    }

    #[test]
    fn elements_are_counted_with_the_append_itself() {
        let message =
            proto::NewMessage { headers: vec![proto::Header::default()], ..Default::default() };
        let mut append = proto::AppendRequest::default();
        append.messages.resize(REQUEST_ELEMENTS_MAX / 2 - 1, message);
        append.messages.push(proto::NewMessage::default());
        assert!(check(&append).is_ok());
        append.messages.push(proto::NewMessage::default());
        let error = check(&append).unwrap_err();
        assert_eq!(error.reason(), reason::LIMIT_EXCEEDED);
        assert_eq!(error.metadata("limit"), Some("66000"));
    }
}
