use bytes::{BufMut, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, string};
use quorate_client::proto::{FollowResponse, SubscribeResponse};

use crate::service::codec::Encode;

/// A response of a Follow or a Subscribe. On the wire it is an `R`, whichever it is here.
#[derive(Clone, Debug, PartialEq)]
pub enum Outgoing<R> {
    /// Messages of one conversation, encoded before: once for all who are sent them.
    Encoded(EncodedMessages),
    /// Anything else.
    Plain(R),
}

/// What a subscription yields.
pub type Subscribed = Outgoing<SubscribeResponse>;
/// What a follow yields.
pub type Followed = Outgoing<FollowResponse>;

/// `quorate.v1.Delivery.Messages` whose messages are encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedMessages {
    /// The conversation.
    pub conversation: String,
    /// Each one a `quorate.v1.Message`.
    pub messages: Vec<Bytes>,
}

/// `FollowResponse.delivery`, and `SubscribeResponse.delivery`.
const DELIVERY: u32 = 1;
/// `Delivery.messages`.
const MESSAGES: u32 = 1;
/// `Delivery.Messages.conversation`.
const CONVERSATION: u32 = 1;
/// `Delivery.Messages.messages`.
const MESSAGE: u32 = 2;

impl EncodedMessages {
    /// What they hold on to while they wait.
    pub fn memory_bytes(&self) -> usize {
        self.messages.iter().map(|message| size_of::<Bytes>() + message.len()).sum()
    }

    fn messages_len(&self) -> usize {
        let conversation = string::encoded_len(CONVERSATION, &self.conversation);
        let messages = self.messages.iter().map(|message| field_len(MESSAGE, message.len()));
        conversation + messages.sum::<usize>()
    }
}

impl<R: Encode> Encode for Outgoing<R> {
    fn encoded_len(&self) -> usize {
        match self {
            Outgoing::Encoded(messages) => {
                field_len(DELIVERY, field_len(MESSAGES, messages.messages_len()))
            }
            Outgoing::Plain(response) => response.encoded_len(),
        }
    }

    fn encode_raw(&self, buffer: &mut impl BufMut) {
        let encoded = match self {
            Outgoing::Encoded(encoded) => encoded,
            Outgoing::Plain(response) => return response.encode_raw(buffer),
        };
        let messages_len = encoded.messages_len();
        begin_field(DELIVERY, field_len(MESSAGES, messages_len), buffer);
        begin_field(MESSAGES, messages_len, buffer);
        string::encode(CONVERSATION, &encoded.conversation, buffer);
        for message in &encoded.messages {
            begin_field(MESSAGE, message.len(), buffer);
            buffer.put_slice(message);
        }
    }
}

/// Bytes of a field whose value has a length.
fn field_len(tag: u32, value_len: usize) -> usize {
    key_len(tag) + encoded_len_varint(value_len as u64) + value_len
}

fn begin_field(tag: u32, value_len: usize, buffer: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, buffer);
    encode_varint(value_len as u64, buffer);
}

#[cfg(test)]
impl<R: prost::Message + Default> Outgoing<R> {
    /// As callers decode it.
    pub fn decoded(self) -> R {
        let mut sent = Vec::new();
        self.encode_raw(&mut sent);
        R::decode(&*sent).expect("it is what callers are sent")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use quorate_client::proto::delivery::{Kind, Messages};
    use quorate_client::proto::subscribe_response;
    use quorate_client::proto::{Delivery, Header, Message};

    use super::*;

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    fn message() -> impl Strategy<Value = Message> {
        let header = ("[a-z]{0,9}", bytes(9)).prop_map(|(name, value)| Header { name, value });
        let headers = prop::collection::vec(header, 0..4);
        // On both sides of the lengths at which the lengths of lengths change.
        let payload = prop_oneof![bytes(3), bytes(300), bytes(20_000)];
        let numbers = (any::<u64>(), 0i32..5, any::<u32>());
        (numbers, "\\PC{0,40}", headers, payload).prop_map(|(numbers, text, headers, payload)| {
            let (seq, kind, payload_crc32c) = numbers;
            Message {
                seq,
                kind,
                sender: text.clone(),
                client_msg_id: text,
                headers,
                payload,
                payload_crc32c,
                unread_ordinal: seq / 2,
                ..Message::default()
            }
        })
    }

    fn sent<R: Encode>(response: &Outgoing<R>) -> Vec<u8> {
        let mut sent = Vec::new();
        response.encode_raw(&mut sent);
        assert_eq!(sent.len(), response.encoded_len());
        sent
    }

    proptest! {
        /// Callers cannot tell how a response was encoded.
        #[test]
        fn the_bytes_are_those_of_prost(
            conversation in "\\PC{1,200}",
            messages in prop::collection::vec(message(), 1..5),
        ) {
            let encoded = EncodedMessages {
                conversation: conversation.clone(),
                messages: messages.iter().map(|message| message.encode_to_vec().into()).collect(),
            };
            let kind = Some(Kind::Messages(Messages { conversation, messages }));
            let delivery = Delivery { kind };
            let followed = FollowResponse { delivery: Some(delivery.clone()) };
            let kind = Some(subscribe_response::Kind::Delivery(delivery));
            let subscribed = SubscribeResponse { kind };
            prop_assert_eq!(sent(&Followed::Encoded(encoded.clone())), followed.encode_to_vec());
            prop_assert_eq!(sent(&Subscribed::Encoded(encoded)), subscribed.encode_to_vec());
            prop_assert_eq!(sent(&Followed::Plain(followed.clone())), followed.encode_to_vec());
        }
    }
}
