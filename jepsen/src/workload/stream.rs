//! Follows as a service without the client library does: opens the stream of the API itself, takes what comes as it
//! comes, and asks another node from where it was when a stream ends. The library refuses what is out of order before
//! anybody sees it; here it is written down.

use std::collections::HashMap;
use std::time::Duration;

use quorate_client::Error;
use quorate_client::proto::{FollowRequest, FollowResponse, FollowStart, Start, start};
use rand::Rng;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use super::{Caller, Worker, Workload, follow};
use crate::api;
use crate::history::{Answer, Call, EventKind, FollowCall, Refusal};

const HEARTBEAT_MS: u32 = 500;
/// A stream that is silent for longer has been lost.
const SILENT_MAX: Duration = Duration::from_millis(4 * HEARTBEAT_MS as u64);
/// How long every other worker keeps a stream, in milliseconds: often begun in the middle, where what was delivered before
/// counts. The others keep theirs as long as it lives, so that it has to be complete in the end.
const KEPT_MS: std::ops::Range<u64> = 1_000..8_000;
const KEPT_MAX: Duration = Duration::from_secs(24 * 3600);

pub(super) const WORKLOAD: Workload = Workload {
    name: "stream",
    about: "follows all conversations without the client library, from node to node (G6)",
    workers: 4,
    share: 0,
    work: |worker| Box::pin(work(worker)),
};

async fn work(mut worker: Worker) {
    let Some(caller) = worker.caller().await else { return };
    let mut next = worker.floor.starts();
    let mut node = worker.number % worker.floor.nodes() + 1;
    while !worker.stop.is_cancelled() {
        let kept = match worker.number.is_multiple_of(2) {
            true => Duration::from_millis(worker.dice.random_range(KEPT_MS)),
            false => KEPT_MAX,
        };
        let until = Instant::now() + kept;
        let one = caller.sibling_at(node);
        let ended = match open(&one, node, &next).await {
            Ok(stream) => take(&worker, &one, stream, &mut next, until).await,
            Err(refusal) => EventKind::Fail(refusal),
        };
        one.record(ended);
        node = node % worker.floor.nodes() + 1;
        sleep(follow::PAUSE).await;
    }
}

async fn open(
    caller: &Caller,
    node: u32,
    next: &HashMap<String, u64>,
) -> Result<Streaming<FollowResponse>, Refusal> {
    let from: Vec<(String, u64)> = next.iter().map(|(name, seq)| (name.clone(), *seq)).collect();
    let conversations = from.iter().map(|(conversation, seq)| FollowStart {
        conversation: conversation.clone(),
        start: Some(Start { at: Some(start::At::Seq(*seq)) }),
    });
    let request =
        FollowRequest { conversations: conversations.collect(), heartbeat_ms: HEARTBEAT_MS };
    caller.record(EventKind::Invoke(Call::Follow(FollowCall {
        from,
        is_subscription: false,
        without_library: true,
    })));
    let mut api = caller.floor.api(node).map_err(|error| lost(&error.to_string()))?;
    match timeout(SILENT_MAX, api.follow(request)).await {
        Ok(Ok(opened)) => Ok(opened.into_inner()),
        Ok(Err(status)) => Err(stream_ended(&status)),
        Err(_) => Err(lost("no answer")),
    }
}

/// Takes what comes until it is time to go to another node. How the stream ended.
async fn take(
    worker: &Worker,
    caller: &Caller,
    mut stream: Streaming<FollowResponse>,
    next: &mut HashMap<String, u64>,
    until: Instant,
) -> EventKind {
    loop {
        let came = tokio::select! {
            came = timeout(SILENT_MAX, stream.message()) => came,
            () = worker.stop.cancelled() => return EventKind::Ok(Answer::Ended),
            () = tokio::time::sleep_until(until) => return EventKind::Ok(Answer::Ended),
        };
        let response = match came {
            Ok(Ok(Some(response))) => response,
            Ok(Ok(None)) => return EventKind::Fail(lost("the node ended the stream")),
            Ok(Err(status)) => return EventKind::Fail(stream_ended(&status)),
            Err(_) => return EventKind::Fail(lost("nothing came, not even heartbeats")),
        };
        let Some(delivery) = response.delivery.and_then(api::came) else { continue };
        if let Some(seq) = delivery.what.next_seq() {
            next.insert(delivery.conversation.clone(), seq);
        }
        caller.record(EventKind::Deliver(delivery));
    }
}

/// What came on a stream came, whatever ends it.
fn stream_ended(status: &Status) -> Refusal {
    Refusal { may_have_taken_effect: false, ..api::refusal(&Error::from(status)) }
}

fn lost(why: &str) -> Refusal {
    Refusal {
        reason: quorate_client::reason::CONNECTION_BROKEN.to_owned(),
        message: why.to_owned(),
        may_have_taken_effect: false,
        retryable: true,
        tail: None,
    }
}
