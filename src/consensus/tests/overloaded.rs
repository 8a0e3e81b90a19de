//! Proposals are bounded by the memory that they take, not by what they weigh in an entry.

use std::time::Duration;

use openraft::ServerState;
use tokio::time::Instant;

use super::fixture::{GROUP, append_to, names, replica};
use crate::consensus::ProposeError;
use crate::consensus::solitary::Disks;
use crate::log::Command;
use crate::types::limits;

#[tokio::test]
async fn messages_without_content_fill_the_room_for_proposals() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = process.replicas.make(GROUP, replica(3, 1)).await.unwrap();
    group.initialize(vec![replica(3, 1)]).await.unwrap();
    let elected = group.raft().wait(Some(Duration::from_secs(30)));
    elected.state(ServerState::Leader, "a group of one elects itself").await.unwrap();

    let Command::Append(mut append) = append_to(&names(GROUP, "room", 1)[0], 1) else {
        panic!("it is an append");
    };
    let mut message = append.messages.remove(0);
    message.payload.clear();
    message.client_msg_id = "i".repeat(limits::CLIENT_MSG_ID_BYTES_MAX);
    append.messages = vec![message; 120_000];
    let command = Command::Append(append);
    assert!(command.encoded_bytes_estimate() < limits::GROUP_PROPOSALS_BYTES_MAX);
    let refused = group.propose(command, Instant::now() + Duration::from_secs(30)).await;
    assert!(matches!(refused, Err(ProposeError::Overloaded)), "{refused:?}");
    disks.crash(process).await;
}
