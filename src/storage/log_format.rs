//! The format of RocksDB's write-ahead logs and manifests, read for one question: is the last write torn, or is the log
//! damaged?
//!
//! Each write is synced before the next begins, so a power cut tears one record at most, the last, which was never
//! reported done. Its pages reach the disk in any order; those that did not are read as zeros where the file is as long
//! already. RocksDB tolerates a log that only ends too early, and calls everything else corruption.
//!
//! The framing (`db/log_format.h`): blocks of 32 KiB, and in them fragments. Each has a checksum of its type and payload,
//! the payload's length, and the type. A record is one full fragment, or a first one, middle ones and a last.

use std::io::{self, Read};

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
/// The least that a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// The end of a log that a power cut has torn.
#[derive(Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Where the record begins that was not written as a whole; every record before it was.
    pub at: u64,
    /// Bytes from there to the end of the file.
    pub bytes: u64,
}

/// Finds the torn end of a log that is read from its start. It has one if
/// - every record before the last is sound,
/// - no sound fragment begins a record behind the first bad one, and
/// - the bad ones look unwritten, not altered: each block that holds any has a sector of zeros from there on, or ends too
///   early. A flipped bit leaves neither, unless the record has such zeros of its own.
///
/// Behind a header that was not written nothing in the same block is looked at, as RocksDB does not. Fails only if
/// reading does.
pub fn find_torn_tail(mut log: impl Read) -> io::Result<Option<TornTail>> {
    let mut walk = Walk::default();
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    loop {
        block.clear();
        log.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(walk.torn_tail());
        }
        if let Err(Altered) = walk.take(&block) {
            return Ok(None);
        }
    }
}

/// No power cut leaves a log so.
struct Altered;

/// How far a log was read, and what was found.
#[derive(Default)]
struct Walk {
    position: u64,
    /// Where the record began that is to go on.
    record_at: Option<u64>,
    torn_at: Option<u64>,
    /// Whether anything of the torn record is zeros for want of being written.
    has_unwritten: bool,
    /// Whether the last fragment of the torn record was seen.
    has_ended: bool,
}

impl Walk {
    fn torn_tail(&self) -> Option<TornTail> {
        let at = self.torn_at.filter(|_| self.has_unwritten)?;
        Some(TornTail { at, bytes: self.position - at })
    }

    fn take(&mut self, block: &[u8]) -> Result<(), Altered> {
        let mut at = 0;
        let mut bad_at = None;
        while at + HEADER_BYTES <= block.len() && !self.has_ended {
            let position = self.position + at as u64;
            let fragment = Fragment::read(block, at);
            match fragment.kind {
                Some(kind) => self.sound(kind, position)?,
                None => {
                    self.torn_at.get_or_insert(self.record_at.unwrap_or(position));
                    bad_at.get_or_insert(at);
                }
            }
            at += fragment.length;
        }
        if let Some(bad_at) = bad_at {
            let is_unwritten = has_empty_sector(block, bad_at);
            let ends_early = at > block.len();
            if !is_unwritten && !ends_early {
                return Err(Altered);
            }
            self.has_unwritten |= is_unwritten;
        }
        let behind = block.get(at..).unwrap_or_default();
        if self.has_ended && !is_empty(behind) {
            return Err(Altered);
        }
        self.position += block.len() as u64;
        Ok(())
    }

    fn sound(&mut self, kind: Kind, position: u64) -> Result<(), Altered> {
        let begins = matches!(kind, Kind::Full | Kind::First);
        if self.torn_at.is_some() {
            self.has_ended = kind == Kind::Last;
            return if begins { Err(Altered) } else { Ok(()) };
        }
        if begins == self.record_at.is_some() {
            return Err(Altered);
        }
        match kind {
            Kind::First => self.record_at = Some(position),
            Kind::Middle => {}
            Kind::Full | Kind::Last => self.record_at = None,
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    First,
    Middle,
    Last,
}

struct Fragment {
    /// None if it is not sound.
    kind: Option<Kind>,
    /// Bytes to where the next one begins: as the header says, if it can be so, or else to the end of the block. May lie
    /// behind the end of the file.
    length: usize,
}

impl Fragment {
    fn read(block: &[u8], at: usize) -> Fragment {
        const CHECKSUM_BYTES: usize = 4;
        const TYPE_AT: usize = 6;
        let header = &block[at..at + HEADER_BYTES];
        let kind = match header[TYPE_AT] {
            1 => Kind::Full,
            2 => Kind::First,
            3 => Kind::Middle,
            4 => Kind::Last,
            // Others are for settings that are not used here, and none is written where nothing is.
            _ => return Fragment { kind: None, length: block.len() - at },
        };
        let length = HEADER_BYTES + usize::from(u16::from_le_bytes([header[4], header[5]]));
        if at + length > BLOCK_BYTES {
            return Fragment { kind: None, length: block.len() - at };
        }
        let covered = block.get(at + TYPE_AT..at + length);
        let is_sound =
            covered.is_some_and(|bytes| header[..CHECKSUM_BYTES] == masked_checksum(bytes));
        Fragment { kind: is_sound.then_some(kind), length }
    }
}

/// A checksum as RocksDB stores it (`util/crc32c.h`).
fn masked_checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Whether any part of a block from there on, cut where sectors begin, is zeros.
fn has_empty_sector(block: &[u8], from: usize) -> bool {
    let next_sector = from.next_multiple_of(SECTOR_BYTES).min(block.len());
    let (first, rest) = block[from..].split_at(next_sector - from);
    (!first.is_empty() && is_empty(first)) || rest.chunks(SECTOR_BYTES).any(is_empty)
}

fn is_empty(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
