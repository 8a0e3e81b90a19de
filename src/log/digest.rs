//! The hash chain over a conversation's history (guarantee G11), version 1.
//!
//! Every hash is BLAKE3 in key-derivation mode, 32 bytes, with one of the contexts below as its domain. Integers
//! are big endian. `bytes(x)` is the length of x as 4 bytes, followed by x. An absent target is 0, which is no seq.
//!
//! ```text
//! genesis  = G(bytes(name), generation: 4)
//! headers  = H(salt: 16, number of headers: 4, for each bytes(name) bytes(value))
//! payload  = P(salt: 16, bytes(payload))
//! leaf     = L(digest before: 32, conversation id: 16, generation: 4, seq: 8, kind: 1, bytes(sender),
//!              bytes(client_msg_id), issued_at: 8, commit_time: 8, bytes(content_type), target_seq: 8,
//!              bytes(traceparent), unread_ordinal: 8, headers: 32, payload: 32)
//! ```
//!
//! A message's digest is its leaf; the digest before the first message is the genesis. The chain covers headers and
//! payload through salted commitments only, so that a redaction can erase them with their salt, and keep both
//! commitments, without breaking the chain and without leaving a hash by which erased words could be guessed.
//! That is why the payload's CRC is not part of a leaf.

use std::sync::LazyLock;

use blake3::Hasher;
use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use crate::storage::records::{Kind, MessageRecord};
use crate::types::{ConversationId, ConversationName, Seq};

/// A BLAKE3 hash.
pub type Digest = [u8; 32];

static GENESIS: Domain =
    LazyLock::new(|| hash_derive_key_context("quorate v1 conversation genesis"));
static HEADERS: Domain = LazyLock::new(|| hash_derive_key_context("quorate v1 headers commitment"));
static PAYLOAD: Domain = LazyLock::new(|| hash_derive_key_context("quorate v1 payload commitment"));
static LEAF: Domain = LazyLock::new(|| hash_derive_key_context("quorate v1 message leaf"));

/// The digest before the first message of a conversation.
pub fn genesis(name: &ConversationName, generation: u32) -> Digest {
    let mut hasher = hasher_in(&GENESIS);
    bytes(&mut hasher, name.as_str().as_bytes());
    hasher.update(&generation.to_be_bytes());
    *hasher.finalize().as_bytes()
}

/// The commitment to a message's headers.
pub fn headers_commitment<Text, Data>(salt: &[u8; 16], headers: &[(Text, Data)]) -> Digest
where
    Text: AsRef<str>,
    Data: AsRef<[u8]>,
{
    let mut hasher = hasher_in(&HEADERS);
    hasher.update(salt);
    hasher.update(&length(headers.len()));
    for (name, value) in headers {
        bytes(&mut hasher, name.as_ref().as_bytes());
        bytes(&mut hasher, value.as_ref());
    }
    *hasher.finalize().as_bytes()
}

/// The commitment to a message's payload.
pub fn payload_commitment(salt: &[u8; 16], payload: &[u8]) -> Digest {
    let mut hasher = hasher_in(&PAYLOAD);
    hasher.update(salt);
    bytes(&mut hasher, payload);
    *hasher.finalize().as_bytes()
}

/// The digest of a history that ends with `message`, from the digest of the history before it. The digest in the
/// record itself is not looked at.
pub fn leaf<Text, Data>(
    before: &Digest,
    conversation: ConversationId,
    generation: u32,
    message: &MessageRecord<Text, Data>,
) -> Digest
where
    Text: AsRef<str>,
    Data: AsRef<[u8]>,
{
    let payload = payload_commitment(&message.salt, message.payload.as_ref());
    leaf_over(&payload, before, conversation, generation, message)
}

/// The same of a message whose `payload_commitment` is known.
pub(super) fn leaf_over<Text, Data>(
    payload: &Digest,
    before: &Digest,
    conversation: ConversationId,
    generation: u32,
    message: &MessageRecord<Text, Data>,
) -> Digest
where
    Text: AsRef<str>,
    Data: AsRef<[u8]>,
{
    let mut hasher = hasher_in(&LEAF);
    hasher.update(before);
    hasher.update(&conversation.0);
    hasher.update(&generation.to_be_bytes());
    hasher.update(&message.seq.0.to_be_bytes());
    hasher.update(&[kind_byte(message.kind)]);
    bytes(&mut hasher, message.sender.as_ref().as_bytes());
    bytes(&mut hasher, message.client_msg_id.as_ref().as_bytes());
    hasher.update(&message.issued_at.0.to_be_bytes());
    hasher.update(&message.commit_time.0.to_be_bytes());
    bytes(&mut hasher, message.content_type.as_ref().as_bytes());
    hasher.update(&target_number(message.target_seq).to_be_bytes());
    bytes(&mut hasher, message.traceparent.as_ref().as_bytes());
    hasher.update(&message.unread_ordinal.to_be_bytes());
    hasher.update(&headers_commitment(&message.salt, &message.headers));
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}

/// A context of BLAKE3's key derivation, hashed: that takes as long as hashing a short message, and is done once.
pub(super) type Domain = LazyLock<ContextKey>;

/// A hash in this domain, of nothing yet.
pub(super) fn hasher_in(domain: &Domain) -> Hasher {
    Hasher::new_from_context_key(domain)
}

/// The number that stands for a kind in hashes. Frozen.
pub(super) fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Content => 1,
        Kind::Redaction => 2,
        Kind::Replacement => 3,
        Kind::System => 4,
    }
}

/// The number that stands for a target in hashes.
pub(super) fn target_number(target: Option<Seq>) -> u64 {
    target.map_or(0, |seq| seq.0)
}

/// Adds a field of any length such that no two sequences of fields hash alike.
pub(super) fn bytes(hasher: &mut Hasher, field: &[u8]) {
    hasher.update(&length(field.len()));
    hasher.update(field);
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("limits keep every field far below 4 GiB").to_be_bytes()
}
