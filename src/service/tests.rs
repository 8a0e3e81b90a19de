//! Calls at a node that leads its only group alone, for what takes long: time is simulated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use quorate_client::proto::consistency::{Level, MaxStaleness};
use quorate_client::proto::delivery::Kind as Delivered;
use quorate_client::proto::get_outcome_response::State;
use quorate_client::proto::subscribe_response::Kind;
use quorate_client::proto::{
    AppendRequest, Consistency, Delivery, FollowRequest, FollowStart, GetOutcomeRequest, Message,
    NewMessage, ReadRequest, ReadResponse,
};
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::call::Call;
use super::delivery::{HEARTBEAT_DEFAULT, Outgoing, Pacing, Subscribed, Subscription};
use super::fixture::{self, GROUP, Ticking};
use super::other_node::NoPeers;
use super::{Api, CallError, Operation, append, follow, outcome, read};
use crate::consensus::solitary::{Disks, NODE, NOW, Process};
use crate::consensus::{ClockSkew, Group, Sighting};
use crate::log::{AppendRefusal, Command, latest_issued_at};
use crate::storage::{DiskMark, StorageError, Table, keys};
use crate::types::{
    ConversationName, HashRange, Incarnation, PlacementHash, ReplicaId, Seq, Timestamp, limits,
};

const ALL: HashRange = HashRange { start: PlacementHash(0), end: None };
/// Of simulated time: whatever has to happen in the end has happened by then.
const LONG: Duration = Duration::from_secs(120);
/// Two of these are a response.
const PAYLOAD_BYTES: usize = limits::RESPONSE_BYTES_TARGET / 2 - 1_000;
/// More messages than can wait for a caller who takes none.
const MESSAGES: u64 = 4 * limits::RESPONSE_QUEUE_MAX as u64;

/// A node that leads all conversations.
struct Alone {
    api: Api,
    group: Arc<Group>,
    process: Process,
}

impl Alone {
    async fn start() -> Self {
        Alone::start_on(&Disks::default()).await
    }

    async fn start_on(disks: &Disks) -> Self {
        let process = disks.start().await;
        let api = fixture::api(&process, NODE, Arc::new(NoPeers));
        let api = Api { clock: Ticking::start(), ..api };
        let own = ReplicaId { node: NODE, incarnation: Incarnation(1) };
        let group = process.leading(GROUP, own, ALL).await;
        Alone { api, group, process }
    }

    /// Has the clock compared with those of a majority, which is the node alone.
    fn agree(&self) {
        let own = Sighting { clock: ClockSkew::NONE, disk: DiskMark::Ok };
        self.group.weigh(&[(NODE, own)].into(), NOW);
    }

    async fn append(&self, conversation: &str, number: u64) {
        self.append_bytes(conversation, number, PAYLOAD_BYTES).await;
    }

    async fn append_bytes(&self, conversation: &str, number: u64, payload_bytes: usize) {
        let message = NewMessage {
            client_msg_id: number.to_string(),
            // The clock that judges it is the storage's own, which stands still.
            issued_at_us: 5_000_000,
            payload: vec![b'x'; payload_bytes].into(),
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

/// G10. What is read of the state that is held grows older while the caller takes its time.
#[tokio::test(start_paused = true)]
async fn each_response_of_a_read_says_how_old_it_is_and_none_is_older_than_was_asked() {
    let alone = Alone::start().await;
    for number in 1..=MESSAGES {
        alone.append("a", number).await;
    }
    let ages = async |pause: Duration| {
        // By the clock of the replica, which stands still, it is confirmed now.
        let api = Api { clock: Ticking::start(), ..alone.api.clone() };
        let bound = MaxStaleness { max_staleness_ms: 1_000 };
        let consistency = Consistency { level: Some(Level::MaxStaleness(bound)) };
        let (conversation, consistency) = ("a".to_owned(), Some(consistency));
        let request = ReadRequest { conversation, consistency, ..ReadRequest::default() };
        let reading = read::read(&api, &call(Operation::Read), request).await;
        let mut responses = reading.unwrap_or_else(|error| panic!("{error}"));
        let first = responses.next().await.unwrap();
        sleep(pause).await;
        let rest: Vec<_> = responses.collect().await;
        let age = |response: ReadResponse| response.position.unwrap().age_ms.unwrap();
        let told = |status: Status| CallError::from_status(&status).unwrap().reason().to_owned();
        let all = [first].into_iter().chain(rest);
        all.map(|response| response.map(age).map_err(told)).collect::<Vec<_>>()
    };
    let told = ages(Duration::from_millis(600)).await;
    assert!(matches!(told[..], [Ok(..600), .., Ok(600..=1_000)]), "{told:?}");
    let told = ages(Duration::from_millis(1_001)).await;
    let Some((Err(last), before)) = told.split_last() else { panic!("{told:?}") };
    assert_eq!(last, "TOO_STALE");
    assert!(before.iter().all(|age| matches!(age, Ok(..=1_000))), "{told:?}");
    alone.stop().await;
}

/// Another replica may serve it, and this one must not go on as if it were sound (G11).
#[tokio::test(start_paused = true)]
async fn damage_that_only_a_read_sees_fails_the_database() {
    for is_gone in [false, true] {
        let disks = Disks::default();
        let alone = Alone::start_on(&disks).await;
        for number in 1..=3 {
            alone.append("a", number).await;
        }
        let state = alone.process.storage.state.clone();
        let key = keys::message(ConversationName("a".to_owned()).id(), Seq(2));
        let mut value = state.get(Table::Messages, &key).unwrap().unwrap().to_vec();
        value[10] ^= 4;
        disks.state.damage(Table::Messages, &key, Some(value).filter(|_| !is_gone));
        assert_eq!(state.background_error(), None);

        let request = ReadRequest { conversation: "a".to_owned(), ..ReadRequest::default() };
        let reading = read::read(&alone.api, &call(Operation::Read), request).await;
        let responses: Vec<_> = reading.unwrap_or_else(|error| panic!("{error}")).collect().await;
        let status = responses.into_iter().find_map(Result::err).expect("it was served");
        assert!(CallError::from_status(&status).unwrap().is_retryable());
        let error = state.background_error();
        assert!(matches!(error, Some(StorageError::Damaged { .. })), "{error:?}");
        alone.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversation_in_which_nothing_happens_ends_once_its_replica_has_stopped() {
    let alone = Alone::start().await;
    alone.append("a", 1).await;
    let subscribe = call(Operation::Subscribe);
    let (mut subscription, responses) =
        Subscription::new(&alone.api, &subscribe, Pacing::Credits, HEARTBEAT_DEFAULT).unwrap();
    subscription.add("a".to_owned(), None, 0).await.unwrap();
    let mut ends =
        Box::pin(responses.filter_map(async |response| match response.unwrap().decoded().kind {
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

/// A follow of one conversation from its start on, and what it yields.
async fn follow(alone: &Alone, name: &str) -> (Subscription, BoxStream<'static, Subscribed>) {
    let (mut subscription, responses) =
        Subscription::new(&alone.api, &call(Operation::Follow), Pacing::Stream, HEARTBEAT_DEFAULT)
            .unwrap();
    subscription.add(name.to_owned(), None, 0).await.unwrap();
    (subscription, responses.map(Result::unwrap).boxed())
}

/// The next messages, so many, and how many of them were in memory.
async fn messages(
    responses: &mut BoxStream<'static, Subscribed>,
    count: u64,
) -> (Vec<Message>, u64) {
    let (mut messages, mut from_memory) = (Vec::new(), 0);
    while (messages.len() as u64) < count {
        let response = timeout(LONG, responses.next()).await.expect("more comes").unwrap();
        let is_encoded = matches!(response, Outgoing::Encoded(_));
        if let Some(Kind::Delivery(Delivery { kind: Some(Delivered::Messages(delivered)) })) =
            response.decoded().kind
        {
            from_memory += if is_encoded { delivered.messages.len() as u64 } else { 0 };
            messages.extend(delivered.messages);
        }
    }
    (messages, from_memory)
}

/// Until a conversation without a message is said to have none.
async fn caught_up(responses: &mut BoxStream<'static, Subscribed>) {
    loop {
        let response = timeout(LONG, responses.next()).await.expect("history ends").unwrap();
        if let Some(Kind::Delivery(Delivery { kind: Some(Delivered::CaughtUp(_)) })) =
            response.decoded().kind
        {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_live_is_what_a_later_follow_reads() {
    let alone = Alone::start().await;
    let (_live, mut responses) = follow(&alone, "a").await;
    caught_up(&mut responses).await;
    for number in 1..=MESSAGES {
        alone.append("a", number).await;
        alone.append("b", number).await;
    }
    let (live, from_memory) = messages(&mut responses, MESSAGES).await;
    assert!(from_memory > 0, "{from_memory} of {MESSAGES}");
    let (_later, mut responses) = follow(&alone, "a").await;
    assert_eq!(messages(&mut responses, MESSAGES).await, (live, 0));
    alone.stop().await;
}

/// What it leaves lying is bounded by the places of its stream, and everybody else gets all at once.
#[tokio::test(start_paused = true)]
async fn a_follower_that_does_not_read_slows_nobody_and_holds_no_more_than_its_queue() {
    let alone = Alone::start().await;
    let (_slow, mut unread) = follow(&alone, "a").await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let (subscription, mut responses) = follow(&alone, "a").await;
        caught_up(&mut responses).await;
        readers.push((subscription, responses));
    }
    for number in 1..=MESSAGES {
        alone.append("a", number).await;
        for (_, responses) in &mut readers {
            let (next, from_memory) = messages(responses, 1).await;
            assert_eq!((next[0].seq, from_memory), (number, 1), "each one as it comes");
        }
    }
    let response = limits::RESPONSE_BYTES_TARGET + 2 * limits::CALL_BYTES_FREE;
    let held = limits::RESPONSE_QUEUE_MAX * response;
    let responses = alone.api.replicas.admission().responses();
    assert!(responses.take(limits::RESPONSES_BYTES_MAX - held).is_some());
    assert!(responses.take(limits::RESPONSES_BYTES_MAX).is_none(), "it does hold some");
    // It has missed nothing: what memory does not hold any more is read.
    let (all, _) = messages(&mut unread, MESSAGES).await;
    let seqs: Vec<_> = all.iter().map(|message| message.seq).collect();
    assert_eq!(seqs, (1..=MESSAGES).collect::<Vec<_>>());
    alone.stop().await;
}

/// A piece for each few of them would be a frame, a write and a wake for each few.
#[tokio::test(start_paused = true)]
async fn what_one_entry_brings_to_many_conversations_goes_out_in_one_piece() {
    let names: Vec<_> = (0..10 * limits::RESPONSE_QUEUE_MAX).map(|n| format!("a/{n}")).collect();
    let alone = Alone::start().await;
    let (mut subscription, mut responses) = follow(&alone, "a").await;
    caught_up(&mut responses).await;
    for name in &names {
        subscription.add(name.clone(), None, 0).await.unwrap();
        caught_up(&mut responses).await;
    }
    let append = |name| alone.append_bytes(name, 1, 256);
    let appends = futures::future::join_all(names.iter().map(|name| append(name)));
    let (_, first) = tokio::join!(appends, responses.next());
    let at_once = std::iter::from_fn(|| responses.next().now_or_never());
    let pieces: Vec<_> = first.into_iter().chain(at_once.flatten()).collect();
    assert!(pieces.iter().all(|piece| matches!(piece, Outgoing::Encoded(_))));
    assert_eq!(pieces.len(), names.len());
    alone.stop().await;
}

/// G8. Who is told that it will never do may not be told so by a clock that is behind.
#[tokio::test(start_paused = true)]
async fn what_seems_to_be_of_the_future_is_refused_for_good_only_by_a_clock_that_others_agree_with()
{
    let alone = Alone::start().await;
    // The clock that judges it stands still.
    let issued_at_us = NOW.wall.0 + limits::ISSUED_AT_AHEAD_US_MAX + 1;
    let refusals = async || {
        let (conversation, sender) = ("a".to_owned(), "alice".to_owned());
        let client_msg_id = "ahead".to_owned();
        let asked = GetOutcomeRequest {
            conversation: conversation.clone(),
            sender: sender.clone(),
            client_msg_id: client_msg_id.clone(),
            issued_at_us,
            settle: true,
        };
        let message = NewMessage { client_msg_id, issued_at_us, ..NewMessage::default() };
        let (messages, expected_tail) = (vec![message], None);
        let request = AppendRequest { conversation, sender, messages, expected_tail };
        let appended = append::append(&alone.api, &call(Operation::Append), request).await;
        let settled = outcome::get_outcome(&alone.api, &call(Operation::GetOutcome), asked).await;
        [appended.unwrap_err(), settled.unwrap_err()]
    };
    let told = |error: CallError| {
        assert!(!error.may_have_taken_effect(), "{error}");
        (error.reason().to_owned(), error.is_retryable())
    };
    let passing = ("CLOCK_UNTRUSTED".to_owned(), true);
    assert_eq!(refusals().await.map(told), [passing.clone(), passing.clone()], "not weighed yet");
    alone.group.weigh(&BTreeMap::new(), NOW);
    assert_eq!(refusals().await.map(told), [passing.clone(), passing], "nobody has answered");
    alone.agree();
    let for_good = ("ISSUED_IN_FUTURE".to_owned(), false);
    assert_eq!(refusals().await.map(told), [for_good.clone(), for_good]);
    // The clock was behind when this was stamped, and was set right before it was answered.
    let late = AppendRefusal::FromTheFuture {
        client_msg_id: "ahead".to_owned(),
        issued_at: latest_issued_at(NOW.wall),
        latest: NOW.wall,
    };
    assert_eq!(told(append::refused(&alone.group, late)), ("CLOCK_UNTRUSTED".to_owned(), true));
    alone.stop().await;
}

/// G8. What became of a message of before the dedup floor is not kept: "not committed" may not be said of it.
#[tokio::test(start_paused = true)]
async fn without_issued_at_an_outcome_says_for_which_messages_it_holds() {
    let alone = Alone::start().await;
    let asked = async |client_msg_id: &str, issued_at_us, settle| {
        let request = GetOutcomeRequest {
            conversation: "a".to_owned(),
            sender: "alice".to_owned(),
            client_msg_id: client_msg_id.to_owned(),
            issued_at_us,
            settle,
        };
        let told = outcome::get_outcome(&alone.api, &call(Operation::GetOutcome), request).await;
        told.map(|told| (told.state(), told.dedup_floor_us))
    };
    let outcome =
        async |client_msg_id: &str, issued_at_us| asked(client_msg_id, issued_at_us, false).await;
    alone.agree();
    alone.append("a", 1).await;
    assert_eq!(outcome("1", 0).await, Ok((State::Committed, None)));
    assert_eq!(outcome("2", 0).await, Ok((State::NotCommitted, None)), "everything is kept so far");

    let floor = 5_000_001;
    let raise = Command::RaiseDedupFloor { floor: Timestamp(floor) };
    alone.group.propose(raise, tokio::time::Instant::now() + LONG).await.unwrap();
    assert_eq!(outcome("1", 0).await, Ok((State::NotCommitted, Some(floor))));
    assert_eq!(outcome("1", floor).await, Ok((State::NotCommitted, None)), "of such a message");
    let error = outcome("1", 5_000_000).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_taken_effect()), ("TOO_OLD", true));

    // Whoever settles need not be who has sent it, and may have guessed when it was issued.
    assert_eq!(asked("1", floor, true).await, Ok((State::Burnt, Some(floor))));
    assert_eq!(outcome("1", 0).await, Ok((State::Burnt, Some(floor))));
    assert_eq!(outcome("1", floor).await, Ok((State::Burnt, None)), "of such a message");
    alone.stop().await;
}

/// G8. What is final must hold for all that is on its way, and a clock that is behind would let some of it in later.
#[tokio::test(start_paused = true)]
async fn nothing_is_settled_by_a_clock_that_others_do_not_agree_with_or_on_a_disk_without_room() {
    let alone = Alone::start().await;
    let settle = async || {
        let request = GetOutcomeRequest {
            conversation: "a".to_owned(),
            sender: "alice".to_owned(),
            client_msg_id: "1".to_owned(),
            issued_at_us: 5_000_000,
            settle: true,
        };
        let told = outcome::get_outcome(&alone.api, &call(Operation::GetOutcome), request).await;
        told.map(|told| told.state()).map_err(|error| {
            assert!(error.is_retryable() && !error.may_have_taken_effect(), "{error}");
            error.reason().to_owned()
        })
    };
    assert_eq!(settle().await, Err("CLOCK_UNTRUSTED".to_owned()));
    alone.agree();
    let admission = alone.api.replicas.admission();
    admission.set_disk(DiskMark::Soft);
    assert_eq!(settle().await, Err("DISK_LOW".to_owned()));
    admission.set_disk(DiskMark::Ok);
    assert_eq!(settle().await, Ok(State::Burnt));
    alone.stop().await;
}

#[tokio::test(start_paused = true)]
async fn names_that_are_followed_take_room_until_the_follow_ends() {
    let alone = Alone::start().await;
    let left = alone.api.replicas.admission().followed();
    let start = |number: u64| FollowStart { conversation: format!("a/{number}"), start: None };
    let follow = async |count: u64| {
        let conversations = (0..count).map(start).collect();
        let request = FollowRequest { conversations, heartbeat_ms: 0 };
        follow::follow(&alone.api, &call(Operation::Follow), request).await
    };
    let most = limits::SUBSCRIPTION_CONVERSATIONS_MAX as u64;
    let mut follows = Vec::new();
    let others =
        left.take(limits::FOLLOWED_BYTES_MAX - 2 * 10_000 * limits::FOLLOWED_BYTES).unwrap();
    for _ in 0..2 {
        follows.push(follow(most).await.unwrap_or_else(|error| panic!("{error}")));
    }
    let refused = follow(most).await.err().expect("there is no room");
    assert_eq!(refused, CallError::too_much_followed());
    assert!(refused.is_retryable() && !refused.may_have_taken_effect());
    assert!(follow(1).await.is_ok(), "a small one gets through");
    drop(follows);
    while left.take(2 * 10_000 * limits::FOLLOWED_BYTES).is_none() {
        tokio::task::yield_now().await;
    }
    drop(others);
    alone.stop().await;
}
