//! What decodes bytes from disks, peers, callers and people, and what holds whatever they are. Two kinds of tests run
//! these: `tests/decoders` bends the seeds at random, with the stable toolchain; `fuzz/` follows coverage.

pub mod answers;
pub mod calls;
pub mod chat;
pub mod config;
pub mod log_tails;
pub mod peer_calls;
pub mod peer_replies;
pub mod peers;
pub mod proposals;
pub mod records;
pub mod requests;
pub mod small_files;
pub mod snapshots;
pub mod stored;

/// One kind of input.
pub struct Case {
    /// Inputs that decode, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Panics if something does not hold of an input.
    pub check: fn(&[u8]),
}

const CHECKSUM_BYTES: usize = 4;

/// An input for one of several decoders: the first byte tells which.
pub fn choosing(which: usize, input: &[u8]) -> Vec<u8> {
    [&[u8::try_from(which).expect("there are few")], input].concat()
}

/// Which of `count` decoders an input is for, and what is for it.
fn chosen(input: &[u8], count: usize) -> Option<(usize, &[u8])> {
    let (first, rest) = input.split_first()?;
    Some((usize::from(*first) % count, rest))
}

/// Bytes and the CRC-32C of a prefix and them, so that what lies behind the checksum is reached.
fn sealed(prefix: &[u8], body: &[u8]) -> Vec<u8> {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(prefix), body);
    [body, &checksum.to_le_bytes()].concat()
}

/// What `sealed` began with.
fn unsealed(sealed: &[u8]) -> &[u8] {
    &sealed[..sealed.len() - CHECKSUM_BYTES]
}

/// The same with a checksum that is wrong.
fn broken(mut sealed: Vec<u8>) -> Vec<u8> {
    *sealed.last_mut().expect("a checksum ends it") ^= 1;
    sealed
}
