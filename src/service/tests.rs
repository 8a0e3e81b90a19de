//! Calls at a node that leads its only group alone, for what takes long: time is simulated.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use quorate_client::proto::subscribe_response::Kind;
use quorate_client::proto::{AppendRequest, NewMessage, ReadRequest};
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::call::Call;
use super::delivery::{HEARTBEAT_DEFAULT, Pacing, Subscription};
use super::fixture::{self, GROUP};
use super::{Api, CallError, Operation, PeerLog, Peers, append, read};
use crate::consensus::Group;
use crate::consensus::solitary::{Disks, NODE, Process};
use crate::transport::HandedOn;
use crate::types::{
    Clock, HashRange, Incarnation, NodeId, PlacementHash, ReplicaId, Timestamp, limits,
};

const ALL: HashRange = HashRange { start: PlacementHash(0), end: None };
/// Of simulated time: whatever has to happen in the end has happened by then.
const LONG: Duration = Duration::from_secs(120);
/// Two of these are a response.
const PAYLOAD_BYTES: usize = limits::RESPONSE_BYTES_TARGET / 2 - 1_000;
/// More messages than can wait for a caller who takes none.
const MESSAGES: u64 = 4 * limits::RESPONSE_QUEUE_MAX as u64;

struct NoPeers;

impl Peers for NoPeers {
    fn message_log(&self, _node: NodeId, _what: HandedOn) -> Option<PeerLog> {
        None
    }
}

/// As simulated time goes.
struct Ticking(tokio::time::Instant);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        Timestamp(self.elapsed_us())
    }

    fn elapsed_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// A node that leads all conversations.
struct Alone {
    api: Api,
    group: Arc<Group>,
    process: Process,
}

impl Alone {
    async fn start() -> Self {
        let process = Disks::default().start().await;
        let api = fixture::api(&process, NODE, Arc::new(NoPeers));
        let api = Api { clock: Arc::new(Ticking(tokio::time::Instant::now())), ..api };
        let own = ReplicaId { node: NODE, incarnation: Incarnation(1) };
        let group = process.leading(GROUP, own, ALL).await;
        Alone { api, group, process }
    }

    async fn append(&self, conversation: &str, number: u64) {
        let message = NewMessage {
            client_msg_id: number.to_string(),
            // The clock that judges it is the storage's own, which stands still.
            issued_at_us: 5_000_000,
            payload: vec![b'x'; PAYLOAD_BYTES].into(),
            ..NewMessage::default()
        };
        let request = AppendRequest {
            conversation: conversation.to_owned(),
            sender: "alice".to_owned(),
            messages: vec![message],
            expected_tail: None,
        };
        append::append(&self.api, &call(Operation::Append), request).await.unwrap();
    }

    async fn stop(self) {
        for group in self.process.replicas.all() {
            group.stop().await;
        }
    }
}

fn call(operation: Operation) -> Call {
    Call::new(operation, &MetadataMap::new())
}

#[tokio::test(start_paused = true)]
async fn a_read_whose_caller_pauses_for_too_long_does_not_end_as_if_it_were_whole() {
    let alone = Alone::start().await;
    for number in 1..=MESSAGES {
        alone.append("a", number).await;
    }
    let request = || ReadRequest { conversation: "a".to_owned(), ..ReadRequest::default() };
    let seqs = async |pause: Duration| {
        let reading = read::read(&alone.api, &call(Operation::Read), request()).await;
        let mut responses = reading.unwrap_or_else(|error| panic!("{error}"));
        sleep(pause).await;
        let mut taken = Vec::new();
        loop {
            match timeout(LONG, responses.next()).await.expect("a read ends") {
                Some(Ok(response)) => taken.extend(response.messages.iter().map(|m| m.seq)),
                Some(Err(status)) => return (taken, Some(status)),
                None => return (taken, None::<Status>),
            }
        }
    };
    let whole: Vec<u64> = (1..=MESSAGES).collect();
    let (taken, error) = seqs(Duration::from_millis(limits::READ_STALL_MS_MAX - 1)).await;
    assert!(taken == whole && error.is_none(), "{taken:?} {error:?}");

    let (taken, error) = seqs(Duration::from_millis(limits::READ_STALL_MS_MAX + 1)).await;
    assert!(!taken.is_empty() && whole.starts_with(&taken), "{taken:?}");
    let error = CallError::from_status(&error.expect("something is missing")).unwrap();
    assert_eq!(error, CallError::not_taken());
    assert!(error.is_retryable());
    alone.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_conversation_in_which_nothing_happens_ends_once_its_replica_has_stopped() {
    let alone = Alone::start().await;
    alone.append("a", 1).await;
    let subscribe = call(Operation::Subscribe);
    let (mut subscription, responses) =
        Subscription::new(&alone.api, &subscribe, Pacing::Credits, HEARTBEAT_DEFAULT);
    subscription.add("a".to_owned(), None, 0).await.unwrap();
    let mut ends = Box::pin(responses.filter_map(async |response| match response.unwrap().kind {
        Some(Kind::Ended(ended)) => Some(ended),
        _ => None,
    }));
    assert!(timeout(LONG, ends.next()).await.is_err(), "it goes on while its replica serves");

    // As after an error that Raft does not survive: nobody removes the replica.
    alone.group.raft().shutdown().await.unwrap();
    let ended = timeout(LONG, ends.next()).await.expect("it is not left silent").unwrap();
    assert_eq!(ended.conversation, "a");
    let error = CallError::from(ended.failed.unwrap());
    assert_eq!(error.reason(), "REPLICA_STOPPED");
    assert!(error.is_retryable());
    alone.stop().await;
}
