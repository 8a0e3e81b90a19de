//! Calls made of bytes, for requests that no generated client would send, and what the details of an error say.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use quorate::transport::proto::Hello;
use quorate_client::proto;
use tokio::time::timeout;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// What nodes say to each other; its descriptors are in no program.
const PEER_PROTO: &str = include_str!("../../proto/quorate/peer/v1/peer.proto");

/// Longer than any answer takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Sends one message, whatever the method's shape, and returns the first response; none if the stream ends without.
pub async fn ask(channel: &Channel, path: &str, request: Bytes) -> Result<Option<Bytes>, Status> {
    ask_as(channel, path, request, None).await
}

/// The same as a node that hands a call on, if a hello is given.
pub async fn ask_as(
    channel: &Channel,
    path: &str,
    request: Bytes,
    hello: Option<&Hello>,
) -> Result<Option<Bytes>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(futures::stream::iter([request]));
    if let Some(hello) = hello {
        let hello = MetadataValue::from_bytes(&hello.encode_to_vec());
        request.metadata_mut().insert_bin("x-quorate-hello-bin", hello);
    }
    let path = path.parse().expect("a path");
    let call = async {
        let mut responses = grpc.streaming(request, path, Raw).await?.into_inner();
        responses.message().await
    };
    timeout(PATIENCE, call).await.unwrap_or_else(|_| panic!("no answer in time"))
}

/// What an error says.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: Code,
    pub reason: String,
    pub message: String,
    pub retryable: bool,
    pub may_have_taken_effect: bool,
    pub retry_delay: Option<Duration>,
    pub metadata: HashMap<String, String>,
    /// Fields of google.rpc.BadRequest.
    pub violations: Vec<String>,
}

impl Refusal {
    /// The details of a status. One without ours is a bug of the server.
    pub fn of(status: &Status) -> Refusal {
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("no details: {status:?}"));
        assert_eq!(info.domain, "quorate", "{status:?}");
        let violations = details.bad_request().map(|bad| &bad.field_violations[..]);
        let says = |key: &str| info.metadata[key] == "true";
        Refusal {
            code: status.code(),
            reason: info.reason.clone(),
            message: status.message().to_owned(),
            retryable: says("retryable"),
            may_have_taken_effect: says("may_have_taken_effect"),
            retry_delay: details.retry_info().and_then(|retry| retry.retry_delay),
            metadata: info.metadata.clone(),
            violations: violations.unwrap_or_default().iter().map(|v| v.field.clone()).collect(),
        }
    }

    /// An error inside a stream.
    pub fn in_stream(failure: proto::Failure) -> Refusal {
        let delay = failure.retry_delay_ms;
        Refusal {
            code: Code::from_i32(failure.code),
            reason: failure.reason,
            message: failure.message,
            retryable: failure.retryable,
            may_have_taken_effect: failure.may_have_taken_effect,
            retry_delay: (delay > 0).then(|| Duration::from_millis(delay)),
            metadata: failure.metadata,
            violations: Vec::new(),
        }
    }

    pub fn field(&self) -> Option<&str> {
        self.metadata.get("field").map(String::as_str)
    }

    pub fn limit(&self) -> Option<u64> {
        self.metadata.get("limit").and_then(|limit| limit.parse().ok())
    }
}

/// The names of all RPCs that nodes have between them.
pub fn peer_methods() -> Vec<&'static str> {
    let rpcs = PEER_PROTO.lines().filter_map(|line| line.trim_start().strip_prefix("rpc "));
    rpcs.map(|rpc| rpc.split('(').next().unwrap_or_default().trim()).collect()
}

/// One RPC of the API.
#[derive(Clone, Debug)]
pub struct Method {
    /// `/package.Service/Method`.
    pub path: String,
    pub service: String,
    pub input: String,
}

/// The API as its descriptors have it.
pub struct Api {
    pub methods: Vec<Method>,
    messages: HashMap<String, DescriptorProto>,
}

impl Api {
    pub fn load() -> Api {
        let set = FileDescriptorSet::decode(proto::DESCRIPTORS).expect("descriptors decode");
        let (mut methods, mut messages) = (Vec::new(), HashMap::new());
        for file in &set.file {
            for message in &file.message_type {
                collect(&format!(".{}", file.package()), message, &mut messages);
            }
            for service in &file.service {
                methods.extend(service.method.iter().map(|method| Method {
                    path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    service: service.name().to_owned(),
                    input: method.input_type().to_owned(),
                }));
            }
        }
        Api { methods, messages }
    }

    /// For each text field of a message, however deep: its name, and an encoding in which it is not UTF-8.
    pub fn texts_that_are_not(&self, message: &str) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        for field in &self.messages[message].field {
            let number = field.number() as u32;
            match field.r#type() {
                Type::String => {
                    found.push((field.name().to_owned(), delimited(number, &[b'a', 0xff])));
                }
                Type::Message => {
                    let inner = self.texts_that_are_not(field.type_name()).into_iter();
                    found.extend(inner.map(|(name, bytes)| (name, delimited(number, &bytes))));
                }
                _ => {}
            }
        }
        found
    }
}

fn collect(scope: &str, message: &DescriptorProto, into: &mut HashMap<String, DescriptorProto>) {
    let name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested, into);
    }
    into.insert(name, message.clone());
}

/// A field that has a length.
pub fn delimited(number: u32, contents: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut out);
    encode_varint(contents.len() as u64, &mut out);
    out.extend_from_slice(contents);
    out
}
