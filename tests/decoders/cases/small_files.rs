//! The files beside the databases: the watermark, and the identity, whose checksum is a line of text.

use quorate::storage::small_file::{MemoryFile, SmallFile};
use quorate::storage::watermark::{GroupMark, Watermark, WatermarkFile};
use quorate::storage::{DataDir, DataDirError, Identity, MemoryDir};
use quorate::types::{ClusterId, GroupId, Incarnation, NodeId};

use super::{Case, broken, choosing, chosen, records, sealed, unsealed};

pub const CASE: Case = Case { seeds, check };

const CHECKSUM_LINE: &str = "# crc32c ";

fn check(input: &[u8]) {
    match chosen(input, 2) {
        Some((0, body)) => watermark(body),
        Some((_, body)) => identity(body),
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

fn identity(body: &[u8]) {
    let checksum = crc32c::crc32c(body);
    let text =
        |checksum: u32| [body, format!("{CHECKSUM_LINE}{checksum:08x}\n").as_bytes()].concat();
    assert!(peek(&text(checksum ^ 1)).is_err(), "a wrong checksum is accepted");
    let Ok(identity) = peek(&text(checksum)) else { return };
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
        let (body, _) = text.rsplit_once(CHECKSUM_LINE).expect("it has a checksum");
        seeds.push(choosing(1, body.as_bytes()));
    }
    seeds
}

pub fn marks() -> Watermark {
    let (vote, last) = (Some(records::vote()), Some(records::log_id(2)));
    let mark = GroupMark { vote, last, damaged: None };
    let broken = GroupMark { damaged: Some("torn".into()), ..GroupMark::default() };
    Watermark { groups: [(GroupId(1), mark), (GroupId(9), broken)].into() }
}
