//! The watermark: what each group's log on this node is known to hold, kept outside the write-ahead log so that a
//! log that lost its end can be told from one that never had it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::StorageError;
use super::records::{LogId, VoteRecord};
use super::small_file::SmallFile;
use crate::types::GroupId;

const MAGIC: &[u8; 8] = b"quor-wm\n";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

/// What one group's log must not be found below.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMark {
    /// A vote that was answered.
    pub vote: Option<VoteRecord>,
    /// The last log id, of an entry or of the purge mark if the log is empty.
    pub last: Option<LogId>,
    /// Why the replica was found damaged. Stays until the replica is removed: damage is not forgotten by a restart.
    pub damaged: Option<String>,
}

/// The marks of all groups of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// By group.
    pub groups: BTreeMap<GroupId, GroupMark>,
}

/// The watermark as it is on stable storage, and the file that keeps it.
pub struct WatermarkFile {
    file: Box<dyn SmallFile>,
    stored: Watermark,
}

impl Watermark {
    /// Magic (8), version (1), postcard form, CRC-32C of all before it.
    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        out = postcard::to_extend(self, out).expect("watermarks serialize without failure");
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Whether it forbids every vote that the other one forbids: whether a vote's candidate has come to lead does not
    /// matter for that.
    pub fn holds_votes_of(&self, other: &Watermark) -> bool {
        let given = |mark: &GroupMark| mark.vote.map(|vote| (vote.term, vote.candidate));
        let mut marks = other.groups.iter().filter(|(_, mark)| mark.vote.is_some());
        marks.all(|(group, mark)| self.groups.get(group).and_then(given) == given(mark))
    }

    fn decode(contents: &[u8], place: &str) -> Result<Self, StorageError> {
        let damaged = |reason: &str| StorageError::Damaged {
            place: place.to_owned(),
            reason: reason.to_owned(),
        };
        let checked = contents
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .filter(|checked| *checked > MAGIC.len())
            .ok_or_else(|| damaged("too short for a watermark"))?;
        let (body, stored) = contents.split_at(checked);
        if crc32c::crc32c(body).to_le_bytes() != stored {
            return Err(damaged("the checksum does not match"));
        }
        let body = body.strip_prefix(MAGIC).ok_or_else(|| damaged("not a watermark"))?;
        if body[0] > VERSION {
            return Err(StorageError::Newer {
                what: "watermark",
                found: body[0].into(),
                known: VERSION.into(),
            });
        }
        postcard::from_bytes(&body[1..]).map_err(|error| damaged(&error.to_string()))
    }
}

impl WatermarkFile {
    /// A file with no group in it, on stable storage: the first file of a new data directory.
    pub fn create(file: Box<dyn SmallFile>) -> Result<Self, StorageError> {
        let mut created = WatermarkFile { file, stored: Watermark::default() };
        created.replace(Watermark::default())?;
        Ok(created)
    }

    /// The stored watermark; none if the file is missing, which in a directory that has a log is damage.
    pub fn load(file: Box<dyn SmallFile>) -> Result<Option<Self>, StorageError> {
        let Some(contents) = file.load()? else { return Ok(None) };
        let stored = Watermark::decode(&contents, &file.place())?;
        Ok(Some(WatermarkFile { file, stored }))
    }

    /// What is on stable storage.
    pub fn stored(&self) -> &Watermark {
        &self.stored
    }

    /// Replaces the watermark; on stable storage when this returns. Blocks. Nothing is written if nothing changes.
    pub fn store(&mut self, watermark: Watermark) -> Result<(), StorageError> {
        if watermark == self.stored {
            return Ok(());
        }
        self.replace(watermark)
    }

    fn replace(&mut self, watermark: Watermark) -> Result<(), StorageError> {
        self.file.replace(&watermark.encode())?;
        self.stored = watermark;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::small_file::MemoryFile;
    use crate::types::{Incarnation, LogIndex, NodeId, ReplicaId, Term};

    fn sample() -> Watermark {
        let replica = ReplicaId { node: NodeId(2), incarnation: Incarnation(1) };
        let mark = GroupMark {
            vote: Some(VoteRecord { term: Term(7), candidate: replica, committed: true }),
            last: Some(LogId { term: Term(6), leader: replica, index: LogIndex(300) }),
            damaged: None,
        };
        let broken = GroupMark { damaged: Some("torn".to_owned()), ..GroupMark::default() };
        Watermark { groups: [(GroupId(0), mark), (GroupId(9), broken)].into() }
    }

    #[test]
    fn the_bytes_of_version_1_stay() {
        let golden = concat!(
            "71756f722d776d0a",
            "01",
            "02",
            "00",
            "01",
            "07",
            "0201",
            "01",
            "01",
            "06",
            "0201",
            "ac02",
            "00",
            "09",
            "00",
            "00",
            "01",
            "04",
            "746f726e"
        );
        let encoded = sample().encode();
        let hex = hex::encode(&encoded);
        assert_eq!(hex[..hex.len() - 2 * CHECKSUM_BYTES], *golden);
        assert_eq!(Watermark::decode(&encoded, "test").unwrap(), sample());
    }

    #[test]
    fn every_flipped_bit_and_every_shortening_is_noticed() {
        let encoded = sample().encode();
        for position in 0..encoded.len() {
            let mut flipped = encoded.clone();
            flipped[position] ^= 1;
            assert!(Watermark::decode(&flipped, "test").is_err(), "byte {position}");
            assert!(Watermark::decode(&encoded[..position], "test").is_err(), "length {position}");
        }
    }

    #[test]
    fn a_newer_version_is_named_as_such() {
        let mut encoded = sample().encode();
        encoded.truncate(encoded.len() - CHECKSUM_BYTES);
        encoded[MAGIC.len()] = VERSION + 1;
        let checksum = crc32c::crc32c(&encoded);
        encoded.extend_from_slice(&checksum.to_le_bytes());
        let error = Watermark::decode(&encoded, "test").unwrap_err();
        assert!(matches!(error, StorageError::Newer { found: 2, known: 1, .. }), "{error}");
    }

    #[test]
    fn storing_the_same_again_writes_nothing() {
        let file = MemoryFile::default();
        let mut watermark = WatermarkFile::create(Box::new(file.clone())).unwrap();
        watermark.store(sample()).unwrap();
        let before = file.replaced();
        watermark.store(sample()).unwrap();
        assert_eq!(file.replaced(), before);
        let again = WatermarkFile::load(Box::new(file)).unwrap().unwrap();
        assert_eq!(*again.stored(), sample());
    }

    #[test]
    fn a_failed_replacement_leaves_what_was_stored() {
        let file = MemoryFile::default();
        let mut watermark = WatermarkFile::create(Box::new(file.clone())).unwrap();
        file.set_failing(true);
        assert!(watermark.store(sample()).is_err());
        assert_eq!(*watermark.stored(), Watermark::default());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Watermark::decode(&bytes, "test").is_err());
        }
    }
}
