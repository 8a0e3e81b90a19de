//! How long it takes until the whole cluster serves again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use crate::check::SERVED_WITHIN;
use crate::history::{Consistency, ReadCall};
use crate::workload::{Caller, Floor};

/// More than is allowed, so that a cluster that was given up has not served in time.
const DEADLINE: Duration = Duration::from_nanos(SERVED_WITHIN + 1_000_000_000);
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until every group has acknowledged an append and answered a linearizable read. How long that took, or after
/// how long, more than [`SERVED_WITHIN`], it was given up. The calls are in the history like any other.
pub(super) async fn wait(floor: &Arc<Floor>) -> Duration {
    let begun = Instant::now();
    all_serve(floor, begun + DEADLINE).await;
    begun.elapsed()
}

async fn all_serve(floor: &Arc<Floor>, deadline: Instant) {
    let caller = loop {
        match floor.caller(None).await {
            Some(caller) => break caller,
            None if Instant::now() >= deadline => return,
            None => sleep(PAUSE).await,
        }
    };
    let by_group = loop {
        let by_group = by_group(&caller, floor);
        match by_group.is_empty() {
            false => break by_group,
            true if Instant::now() >= deadline => return,
            true => sleep(PAUSE).await,
        }
    };
    let all = by_group.into_values().map(|name| serves(caller.sibling(), name, deadline));
    join_all(all).await;
}

/// One conversation of each group.
fn by_group(caller: &Caller, floor: &Floor) -> BTreeMap<u64, String> {
    let names = floor.conversations.iter();
    names.filter_map(|name| Some((caller.group_of(name)?, name.clone()))).collect()
}

async fn serves(mut caller: Caller, conversation: String, deadline: Instant) {
    while Instant::now() < deadline {
        let messages = caller.compose(&conversation, "probe", 1);
        let Ok(seq) = caller.append(&messages, None).await else {
            sleep(PAUSE).await;
            continue;
        };
        let call = ReadCall {
            conversation: conversation.clone(),
            consistency: Consistency::Linearizable,
            from_seq: seq,
            limit: 10,
            of_the_end: false,
            is_final: false,
        };
        if caller.read(call).await.is_ok() {
            return;
        }
    }
}
