//! Subscribes to every conversation at once; and, now and then, to all of them again from where it was. One of three keeps
//! its subscription, and another takes nothing from it for a while now and then.

use std::collections::HashMap;
use std::time::Duration;

use quorate_client::{Credit, Delivery, Start};
use rand::Rng;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Caller, Worker, Workload, follow};
use crate::api;
use crate::history::{Answer, Call, EventKind, FollowCall};

/// Longer than any run.
const KEPT: Duration = Duration::from_secs(1_000_000);
/// How often who takes naps does, by deliveries.
const NAP_SHARE: f64 = 0.002;
/// Little, so that credit runs out and is given again.
const CREDIT_BYTES: u64 = 8 * 1024;

pub(super) const WORKLOAD: Workload = Workload {
    name: "subscribe",
    about: "subscribes to all conversations, and again from where it was (G6)",
    workers: 3,
    share: 0,
    work: |worker| Box::pin(work(worker)),
};

async fn work(mut worker: Worker) {
    let Some(caller) = worker.caller().await else { return };
    let mut next = worker.floor.starts();
    while !worker.stop.is_cancelled() {
        let stays = match worker.number {
            0 => KEPT,
            _ => Duration::from_millis(worker.dice.random_range(4_000..20_000)),
        };
        subscribe(&mut worker, &caller.sibling(), &mut next, Instant::now() + stays).await;
        tokio::time::sleep(follow::PAUSE).await;
    }
}

async fn subscribe(
    worker: &mut Worker,
    caller: &Caller,
    next: &mut HashMap<String, u64>,
    until: Instant,
) {
    let from: Vec<(String, u64)> = next.iter().map(|(name, seq)| (name.clone(), *seq)).collect();
    let call = FollowCall { from: from.clone(), is_subscription: true, without_library: false };
    caller.record(EventKind::Invoke(Call::Follow(call)));
    let mut subscription = caller.client.subscribe();
    for (name, seq) in from {
        let credit = Credit::Automatic(CREDIT_BYTES);
        if let Err(error) = subscription.add(name, Start::Seq(seq), credit).await {
            return caller.record(EventKind::Fail(api::refusal(&error)));
        }
    }
    loop {
        // Once all is mended whoever subscribes has to get everything in time.
        if worker.number == 1 && worker.dice.random_bool(NAP_SHARE) {
            let nap = Duration::from_millis(worker.dice.random_range(1_000..6_000));
            let _ = timeout(nap, worker.floor.healed.cancelled()).await;
        }
        let delivery = tokio::select! {
            delivery = subscription.next() => delivery,
            () = worker.stop.cancelled() => break,
            () = sleep_until(until) => break,
        };
        match delivery {
            Delivery::Ended { error, .. } => {
                // None was removed.
                let why = error.as_ref().map_or_else(api::ended_by_nobody, api::refusal);
                return caller.record(EventKind::Fail(why));
            }
            delivery => {
                if let Some((conversation, seq)) = follow::record(caller, delivery) {
                    next.insert(conversation, seq);
                }
            }
        }
    }
    caller.record(EventKind::Ok(Answer::Ended));
}
