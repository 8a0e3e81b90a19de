//! The stored and replicated form of a proposal: a version byte, the postcard form, and the CRC-32C of both.
//!
//! The form of `Proposal` is frozen: the leader's stamp, the number of commands, and each command behind the
//! number of its variant. What an entry carries is decoded by every replica for ever, so a replica that meets a
//! command it does not know has to stop there: guessing would let replicas drift apart.

use bytes::Bytes;
use serde::Deserialize;

use super::{Command, Proposal};
use crate::types::Timestamp;

/// The version written, and the newest one understood.
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
/// Version, stamp, number of commands and checksum.
const BYTES_BESIDE_COMMANDS: usize = 32;
/// Variants of `Command` that this software knows: 0 up to, not including, this.
const COMMANDS_KNOWN: u32 = 5;

/// Why the bytes of an entry are not a proposal. Apply stops on each of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not those that the leader encoded.
    #[error("the proposal is damaged: {reason}")]
    Damaged {
        /// How it was noticed.
        reason: String,
    },
    /// Written by a newer version of this software.
    #[error("the proposal has format version {found}, and this software knows up to {known}")]
    NewerVersion {
        /// The version found.
        found: u8,
        /// The newest version known.
        known: u8,
    },
    /// A command that only a newer version of this software knows.
    #[error("the proposal carries command {tag}, and this software knows those below {known}")]
    UnknownCommand {
        /// The number of its variant.
        tag: u32,
        /// How many variants are known.
        known: u32,
    },
    /// The bytes are as the leader encoded them and still do not read as a proposal, such as a part of a known
    /// command that only a newer version knows.
    #[error("the proposal does not read as one: {reason}")]
    Malformed {
        /// What did not fit.
        reason: String,
    },
}

impl Proposal {
    /// The form that goes through the log.
    pub fn encode(&self) -> Bytes {
        let commands: usize = self.commands.iter().map(Command::encoded_bytes_estimate).sum();
        let mut encoded = Vec::with_capacity(BYTES_BESIDE_COMMANDS + commands);
        encoded.push(VERSION);
        encoded = postcard::to_extend(self, encoded).expect("proposals serialize without failure");
        let checksum = crc32c::crc32c(&encoded);
        encoded.extend_from_slice(&checksum.to_le_bytes());
        Bytes::from(encoded)
    }
}

impl<'a, Text, Data> Proposal<Text, Data>
where
    Text: Deserialize<'a>,
    Data: Deserialize<'a>,
{
    /// The proposal in its encoded form, verified. It owns what it holds or borrows it, whichever is asked for.
    pub fn decode(encoded: &'a [u8]) -> Result<Self, DecodeError> {
        let body = verified_body(encoded)?;
        let (stamped_at, rest) = take::<Timestamp>(body)?;
        let (count, mut rest) = take::<u64>(rest)?;
        // Not reserved in advance: the count is only believed as far as there are bytes for it.
        let mut commands = Vec::new();
        for _ in 0..count {
            let (tag, _) = take::<u32>(rest)?;
            if tag >= COMMANDS_KNOWN {
                return Err(DecodeError::UnknownCommand { tag, known: COMMANDS_KNOWN });
            }
            let (command, after) = take::<Command<Text, Data>>(rest)?;
            commands.push(command);
            rest = after;
        }
        if !rest.is_empty() {
            let reason = format!("{} bytes follow the last command", rest.len());
            return Err(DecodeError::Malformed { reason });
        }
        Ok(Proposal { stamped_at, commands })
    }
}

fn verified_body(encoded: &[u8]) -> Result<&[u8], DecodeError> {
    let Some(checked) = encoded.len().checked_sub(CHECKSUM_BYTES).filter(|len| *len > 0) else {
        let reason = format!("{} bytes are too few", encoded.len());
        return Err(DecodeError::Damaged { reason });
    };
    let (body, stored) = encoded.split_at(checked);
    let computed = crc32c::crc32c(body);
    if computed.to_le_bytes() != stored {
        let reason = format!("checksum {computed:08x} does not match the stored one");
        return Err(DecodeError::Damaged { reason });
    }
    match body[0] {
        VERSION => Ok(&body[1..]),
        found if found > VERSION => Err(DecodeError::NewerVersion { found, known: VERSION }),
        found => Err(DecodeError::Malformed { reason: format!("there is no version {found}") }),
    }
}

fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), DecodeError> {
    postcard::take_from_bytes(bytes)
        .map_err(|error| DecodeError::Malformed { reason: error.to_string() })
}
