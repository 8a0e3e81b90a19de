//! Proposals are bounded by the memory that they take, not by what they weigh in an entry; and their outcomes are told
//! whatever else is done.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use openraft::ServerState;
use tokio::time::Instant;

use super::fixture::{GROUP, append_to, names, replica};
use crate::consensus::solitary::{Disks, Process};
use crate::consensus::{Group, Outcomes, ProposeError};
use crate::log::Command;
use crate::types::limits;

const LONG: Duration = Duration::from_secs(30);

async fn leading(process: &Process) -> Arc<Group> {
    let group = process.replicas.make(GROUP, replica(3, 1)).await.unwrap();
    group.initialize(vec![replica(3, 1)]).await.unwrap();
    let elected = group.raft().wait(Some(LONG));
    elected.state(ServerState::Leader, "a group of one elects itself").await.unwrap();
    group
}

#[tokio::test]
async fn a_task_is_told_of_all_outcomes_that_are_there() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = leading(&process).await;
    // More than tokio lets a task do before others go on.
    let many = 300;
    let deadline = Instant::now() + LONG;
    let mut outcomes = Outcomes::default();
    for (ticket, name) in (0..).zip(names(GROUP, "room", many)) {
        outcomes.propose(group.clone(), append_to(&name, 1), deadline, ticket);
    }
    assert!(poll_fn(|cx| outcomes.poll_next(cx)).now_or_never().is_none());
    // Whoever was before this one has an outcome, too.
    group.propose(append_to(&names(GROUP, "last", 1)[0], 1), deadline).await.unwrap();
    let told = poll_fn(|cx| {
        let next = || match outcomes.poll_next(cx) {
            Poll::Ready((ticket, outcome)) => Some((ticket, outcome.is_ok())),
            Poll::Pending => None,
        };
        Poll::Ready(std::iter::from_fn(next).collect::<Vec<_>>())
    });
    assert_eq!(told.await, (0..many as u64).map(|ticket| (ticket, true)).collect::<Vec<_>>());
    disks.crash(process).await;
}

#[tokio::test]
async fn messages_without_content_fill_the_room_for_proposals() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = leading(&process).await;

    let Command::Append(mut append) = append_to(&names(GROUP, "room", 1)[0], 1) else {
        panic!("it is an append");
    };
    let mut message = append.messages.remove(0);
    message.payload.clear();
    message.client_msg_id = "i".repeat(limits::CLIENT_MSG_ID_BYTES_MAX);
    append.messages = vec![message; 120_000];
    let command = Command::Append(append);
    assert!(command.encoded_bytes_estimate() < limits::GROUP_PROPOSALS_BYTES_MAX);
    let refused = group.propose(command, Instant::now() + LONG).await;
    assert!(matches!(refused, Err(ProposeError::Overloaded)), "{refused:?}");
    disks.crash(process).await;
}
