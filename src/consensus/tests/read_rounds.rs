//! What confirms a read: answers to what was asked after it had arrived, and no others (G3, G10).

use futures::poll;
use openraft::RaftMetrics;
use openraft::raft::{AppendEntriesResponse, VoteRequest};
use tokio::time::{Instant, timeout};

use super::fixture::{EVENTUALLY, GROUP, append_to, names, replica};
use super::scripted::{Asked, followers, leads_three, leads_three_at};
use crate::consensus::leadership::question;
use crate::consensus::network::Lane;
use crate::consensus::raft_types::{RaftVote, TypeConfig, to_raft_vote};
use crate::consensus::solitary::Disks;
use crate::consensus::{RaftTiming, ReadError};
use crate::storage::records::VoteRecord;
use crate::types::{ReplicaId, Term};

fn vote(term: u64, candidate: ReplicaId, committed: bool) -> RaftVote {
    to_raft_vote(&VoteRecord { term: Term(term), candidate, committed })
}

fn of_a_read(asked: &Asked) -> bool {
    asked.lane == Lane::Heartbeats
}

fn deadline() -> Instant {
    Instant::now() + EVENTUALLY
}

/// A leader was paused while both others answered an append, elected a newer leader, and acknowledged more. It goes on,
/// a read begins, and only then the answers arrive. The second of them must not stand for what was sent since.
#[tokio::test]
async fn a_late_answer_does_not_confirm_a_read() {
    let disks = Disks::default();
    let (process, group, mut voters) = leads_three(&disks).await;
    let [first, second] = followers();
    let proposing = {
        let (group, append) = (group.clone(), append_to(&names(GROUP, "room", 1)[0], 1));
        tokio::spawn(async move { group.propose(append, deadline()).await })
    };
    let has_entries = |asked: &Asked| !asked.request.entries.is_empty();
    let appends = voters.next_of_each(&[first, second], has_entries).await;
    let [to_first, to_second] = appends.try_into().ok().unwrap();
    let last = to_second.last();
    let reading = {
        let group = group.clone();
        tokio::spawn(async move { group.barrier(deadline()).await })
    };
    let of_the_read = voters.next_of_each(&[first, second], of_a_read).await;

    to_first.follow();
    let says_that_it_is_committed =
        |asked: &Asked| asked.request.entries.is_empty() && asked.request.leader_commit == last;
    let unanswered = voters.next_of_each(&[second], says_that_it_is_committed).await;
    proposing.await.unwrap().unwrap();
    to_second.follow();
    let matches = |metrics: &RaftMetrics<TypeConfig>| {
        let of = metrics.replication.as_ref().and_then(|of| of.get(&second).copied());
        of.flatten() == last
    };
    let waiting = group.raft().wait(Some(EVENTUALLY));
    waiting.metrics(matches, "the second answer has arrived").await.unwrap();

    for asked in of_the_read {
        asked.refuse(vote(9, second, true));
    }
    let read = timeout(EVENTUALLY, reading).await.unwrap().unwrap();
    assert!(matches!(read, Err(ReadError::NoQuorum { .. })), "{read:?}");
    drop(unanswered);
    disks.crash(process).await;
}

#[tokio::test]
async fn reads_share_a_round_that_begins_after_they_arrived() {
    let disks = Disks::default();
    let (process, group, mut voters) = leads_three(&disks).await;
    let mut first = std::pin::pin!(group.barrier(deadline()));
    assert!(poll!(&mut first).is_pending());
    let asked = voters.next_of_each(&followers(), of_a_read).await;

    let mut later = std::pin::pin!(futures::future::join(
        group.barrier(deadline()),
        group.barrier(deadline()),
    ));
    assert!(poll!(&mut later).is_pending());
    for asked in asked {
        asked.follow();
    }
    first.await.unwrap();
    let asked = voters.next_of_each(&followers(), of_a_read).await;
    assert!(poll!(&mut later).is_pending(), "what was asked before they came does not count");
    let [answers, silent] = asked.try_into().ok().unwrap();
    answers.follow();
    let (one, other) = later.await;
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.confirmed_from_us, other.confirmed_from_us);
    assert_eq!(one.index, group.applied_index());
    drop(silent);
    disks.crash(process).await;
}

/// A voter that has given a newer vote is none that a quorum needs, as long as a majority has not.
#[tokio::test]
async fn one_voter_that_follows_is_enough_of_three() {
    let disks = Disks::default();
    let (process, group, mut voters) = leads_three(&disks).await;
    let mut read = std::pin::pin!(group.barrier(deadline()));
    assert!(poll!(&mut read).is_pending());
    let asked = voters.next_of_each(&followers(), of_a_read).await;
    let [refuses, follows] = asked.try_into().ok().unwrap();
    refuses.refuse(vote(9, followers()[0], false));
    follows.follow();
    read.await.unwrap();
    disks.crash(process).await;
}

/// A leader that hands leadership over is silent, so that its voters elect another if the heir does not hear of it. Reads
/// must not keep it alive: it appends nothing any more.
#[tokio::test]
async fn a_leader_that_is_silenced_confirms_no_reads() {
    let disks = Disks::default();
    let quick = RaftTiming {
        heartbeat_interval_ms: 20,
        election_timeout_min_ms: 500,
        election_timeout_max_ms: 1_000,
        park_after_ms: 0,
    };
    let (process, group, mut voters) = leads_three_at(&disks, quick).await;
    voters.follow_until(async { group.barrier(deadline()).await.unwrap() }).await;
    assert!(voters.follow_until(group.transfer_leader(followers()[0])).await);
    let refused = async {
        loop {
            if let Err(refused) = group.barrier(deadline()).await {
                return refused;
            }
        }
    };
    let refused = voters.follow_until(refused).await;
    assert!(matches!(refused, ReadError::NoQuorum { .. }), "{refused:?}");
    let refused = group.barrier(deadline()).await.unwrap_err();
    assert!(matches!(refused, ReadError::NoQuorum { .. }), "{refused:?}");
    assert!(voters.none_is_asked(of_a_read), "questions keep voters from electing another");
    disks.crash(process).await;
}

/// A voter that does not answer keeps what it was asked: it is asked once, however many reads come.
#[tokio::test]
async fn a_voter_that_owes_an_answer_is_not_asked_again() {
    let disks = Disks::default();
    let (process, group, mut voters) = leads_three(&disks).await;
    let [first, second] = followers();
    let mut read = std::pin::pin!(group.barrier(deadline()));
    assert!(poll!(&mut read).is_pending());
    let asked = voters.next_of_each(&[first, second], of_a_read).await;
    let [answers, owed] = asked.try_into().ok().unwrap();
    answers.follow();
    read.await.unwrap();
    for _ in 0..100 {
        let mut read = std::pin::pin!(group.barrier(deadline()));
        assert!(poll!(&mut read).is_pending());
        let asked = voters.next(of_a_read).await;
        assert_eq!(asked.to, first, "the other one has not answered yet");
        asked.follow();
        read.await.unwrap();
    }

    let mut read = std::pin::pin!(group.barrier(deadline()));
    assert!(poll!(&mut read).is_pending());
    let unanswered = voters.next(of_a_read).await;
    owed.follow();
    let again = voters.next(of_a_read).await;
    assert_eq!(
        again.to, second,
        "what it says of an earlier read does not count, and it is asked anew"
    );
    assert!(poll!(&mut read).is_pending());
    again.follow();
    read.await.unwrap();
    drop(unanswered);
    disks.crash(process).await;
}

/// The other end: what a leader asks for a read changes no log, and whoever has given a newer vote says no.
#[tokio::test]
async fn a_voter_says_whether_it_follows_and_changes_nothing_else() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = process.replicas.make(GROUP, replica(3, 1)).await.unwrap();
    let [older, newer] = followers();
    let ask = || group.raft().append_entries(question(vote(1, older, true)));
    for _ in 0..2 {
        let answer = ask().await.unwrap();
        assert!(matches!(answer, AppendEntriesResponse::Success), "a blank voter: {answer:?}");
    }
    let candidate = VoteRequest {
        vote: vote(2, newer, false),
        last_log_id: None,
        // So that the lease of the older leader does not stand in the way.
        leadership_transfer: true,
    };
    let given = group.raft().vote(candidate).await.unwrap();
    assert!(given.is_granted_to(&vote(2, newer, false)), "{given:?}");
    let answer = ask().await.unwrap();
    assert!(matches!(answer, AppendEntriesResponse::HigherVote(_)), "{answer:?}");
    let status = group.status();
    assert_eq!((status.last_index, status.applied_index), (None, None));
    disks.crash(process).await;
}
