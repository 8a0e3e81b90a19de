//! Requests are counted before they are decoded (G12): an empty message is two bytes of a request and two hundred of
//! memory, so that the size of a request alone does not bound what it takes.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use quorate_client::proto::{
    AppendRequest, BatchReadRequest, DescribeClusterRequest, DescribeRequest, FollowRequest,
    GetOutcomeRequest, InitRequest, ListRequest, ReadRequest, ReplaceRequest, SessionRequest,
    SubscribeRequest, WatchTopologyRequest,
};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::CallError;
use crate::types::limits::REQUEST_ELEMENTS_MAX;

/// What a request repeats.
pub trait Counted {
    /// Its fields that are repeated, or have such fields in them.
    const FIELDS: &'static [Field] = &[];
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
}

impl Counted for SessionRequest {
    const FIELDS: &'static [Field] = &[APPEND];
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

/// Elements of all lists in a request. Counts no further than [`REQUEST_ELEMENTS_MAX`], and no further than the wire
/// makes sense: decoding will stop there too, and say why.
fn elements(wire: &mut &[u8], fields: &[Field], counted: &mut usize) -> Option<()> {
    while wire.has_remaining() && *counted <= REQUEST_ELEMENTS_MAX {
        let (tag, wire_type) = decode_key(wire).ok()?;
        match fields.iter().find(|field| field.tag == tag) {
            Some(field) if wire_type == WireType::LengthDelimited => {
                *counted += 1;
                let length = usize::try_from(decode_varint(wire).ok()?).ok()?;
                let (mut element, rest) = wire.split_at_checked(length)?;
                *wire = rest;
                elements(&mut element, field.within, counted)?;
            }
            _ => skip_field(wire_type, tag, wire, DecodeContext::default()).ok()?,
        }
    }
    Some(())
}

/// Elements of all lists in a request that came so; any number over [`REQUEST_ELEMENTS_MAX`] if there are more.
pub fn counted<R: Counted>(mut wire: &[u8]) -> usize {
    let mut counted = 0;
    // None is a request that will not decode.
    let _ = elements(&mut wire, R::FIELDS, &mut counted);
    counted
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
    Response: Message + Send + 'static,
    Request: Message + Default + Counted + Send + 'static,
{
    type Encode = Response;
    type Decode = Request;
    type Encoder = ProstEncoder<Response>;
    type Decoder = CountedDecoder<Request>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Response, Request>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CountedDecoder(ProstDecoder::default())
    }
}

/// See [`CountedCodec`].
pub struct CountedDecoder<Request>(ProstDecoder<Request>);

impl<Request: Message + Default + Counted> Decoder for CountedDecoder<Request> {
    type Item = Request;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        // tonic gathers a request in one piece before it is decoded.
        if counted::<Request>(buffer.chunk()) > REQUEST_ELEMENTS_MAX {
            return Err(CallError::too_many_elements(REQUEST_ELEMENTS_MAX).into());
        }
        self.0.decode(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{DescriptorProto, FileDescriptorSet};
    use quorate_client::proto::{Header, NewMessage};

    use super::*;
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
        counted::<R>(&request.encode_to_vec())
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
        assert!(counted::<SessionRequest>(&wire) <= REQUEST_ELEMENTS_MAX);
        // Protobuf joins the two appends into one.
        wire.extend(part.encode_to_vec());
        assert!(counted::<SessionRequest>(&wire) > REQUEST_ELEMENTS_MAX);
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
