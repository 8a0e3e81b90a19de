//! A node of one's own with a group that it alone leads.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use quorate::consensus::Group;
use quorate::consensus::solitary::{Disks, NODE, Process};
use quorate::log::{Append, Command, NewMessage, Outcome};
use quorate::storage::records::Kind;
use quorate::types::{ConversationName, GroupId, HashRange, Incarnation, ReplicaId, Timestamp};
use tokio::time::{Instant, timeout};

pub const GROUP: GroupId = GroupId(1);
pub const OWN: ReplicaId = ReplicaId { node: NODE, incarnation: Incarnation(1) };
/// How long anything may take that has to happen in the end, on a busy machine.
pub const EVENTUALLY: Duration = Duration::from_secs(60);

/// Starts with a new group that this node alone leads.
pub async fn start_leading(disks: &Disks) -> Process {
    let process = disks.start().await;
    let group = process.replicas.make(GROUP, OWN).await.unwrap();
    group.initialize(vec![OWN]).await.unwrap();
    wait_leading(&process).await;
    let configure = Command::Configure { range: HashRange::ALL, epoch: 1 };
    group.propose(configure, soon()).await.unwrap();
    process
}

pub fn group_of(process: &Process) -> Arc<Group> {
    process.replicas.get(GROUP).expect("it serves")
}

pub async fn wait_leading(process: &Process) {
    let group = group_of(process);
    let leading = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        while !group.is_leader() {
            ticks.tick().await;
        }
    };
    let led = timeout(EVENTUALLY, leading).await;
    assert!(led.is_ok(), "it does not lead: {:?}", group.raft().metrics().borrow_watched());
}

/// Appends one message, which is accepted.
pub async fn append_one(process: &Process, id: &str, payload_bytes: usize) {
    let outcome = group_of(process).propose(append(id, payload_bytes), soon()).await.unwrap();
    assert!(matches!(outcome, Outcome::Appended(_)), "{outcome:?}");
}

pub fn soon() -> Instant {
    Instant::now() + EVENTUALLY
}

pub fn conversation() -> ConversationName {
    ConversationName("acme/room".to_owned())
}

pub fn append(id: &str, payload_bytes: usize) -> Command {
    let payload = vec![7; payload_bytes];
    Command::Append(Append {
        conversation: conversation(),
        sender: "ann".to_owned(),
        messages: vec![NewMessage {
            client_msg_id: id.to_owned(),
            issued_at: Timestamp(1_000_000),
            kind: Kind::Content,
            content_type: "text/plain".to_owned(),
            headers: Vec::new(),
            payload_crc32c: crc32c::crc32c(&payload),
            payload: payload.into(),
            target_seq: None,
            traceparent: String::new(),
            salt: [7; 16],
        }],
        expected_tail: None,
        lane: None,
    })
}
