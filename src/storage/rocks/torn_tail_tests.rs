//! What a power cut may leave of the last write, and what it cannot.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::tests::{contents, count, crashed_log, file, flip_bit, written};
use super::*;
use crate::storage::log_format::{TornTail, find_torn_tail};

const BLOCK: usize = 32 * 1024;
const SECTOR: usize = 512;
const PAGE: usize = 4096;
const ROWS: usize = 3;

/// Bytes none of which is zero.
fn noise(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes.iter().map(|byte| byte % 255 + 1).collect()
}

/// A log in RocksDB's framing, and where each record lies in it.
fn framed(records: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut log, mut places) = (Vec::new(), Vec::new());
    for record in records {
        let mut begins_at = None;
        let mut left = &record[..];
        while begins_at.is_none() || !left.is_empty() {
            if log.len() % BLOCK > BLOCK - 7 {
                log.resize(log.len().next_multiple_of(BLOCK), 0);
            }
            let room = BLOCK - log.len() % BLOCK - 7;
            let (now, later) = left.split_at(room.min(left.len()));
            let kind = match (begins_at.is_none(), later.is_empty()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            begins_at.get_or_insert(log.len());
            let checksum = crc32c::crc32c(&[&[kind], now].concat());
            let checksum = checksum.rotate_right(15).wrapping_add(0xa282_ead8);
            log.extend(checksum.to_le_bytes());
            log.extend((now.len() as u16).to_le_bytes());
            log.push(kind);
            log.extend(now);
            left = later;
        }
        places.push(begins_at.unwrap()..log.len());
    }
    (log, places)
}

/// The parts of a range that a disk writes as a whole.
fn sectors(range: &Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let end = (at + 1).next_multiple_of(SECTOR).min(range.end);
        found.push(at..end);
        at = end;
    }
    found
}

fn holds_header(sector: &Range<usize>, record: &Range<usize>) -> bool {
    let of_record = record.start..record.start + 7;
    let in_block = sector.start % BLOCK;
    in_block < 7 || sector.start < of_record.end && of_record.start < sector.end
}

fn records() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let length = prop_oneof![12..600usize, 12..9_000usize, 12..150_000usize];
    let of = |lengths: Vec<usize>| (0..).zip(lengths).map(|(n, length)| noise(n, length)).collect();
    proptest::collection::vec(length, 2..6).prop_map(of)
}

fn found(log: &[u8]) -> Option<TornTail> {
    find_torn_tail(log).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_last_record_without_some_of_its_sectors_is_torn(
        records in records(),
        lost in proptest::collection::vec(any::<prop::sample::Index>(), 1..9),
        end in any::<prop::sample::Index>(),
    ) {
        let (mut log, places) = framed(&records);
        let last = places.last().unwrap();
        let sectors = sectors(last);
        let mut first_end = log.len();
        for lost in lost {
            let sector = lost.get(&sectors).clone();
            first_end = first_end.min(sector.end);
            log[sector].fill(0);
        }
        let at = last.start as u64;
        let bytes = log.len() as u64 - at;
        prop_assert_eq!(found(&log), Some(TornTail { at, bytes }));
        // And the file may be as long as it likes, if only it shows what was lost.
        let end = first_end + end.index(log.len() - first_end + 1);
        prop_assume!(end % BLOCK >= 7 && end >= last.start + 7);
        let bytes = end as u64 - at;
        prop_assert_eq!(found(&log[..end]), Some(TornTail { at, bytes }));
    }

    #[test]
    fn a_record_with_a_sound_one_behind_it_is_not_torn(
        records in records(),
        which in any::<prop::sample::Index>(),
        lost in any::<prop::sample::Index>(),
    ) {
        let (mut log, places) = framed(&records);
        let record = which.get(&places[..places.len() - 1]);
        let payload: Vec<_> =
            sectors(record).into_iter().filter(|sector| !holds_header(sector, record)).collect();
        prop_assume!(!payload.is_empty());
        log[lost.get(&payload).clone()].fill(0);
        prop_assert_eq!(found(&log), None);
    }

    #[test]
    fn a_flipped_bit_is_not_torn(
        records in records(), at in any::<prop::sample::Index>(), bit in 0..8u32,
    ) {
        let (mut log, places) = framed(&records);
        prop_assert_eq!(found(&log), None);
        let place = at.get(&places).clone();
        log[at.index(place.len()) + place.start] ^= 1 << bit;
        let is_zeros = |sector: Range<usize>| log[sector].iter().all(|byte| *byte == 0);
        prop_assume!(!sectors(&place).into_iter().any(is_zeros));
        prop_assert_eq!(found(&log), None);
    }

    #[test]
    fn a_log_that_only_ends_too_early_is_left_to_rocksdb(
        records in records(), end in any::<prop::sample::Index>(),
    ) {
        let (log, _) = framed(&records);
        prop_assert_eq!(found(&log[..end.index(log.len())]), None);
    }

    #[test]
    fn garbage_is_not_torn(mut log in proptest::collection::vec(1..=u8::MAX, 0..2_000), at in 0..2_000usize) {
        prop_assert_eq!(found(&log), None);
        let at = at.min(log.len());
        log[at..].fill(0);
        let _ = found(&log);
    }
}

#[test]
fn what_begins_in_a_block_behind_a_lost_header_is_found() {
    let (mut log, places) = framed(&[noise(1, 100), noise(2, BLOCK), noise(3, BLOCK), noise(4, 9)]);
    assert!(places[1].end < 2 * BLOCK && places[3].start > 2 * BLOCK);
    log[BLOCK..BLOCK + SECTOR].fill(0);
    assert_eq!(found(&log), None);
}

#[test]
fn nothing_but_zeros_follows_a_torn_record() {
    let (mut log, places) = framed(&[noise(1, 100), noise(2, 3 * BLOCK)]);
    log[BLOCK..BLOCK + PAGE].fill(0);
    let torn = |log: &[u8]| Some(TornTail { at: 107, bytes: log.len() as u64 - 107 });
    assert_eq!((places[1].start, found(&log)), (107, torn(&log)));
    log.resize(log.len() + 2 * BLOCK, 0);
    assert_eq!(found(&log), torn(&log));
    *log.last_mut().unwrap() = 1;
    assert_eq!(found(&log), None);
}

/// A crashed log database, with a write over several blocks and as many small ones behind it as said. Returns the file, and where that write begins in it.
fn with_large_write(folder: &Path, after_it: usize) -> (PathBuf, usize) {
    let source = tempfile::tempdir().unwrap();
    let log = source.path().join("log");
    let engine = RocksEngine::open_log(&log, &Tuning::small()).unwrap();
    for number in 0..ROWS as u32 {
        engine.write(written(Table::RaftLog, number), Durability::Synced).unwrap();
    }
    let at = fs::metadata(file(&log, "log")).unwrap().len() as usize;
    let mut batch = Batch::default();
    batch.put(Table::RaftLog, b"large".to_vec(), noise(0, 5 * BLOCK));
    engine.write(batch, Durability::Synced).unwrap();
    for number in 0..after_it as u32 {
        engine.write(written(Table::RaftLog, 100 + number), Durability::Synced).unwrap();
    }
    crate::storage::conformance::copy_folder(source.path(), folder);
    (file(&folder.join("log"), "log"), at)
}

fn lose(path: &Path, range: Range<usize>) {
    let mut bytes = fs::read(path).unwrap();
    bytes[range].fill(0);
    fs::write(path, bytes).unwrap();
}

/// The first page of the write, one in the middle, one that begins a block, and the last.
fn pages(at: usize, end: usize) -> [Range<usize>; 4] {
    let middle = (at + 2 * BLOCK).next_multiple_of(BLOCK);
    [
        at..(at + 1).next_multiple_of(PAGE),
        middle + PAGE..middle + 2 * PAGE,
        middle..middle + PAGE,
        (end - 1) / PAGE * PAGE..end,
    ]
}

fn open(folder: &Path) -> Result<RocksEngine, StorageError> {
    RocksEngine::open_log(&folder.join("log"), &Tuning::small())
}

#[test]
fn a_last_write_without_one_of_its_pages_is_dropped() {
    for which in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let (wal, at) = with_large_write(folder.path(), 0);
        let end = fs::metadata(&wal).unwrap().len() as usize;
        lose(&wal, pages(at, end)[which].clone());
        let engine = open(folder.path()).unwrap_or_else(|error| panic!("page {which}: {error}"));
        assert_eq!(count(&engine, Table::RaftLog), ROWS);
        engine.write(written(Table::RaftLog, 50), Durability::Synced).unwrap();
        drop(engine);
        assert_eq!(count(&open(folder.path()).unwrap(), Table::RaftLog), ROWS + 1);
    }
}

#[test]
fn a_write_without_one_of_its_pages_and_another_behind_it_is_damage() {
    for which in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let (wal, at) = with_large_write(folder.path(), 1);
        let end = at + 5 * BLOCK;
        lose(&wal, pages(at, end)[which].clone());
        let before = fs::read(&wal).unwrap();
        let error = open(folder.path()).err().unwrap_or_else(|| panic!("page {which} is dropped"));
        assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
        assert!(fs::read(&wal).unwrap() == before, "what is damaged is not touched");
    }
}

#[test]
fn a_flipped_bit_in_the_last_write_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (wal, at) = with_large_write(folder.path(), 0);
    flip_bit(&wal, at + 2 * BLOCK);
    let error = open(folder.path()).err().expect("a flipped bit is overlooked");
    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
}

#[test]
fn only_the_newest_file_of_a_log_can_be_torn() {
    for (is_newest, opens) in [(true, true), (false, false)] {
        let folder = tempfile::tempdir().unwrap();
        let engine = open(folder.path()).unwrap();
        // The first row is in no full memtable, so that the first file stays.
        engine.write(written(Table::RaftMeta, 1), Durability::Synced).unwrap();
        for number in 0..16u8 {
            let mut batch = Batch::default();
            batch.put(Table::RaftLog, vec![number], noise(u64::from(number), 3 * BLOCK));
            engine.write(batch, Durability::Synced).unwrap();
        }
        drop(engine);
        let files = contents(&folder.path().join("log")).into_keys();
        let mut files = files.filter(|path| path.extension().is_some_and(|end| end == "log"));
        let (oldest, newest) = (files.next().unwrap(), files.next_back().unwrap());
        let torn = if is_newest { &newest } else { &oldest };
        let in_last_write = fs::metadata(torn).unwrap().len() as usize / BLOCK * BLOCK - PAGE;
        lose(torn, in_last_write..in_last_write + PAGE);
        let before = fs::read(&newest).unwrap();
        match open(folder.path()) {
            Ok(engine) => assert!(opens && count(&engine, Table::RaftMeta) == 1),
            Err(StorageError::Damaged { .. }) if !opens => {
                assert!(fs::read(&newest).unwrap() == before, "it is not to be touched");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A flush that the manifest tells of in a record over two sectors, the second of which is lost.
#[test]
fn a_torn_end_of_a_manifest_is_dropped_with_the_flush_that_it_told_of() {
    let source = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open_state(&source.path().join("state"), &Tuning::small()).unwrap();
    let dedup = view::family(&engine.db, Table::Dedup).unwrap();
    // The last record is to tell of a flush, and of no compaction.
    engine.db.set_options_cf(dedup, &[("disable_auto_compactions", "true")]).unwrap();
    let current = fs::read_to_string(source.path().join("state/CURRENT")).unwrap();
    let manifest = Path::new("state").join(current.trim_end());
    let length = || fs::metadata(source.path().join(&manifest)).unwrap().len() as usize;
    let (flushed, lost) = (0..100)
        .find_map(|number| {
            let before = length();
            engine.write(written(Table::Dedup, number), Durability::Flushed).unwrap();
            engine.flush().unwrap();
            let sector = (length() - 1) / SECTOR * SECTOR;
            (before + 7 < sector).then_some((number, sector..length()))
        })
        .expect("records cross the ends of sectors");
    let folder = tempfile::tempdir().unwrap();
    crate::storage::conformance::copy_folder(source.path(), folder.path());
    lose(&folder.path().join(&manifest), lost);
    let path = folder.path().join("state");
    let checked = RocksEngine::open_read_only(&path, Database::State, &Tuning::small());
    assert!(matches!(checked.err(), Some(StorageError::Torn { .. })));
    let engine = RocksEngine::open_state(&path, &Tuning::small()).unwrap();
    assert_eq!(count(&engine, Table::Dedup), flushed as usize);
}

#[test]
fn a_whole_log_of_rocksdb_is_not_torn() {
    let folder = tempfile::tempdir().unwrap();
    crashed_log(folder.path());
    assert_eq!(found(&fs::read(file(&folder.path().join("log"), "log")).unwrap()), None);
    let folder = tempfile::tempdir().unwrap();
    let (wal, _) = with_large_write(folder.path(), 2);
    assert_eq!(found(&fs::read(wal).unwrap()), None);
}

#[test]
fn reading_only_says_that_a_log_is_torn_and_cuts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (wal, at) = with_large_write(folder.path(), 0);
    lose(&wal, pages(at, fs::metadata(&wal).unwrap().len() as usize)[1].clone());
    let before = contents(folder.path());
    let log = folder.path().join("log");
    let opened = RocksEngine::open_read_only(&log, Database::Log, &Tuning::small());
    let error = opened.err().expect("a torn log is not read");
    assert!(error.to_string().contains("start the node"), "{error}");
    assert!(contents(folder.path()) == before, "a file was made, changed or removed");
}
