//! Requests are counted before they are decoded (G12): an empty message is two bytes of a request and two hundred of
//! memory, so that the size of a request alone does not bound what it takes. Responses may have parts that were encoded
//! before.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use quorate_client::limits::REQUEST_ELEMENTS_MAX;
use quorate_client::proto::{
    AppendRequest, BatchReadRequest, DescribeClusterRequest, DescribeRequest, FollowRequest,
    GetOutcomeRequest, InitRequest, ListRequest, ReadRequest, ReplaceRequest, SessionRequest,
    SubscribeRequest, WatchTopologyRequest,
};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

use super::{CallError, memory};

/// What a request repeats, and what it may hold on to.
pub trait Counted {
    /// Its fields that are repeated, or have such fields in them.
    const FIELDS: &'static [Field] = &[];

    /// Takes what waits out of the buffer that the request came in, if that is much larger. Only appends wait.
    fn detach(&mut self, _buffer_bytes: usize) {}
}

/// A field that is a list, or has a list in it.
pub struct Field {
    tag: u32,
    within: &'static [Field],
}

const fn list(tag: u32) -> Field {
    Field { tag, within: &[] }
}

/// Of `NewMessage`.
const HEADERS: Field = list(5);
/// Of `AppendRequest`.
const MESSAGES: Field = Field { tag: 3, within: &[HEADERS] };
/// Of `SessionRequest`.
const APPEND: Field = Field { tag: 2, within: &[MESSAGES] };

impl Counted for AppendRequest {
    const FIELDS: &'static [Field] = &[MESSAGES];

    fn detach(&mut self, buffer_bytes: usize) {
        memory::detach(self, buffer_bytes);
    }
}

impl Counted for SessionRequest {
    const FIELDS: &'static [Field] = &[APPEND];

    fn detach(&mut self, buffer_bytes: usize) {
        if let Some(append) = &mut self.append {
            append.detach(buffer_bytes);
        }
    }
}

impl Counted for BatchReadRequest {
    const FIELDS: &'static [Field] = &[list(1)];
}

impl Counted for FollowRequest {
    const FIELDS: &'static [Field] = &[list(1)];
}

impl Counted for InitRequest {
    const FIELDS: &'static [Field] = &[list(1)];
}

impl Counted for ReadRequest {}
impl Counted for SubscribeRequest {}
impl Counted for GetOutcomeRequest {}
impl Counted for DescribeRequest {}
impl Counted for ListRequest {}
impl Counted for DescribeClusterRequest {}
impl Counted for WatchTopologyRequest {}
impl Counted for ReplaceRequest {}

/// Elements of all lists in a request, counted no further than [`REQUEST_ELEMENTS_MAX`]. None where a field does not end
/// within what holds it: prost reads on beyond that end, into bytes that were not counted, before it says so.
fn elements(wire: &mut &[u8], fields: &[Field], counted: &mut usize) -> Option<()> {
    while wire.has_remaining() && *counted <= REQUEST_ELEMENTS_MAX {
        let (tag, wire_type) = decode_key(wire).ok()?;
        match fields.iter().find(|field| field.tag == tag) {
            Some(field) if wire_type == WireType::LengthDelimited => {
                *counted += 1;
                let length = usize::try_from(decode_varint(wire).ok()?).ok()?;
                let (mut element, rest) = wire.split_at_checked(length)?;
                *wire = rest;
                // An element without lists may be text, and is not looked into.
                if !field.within.is_empty() {
                    elements(&mut element, field.within, counted)?;
                }
            }
            _ => skip_field(wire_type, tag, wire, DecodeContext::default()).ok()?,
        }
    }
    Some(())
}

/// Elements of all lists in a request that came so; any number over [`REQUEST_ELEMENTS_MAX`] if there are more. None if
/// it cannot be decoded because its fields do not lie within each other.
pub fn counted<R: Counted>(mut wire: &[u8]) -> Option<usize> {
    let mut counted = 0;
    elements(&mut wire, R::FIELDS, &mut counted)?;
    Some(counted)
}

/// What can be sent as a response.
pub trait Encode {
    /// Bytes of its encoded form.
    fn encoded_len(&self) -> usize;

    /// Appends its encoded form.
    fn encode_raw(&self, buffer: &mut impl BufMut);
}

impl<M: Message> Encode for M {
    fn encoded_len(&self) -> usize {
        Message::encoded_len(self)
    }

    fn encode_raw(&self, buffer: &mut impl BufMut) {
        Message::encode_raw(self, buffer);
    }
}

/// tonic's codec, and requests are counted first. `tonic-build` puts it into the servers.
pub struct CountedCodec<Response, Request>(PhantomData<(Response, Request)>);

impl<Response, Request> Default for CountedCodec<Response, Request> {
    fn default() -> Self {
        CountedCodec(PhantomData)
    }
}

impl<Response, Request> Codec for CountedCodec<Response, Request>
where
    Response: Encode + Send + 'static,
    Request: Message + Default + Counted + Send + 'static,
{
    type Encode = Response;
    type Decode = Request;
    type Encoder = ResponseEncoder<Response>;
    type Decoder = CountedDecoder<Request>;

    fn encoder(&mut self) -> Self::Encoder {
        ResponseEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        CountedDecoder { decoder: ProstDecoder::default(), buffer_bytes: BUFFER_BYTES_MIN }
    }
}

/// See [`CountedCodec`].
pub struct ResponseEncoder<Response>(PhantomData<Response>);

impl<Response: Encode> Encoder for ResponseEncoder<Response> {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // The buffer would else grow in steps, and be copied at each.
        buffer.reserve(response.encoded_len());
        response.encode_raw(buffer);
        Ok(())
    }
}

/// Bytes of a request that is not counted: an element takes two at least, its key and its length, wherever it lies.
const UNCOUNTED_BYTES_MAX: usize = 2 * REQUEST_ELEMENTS_MAX;

/// What tonic may gather in one piece of whatever comes on a stream, however short its requests are.
const BUFFER_BYTES_MIN: usize = 32 * 1024;

/// See [`CountedCodec`]. One for each stream of requests.
pub struct CountedDecoder<Request> {
    decoder: ProstDecoder<Request>,
    /// The requests of a stream follow each other in buffers that are as large as the largest so far.
    buffer_bytes: usize,
}

impl<Request: Message + Default + Counted> Decoder for CountedDecoder<Request> {
    type Item = Request;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        // tonic gathers a request in one piece before it is decoded.
        let wire = buffer.chunk();
        self.buffer_bytes = self.buffer_bytes.max(wire.len());
        let is_short = wire.len() <= UNCOUNTED_BYTES_MAX;
        match if is_short { Some(0) } else { counted::<Request>(wire) } {
            None => Err(CallError::malformed("a field does not end within what holds it").into()),
            Some(elements) if elements > REQUEST_ELEMENTS_MAX => {
                Err(CallError::too_many_elements(REQUEST_ELEMENTS_MAX).into())
            }
            Some(_) => {
                let mut request = self.decoder.decode(buffer)?;
                if let Some(request) = &mut request {
                    request.detach(self.buffer_bytes);
                }
                Ok(request)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use axum::body::Body;
    use prost::encoding::encode_varint;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{DescriptorProto, FileDescriptorSet};
    use quorate_client::proto::{Header, NewMessage};
    use tonic::{Code, Streaming};

    use super::*;
    use crate::service::malformed::stream_failure;
    use crate::types::limits;

    fn append(messages: usize, headers: usize) -> AppendRequest {
        let message = NewMessage {
            headers: vec![Header::default(); headers],
            payload: b"hello".as_slice().into(),
            ..NewMessage::default()
        };
        AppendRequest { messages: vec![message; messages], ..AppendRequest::default() }
    }

    fn counted_in<R: Counted + Message>(request: &R) -> usize {
        counted::<R>(&request.encode_to_vec()).unwrap()
    }

    #[test]
    fn what_is_repeated_is_counted_at_every_level() {
        assert_eq!(counted_in(&append(0, 0)), 0);
        assert_eq!(counted_in(&append(7, 0)), 7);
        assert_eq!(counted_in(&append(7, 3)), 7 + 7 * 3);
        let session = SessionRequest { append: Some(append(7, 3)), ..SessionRequest::default() };
        assert_eq!(counted_in(&session), 1 + 7 + 7 * 3);
        let conversations = vec![String::new(); 40];
        assert_eq!(counted_in(&BatchReadRequest { conversations, ..Default::default() }), 40);
    }

    #[test]
    fn the_largest_valid_batch_is_far_below_the_limit_which_is_for_all_of_a_request() {
        let is_taken = |request: &AppendRequest| counted_in(request) <= REQUEST_ELEMENTS_MAX;
        let valid = limits::BATCH_MESSAGES_MAX * (1 + limits::HEADERS_MAX);
        assert_eq!(REQUEST_ELEMENTS_MAX, 2 * valid);
        assert!(is_taken(&append(limits::BATCH_MESSAGES_MAX, limits::HEADERS_MAX)));
        assert!(is_taken(&append(REQUEST_ELEMENTS_MAX, 0)));
        assert!(!is_taken(&append(REQUEST_ELEMENTS_MAX + 1, 0)));
        let half = REQUEST_ELEMENTS_MAX / 2;
        assert!(is_taken(&append(half, 1)));
        assert!(!is_taken(&append(half + 1, 1)));
    }

    #[test]
    fn a_field_that_comes_in_pieces_is_counted_whole() {
        let half = REQUEST_ELEMENTS_MAX / 2 + 1;
        let part = SessionRequest { append: Some(append(half, 0)), ..SessionRequest::default() };
        let mut wire = part.encode_to_vec();
        assert!(counted::<SessionRequest>(&wire).unwrap() <= REQUEST_ELEMENTS_MAX);
        // Protobuf joins the two appends into one.
        wire.extend(part.encode_to_vec());
        assert!(counted::<SessionRequest>(&wire).unwrap() > REQUEST_ELEMENTS_MAX);
    }

    #[test]
    fn text_is_counted_and_not_looked_into() {
        // Bytes that are no field: counting must neither end there nor refuse them.
        let mut conversations = vec!["\u{7}".to_owned(); 3];
        let request = |conversations| BatchReadRequest { conversations, ..Default::default() };
        assert_eq!(counted_in(&request(conversations.clone())), 3);
        conversations.resize(REQUEST_ELEMENTS_MAX + 1, String::new());
        assert!(counted_in(&request(conversations)) > REQUEST_ELEMENTS_MAX);
    }

    /// Requests as tonic hands them over: in their frames, decoded by the codec.
    fn stream<R>(requests: &[&[u8]]) -> Streaming<R>
    where
        R: Message + Default + Counted + Send + 'static,
    {
        let frame = |wire: &&[u8]| {
            let length = u32::try_from(wire.len()).unwrap().to_be_bytes();
            [&[0], &length[..], wire].concat()
        };
        let frames: Vec<_> = requests.iter().flat_map(frame).collect();
        let decoder = CountedCodec::<R, R>::default().decoder();
        Streaming::new_request(decoder, Body::from(frames), None, None)
    }

    async fn received<R>(wire: &[u8]) -> Result<Option<R>, Status>
    where
        R: Message + Default + Counted + Send + 'static,
    {
        stream(&[wire]).message().await
    }

    /// An append of a session that ends within one of its messages: that is of `length` bytes, and headers follow.
    fn overrun(length: u64, headers: usize) -> Vec<u8> {
        let mut varint = Vec::new();
        encode_varint(length, &mut varint);
        let append = [&[0x1a][..], &varint].concat();
        let begin = [0x12, u8::try_from(append.len()).unwrap()];
        [&begin[..], &append, &[0x2a, 0].repeat(headers)].concat()
    }

    #[tokio::test]
    async fn a_field_that_ends_beyond_its_parent_is_refused_before_it_is_decoded() {
        const HEADERS: usize = REQUEST_ELEMENTS_MAX + 1;
        let headers = [0x2a, 0].repeat(HEADERS);
        let beyond = [
            // The length of an element reaches beyond its parent.
            overrun(2 * HEADERS as u64, HEADERS),
            // The key of an element lies across the end of its parent: 0x9a 0x00 is 0x1a.
            [&[0x12, 1, 0x9a, 0, 0xfe, 0x7f][..], &headers].concat(),
            // So does its length.
            [&[0x12, 1, 0x1a, 0xfe, 0x7f][..], &headers].concat(),
            // A group does not end within its parent.
            [&[0x12, 2, 0x7b, 0x7b][..], &headers].concat(),
        ];
        for wire in beyond {
            assert!(SessionRequest::decode(&*wire).is_err(), "{:x?}", &wire[..8]);
            assert_eq!(counted::<SessionRequest>(&wire), None, "{:x?}", &wire[..8]);
            let refused = received::<SessionRequest>(&wire).await.unwrap_err();
            let error = stream_failure(&refused).expect("it is the caller's mistake");
            assert_eq!((error.code(), error.reason()), (Code::InvalidArgument, "MALFORMED"));
        }
        // Where it ends within, it is counted.
        let wire = SessionRequest { append: Some(append(2, 3)), ..SessionRequest::default() };
        let wire = wire.encode_to_vec();
        let request = received::<SessionRequest>(&wire).await.unwrap().unwrap();
        assert_eq!(request.append.unwrap().messages.len(), 2);
    }

    #[tokio::test]
    async fn a_payload_that_waits_holds_no_buffer_that_is_much_larger() {
        let request = |payload: usize| {
            let payload = vec![7; payload].into();
            let messages = vec![NewMessage { payload, ..NewMessage::default() }];
            let append = Some(AppendRequest { messages, ..AppendRequest::default() });
            SessionRequest { append, ..SessionRequest::default() }.encode_to_vec()
        };
        let (large, middle, small) = (request(1 << 20), request(1 << 16), request(1 << 10));
        let mut requests = stream::<SessionRequest>(&[&small, &middle, &large, &middle]);
        let mut copied = Vec::new();
        while let Some(request) = requests.message().await.unwrap() {
            let payload = request.append.unwrap().messages[0].payload.clone();
            // As long as the stream lives, so does its buffer.
            copied.push(payload.try_into_mut().is_ok());
        }
        // The last may lie in a buffer that was made for the one before it.
        assert_eq!(copied, [true, false, false, true]);
    }

    fn by_name(
        scope: &str,
        messages: &[DescriptorProto],
        all: &mut BTreeMap<String, DescriptorProto>,
    ) {
        for message in messages {
            let name = format!("{scope}.{}", message.name());
            by_name(&name, &message.nested_type, all);
            all.insert(name, message.clone());
        }
    }

    /// The paths of tags under which something is repeated, as the proto files have it.
    fn repeated(
        messages: &BTreeMap<String, DescriptorProto>,
        of: &str,
        path: &[u32],
        found: &mut BTreeSet<Vec<u32>>,
    ) {
        for field in &messages[of].field {
            let path = [path, &[field.number().cast_unsigned()]].concat();
            if field.label() == Label::Repeated {
                found.insert(path.clone());
            }
            if field.r#type() == Type::Message {
                repeated(messages, field.type_name().trim_start_matches('.'), &path, found);
            }
        }
    }

    /// The same, as it is said here: a list is at the end of its path or has another in it.
    fn said(fields: &[Field], path: &[u32], found: &mut BTreeSet<Vec<u32>>) {
        for field in fields {
            let path = [path, &[field.tag]].concat();
            found.insert(path.clone());
            said(field.within, &path, found);
        }
    }

    #[test]
    fn every_list_of_every_request_is_counted() {
        let files = FileDescriptorSet::decode(quorate_client::proto::DESCRIPTORS).unwrap().file;
        let mut messages = BTreeMap::new();
        for file in &files {
            by_name(file.package(), &file.message_type, &mut messages);
        }
        let fields: BTreeMap<&str, &[Field]> = BTreeMap::from([
            ("quorate.v1.AppendRequest", AppendRequest::FIELDS),
            ("quorate.v1.SessionRequest", SessionRequest::FIELDS),
            ("quorate.v1.BatchReadRequest", BatchReadRequest::FIELDS),
            ("quorate.v1.FollowRequest", FollowRequest::FIELDS),
            ("quorate.v1.InitRequest", InitRequest::FIELDS),
        ]);
        for method in
            files.iter().flat_map(|file| &file.service).flat_map(|service| &service.method)
        {
            let request = method.input_type().trim_start_matches('.');
            let (mut lists, mut known) = (BTreeSet::new(), BTreeSet::new());
            repeated(&messages, request, &[], &mut lists);
            said(fields.get(request).copied().unwrap_or_default(), &[], &mut known);
            assert!(known.is_superset(&lists), "{request} has lists at {lists:?}");
        }
    }
}
