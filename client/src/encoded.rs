//! Appends as they go out: each is encoded once, for however many attempts it takes.

use prost::Message;
use prost::bytes::{BufMut, Bytes};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::{channels, proto};

/// On the wire what `proto::SessionRequest` is.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SessionRequest {
    #[prost(uint64, tag = "1")]
    pub request_id: u64,
    /// An encoded `proto::AppendRequest`.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub append: Option<Bytes>,
    #[prost(bool, tag = "3")]
    pub reset_lane: bool,
}

/// Sends an encoded `proto::AppendRequest`.
pub(crate) async fn append(
    channel: Channel,
    request: Request<Bytes>,
) -> Result<Response<proto::AppendResponse>, Status> {
    let mut log = channels::grpc(channel);
    log.ready().await.map_err(not_ready)?;
    let path = PathAndQuery::from_static("/quorate.v1.MessageLog/Append");
    log.unary(request, path, AppendCodec).await
}

/// Opens an append stream.
pub(crate) async fn append_session(
    channel: Channel,
    requests: ReceiverStream<SessionRequest>,
) -> Result<Response<Streaming<proto::SessionResponse>>, Status> {
    let mut log = channels::grpc(channel);
    log.ready().await.map_err(not_ready)?;
    let path = PathAndQuery::from_static("/quorate.v1.MessageLog/AppendSession");
    log.streaming(Request::new(requests), path, ProstCodec::default()).await
}

/// As generated clients say it.
fn not_ready(error: tonic::transport::Error) -> Status {
    Status::unknown(format!("Service was not ready: {error}"))
}

struct AppendCodec;

impl Codec for AppendCodec {
    type Encode = Bytes;
    type Decode = proto::AppendResponse;
    type Encoder = AsIs;
    type Decoder = ProstDecoder<proto::AppendResponse>;

    fn encoder(&mut self) -> AsIs {
        AsIs
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

struct AsIs;

impl Encoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, encoded: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(encoded);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_on_the_wire_what_the_api_says() {
        let message = proto::NewMessage { client_msg_id: "m1".into(), ..Default::default() };
        let append = proto::AppendRequest { messages: vec![message], ..Default::default() };
        for append in [append, proto::AppendRequest::default()] {
            for (request_id, reset_lane) in [(0, false), (1, true), (u64::MAX, false)] {
                let ours = Some(append.encode_to_vec().into());
                let ours = SessionRequest { request_id, append: ours, reset_lane };
                let append = Some(append.clone());
                let theirs = proto::SessionRequest { request_id, append, reset_lane };
                assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
            }
        }
    }
}
