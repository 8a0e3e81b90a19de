//! The read of everything, from every node, that ends a run.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Floor;
use crate::history::{Consistency, ReadCall};

const PAGE: u64 = 1_000;

/// Reads every conversation from every node but those excused, each until it succeeds or the deadline passes. What could
/// not be read.
pub async fn read_everything(
    floor: &Arc<Floor>,
    nodes: impl IntoIterator<Item = u32>,
    deadline: Instant,
) -> Vec<String> {
    let all = nodes.into_iter().map(|node| read_all_of(floor.clone(), node, deadline));
    futures::future::join_all(all).await.concat()
}

async fn read_all_of(floor: Arc<Floor>, node: u32, deadline: Instant) -> Vec<String> {
    let mut caller = loop {
        match floor.caller(Some(node)).await {
            Some(caller) => break caller,
            None if Instant::now() >= deadline => {
                return vec![format!("node {node} does not answer")];
            }
            None => {}
        }
    };
    let mut unread = Vec::new();
    for conversation in &floor.conversations {
        let mut from_seq = 1;
        loop {
            let call = ReadCall {
                conversation: conversation.clone(),
                consistency: Consistency::Linearizable,
                from_seq,
                limit: PAGE,
                is_final: true,
            };
            match caller.read(call).await {
                Ok((tail, next)) if next >= tail => break,
                Ok((_, next)) => from_seq = next,
                // A conversation that nothing was ever appended to.
                Err(error) if error.reason() == quorate_client::reason::NOT_FOUND => break,
                Err(error) if Instant::now() >= deadline => {
                    unread
                        .push(format!("node {node} does not let {conversation} be read: {error}"));
                    break;
                }
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }
    unread
}
