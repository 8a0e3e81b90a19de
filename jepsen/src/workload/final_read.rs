//! The read of everything, from every node, that ends a run.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Caller;
use crate::history::{Consistency, ReadCall};

const PAGE: u64 = 1_000;

/// Nodes that have a replica, by group.
type Replicas = BTreeMap<u64, Vec<u32>>;

/// Reads every conversation through each of these callers, each until it succeeds or the deadline passes. A node that
/// has a replica of a conversation has to answer from that. What could not be read.
pub async fn read_everything(
    callers: Vec<Caller>,
    replicas: &Replicas,
    deadline: Instant,
) -> Vec<String> {
    let all = callers.into_iter().map(|caller| read_all(caller, replicas, deadline));
    futures::future::join_all(all).await.concat()
}

async fn read_all(mut caller: Caller, replicas: &Replicas, deadline: Instant) -> Vec<String> {
    let node = caller.node().unwrap_or(0);
    let floor = caller.floor.clone();
    let has_replica = |group| replicas.get(&group).is_some_and(|nodes| nodes.contains(&node));
    let mut unread = Vec::new();
    for conversation in &floor.conversations {
        let mut from_seq = 1;
        loop {
            let call = ReadCall {
                conversation: conversation.clone(),
                consistency: Consistency::Linearizable,
                from_seq,
                limit: PAGE,
                of_the_end: false,
                is_final: true,
            };
            let problem = match caller.read(call).await {
                // Handed on, because this node's own replica does not serve, or not yet.
                Ok(page) if page.node != node && has_replica(page.group) => {
                    format!("node {} answers instead of its replica", page.node)
                }
                Ok(page) if page.next >= page.tail => break,
                Ok(page) => {
                    from_seq = page.next;
                    continue;
                }
                // A conversation that nothing was ever appended to.
                Err(error) if error.reason() == quorate_client::reason::NOT_FOUND => break,
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                unread.push(format!("node {node} does not let {conversation} be read: {problem}"));
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
    unread
}
