//! Read and Describe: one conversation, from a replica as fresh as asked.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use quorate_client::proto::{
    self, DescribeRequest, DescribeResponse, ReadRequest, ReadResponse, Start,
};
use tracing::Instrument;

use super::api::Responses;
use super::authorize::Resource;
use super::call::Call;
use super::consistency::{Level, ReadPoint, open};
use super::errors::{CallError, Effect};
use super::reads::{self, Slice};
use super::responses::{Decoded, ResponseQueue, Share, Waiting};
use super::validate::{Problem, Violation};
use super::{Api, convert, forward, memory, validate};
use crate::consensus::{Group, Route};
use crate::storage::records::MessageRecord;
use crate::storage::{Direction, StorageError};
use crate::types::{Clock, ConversationName, NodeId, Seq, Timestamp, limits};

/// Reads a part of a conversation. The first response carries the bounds, also when nothing is read.
///
/// # Errors
/// OUT_OF_RANGE with the readable range if the start was trimmed; retryable if the level cannot be honoured. The stream
/// ends with TOO_STALE once what it reads has grown older than MAX_STALENESS allows.
pub async fn read(
    api: &Api,
    call: &Call,
    request: ReadRequest,
) -> Result<Responses<ReadResponse>, CallError> {
    call.authorize(api.authorizer.as_ref(), Resource::Conversation(&request.conversation))?;
    let name = validate::conversation(&request.conversation)?;
    let level = Level::from_proto(request.consistency)?;
    let start = validate_start(request.start.as_ref())?;
    validate::at_most("limit", request.limit as usize, limits::READ_MESSAGES_MAX as usize)?;
    let direction = validate_direction(request.direction)?;
    let route = api.route(&name)?;
    let Some(group) = route.local.clone() else {
        return hand_on(api, call, &route, level, request).await;
    };
    let point = open(api, &group, &name, level, call.deadline).await?;
    let start = resolve(&group, &point, start).await?;
    let range = readable(start, direction, point.bounds())?;
    let window = Window {
        range,
        direction,
        messages_left: or_default(request.limit, limits::READ_MESSAGES_DEFAULT) as usize,
        bytes_left: or_default(request.limit_bytes, limits::READ_BYTES_DEFAULT),
        nothing_yet: true,
    };
    let (queue, stream) = ResponseQueue::new(Duration::from_millis(limits::READ_STALL_MS_MAX));
    let share = Share::new(api.replicas.admission().responses());
    let reading = Reading { group, name, point, window, share, clock: api.clock.clone() };
    tokio::spawn(reading.run(queue).instrument(call.span()));
    Ok(stream)
}

/// Describes a conversation.
///
/// # Errors
/// NOT_FOUND if it has never had a message; retryable if the level cannot be honoured.
pub async fn describe(
    api: &Api,
    call: &Call,
    request: DescribeRequest,
) -> Result<DescribeResponse, CallError> {
    call.authorize(api.authorizer.as_ref(), Resource::Conversation(&request.conversation))?;
    let name = validate::conversation(&request.conversation)?;
    let level = Level::from_proto(request.consistency)?;
    let route = api.route(&name)?;
    let Some(group) = route.local.as_ref() else {
        let node = elsewhere(api, &route, level)?;
        let mut client = forward::client(api, call, node, CallError::replica_gone())?;
        let request = forward::request(api, call, Some(call.deadline), request);
        let (groups, answer) = (&[route.group], client.describe(request));
        return forward::answer(api, node, groups, call.deadline, Effect::None, answer).await;
    };
    let point = open(api, group, &name, level, call.deadline).await?;
    let head = point.head.ok_or_else(CallError::not_found)?;
    Ok(DescribeResponse {
        conversation: Some(convert::conversation(head, group.id())),
        position: Some(point.origin.position(api.clock.as_ref())?),
    })
}

/// The node to ask instead of this one, which has no replica.
///
/// # Errors
/// NO_REPLICA for LOCAL reads, which are never forwarded.
pub fn elsewhere(api: &Api, route: &Route, level: Level) -> Result<NodeId, CallError> {
    match level {
        Level::Local => Err(CallError::no_replica()),
        _ => api.other(route, &[]).ok_or_else(CallError::replica_gone),
    }
}

async fn hand_on(
    api: &Api,
    call: &Call,
    route: &Route,
    level: Level,
    request: ReadRequest,
) -> Result<Responses<ReadResponse>, CallError> {
    let node = elsewhere(api, route, level)?;
    let mut client = forward::client(api, call, node, CallError::replica_gone())?;
    let request = forward::request(api, call, Some(call.deadline), request);
    let (groups, answer) = (&[route.group], client.read(request));
    let responses = forward::answer(api, node, groups, call.deadline, Effect::None, answer).await?;
    let mut decoded = Decoded::new(api.replicas.admission().responses());
    let responses = responses.map(move |response| {
        let from_peer = |status| CallError::from_peer(node, &status, Effect::None);
        let waiting = response.map_err(from_peer).and_then(|response| {
            let room = decoded.room_for(memory::messages_bytes(&response.messages))?;
            Ok(Waiting::new(response, room))
        });
        waiting.unwrap_or_else(|error| Err(error).into())
    });
    let (queue, stream) = ResponseQueue::new(Duration::from_millis(limits::HANDED_ON_STALL_MS_MAX));
    tokio::spawn(pass_on(responses, queue).instrument(call.span()));
    Ok(stream)
}

/// Passes on what another node has read, until it ends or nobody takes it.
async fn pass_on<T: Send + 'static>(
    mut responses: impl Stream<Item = Waiting<T>> + Unpin,
    mut queue: ResponseQueue<T>,
) {
    loop {
        let response = tokio::select! {
            response = responses.next() => response,
            () = queue.closed() => None,
        };
        let Some(response) = response else { return queue.end() };
        match queue.put(response).await {
            Some(taken) => queue = taken,
            None => return,
        }
    }
}

fn validate_direction(direction: i32) -> Result<Direction, Violation> {
    match proto::Direction::try_from(direction) {
        Ok(proto::Direction::Backward) => Ok(Direction::Backward),
        Ok(proto::Direction::Unspecified | proto::Direction::Forward) => Ok(Direction::Forward),
        Err(_) => Err(Violation::of("direction", Problem::Invalid("forward or backward"))),
    }
}

/// Where a read or a subscription starts, as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// Nothing said.
    Default,
    /// At this seq.
    Seq(Seq),
    /// At the first message committed at or after this.
    Time(Timestamp),
    /// With this many messages left.
    Last(u64),
}

/// The start asked for.
///
/// # Errors
/// Seq 0: seqs count from 1.
pub fn validate_start(start: Option<&Start>) -> Result<StartAt, Violation> {
    use proto::start::At;
    match start.and_then(|start| start.at) {
        None => Ok(StartAt::Default),
        Some(At::Seq(0)) => Err(Violation::of("start.seq", Problem::Invalid("1 or more"))),
        Some(At::Seq(seq)) => Ok(StartAt::Seq(Seq(seq))),
        Some(At::CommitTimeUs(time)) => Ok(StartAt::Time(Timestamp(time))),
        Some(At::Last(count)) => Ok(StartAt::Last(count)),
    }
}

/// A start without a time in it: times are looked up.
pub async fn resolve(
    group: &Group,
    point: &ReadPoint,
    start: StartAt,
) -> Result<StartAt, StorageError> {
    let StartAt::Time(time) = start else { return Ok(start) };
    let Some(head) = point.head.clone() else { return Ok(StartAt::Seq(Seq::FIRST)) };
    let view = point.view.clone();
    let seq =
        group.offload(move || reads::first_seq_at_or_after(view.as_ref(), &head, time)).await?;
    Ok(StartAt::Seq(seq))
}

/// The seqs `[from, to)` that a read covers, before its limits. Backwards from beyond the tail starts at the end;
/// forwards from beyond it there is nothing.
///
/// # Errors
/// OUT_OF_RANGE if the start has been trimmed.
fn readable(
    start: StartAt,
    direction: Direction,
    (first, tail): (Seq, Seq),
) -> Result<(Seq, Seq), CallError> {
    let last = |count: u64| Seq(tail.0.saturating_sub(count).max(first.0));
    match (start, direction) {
        (StartAt::Seq(seq), _) if seq < first => Err(CallError::trimmed(first, tail)),
        (StartAt::Seq(seq), Direction::Forward) => Ok((seq.min(tail), tail)),
        (StartAt::Seq(seq), Direction::Backward) if seq >= tail => Ok((first, tail)),
        (StartAt::Seq(seq), Direction::Backward) => Ok((first, seq.next())),
        (StartAt::Last(count), _) => Ok((last(count), tail)),
        (StartAt::Default | StartAt::Time(_), _) => Ok((first, tail)),
    }
}

fn or_default<N: PartialEq + Default>(asked: N, default: N) -> N {
    if asked == N::default() { default } else { asked }
}

/// What is still to be read.
#[derive(Clone, Debug)]
struct Window {
    range: (Seq, Seq),
    direction: Direction,
    messages_left: usize,
    bytes_left: u64,
    nothing_yet: bool,
}

impl Window {
    fn is_done(&self) -> bool {
        let (from, to) = self.range;
        from >= to || self.messages_left == 0 || (self.bytes_left == 0 && !self.nothing_yet)
    }

    /// What the next response holds at most.
    fn slice(&self) -> Slice {
        let (from, to) = self.range;
        Slice {
            from,
            to,
            direction: self.direction,
            messages_max: self.messages_left.min(limits::RESPONSE_MESSAGES_MAX),
            bytes_max: self.bytes_left.min(limits::RESPONSE_BYTES_TARGET as u64),
        }
    }

    /// Counts what was read and keeps what the limits still allow: the first message of a read always.
    fn accept(&mut self, mut records: Vec<MessageRecord>) -> Vec<MessageRecord> {
        let mut kept = 0;
        for record in &records {
            let bytes = record.content_bytes() as u64;
            if bytes > self.bytes_left && !self.nothing_yet {
                self.bytes_left = 0;
                break;
            }
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
            self.messages_left -= 1;
            self.nothing_yet = false;
            kept += 1;
            match self.direction {
                Direction::Forward => self.range.0 = record.seq.next(),
                Direction::Backward => self.range.1 = record.seq,
            }
        }
        records.truncate(kept);
        records
    }
}

/// A read under way: chunk by chunk from one held state, no faster than the caller takes them.
struct Reading {
    group: Arc<Group>,
    name: ConversationName,
    point: ReadPoint,
    window: Window,
    share: Share,
    /// By which the state that is held grows older (G10).
    clock: Arc<dyn Clock>,
}

impl Reading {
    async fn run(mut self, mut queue: ResponseQueue<ReadResponse>) {
        loop {
            let chunk = match self.window.is_done() {
                true => Ok(Vec::new()),
                false => self.chunk().await,
            };
            let response = chunk.and_then(|records| self.response(records));
            let failed = response.is_err();
            let response = response.unwrap_or_else(|error| Err(error).into());
            match queue.put(response).await {
                Some(taken) if failed || self.window.is_done() => return taken.end(),
                Some(taken) => queue = taken,
                None => return,
            }
        }
    }

    async fn chunk(&mut self) -> Result<Vec<MessageRecord>, CallError> {
        let Some(head) = self.point.head.clone() else { return Ok(Vec::new()) };
        let (view, slice) = (self.point.view.clone(), self.window.slice());
        let records =
            self.group.offload(move || reads::messages(view.as_ref(), &head, slice)).await?;
        if records.is_empty() {
            return Err(StorageError::Damaged {
                place: format!("messages of {}", self.name),
                reason: format!("none of seqs {} to {} is there", slice.from, slice.to),
            }
            .into());
        }
        Ok(self.window.accept(records))
    }

    fn response(&self, records: Vec<MessageRecord>) -> Result<Waiting<ReadResponse>, CallError> {
        let position = self.point.origin.position(self.clock.as_ref())?;
        let (first_seq, tail) = self.point.bounds();
        let messages: Vec<_> = records.into_iter().map(convert::message).collect();
        let room = self.share.take(memory::messages_bytes(&messages))?;
        let response = ReadResponse {
            messages,
            first_seq: first_seq.0,
            tail: tail.0,
            position: Some(position),
        };
        Ok(Waiting::new(response, room))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::records::Kind;

    const BOUNDS: (Seq, Seq) = (Seq(5), Seq(10));
    /// Of simulated time: nothing waits as long.
    const LONG: Duration = Duration::from_secs(3_600);

    /// What lies unread between two nodes is let go.
    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_what_another_node_reads_is_given_up() {
        let (queue, unread) = ResponseQueue::new(Duration::from_secs(20));
        let endless = futures::stream::repeat_with(|| Ok(7).into());
        tokio::time::timeout(LONG, pass_on(endless, queue)).await.expect("it is given up");
        assert!(unread.collect::<Vec<_>>().await.last().unwrap().is_err());

        let (queue, unread) = ResponseQueue::<u32>::new(Duration::from_secs(20));
        drop(unread);
        pass_on(futures::stream::pending(), queue).await;
    }

    fn range(start: StartAt, direction: Direction) -> (u64, u64) {
        let (from, to) = readable(start, direction, BOUNDS).unwrap();
        (from.0, to.0)
    }

    #[test]
    fn forwards_a_read_goes_to_the_tail() {
        let from = |start| range(start, Direction::Forward);
        assert_eq!(from(StartAt::Default), (5, 10));
        assert_eq!(from(StartAt::Seq(Seq(7))), (7, 10));
        assert_eq!(from(StartAt::Seq(Seq(10))), (10, 10));
        assert_eq!(from(StartAt::Seq(Seq(99))), (10, 10));
        assert_eq!(from(StartAt::Last(2)), (8, 10));
        assert_eq!(from(StartAt::Last(0)), (10, 10));
        assert_eq!(from(StartAt::Last(u64::MAX)), (5, 10));
    }

    #[test]
    fn backwards_a_read_goes_to_the_first_seq() {
        let from = |start| range(start, Direction::Backward);
        assert_eq!(from(StartAt::Default), (5, 10));
        assert_eq!(from(StartAt::Seq(Seq(7))), (5, 8));
        assert_eq!(from(StartAt::Seq(Seq(99))), (5, 10));
        assert_eq!(from(StartAt::Last(2)), (8, 10));
    }

    #[test]
    fn a_start_that_was_trimmed_is_out_of_range() {
        for direction in [Direction::Forward, Direction::Backward] {
            let error = readable(StartAt::Seq(Seq(4)), direction, BOUNDS).unwrap_err();
            assert_eq!(error.code(), tonic::Code::OutOfRange);
            assert_eq!(error.metadata("first_seq"), Some("5"));
            assert_eq!(error.metadata("tail"), Some("10"));
        }
    }

    #[test]
    fn seqs_count_from_one() {
        let at = |at| Start { at: Some(at) };
        assert!(validate_start(Some(&at(proto::start::At::Seq(0)))).is_err());
        let last = validate_start(Some(&at(proto::start::At::Last(0))));
        assert_eq!(last, Ok(StartAt::Last(0)));
        assert_eq!(validate_start(None), Ok(StartAt::Default));
    }

    fn records(seqs: &[u64], bytes: usize) -> Vec<MessageRecord> {
        let record = |seq: &u64| MessageRecord {
            seq: Seq(*seq),
            kind: Kind::Content,
            sender: String::new(),
            client_msg_id: String::new(),
            issued_at: Timestamp(0),
            commit_time: Timestamp(0),
            content_type: String::new(),
            headers: Vec::new(),
            payload: Bytes::from(vec![0; bytes]),
            payload_crc32c: 0,
            target_seq: None,
            traceparent: String::new(),
            unread_ordinal: 0,
            salt: [0; 16],
            digest: [0; 32],
        };
        seqs.iter().map(record).collect()
    }

    fn window(messages_left: usize, bytes_left: u64) -> Window {
        let direction = Direction::Forward;
        Window { range: BOUNDS, direction, messages_left, bytes_left, nothing_yet: true }
    }

    #[test]
    fn a_window_ends_with_its_range() {
        let mut window = window(100, 1_000);
        assert_eq!(window.accept(records(&[5, 6, 7], 1)).len(), 3);
        assert!(!window.is_done());
        window.accept(records(&[8, 9], 1));
        assert!(window.is_done());
    }

    #[test]
    fn a_window_goes_down_when_it_reads_backwards() {
        let mut window = Window { direction: Direction::Backward, ..window(100, 1_000) };
        window.accept(records(&[9, 8], 1));
        assert_eq!(window.range, (Seq(5), Seq(8)));
    }

    #[test]
    fn a_window_ends_with_its_count() {
        let mut window = window(2, 1_000);
        assert_eq!(window.slice().messages_max, 2);
        window.accept(records(&[5, 6], 1));
        assert!(window.is_done());
    }

    #[test]
    fn a_window_ends_before_its_bytes_but_gives_one_message() {
        let mut narrow = window(100, 10);
        assert_eq!(narrow.accept(records(&[5], 100)).len(), 1);
        assert!(narrow.is_done());
        let mut wide = window(100, 10);
        assert_eq!(wide.accept(records(&[5, 6, 7], 4)).len(), 2);
        assert!(wide.is_done());
    }
}
