//! What cases need that go through a port: a node to call, a node that answers as it is told, and no network.

mod called;
mod node;
mod scripted;

use bytes::{Buf, Bytes};
use prost::{decode_length_delimiter, length_delimiter_len};
use tokio::runtime::{Builder, Runtime};

pub use called::Answer;
pub use node::{Asked, NODE, PULSE, here};
pub use scripted::{Reply, Script, dial};

/// Bounds what an input is made into.
const MESSAGES_MAX: usize = 64;

/// The messages of a stream, each behind its length in the input; the last one may be cut off.
pub fn messages(input: &[u8]) -> Vec<Bytes> {
    let mut left = Bytes::copy_from_slice(input);
    let mut messages = Vec::new();
    while left.has_remaining() && messages.len() < MESSAGES_MAX {
        let Ok(length) = decode_length_delimiter(&mut left) else { break };
        messages.push(left.split_to(length.min(left.len())));
    }
    messages
}

/// An input for `messages`.
pub fn stream<M: AsRef<[u8]>>(messages: impl IntoIterator<Item = M>) -> Vec<u8> {
    let mut input = Vec::new();
    for message in messages {
        let message = message.as_ref();
        input.reserve(length_delimiter_len(message.len()) + message.len());
        prost::encode_length_delimiter(message.len(), &mut input).expect("a Vec grows");
        input.extend_from_slice(message);
    }
    input
}

/// A runtime for one thread, on which time passes only while nothing else is to be done.
pub fn runtime() -> Runtime {
    let builder = &mut Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("it needs nothing of the machine")
}
