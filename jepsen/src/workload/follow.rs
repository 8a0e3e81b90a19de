//! Follows a few conversations from their start, and again from where it was when it is ended.

use std::collections::HashMap;
use std::time::Duration;

use quorate_client::{Delivery, Start};

use super::{Caller, Worker, Workload};
use crate::api;
use crate::history::{Answer, Call, EventKind, FollowCall};

/// Conversations of one follow.
const CONVERSATIONS_MAX: usize = 4;

/// Before a stream that ended is opened again.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

pub(super) const WORKLOAD: Workload = Workload {
    name: "follow",
    about: "follows a few conversations, history and then live (G6)",
    workers: 3,
    share: 0,
    work: |worker| Box::pin(work(worker)),
};

async fn work(worker: Worker) {
    let Some(caller) = worker.caller().await else { return };
    let all = &worker.floor.conversations;
    let step = worker.number as usize;
    let names =
        (0..CONVERSATIONS_MAX.min(all.len())).map(|at| all[(at * 2 + step) % all.len()].clone());
    let mut next: HashMap<String, u64> = names.map(|name| (name, 1)).collect();
    while !worker.stop.is_cancelled() {
        follow(&worker, &caller.sibling(), &mut next).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn follow(worker: &Worker, caller: &Caller, next: &mut HashMap<String, u64>) {
    let from: Vec<(String, u64)> = next.iter().map(|(name, seq)| (name.clone(), *seq)).collect();
    let starts: Vec<(String, Start)> =
        from.iter().map(|(name, seq)| (name.clone(), Start::Seq(*seq))).collect();
    caller.record(EventKind::Invoke(Call::Follow(FollowCall {
        from,
        is_subscription: false,
        without_library: false,
    })));
    let mut stream = match caller.client.follow_with_heartbeat(starts, 500) {
        Ok(stream) => stream,
        Err(error) => return caller.record(EventKind::Fail(api::refusal(&error))),
    };
    loop {
        let came = tokio::select! {
            came = stream.next() => came,
            () = worker.stop.cancelled() => return caller.record(EventKind::Ok(Answer::Ended)),
        };
        match came {
            Some(Ok(delivery)) => {
                if let Some((conversation, seq)) = record(caller, delivery) {
                    next.insert(conversation, seq);
                }
            }
            Some(Err(error)) => return caller.record(EventKind::Fail(api::refusal(&error))),
            None => return caller.record(EventKind::Fail(api::ended_by_nobody())),
        }
    }
}

/// Records a delivery. The conversation and the seq that comes next, where it says so.
pub(super) fn record(caller: &Caller, delivery: Delivery) -> Option<(String, u64)> {
    let delivery = api::delivered(delivery)?;
    let next = delivery.what.next_seq().map(|next| (delivery.conversation.clone(), next));
    caller.record(EventKind::Deliver(delivery));
    next
}
