//! The read of everything, from every node, that ends a run.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Caller;
use crate::history::{Consistency, ReadCall};

const PAGE: u64 = 1_000;

/// Reads every conversation through each of these callers, each until it succeeds or the deadline passes. What could not
/// be read.
pub async fn read_everything(callers: Vec<Caller>, deadline: Instant) -> Vec<String> {
    let all = callers.into_iter().map(|caller| read_all(caller, deadline));
    futures::future::join_all(all).await.concat()
}

async fn read_all(mut caller: Caller, deadline: Instant) -> Vec<String> {
    let node = caller.node().unwrap_or(0);
    let floor = caller.floor.clone();
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
