use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a conversation, such as `acme/room-42`: 1 to 512 bytes of UTF-8 (checked where it enters).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConversationName<Text = String>(pub Text);

impl<Text: AsRef<str>> ConversationName<Text> {
    /// The first 16 bytes of BLAKE3 of the name: what keys start with.
    pub fn id(&self) -> ConversationId {
        ConversationId::of(self.as_str())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_ref()
    }
}

impl<Text: fmt::Display> fmt::Display for ConversationName<Text> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What identifies a conversation in keys. Two names with one id are told apart by the stored name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConversationId(pub [u8; 16]);

impl ConversationId {
    /// Of the conversation with this name.
    pub fn of(name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        ConversationId(id)
    }

    /// The first 64 bits, big endian: which group holds the conversation.
    pub fn placement(self) -> PlacementHash {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        PlacementHash(u64::from_be_bytes(first))
    }
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A point on the circle of names that groups divide among themselves.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct PlacementHash(pub u64);
