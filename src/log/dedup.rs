//! Idempotency: which ids stand, and whether a message is the one that stands under its id (guarantee G4).

use std::sync::LazyLock;

use blake3::hazmat::hash_derive_key_context;

use super::digest::{
    Digest, Domain, bytes, hasher_in, kind_byte, payload_commitment, target_number,
};
use super::{GroupState, NewMessageRef};
use crate::storage::records::{ContentIdentity, DedupOutcome, DedupRow, Kind, MessageRecord};
use crate::storage::{Overlay, StorageError, keys};
use crate::types::{AttemptId, ConversationId, Seq, Timestamp};

static CONTENT: Domain = LazyLock::new(|| hash_derive_key_context("quorate v2 content identity"));

/// Whether a row still counts. Later it means nothing, also while it has not been removed yet: removal is not
/// replicated, so replicas may differ in which expired rows they have.
pub(super) fn in_force(row: &DedupRow, floor: Timestamp) -> bool {
    row.issued_at >= floor
}

/// The row of an id, if it is in force.
pub(super) fn standing(
    overlay: &Overlay<'_>,
    group: &GroupState,
    conversation: ConversationId,
    sender: &str,
    client_msg_id: &str,
) -> Result<Option<DedupRow>, StorageError> {
    let key = keys::dedup(conversation, sender, client_msg_id);
    let row: Option<DedupRow> = overlay.row(&key)?;
    Ok(row.filter(|row| in_force(row, group.dedup_floor)))
}

/// Keeps a standing row in force for at least as long as an id with this `issued_at` could be sent again.
///
/// An id is retried with the `issued_at` of its first attempt. If a caller gives another one, it is told what
/// stands; were the row to expire earlier than that later `issued_at`, the same request would be appended anew.
pub(super) fn keep_in_force(
    overlay: &mut Overlay<'_>,
    key: Vec<u8>,
    row: DedupRow,
    issued_at: Timestamp,
) {
    accept_again(overlay, key, row, issued_at, None);
}

/// Keeps a committed row in force, as `keep_in_force` does, and notes the attempt that was accepted.
pub(super) fn accept_again(
    overlay: &mut Overlay<'_>,
    key: Vec<u8>,
    mut row: DedupRow,
    issued_at: Timestamp,
    accepted: Option<AttemptId>,
) {
    let before = row.clone();
    row.issued_at = row.issued_at.max(issued_at);
    if let DedupOutcome::Committed { attempt, .. } = &mut row.outcome {
        *attempt = accepted.or(*attempt);
    }
    if row != before {
        overlay.put_row(key, &row);
    }
}

/// What makes two messages under one id the same message: payload, content type, kind and target.
#[derive(Clone, Copy)]
pub(super) struct Content<'a> {
    pub kind: Kind,
    pub target_seq: Option<Seq>,
    pub content_type: &'a str,
    pub payload: &'a [u8],
}

impl Content<'_> {
    /// What a row keeps of it. `payload_commitment` is that of its payload with this salt.
    pub fn identity(self, salt: [u8; 16], payload_commitment: &Digest) -> ContentIdentity {
        ContentIdentity { salt, hash: self.hash_over(payload_commitment) }
    }

    /// Whether it is what a row was made for.
    pub fn is_that_of(self, kept: &ContentIdentity) -> bool {
        self.hash_over(&payload_commitment(&kept.salt, self.payload)) == kept.hash
    }

    /// The first 16 bytes of BLAKE3 in key-derivation mode; fields as in `digest`. Over the payload's commitment, which
    /// the digest chain needs as well: so each replica hashes a payload once.
    fn hash_over(self, payload_commitment: &Digest) -> [u8; 16] {
        let mut hasher = hasher_in(&CONTENT);
        hasher.update(&[kind_byte(self.kind)]);
        hasher.update(&target_number(self.target_seq).to_be_bytes());
        bytes(&mut hasher, self.content_type.as_bytes());
        hasher.update(payload_commitment);
        let mut identity = [0; 16];
        identity.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        identity
    }
}

impl<'a> From<&NewMessageRef<'a>> for Content<'a> {
    fn from(message: &NewMessageRef<'a>) -> Self {
        Content {
            kind: message.kind,
            target_seq: message.target_seq,
            content_type: message.content_type,
            payload: message.payload,
        }
    }
}

impl<'a> From<&'a MessageRecord> for Content<'a> {
    fn from(message: &'a MessageRecord) -> Self {
        Content {
            kind: message.kind,
            target_seq: message.target_seq,
            content_type: &message.content_type,
            payload: &message.payload,
        }
    }
}
