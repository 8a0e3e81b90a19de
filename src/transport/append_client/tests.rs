//! What goes to a peer, when, and how much of it.

use futures::FutureExt;

use super::*;
use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;

use crate::consensus::raft_types::{EncodedProposal, to_raft_log_id, to_raft_vote};
use crate::storage::records::{LogId, VoteRecord};
use crate::types::{GroupId, Incarnation, LogIndex, ReplicaId, Term};

const LEADER: ReplicaId = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
const FOLLOWER: ReplicaId = ReplicaId { node: NodeId(2), incarnation: Incarnation(1) };

const ROUTE: Route = Route { group: GroupId(1), from: LEADER, to: FOLLOWER };

fn request(commit: u64, entries: usize) -> Appending {
    let log_id =
        |index| to_raft_log_id(&LogId { term: Term(1), leader: LEADER, index: LogIndex(index) });
    let entry = |_| RaftEntry { log_id: log_id(commit + 1), payload: EntryPayload::Blank };
    let raft = AppendEntriesRequest {
        vote: to_raft_vote(&VoteRecord { term: Term(1), candidate: LEADER, committed: true }),
        prev_log_id: Some(log_id(commit)),
        entries: (0..entries).map(entry).collect(),
        leader_commit: Some(log_id(commit)),
    };
    Appending { raft, needed_from: LogIndex(0), acknowledged_before: LogIndex(0) }
}

/// A request that takes what a stream may have of the room.
fn large() -> Appending {
    let mut request = request(7, 1);
    let bytes = limits::PEER_STREAM_BYTES_MAX as usize - 64;
    let payload = EncodedProposal(vec![0; bytes].into());
    request.raft.entries[0].payload = EntryPayload::Normal(payload);
    request
}

/// What of `requests` goes to the peer, and when: each a pause in milliseconds, its commit, and its entries.
async fn sent(requests: Vec<(u64, u64, usize)>) -> Vec<(u64, u64, usize)> {
    let began = Instant::now();
    let input = futures::stream::iter(requests).then(|(pause, commit, entries)| async move {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        request(commit, entries)
    });
    let (queue, mut frames) = mpsc::channel(WINDOW);
    let (owed, mut tickets) = mpsc::channel(WINDOW);
    let room = Arc::new(Semaphore::new(usize::MAX >> 3));
    let pump = Pump { route: ROUTE, stream: 1, queue, room, shared: Arc::default() };
    let mut sent = Vec::new();
    let taking = async {
        while let Some(Outgoing { frame, .. }) = frames.recv().await {
            let Some(Step::Request(request)) = frame.step else { panic!("{frame:?}") };
            let at = u64::try_from(began.elapsed().as_millis()).unwrap();
            sent.push((at, request.commit.unwrap().index, request.entries.len()));
        }
    };
    let forwarding = async {
        pump.forward(input.boxed(), owed).await;
        drop(pump);
    };
    tokio::join!(forwarding, taking);
    let owed = std::iter::from_fn(|| tickets.try_recv().ok()).count();
    assert_eq!(owed, sent.len(), "a response is waited for where a request was sent");
    sent
}

#[tokio::test(start_paused = true)]
async fn news_of_a_commit_travel_with_the_next_entries_if_these_come_soon() {
    let entries_follow = sent(vec![(0, 1, 1), (5, 2, 0), (0, 2, 1), (5, 3, 1)]).await;
    assert_eq!(entries_follow, [(0, 1, 1), (5, 2, 1), (10, 3, 1)]);
    let none_follow = sent(vec![(0, 1, 1), (5, 2, 0), (20, 3, 1)]).await;
    assert_eq!(none_follow, [(0, 1, 1), (6, 2, 0), (25, 3, 1)]);
    let more_news = sent(vec![(0, 1, 1), (5, 2, 0), (0, 3, 0), (0, 4, 0)]).await;
    assert_eq!(more_news, [(0, 1, 1), (5, 4, 0)], "the end of the stream takes the newest along");
}

#[tokio::test(start_paused = true)]
async fn the_first_request_of_a_stream_does_not_wait() {
    assert_eq!(sent(vec![(0, 1, 0), (20, 2, 1)]).await, [(0, 1, 0), (20, 2, 1)]);
}

/// G12, G9: what a peer is made to hold, and what waits for it, is bounded over all groups.
#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_to_a_peer_is_bounded_in_bytes_over_all_streams() {
    const STREAMS: usize = 5;
    let room = Arc::new(Semaphore::new(limits::PEER_IN_FLIGHT_BYTES_MAX as usize));
    let (queue, mut frames) = mpsc::channel(limits::PEER_QUEUE_MAX);
    let mut owed_to = Vec::new();
    for stream in 0..STREAMS as u64 {
        let (queue, room) = (queue.clone(), room.clone());
        let pump = Pump { route: ROUTE, stream, queue, room, shared: Arc::default() };
        let (owed, tickets) = mpsc::channel(WINDOW);
        owed_to.push(tickets);
        let input = futures::stream::iter((0..3).map(|_| large())).boxed();
        tokio::spawn(async move { pump.forward(input, owed).await });
    }
    let heartbeat = Pump { route: ROUTE, stream: 9, queue, room, shared: Arc::default() };
    let (owed, _tickets) = mpsc::channel(WINDOW);
    heartbeat.forward(futures::stream::iter([request(8, 0)]).boxed(), owed).await;
    drop(heartbeat);

    let settle = || tokio::time::sleep(Duration::from_millis(10));
    let stream = |outgoing: Outgoing| outgoing.frame.stream;
    settle().await;
    let mut first: Vec<_> = (0..frames.len()).map(|_| frames.try_recv().unwrap()).collect();
    first.sort_unstable_by_key(|outgoing| outgoing.frame.stream);
    let first: Vec<_> = first.into_iter().map(stream).collect();
    assert_eq!(first, [0, 1, 2, 3, 9], "four fill the room, and what has no entries passes");
    settle().await;
    assert_eq!(frames.len(), 0, "what was sent is owed an answer");
    drop(owed_to[1].try_recv().unwrap());
    settle().await;
    assert_eq!(frames.try_recv().map(stream).unwrap(), 4, "whoever has waited longest");

    drop(owed_to[2].try_recv().unwrap());
    settle().await;
    assert_eq!(frames.len(), 1, "a stream that was answered goes on, in its turn");
    drop(owed_to.remove(1));
    settle().await;
    assert_eq!(frames.len(), 1, "a stream that is given up takes room for what waits");
    assert_eq!(frames.try_recv().map(stream).unwrap(), 1);
    settle().await;
    assert_eq!(frames.try_recv().map(stream).unwrap(), 2, "until that has left");
}

#[test]
fn who_is_not_connected_fails_no_sooner_than_something_is_to_be_sent() {
    let error = || Failure::Unreachable(Unreachable::new(&AnyError::error("not connected")));
    let mut idle = failed(futures::stream::pending().boxed(), error());
    assert!(idle.next().now_or_never().is_none(), "the pause between attempts is kept");

    let requests = futures::stream::repeat_with(|| request(1, 0)).boxed();
    let answers: Vec<_> = failed(requests, error()).collect().now_or_never().unwrap();
    assert!(matches!(answers[..], [Err(Failure::Unreachable(_))]));
}
