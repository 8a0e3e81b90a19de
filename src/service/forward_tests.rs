//! Calls that a node hands on to other nodes, which answer as each test has it: time is simulated.

use std::time::Duration;

use quorate_client::proto::batch_read_response::Item;
use quorate_client::proto::consistency::{Level, MaxStaleness};
use quorate_client::proto::{
    AppendRequest, AppendResponse, BatchReadRequest, BatchReadResponse, Consistency, Conversation,
    GetOutcomeRequest, GetOutcomeResponse, ListRequest, ListResponse, Message, NewMessage,
    Position, ReadResponse,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;

use super::call::Call;
use super::fixture::{self, GROUP, Ticking};
use super::other_node::{self, Opened};
use super::{Api, CallError, Operation, append, batch_read, list, outcome};
use crate::consensus::RoomLeft;
use crate::consensus::solitary::{Disks, NODE, Process};
use crate::log::TopologyGroup;
use crate::types::{GroupId, HashRange, Incarnation, NodeId, PlacementHash, ReplicaId, limits};

const ALL: HashRange = HashRange { start: PlacementHash(0), end: None };
/// Of simulated time: whatever has to happen has happened by then.
const LONG: Duration = Duration::from_secs(5);
/// The nodes that are asked.
const OTHERS: [NodeId; 3] = [NodeId(7), NodeId(8), NodeId(9)];
const UPPER: GroupId = GroupId(2);
const MIB: usize = 1024 * 1024;

/// A node that hands on calls of one method.
struct Fixture<Asked, Told> {
    api: Api,
    opened: mpsc::Receiver<Opened<Asked, Told>>,
    process: Process,
}

impl<Asked, Told> Fixture<Asked, Told>
where
    Asked: prost::Message + Default + 'static,
    Told: prost::Message + 'static,
{
    async fn start(method: &'static str, groups: Vec<TopologyGroup>) -> Self {
        let process = Disks::default().start().await;
        let (sender, opened) = mpsc::channel(1);
        let peers = other_node::others(&process, &OTHERS, Server::builder(), method, Some(sender));
        let api = fixture::api_over(&process, groups, peers);
        Fixture { api, opened, process }
    }

    /// The next call to another node.
    async fn asked(&mut self) -> Opened<Asked, Told> {
        timeout(LONG, self.opened.recv()).await.expect("another node is asked").unwrap()
    }

    fn responses(&self) -> &RoomLeft {
        self.api.replicas.admission().responses()
    }

    /// Until answers of so many bytes are counted, and no more.
    async fn counts(&self, bytes: usize) {
        let is_left = |bytes: usize| self.responses().take(bytes).is_some();
        let counts = async {
            while is_left(limits::RESPONSES_BYTES_MAX - bytes / 2) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, counts).await.expect("it is counted while others are waited for");
        assert!(is_left(limits::RESPONSES_BYTES_MAX - 2 * bytes));
    }
}

fn call(operation: Operation) -> Call {
    Call::new(operation, &MetadataMap::new())
}

async fn answer<Asked, Told>(opened: Opened<Asked, Told>, answer: Result<Told, CallError>) {
    opened.responses.send(answer.map_err(Status::from)).await.expect("somebody waits for it");
}

/// Two groups, one on each of these nodes.
fn halves(nodes: [NodeId; 2]) -> Vec<TopologyGroup> {
    let [lower, upper] = fixture::halves();
    let (first, second) = ([nodes[0]], [nodes[1]]);
    vec![fixture::group(GROUP, lower, &first), fixture::group(UPPER, upper, &second)]
}

const BATCH_READ: &str = "/quorate.v1.MessageLog/BatchRead";

/// Of one conversation in each half.
fn batch_read(api: &Api, level: Option<Level>) -> JoinHandle<Result<BatchReadResponse, CallError>> {
    let conversations = fixture::halves().map(fixture::name_in).to_vec();
    let consistency = level.map(|level| Consistency { level: Some(level) });
    let request = BatchReadRequest { conversations, last: 1, consistency };
    let api = api.clone();
    tokio::spawn(
        async move { batch_read::batch_read(&api, &call(Operation::BatchRead), request).await },
    )
}

fn item(payload_bytes: usize, age_ms: u64) -> BatchReadResponse {
    let message = Message { payload: vec![7; payload_bytes].into(), ..Message::default() };
    let position = Some(Position { age_ms: Some(age_ms), ..Position::default() });
    let read = ReadResponse { messages: vec![message], position, ..ReadResponse::default() };
    BatchReadResponse { items: vec![Item { read: Some(read), ..Item::default() }] }
}

/// What became of each conversation: its age, or why not.
fn told(response: BatchReadResponse) -> Vec<Result<u64, String>> {
    let told = |item: Item| match item.failed {
        Some(failed) => Err(failed.reason),
        None => Ok(item.read.unwrap().position.unwrap().age_ms.unwrap()),
    };
    response.items.into_iter().map(told).collect()
}

/// G12. How long that takes is up to the slowest.
#[tokio::test(start_paused = true)]
async fn what_one_node_has_read_takes_room_while_another_is_waited_for() {
    let groups = halves([OTHERS[0], OTHERS[1]]);
    let mut fixture =
        Fixture::<BatchReadRequest, BatchReadResponse>::start(BATCH_READ, groups).await;
    let reading = batch_read(&fixture.api, None);
    let (first, second) = (fixture.asked().await, fixture.asked().await);
    answer(first, Ok(item(MIB, 0))).await;
    fixture.counts(MIB).await;
    let others = fixture.responses().take(limits::RESPONSES_BYTES_MAX - 3 * MIB / 2).unwrap();
    answer(second, Ok(item(MIB, 0))).await;
    let mut told = told(reading.await.unwrap().unwrap());
    told.sort();
    assert_eq!(told, [Ok(0), Err("OVERLOADED".to_owned())]);
    drop(others);
    assert!(fixture.responses().take(limits::RESPONSES_BYTES_MAX).is_some());
}

/// G12. The same of names.
#[tokio::test(start_paused = true)]
async fn what_one_node_has_listed_takes_room_while_another_is_waited_for() {
    let groups = halves([OTHERS[0], OTHERS[1]]);
    let method = "/quorate.v1.MessageLog/List";
    let mut fixture = Fixture::<ListRequest, ListResponse>::start(method, groups).await;
    let api = fixture.api.clone();
    let listing = tokio::spawn(async move {
        let request = ListRequest { page_size: limits::LIST_PAGE_MAX, ..ListRequest::default() };
        list::list(&api, &call(Operation::List), request).await
    });
    let (first, second) = (fixture.asked().await, fixture.asked().await);
    let conversation = |number| {
        let name = format!("{number:0>width$}", width = limits::CONVERSATION_NAME_BYTES_MAX);
        Conversation { name, ..Conversation::default() }
    };
    let conversations: Vec<_> = (0..limits::LIST_PAGE_MAX).map(conversation).collect();
    let bytes = conversations.iter().map(prost::Message::encoded_len).sum();
    answer(first, Ok(ListResponse { conversations, ..ListResponse::default() })).await;
    fixture.counts(bytes).await;
    answer(second, Ok(ListResponse::default())).await;
    assert!(!listing.await.unwrap().unwrap().conversations.is_empty());
    assert!(fixture.responses().take(limits::RESPONSES_BYTES_MAX).is_some());
}

/// G10. What was read first is answered with what was read last.
#[tokio::test(start_paused = true)]
async fn what_was_read_grows_older_until_all_has_been_read() {
    let groups = halves([NODE, OTHERS[0]]);
    let mut fixture =
        Fixture::<BatchReadRequest, BatchReadResponse>::start(BATCH_READ, groups).await;
    let own = ReplicaId { node: NODE, incarnation: Incarnation(1) };
    let group = fixture.process.leading(GROUP, own, fixture::halves()[0]).await;
    let bound = MaxStaleness { max_staleness_ms: 1_000 };
    let mut ages = async |pause: u64| {
        // By the clock of the replica, which stands still, it is confirmed now.
        let api = Api { clock: Ticking::start(), ..fixture.api.clone() };
        let reading = batch_read(&api, Some(Level::MaxStaleness(bound)));
        let asked = fixture.asked().await;
        sleep(Duration::from_millis(pause)).await;
        answer(asked, Ok(item(1, 5))).await;
        told(reading.await.unwrap().unwrap())
    };
    let told = ages(600).await;
    assert!(matches!(told[..], [Ok(600..=1_000), Ok(5..100)]), "{told:?}");
    let told = ages(1_001).await;
    assert!(matches!(&told[..], [Err(stale), Ok(5..100)] if stale == "TOO_STALE"), "{told:?}");
    group.stop().await;
}

/// The same of what another node has read.
#[tokio::test(start_paused = true)]
async fn what_another_node_has_read_grows_older_too() {
    let groups = halves([OTHERS[0], OTHERS[1]]);
    let mut fixture =
        Fixture::<BatchReadRequest, BatchReadResponse>::start(BATCH_READ, groups).await;
    let bound = MaxStaleness { max_staleness_ms: 1_000 };
    for (pause, first) in [(600, Ok(605)), (996, Err("TOO_STALE".to_owned()))] {
        let api = Api { clock: Ticking::start(), ..fixture.api.clone() };
        let reading = batch_read(&api, Some(Level::MaxStaleness(bound)));
        let mut asked = [fixture.asked().await, fixture.asked().await];
        asked.sort_by_key(|asked| asked.node);
        let [lower, upper] = asked;
        answer(lower, Ok(item(1, 5))).await;
        sleep(Duration::from_millis(pause)).await;
        answer(upper, Ok(item(1, 5))).await;
        assert_eq!(told(reading.await.unwrap().unwrap()), [first, Ok(5)]);
    }
}

/// One group, which is led by some other node.
fn led_elsewhere() -> Vec<TopologyGroup> {
    vec![fixture::group(GROUP, ALL, &OTHERS)]
}

/// A leader that no quorum hears any more does not know of the next one, nor do those that hear only that one.
#[tokio::test(start_paused = true)]
async fn an_append_asks_each_replica_once_until_one_takes_it() {
    let method = "/quorate.v1.MessageLog/Append";
    let mut fixture =
        Fixture::<AppendRequest, AppendResponse>::start(method, led_elsewhere()).await;
    let append = |api: &Api| {
        let api = api.clone();
        let message =
            NewMessage { client_msg_id: "1".into(), issued_at_us: 1, ..Default::default() };
        let request = AppendRequest {
            conversation: "a".to_owned(),
            sender: "alice".to_owned(),
            messages: vec![message],
            expected_tail: None,
        };
        tokio::spawn(async move { append::append(&api, &call(Operation::Append), request).await })
    };
    let appending = append(&fixture.api);
    let [first, second, third] = OTHERS;
    for (node, error) in [(first, None), (second, Some(first))] {
        let asked = fixture.asked().await;
        assert_eq!(asked.node, node);
        answer(asked, Err(CallError::not_leader(error))).await;
    }
    let asked = fixture.asked().await;
    assert_eq!(asked.node, third);
    answer(asked, Ok(AppendResponse::default())).await;
    assert!(appending.await.unwrap().is_ok());

    // Nobody is asked twice.
    let appending = append(&fixture.api);
    for _ in OTHERS {
        answer(fixture.asked().await, Err(CallError::not_leader(None))).await;
    }
    assert_eq!(appending.await.unwrap().unwrap_err(), CallError::not_leader(None));
}

#[tokio::test(start_paused = true)]
async fn a_settle_goes_to_another_replica_than_the_one_that_knew_no_leader() {
    let method = "/quorate.v1.MessageLog/GetOutcome";
    let mut fixture =
        Fixture::<GetOutcomeRequest, GetOutcomeResponse>::start(method, led_elsewhere()).await;
    let [first, second, third] = OTHERS;
    // The second hears the first alone, and the third leads.
    for (node, error) in [(first, None), (second, Some(first)), (third, None)] {
        let request = GetOutcomeRequest {
            conversation: "a".to_owned(),
            sender: "alice".to_owned(),
            client_msg_id: "1".to_owned(),
            issued_at_us: 1,
            settle: true,
        };
        let api = fixture.api.clone();
        let settling = tokio::spawn(async move {
            outcome::get_outcome(&api, &call(Operation::GetOutcome), request).await
        });
        let asked = fixture.asked().await;
        assert_eq!(asked.node, node);
        answer(asked, Err(CallError::not_leader(error))).await;
        assert!(settling.await.unwrap().is_err());
    }
}
