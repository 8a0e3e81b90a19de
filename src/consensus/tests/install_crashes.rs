//! A snapshot that is installed while the process dies: at each step, and again while that is rolled forward (G1).

use std::sync::Arc;

use super::fixture::{GROUP, NEIGHBOUR, Row, assert_sound, fill, log_id, names, replica, rows};
use super::mortal::Mortal;
use crate::consensus::SnapshotSource;
use crate::consensus::live::Growth;
use crate::consensus::state_machine::Applied;
use crate::consensus::tails::LiveMessages;
use crate::storage::conformance::{Memory, Subject};
use crate::storage::install::{install, roll_forward};
use crate::storage::records::{GroupRow, Record};
use crate::storage::{Database, Engine, MemoryDisk, StorageError, View, keys};
use crate::types::{ConversationName, ReplicaId, Seq};

/// The replica that takes the snapshot.
fn own() -> ReplicaId {
    replica(3, 2)
}

/// Old and new state share one conversation, and each has one of its own: rows go, come and change.
fn old(engine: &dyn Engine) {
    let mut conversations = names(GROUP, "both", 1);
    conversations.extend(names(GROUP, "old", 3));
    fill(engine, GROUP, own(), &conversations, 2, log_id(2, 10));
    neighbour(engine);
}

/// What no install may touch: in the tables of the same database, and in the listing between the other names.
fn neighbour(engine: &dyn Engine) {
    fill(engine, NEIGHBOUR, own(), &names(NEIGHBOUR, "both", 3), 2, log_id(1, 4));
}

fn source() -> SnapshotSource {
    let engine: Arc<dyn Engine> = Arc::new(MemoryDisk::new(Database::State).open());
    let mut conversations: Vec<ConversationName> = names(GROUP, "both", 1);
    conversations.extend(names(GROUP, "new", 3));
    fill(engine.as_ref(), GROUP, replica(1, 1), &conversations, 5, log_id(3, 40));
    let row = stored(engine.as_ref());
    SnapshotSource::new(GROUP, Arc::new(Applied::open(GROUP, engine, row, LiveMessages::default())))
}

fn stored(view: &dyn View) -> GroupRow {
    let key = keys::group(GROUP);
    let value = view.get(GroupRow::TABLE, &key).unwrap().expect("the group has a row");
    GroupRow::decode(&key, &value).unwrap()
}

fn take_in(engine: Arc<dyn Engine>, source: &SnapshotSource) -> Result<(), StorageError> {
    let staged = source.stage_into(GROUP, engine.clone())?;
    install(engine.as_ref(), GROUP, own(), staged).map(|_| ())
}

/// The rows of the old state, and those of the new one, from an install that nothing disturbs.
fn expected(source: &SnapshotSource) -> (Vec<Row>, Vec<Row>) {
    let engine = Arc::new(MemoryDisk::new(Database::State).open());
    old(engine.as_ref());
    let before = rows(engine.as_ref());
    take_in(engine.clone(), source).unwrap();
    assert_sound(engine.as_ref());
    (before, rows(engine.as_ref()))
}

/// What one run came to.
struct Run {
    installed: bool,
    rolled_forward: bool,
    /// The mark was on disk when the process died.
    marked: bool,
    /// In the end the new state is there, and not the old one.
    is_new: bool,
}

/// Installs, dies after `first` steps, rolls forward, dies after `second` steps, and rolls forward to the end.
fn run<S: Subject>(source: &SnapshotSource, first: usize, second: usize) -> Run {
    let (before, after) = expected(source);
    let subject = S::create(Database::State);
    old(subject.engine());
    let installed = take_in(Mortal::after(subject.shared(), first), source).is_ok();
    let subject = subject.crash();
    let marked = stored(subject.engine()).installing.is_some();
    let rolled_forward = roll_forward(Mortal::after(subject.shared(), second).as_ref()).is_ok();
    let subject = subject.crash();
    roll_forward(subject.engine()).unwrap();

    let found = rows(subject.engine());
    let is_new = found == after;
    assert!(
        is_new || found == before,
        "died after {first} and {second} steps: neither old nor new"
    );
    assert!(
        is_new || !marked,
        "died after {first} steps: the mark was there, the new state is not"
    );
    assert!(is_new || !installed, "the install had returned");
    assert!(subject.engine().staged().unwrap().is_empty(), "a staging area stays");
    assert_sound(subject.engine());
    let subject = subject.crash();
    assert_eq!(rows(subject.engine()), found, "what was rolled forward is durable");
    Run { installed, rolled_forward, marked, is_new }
}

/// Dies at each first step; `seconds` says at which further steps to die while rolling forward.
fn dies_at_each_step<S: Subject>(seconds: impl Fn(usize) -> Vec<usize>) {
    let source = source();
    let (mut marked, mut twice) = (0, 0);
    let mut was_new = false;
    for first in 0.. {
        let mut installed = false;
        for second in seconds(first) {
            let run = run::<S>(&source, first, second);
            assert!(run.is_new || !was_new, "a later step brings the old state back");
            was_new = run.is_new;
            marked += usize::from(run.marked);
            twice += usize::from(run.marked && !run.rolled_forward);
            installed = run.installed;
            if run.rolled_forward {
                break;
            }
        }
        if installed {
            break;
        }
        assert!(first < 100, "the install never ends");
    }
    assert!(was_new && marked > 3 && twice > 3, "{marked} marked, {twice} died twice");
}

#[test]
fn an_install_in_memory_that_dies_twice_ends_whole() {
    dies_at_each_step::<Memory>(|_| (0..100).collect());
}

/// Opening a database takes its time: each first step, and one second step for each.
#[cfg(feature = "rocksdb")]
#[test]
fn an_install_on_rocksdb_that_dies_twice_ends_whole() {
    dies_at_each_step::<crate::storage::conformance::Rocks>(|first| vec![first % 9]);
}

/// G2 and G10: a reader that finds no mark in its view sees the old state or the new one. (One that finds it is refused
/// in `service/reads.rs`.)
#[test]
fn a_view_during_an_install_is_whole_or_marked() {
    let source = source();
    let (before, after) = expected(&source);
    let (mut marked, mut steps) = (0, 0);
    loop {
        let engine: Arc<dyn Engine> = Arc::new(MemoryDisk::new(Database::State).open());
        old(engine.as_ref());
        let installed = take_in(Mortal::after(engine.clone(), steps), &source).is_ok();
        let view = engine.pin();
        if stored(view.as_ref()).installing.is_some() {
            marked += 1;
        } else {
            let found = rows(view.as_ref());
            assert!(found == before || found == after, "after {steps} steps");
        }
        if installed {
            break;
        }
        steps += 1;
    }
    assert!(marked > 3, "{marked} of {steps} steps were marked");
}

/// A folder that cannot be removed is no reason to stop a replica whose new state is durable (G9).
#[test]
fn an_install_does_not_fail_because_of_what_it_leaves() {
    let source = source();
    let (_, after) = expected(&source);
    let mut steps = 0;
    let engine = loop {
        let engine: Arc<dyn Engine> = Arc::new(MemoryDisk::new(Database::State).open());
        old(engine.as_ref());
        if take_in(Mortal::after(engine.clone(), steps), &source).is_ok() {
            break engine;
        }
        steps += 1;
    };
    assert_eq!(engine.staged().unwrap().len(), 1, "the last step, which removes it, failed");
    assert_eq!(rows(engine.as_ref()), after);
    assert_eq!(roll_forward(engine.as_ref()).unwrap(), []);
    assert!(engine.staged().unwrap().is_empty(), "the next start removes it");
    assert_eq!(rows(engine.as_ref()), after);
}

/// The present state under another name is no snapshot to install: entries would be applied twice.
#[tokio::test]
async fn a_snapshot_that_is_not_what_was_announced_is_refused() {
    use crate::consensus::SnapshotData;
    use crate::consensus::raft_types::{RaftSnapshotMeta, to_raft_log_id};
    use crate::consensus::state_machine::GroupStateMachine;
    use openraft::storage::RaftStateMachine;

    const NEXT: Seq = Seq(100);
    let engine: Arc<dyn Engine> = Arc::new(MemoryDisk::new(Database::State).open());
    old(engine.as_ref());
    let before = rows(engine.as_ref());
    let applied = Arc::new(Applied::open(
        GROUP,
        engine.clone(),
        stored(engine.as_ref()),
        LiveMessages::default(),
    ));
    // What somebody who follows is served from memory is of the old state.
    let mut followed = applied.tails().watch(ConversationName("both").id());
    let growth = Growth { from: NEXT, tail: NEXT.next(), stored: vec![b"live".as_slice().into()] };
    applied.tails().publish(ConversationName("both").id(), &growth);
    let mut live = |next| followed.messages_from(next, 1, 1).map(|messages| messages.len());
    assert_eq!(live(NEXT), Some(1));
    let mut machine = GroupStateMachine::new(SnapshotSource::new(GROUP, applied));
    let announced = |index| RaftSnapshotMeta {
        last_log_id: Some(to_raft_log_id(&log_id(3, index))),
        ..RaftSnapshotMeta::default()
    };
    let durable = SnapshotData::Durable(source());
    let error = machine.install_snapshot(&announced(39), durable).await.unwrap_err();
    assert!(error.to_string().contains("39"), "{error}");
    assert_eq!(rows(engine.as_ref()), before);
    assert_eq!(live(NEXT), Some(1));
    machine.install_snapshot(&announced(40), SnapshotData::Durable(source())).await.unwrap();
    assert_eq!(rows(engine.as_ref()), expected(&source()).1);
    assert_eq!((live(NEXT), live(NEXT.next())), (None, None));
}
