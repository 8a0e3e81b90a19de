//! What the seal of a staging area says: which files were staged, and how long each was once it was on stable storage.
//!
//! Guarantee at stake: G11. A staged file that is gone would otherwise look like one that there never was, and its rows
//! would be missing from a replica that takes itself for whole.

use super::StorageError;

const HEAD: &str = "quorate staging ";
const VERSION: u32 = 1;
const CHECKSUM_LINE: &str = "# crc32c ";

/// A file that is to be there, as long as it was written.
#[derive(Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// In its folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// Head and version, a line with name and bytes for each file, and a checksum of all before it.
pub fn encode(files: &[WrittenFile]) -> String {
    let mut text = format!("{HEAD}{VERSION}\n");
    for WrittenFile { name, bytes } in files {
        text.push_str(&format!("{name} {bytes}\n"));
    }
    let checksum = crc32c::crc32c(text.as_bytes());
    text + &format!("{CHECKSUM_LINE}{checksum:08x}\n")
}

/// What [`encode`] was given. `place` names the file in errors.
///
/// # Errors
/// It is not what [`encode`] wrote, or a newer version's.
pub fn decode(text: &[u8], place: &str) -> Result<Vec<WrittenFile>, StorageError> {
    let damaged =
        |reason: &str| StorageError::Damaged { place: place.to_owned(), reason: reason.to_owned() };
    let text = std::str::from_utf8(text).map_err(|_| damaged("it is not UTF-8"))?;
    let (body, checksum) =
        text.rsplit_once(CHECKSUM_LINE).ok_or_else(|| damaged("it has no checksum"))?;
    if checksum != format!("{:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged("its checksum does not match"));
    }
    let mut lines = body.lines();
    let version = lines.next().and_then(|head| head.strip_prefix(HEAD)?.parse().ok());
    let found = version.ok_or_else(|| damaged("it does not say its version"))?;
    if found > VERSION {
        return Err(StorageError::Newer {
            what: "the seal of a staging area",
            found,
            known: VERSION,
        });
    }
    let file = |line: &str| {
        let (name, bytes) = line.split_once(' ')?;
        Some(WrittenFile { name: name.to_owned(), bytes: bytes.parse().ok()? })
    };
    let files = lines.map(file).collect::<Option<_>>();
    files.ok_or_else(|| damaged("a line is not a name and a number of bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOLDEN: &str = "quorate staging 1\n\
        dedup-000000.sst 900\n\
        messages-000000.sst 65601\n\
        # crc32c 7dbc0696\n";

    fn sample() -> Vec<WrittenFile> {
        let file = |name: &str, bytes| WrittenFile { name: name.to_owned(), bytes };
        vec![file("dedup-000000.sst", 900), file("messages-000000.sst", 65_601)]
    }

    #[test]
    fn the_bytes_of_version_1_stay() {
        assert_eq!(encode(&sample()), GOLDEN);
        assert_eq!(decode(GOLDEN.as_bytes(), "here").unwrap(), sample());
        assert_eq!(decode(encode(&[]).as_bytes(), "here").unwrap(), []);
    }

    #[test]
    fn every_flipped_bit_and_every_shortening_is_noticed() {
        let encoded = encode(&sample()).into_bytes();
        for position in 0..encoded.len() {
            let mut flipped = encoded.clone();
            flipped[position] ^= 1;
            assert!(decode(&flipped, "here").is_err(), "byte {position}");
            assert!(decode(&encoded[..position], "here").is_err(), "length {position}");
        }
    }

    #[test]
    fn a_newer_version_is_named_as_such() {
        let body = format!("{HEAD}2\n{{}}\n");
        let checksum = crc32c::crc32c(body.as_bytes());
        let newer = format!("{body}{CHECKSUM_LINE}{checksum:08x}\n");
        let error = decode(newer.as_bytes(), "here").unwrap_err();
        assert!(matches!(error, StorageError::Newer { found: 2, known: 1, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes, "here").is_err());
        }
    }
}
