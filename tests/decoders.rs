//! Bytes from disks, peers and people, bent at random: whatever comes, a decoder answers, and what it takes it takes for
//! what it says. Valid encodings are changed in a few places, and their checksums made right again, so that the parts
//! behind the checksum are reached too.
//!
//! With proptest on the stable toolchain: coverage-guided fuzzing needs a nightly one and a build of RocksDB of its own.
//! A run takes seconds; DECODER_CASES=1000000 takes hours. Wire messages are in `src/transport/wire_tests.rs`.

use std::fmt::Debug;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use quorate::log::{Command, IdKey, Proposal, Settle, TopologyChange};
use quorate::server::Config;
use quorate::storage::DataDir;
use quorate::storage::records::{
    ConversationHead, DedupOutcome, DedupRow, EntryPayload, EntryRecord, GroupRow, Kind, LogId,
    LogIdRecord, MessageRecord, NameRow, Record, VoteRecord,
};
use quorate::storage::small_file::{MemoryFile, SmallFile};
use quorate::storage::watermark::{GroupMark, Watermark, WatermarkFile};
use quorate::types::{
    ConversationName, GroupId, HashRange, Incarnation, LogIndex, NodeId, ReplicaId, Seq, Term,
    Timestamp,
};

const OWN: ReplicaId = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
const CHECKSUM_BYTES: usize = 4;

fn config() -> ProptestConfig {
    let cases = std::env::var("DECODER_CASES").ok().map(|cases| cases.parse().expect("a number"));
    ProptestConfig { cases: cases.unwrap_or(2_000), ..ProptestConfig::default() }
}

/// A change of some bytes. Places are scaled to what there is.
#[derive(Clone, Debug)]
enum Bend {
    Set(u16, u8),
    Remove(u16, u8),
    Insert(u16, Vec<u8>),
    Repeat(u16, u8),
    Cut(u16),
}

fn bends() -> impl Strategy<Value = Vec<Bend>> {
    let byte = prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
    let bend = prop_oneof![
        4 => (any::<u16>(), byte.clone()).prop_map(|(at, byte)| Bend::Set(at, byte)),
        1 => (any::<u16>(), 1..20u8).prop_map(|(at, count)| Bend::Remove(at, count)),
        1 => (any::<u16>(), vec(byte, 1..12)).prop_map(|(at, bytes)| Bend::Insert(at, bytes)),
        1 => (any::<u16>(), 1..20u8).prop_map(|(at, count)| Bend::Repeat(at, count)),
        1 => any::<u16>().prop_map(Bend::Cut),
    ];
    vec(bend, 0..6)
}

fn bent(bytes: &[u8], bends: &[Bend]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for bend in bends {
        let place = |at: &u16| usize::from(*at) * out.len() / (usize::from(u16::MAX) + 1);
        match bend {
            Bend::Set(at, byte) => {
                let at = place(at);
                if let Some(found) = out.get_mut(at) {
                    *found = *byte;
                }
            }
            Bend::Remove(at, count) => {
                let at = place(at);
                out.drain(at..(at + usize::from(*count)).min(out.len()));
            }
            Bend::Insert(at, bytes) => {
                let at = place(at);
                out.splice(at..at, bytes.iter().copied());
            }
            Bend::Repeat(at, count) => {
                let at = place(at);
                let again = out[at..(at + usize::from(*count)).min(out.len())].to_vec();
                out.splice(at..at, again);
            }
            Bend::Cut(at) => out.truncate(place(at)),
        }
    }
    out
}

/// Bends all but the checksum at the end, which is made right unless it should not be.
fn resealed(encoded: &[u8], bends: &[Bend], prefix: &[u8], seals: bool) -> Vec<u8> {
    let mut out = bent(&encoded[..encoded.len() - CHECKSUM_BYTES], bends);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(prefix), &out);
    let checksum = if seals { checksum } else { checksum ^ 1 };
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Decodes what became of a record. What is accepted has to mean itself.
fn record_holds<R: Record + PartialEq + Debug>(record: &R, bends: &[Bend], seals: bool) {
    let key = b"the key";
    let bytes = resealed(&record.encode(key), bends, key, seals);
    match R::decode(key, &bytes) {
        Ok(decoded) => {
            assert!(seals, "a wrong checksum is accepted");
            assert_eq!(R::decode(key, &decoded.encode(key)).unwrap(), decoded);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert!(R::decode(b"another key", &bytes).is_err(), "a value under another key is accepted");
}

fn log_id(index: u64) -> LogId {
    LogId { term: Term(7), leader: OWN, index: LogIndex(index) }
}

fn message() -> MessageRecord {
    MessageRecord {
        seq: Seq(300),
        kind: Kind::Content,
        sender: "ann".into(),
        client_msg_id: "one".into(),
        issued_at: Timestamp(1_000_000),
        commit_time: Timestamp(2_000_000),
        content_type: "text/plain".into(),
        headers: vec![("name".into(), Bytes::from_static(b"value"))],
        payload: Bytes::from_static(b"payload"),
        payload_crc32c: crc32c::crc32c(b"payload"),
        target_seq: Some(Seq(3)),
        traceparent: String::new(),
        unread_ordinal: 4,
        salt: [7; 16],
        digest: [8; 32],
    }
}

fn head() -> ConversationHead {
    ConversationHead {
        name: ConversationName("acme/room".into()),
        generation: 1,
        first_seq: Seq(1),
        tail: Seq(301),
        bytes: 70_000,
        last_commit_time: Timestamp(2_000_000),
        digest: [1; 32],
        base_digest: [2; 32],
        unread_total: 300,
    }
}

fn vote() -> VoteRecord {
    VoteRecord { term: Term(7), candidate: OWN, committed: true }
}

/// A proposal with three kinds of commands.
fn settle() -> Proposal {
    let settle = Settle {
        conversation: ConversationName("acme/room".into()),
        id: IdKey { sender: "ann".into(), client_msg_id: "one".into() },
        issued_at: Timestamp(1_000_000),
    };
    let configure = Command::Configure { range: HashRange::ALL, epoch: 1 };
    let activate = Command::ChangeTopology(TopologyChange::ActivateGroup { group: GroupId(3) });
    Proposal {
        stamped_at: Timestamp(2_000_000),
        commands: vec![Command::Settle(settle), configure, activate],
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn records(bends in bends(), seals in prop::bool::weighted(0.9)) {
        let outcome = DedupOutcome::Committed {
            seq: Seq(3),
            commit_time: Timestamp(2_000_000),
            content_hash: Some([9; 16]),
            attempt: None,
        };
        record_holds(&message(), &bends, seals);
        record_holds(&head(), &bends, seals);
        record_holds(&NameRow(ConversationName("acme/room".into()).id()), &bends, seals);
        record_holds(&DedupRow { issued_at: Timestamp(1), outcome }, &bends, seals);
        let row = GroupRow { range: Some(HashRange::ALL), applied: Some(log_id(9)), ..GroupRow::blank(OWN) };
        record_holds(&row, &bends, seals);
        record_holds(&vote(), &bends, seals);
        record_holds(&LogIdRecord(log_id(9)), &bends, seals);
        let configs = vec![vec![OWN]];
        let membership = EntryPayload::Membership { configs, replicas: vec![OWN] };
        record_holds(&EntryRecord { log_id: log_id(9), payload: membership }, &bends, seals);
        let commands = EntryPayload::Commands(settle().encode());
        record_holds(&EntryRecord { log_id: log_id(9), payload: commands }, &bends, seals);
    }

    #[test]
    fn watermarks(bends in bends(), seals in prop::bool::weighted(0.9)) {
        let mark = GroupMark { vote: Some(vote()), last: Some(log_id(300)), damaged: None };
        let broken = GroupMark { damaged: Some("torn".into()), ..GroupMark::default() };
        let file = MemoryFile::default();
        let mut stored = WatermarkFile::create(Box::new(file.clone())).unwrap();
        let groups = [(GroupId(0), mark), (GroupId(9), broken)].into();
        stored.store(Watermark { groups }).unwrap();
        let bytes = resealed(&file.load().unwrap().unwrap(), &bends, &[], seals);
        file.replace(&bytes).unwrap();
        if let Ok(Some(loaded)) = WatermarkFile::load(Box::new(file)) {
            prop_assert!(seals);
            let again = MemoryFile::default();
            WatermarkFile::create(Box::new(again.clone())).unwrap().store(loaded.stored().clone()).unwrap();
            let again = WatermarkFile::load(Box::new(again)).unwrap().unwrap();
            prop_assert_eq!(again.stored(), loaded.stored());
        }
    }

    #[test]
    fn proposals(bends in bends(), seals in prop::bool::weighted(0.9)) {
        let bytes = resealed(&settle().encode(), &bends, &[], seals);
        if let Ok(decoded) = Proposal::decode(&bytes) {
            prop_assert!(seals);
            prop_assert_eq!(Proposal::decode(&decoded.encode()).unwrap(), decoded);
        }
    }

}

proptest! {
    // Each writes files.
    #![proptest_config(ProptestConfig { cases: config().cases.div_ceil(4), ..config() })]

    /// Their checksum is text, and so it is written anew.
    #[test]
    fn identities(bends in bends(), seals in prop::bool::weighted(0.9)) {
        let dir = folder();
        let text = fs::read_to_string(dir.join("IDENTITY")).unwrap();
        let (body, _) = text.rsplit_once("# crc32c ").unwrap();
        let body = bent(body.as_bytes(), &bends);
        let checksum = crc32c::crc32c(&body) ^ u32::from(!seals);
        let sealed = [&body[..], format!("# crc32c {checksum:08x}\n").as_bytes()].concat();
        let bent = tempfile::tempdir().unwrap();
        fs::write(bent.path().join("IDENTITY"), sealed).unwrap();
        prop_assert!(seals || DataDir::peek(bent.path()).is_err(), "a wrong checksum is accepted");
        // Opening takes what was bent as an identity, or says what is wrong with it.
        if let Ok(Some(identity)) = DataDir::peek(bent.path()) {
            let (open, again) = DataDir::open(bent.path(), identity.node).unwrap();
            prop_assert_eq!(&again, &identity);
            open.save_identity(&identity).unwrap();
            prop_assert_eq!(DataDir::peek(bent.path()).unwrap(), Some(identity));
        }
    }

    /// Every shipped file, bent: refused with a sentence, or accepted as a whole.
    #[test]
    fn configurations(bends in bends(), value in "\\PC{0,12}") {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster-configs/one-node.toml");
        let text = fs::read(shipped).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        fs::write(&file, bent(&text, &bends)).unwrap();
        let set = [("QUORATE_CLIENT__LISTEN".to_owned(), value)];
        for variables in [Vec::new(), set.to_vec()] {
            match Config::load_with(Some(&file), variables) {
                Ok(config) => prop_assert!(config.node_id.0 > 0 && config.client.listen.port() > 0),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}

/// A data directory that was made once.
fn folder() -> &'static Path {
    static FOLDER: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), NodeId(1)).unwrap());
        dir
    });
    made.path()
}
