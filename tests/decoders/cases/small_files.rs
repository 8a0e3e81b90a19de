//! The files beside the databases: the watermark, and the identity and the seal of a staging area, whose checksum is a
//! line of text.

use quorate::storage::seal::{self, WrittenFile};
use quorate::storage::small_file::{MemoryFile, SmallFile};
use quorate::storage::watermark::{GroupMark, Watermark, WatermarkFile};
use quorate::storage::{DataDir, DataDirError, Identity, MemoryDir};
use quorate::types::{ClusterId, GroupId, Incarnation, NodeId};

use super::{Case, broken, choosing, chosen, records, sealed, unsealed};

pub const CASE: Case = Case { seeds, check };

const CHECKSUM_LINE: &str = "# crc32c ";

fn check(input: &[u8]) {
    match chosen(input, 3) {
        Some((0, body)) => watermark(body),
        Some((1, body)) => identity(body),
        Some((_, body)) => staging_seal(body),
        None => {}
    }
}

fn watermark(body: &[u8]) {
    let contents = sealed(&[], body);
    assert!(load(&broken(contents.clone())).is_err(), "a wrong checksum is accepted");
    if let Ok(loaded) = load(&contents) {
        assert_eq!(load(&watermark_file(&loaded)).unwrap(), loaded);
    }
}

fn load(contents: &[u8]) -> Result<Watermark, String> {
    let file = MemoryFile::default();
    file.replace(contents).unwrap();
    let loaded = WatermarkFile::load(Box::new(file)).map_err(|error| error.to_string())?;
    Ok(loaded.expect("the file was written").stored().clone())
}

/// What a file holds that keeps a watermark.
pub fn watermark_file(watermark: &Watermark) -> Vec<u8> {
    let file = MemoryFile::default();
    let mut stored = WatermarkFile::create(Box::new(file.clone())).unwrap();
    stored.store(watermark.clone()).unwrap();
    file.load().unwrap().expect("the file was written")
}

/// A text with its line of checksum, and with a wrong one.
fn checked(body: &[u8]) -> [Vec<u8>; 2] {
    let checksum = crc32c::crc32c(body);
    [checksum, checksum ^ 1].map(|checksum| {
        let line = format!("{CHECKSUM_LINE}{checksum:08x}\n");
        [body, line.as_bytes()].concat()
    })
}

fn unchecked(text: &str) -> &[u8] {
    text.rsplit_once(CHECKSUM_LINE).expect("it has a checksum").0.as_bytes()
}

fn staging_seal(body: &[u8]) {
    let [text, wrong] = checked(body);
    assert!(seal::decode(&wrong, "seal").is_err(), "a wrong checksum is accepted");
    let Ok(files) = seal::decode(&text, "seal") else { return };
    assert_eq!(seal::decode(seal::encode(&files).as_bytes(), "seal").unwrap(), files);
}

fn identity(body: &[u8]) {
    let [text, wrong] = checked(body);
    assert!(peek(&wrong).is_err(), "a wrong checksum is accepted");
    let Ok(identity) = peek(&text) else { return };
    let again = peek(&identity_file(&identity)).unwrap();
    assert_eq!(again, identity);
}

/// What a file says, whosever it is.
fn peek(contents: &[u8]) -> Result<Identity, DataDirError> {
    let dir = MemoryDir::default();
    dir.identity.replace(contents).unwrap();
    match DataDir::open_in_memory(&dir, NodeId(1)) {
        Err(DataDirError::OtherNode { found, .. }) => DataDir::open_in_memory(&dir, found),
        opened => opened,
    }
    .map(|(_, identity)| identity)
}

fn identity_file(identity: &Identity) -> Vec<u8> {
    let dir = MemoryDir::default();
    let (open, _) = DataDir::open_in_memory(&dir, identity.node).unwrap();
    open.save_identity(identity).unwrap();
    dir.identity.load().unwrap().expect("the file was written")
}

fn seeds() -> Vec<Vec<u8>> {
    let new = Identity {
        format_version: 1,
        node: NodeId(1),
        cluster: None,
        meta_incarnation: None,
        peers: Vec::new(),
    };
    let adopted = Identity {
        cluster: Some(ClusterId(42)),
        meta_incarnation: Some(Incarnation(3)),
        peers: vec![(NodeId(2), "127.0.0.1:7202".to_owned())],
        ..new
    };
    let mut seeds = vec![choosing(0, unsealed(&watermark_file(&marks())))];
    for identity in [new, adopted] {
        let text = String::from_utf8(identity_file(&identity)).expect("it is text");
        seeds.push(choosing(1, unchecked(&text)));
    }
    let file = |name: &str, bytes| WrittenFile { name: name.to_owned(), bytes };
    let staged = [file("dedup-000000.sst", 900), file("messages-000000.sst", 65_601)];
    seeds.extend([&staged[..], &[]].map(|files| choosing(2, unchecked(&seal::encode(files)))));
    seeds
}

pub fn marks() -> Watermark {
    let (vote, last) = (Some(records::vote()), Some(records::log_id(2)));
    let mark = GroupMark { vote, last, damaged: None };
    let broken = GroupMark { damaged: Some("torn".into()), ..GroupMark::default() };
    Watermark { groups: [(GroupId(1), mark), (GroupId(9), broken)].into() }
}
