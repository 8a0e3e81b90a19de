//! The end of a write-ahead log or a manifest after a power cut: what is torn is told from what is whole and from what
//! is damaged, whatever is there.

use quorate::storage::log_format::{TornTail, find_torn_tail};

use super::{Case, choosing, chosen};

pub const CASE: Case = Case { seeds, check };

const BLOCK_BYTES: usize = 32 * 1024;
const SECTOR_BYTES: usize = 512;
const HEADER_BYTES: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// Of a fragment that is to be made with a wrong checksum.
const BROKEN: u8 = 0x80;
/// Bounds what an input is made into.
const FRAGMENTS_MAX: usize = 16;
const RECORDS: usize = 4;
const RECORD_BYTES_MIN: usize = 12;

fn check(input: &[u8]) {
    match chosen(input, 4) {
        Some((0, log)) => holds(log),
        Some((1, fragments)) => holds(&made_of(fragments)),
        Some((2, input)) => {
            let Some((log, _, tail)) = whole(input) else { return };
            assert_eq!(find(&log), None, "a whole log is torn");
            let with_tail = [&log[..], tail].concat();
            assert!(end_of_whole(&with_tail) >= log.len());
            holds(&with_tail);
        }
        Some((_, input)) => {
            let Some((log, last, lost)) = whole(input) else { return };
            power_cut(log, last, lost);
        }
        None => {}
    }
}

fn find(log: &[u8]) -> Option<TornTail> {
    find_torn_tail(log).expect("memory can be read")
}

/// Where a tail is cut off, everything before is whole, nothing that is lost was, and something was not written.
fn holds(log: &[u8]) {
    let Some(TornTail { at, bytes }) = find(log) else { return };
    assert_eq!(at + bytes, log.len() as u64);
    let (kept, lost) = log.split_at(at as usize);
    let whole = end_of_whole(log);
    assert!(whole <= kept.len() && kept.len() < whole + HEADER_BYTES, "{whole}, cut at {at}");
    assert_eq!(end_of_whole(kept), whole, "a record is lost");
    assert_eq!(find(kept), None, "a log is cut twice");
    assert!(lost.contains(&0), "nothing is missing");
    let blocks = (kept.len().next_multiple_of(BLOCK_BYTES)..log.len()).step_by(BLOCK_BYTES);
    let blocks = blocks.filter(|block| *block > kept.len());
    let mut begun = blocks.filter_map(|block| sound(log, block)).map(|(kind, _)| kind);
    assert!(!begun.any(|kind| [FULL, FIRST].contains(&kind)), "a sound record is lost");
}

/// Sectors of the last record that did not reach the disk: it is torn, and nothing else.
fn power_cut(mut log: Vec<u8>, last: usize, lost: &[u8]) {
    let sectors = (log.len() - 1) / SECTOR_BYTES - last / SECTOR_BYTES + 1;
    for which in lost {
        let first = last / SECTOR_BYTES + usize::from(*which) % sectors;
        let end = ((first + 1) * SECTOR_BYTES).min(log.len());
        log[(first * SECTOR_BYTES).max(last)..end].fill(0);
    }
    let bytes = (log.len() - last) as u64;
    let torn = TornTail { at: last as u64, bytes };
    assert_eq!(find(&log), Some(torn).filter(|_| !lost.is_empty()));
    holds(&log);
}

/// Where the last record ends of those that can be read from the start on without a fault.
fn end_of_whole(log: &[u8]) -> usize {
    let (mut at, mut end, mut is_open) = (0, 0, false);
    loop {
        at = behind_trailer(at);
        let Some((kind, length)) = sound(log, at) else { return end };
        if [FULL, FIRST].contains(&kind) == is_open {
            return end;
        }
        at += length;
        is_open = [FIRST, MIDDLE].contains(&kind);
        if !is_open {
            end = at;
        }
    }
}

/// The kind and the length of the fragment there, if it is one and sound.
fn sound(log: &[u8], at: usize) -> Option<(u8, usize)> {
    let header = log.get(at..at + HEADER_BYTES)?;
    let (kind, length) = (header[6], usize::from(u16::from_le_bytes([header[4], header[5]])));
    let payload = log.get(at + HEADER_BYTES..at + HEADER_BYTES + length)?;
    let is_of_block = at % BLOCK_BYTES + HEADER_BYTES + length <= BLOCK_BYTES;
    let is_sound = (FULL..=LAST).contains(&kind) && header == header_of(kind, payload);
    (is_of_block && is_sound).then_some((kind, HEADER_BYTES + length))
}

/// Where the next fragment begins: no header crosses the end of a block.
fn behind_trailer(at: usize) -> usize {
    let left = BLOCK_BYTES - at % BLOCK_BYTES;
    if left < HEADER_BYTES { at + left } else { at }
}

fn header_of(kind: u8, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
    let [a, b, c, d] = checksum.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let [low, high] = (payload.len() as u16).to_le_bytes();
    [a, b, c, d, low, high, kind]
}

/// Adds a fragment of equal bytes, cut where the block ends; says how many of them it took.
fn add(log: &mut Vec<u8>, kind: impl Fn(bool) -> u8, byte: u8, length: usize) -> usize {
    log.resize(behind_trailer(log.len()), 0);
    let room = BLOCK_BYTES - log.len() % BLOCK_BYTES - HEADER_BYTES;
    let payload = vec![byte; length.min(room)];
    let mut header = header_of(kind(payload.len() == length), &payload);
    header[6] &= !BROKEN;
    log.extend(header);
    log.extend(&payload);
    payload.len()
}

/// Fragments of any kind and length in any order, each told by four bytes.
fn made_of(fragments: &[u8]) -> Vec<u8> {
    let mut log = Vec::new();
    for fragment in fragments.as_chunks().0.iter().take(FRAGMENTS_MAX) {
        let [kind, byte, low, high] = *fragment;
        add(&mut log, |_| kind, byte, usize::from(u16::from_le_bytes([low, high])));
    }
    log
}

/// A log of whole records without zeros whose lengths an input begins with, where the last one begins, and the rest of
/// the input.
fn whole(input: &[u8]) -> Option<(Vec<u8>, usize, &[u8])> {
    let (lengths, rest) = input.split_at_checked(2 * RECORDS)?;
    let (mut log, mut begins_at) = (Vec::new(), 0);
    for (number, length) in (1..).zip(lengths.as_chunks().0) {
        let mut left = usize::from(u16::from_le_bytes(*length)).max(RECORD_BYTES_MIN);
        begins_at = behind_trailer(log.len());
        let mut is_first = true;
        while is_first || left > 0 {
            let kind = |is_last| match (is_first, is_last) {
                (true, true) => FULL,
                (true, false) => FIRST,
                (false, false) => MIDDLE,
                (false, true) => LAST,
            };
            left -= add(&mut log, kind, number, left);
            is_first = false;
        }
    }
    Some((log, begins_at, rest))
}

/// Logs as they are, fragments, whole records and what follows them, and power cuts.
fn seeds() -> Vec<Vec<u8>> {
    let lengths = |lengths: [u16; RECORDS]| lengths.map(u16::to_le_bytes).concat();
    let small = lengths([20, 600, 0, 1_500]);
    let over_blocks = lengths([100, 32_000, 40_000, 65_535]);
    let (log, last, _) = whole(&small).expect("there are lengths");
    let mut torn = log.clone();
    torn[last + SECTOR_BYTES..].fill(0);
    let fragment = |kind: u8, length: u16| [&[kind, 7][..], &length.to_le_bytes()].concat();
    let fragments =
        [fragment(FIRST, 32_000), fragment(MIDDLE | BROKEN, 1_000), fragment(LAST, 9)].concat();
    vec![
        choosing(0, &log),
        choosing(0, &torn),
        choosing(1, &fragments),
        choosing(2, &[&small[..], &[0; 600]].concat()),
        choosing(2, &[&over_blocks[..], &log].concat()),
        choosing(3, &[&small[..], &[1]].concat()),
        choosing(3, &[&over_blocks[..], &[0, 5, 90]].concat()),
    ]
}
