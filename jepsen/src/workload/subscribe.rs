//! Subscribes to every conversation at once; and, now and then, to all of them again from where it was. One of three keeps
//! its subscription, another takes nothing from it for a while now and then, and the third gives credit by hand, and now
//! and then lets a conversation go and takes it up again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use quorate_client::{Credit, Delivery, Error, Start, Subscription};
use rand::Rng;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Caller, Worker, Workload, follow};
use crate::api;
use crate::history::{self, Answer, Call, Delivered, EventKind, FollowCall};

/// Longer than any run.
const KEPT: Duration = Duration::from_secs(1_000_000);
/// Which worker keeps its subscription.
const KEEPER: u32 = 0;
/// Which takes naps, and how often, by deliveries.
const NAPPER: u32 = 1;
const NAP_SHARE: f64 = 0.002;
/// Which gives credit by hand, and how often it lets a conversation go, by deliveries.
const BY_HAND: u32 = 2;
const REMOVAL_SHARE: f64 = 0.01;
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
            KEEPER => KEPT,
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
    let credit = match worker.number {
        BY_HAND => Credit::Manual(CREDIT_BYTES),
        _ => Credit::Automatic(CREDIT_BYTES),
    };
    for (name, seq) in from {
        if let Err(error) = subscription.add(name, Start::Seq(seq), credit).await {
            return caller.record(EventKind::Fail(api::refusal(&error)));
        }
    }
    let (mut let_go, mut is_healed) = (HashSet::new(), worker.floor.healed.is_cancelled());
    loop {
        // Once all is mended whoever subscribes has to get everything in time.
        if worker.number == NAPPER && worker.dice.random_bool(NAP_SHARE) {
            let nap = Duration::from_millis(worker.dice.random_range(1_000..6_000));
            let _ = timeout(nap, worker.floor.healed.cancelled()).await;
        }
        let delivery = tokio::select! {
            delivery = subscription.next() => delivery,
            () = worker.stop.cancelled() => break,
            // From then on all have to get everything: another stream would hide that this one stands still.
            () = worker.floor.healed.cancelled(), if !is_healed => {
                is_healed = true;
                continue;
            }
            () = sleep_until(until), if !is_healed => break,
        };
        let steered = match delivery {
            Delivery::Ended { conversation, error: None } if let_go.remove(&conversation) => {
                let from_seq = next.get(&conversation).copied().unwrap_or(1);
                let what = Delivered::AddedAgain { from_seq };
                let again = history::Delivery { conversation: conversation.clone(), what };
                caller.record(EventKind::Deliver(again));
                subscription.add(conversation, Start::Seq(from_seq), credit).await
            }
            Delivery::Ended { error, .. } => {
                let why = error.as_ref().map_or_else(api::ended_by_nobody, api::refusal);
                return caller.record(EventKind::Fail(why));
            }
            delivery => {
                let taken = taken(&delivery);
                if let Some((conversation, seq)) = follow::record(caller, delivery) {
                    next.insert(conversation, seq);
                }
                match taken.filter(|_| worker.number == BY_HAND) {
                    Some(taken) => steer(worker, &mut subscription, taken, &mut let_go).await,
                    None => Ok(()),
                }
            }
        };
        if let Err(error) = steered {
            return caller.record(EventKind::Fail(api::refusal(&error)));
        }
    }
    caller.record(EventKind::Ok(Answer::Ended));
}

/// Of which conversation messages came, and their bytes.
fn taken(delivery: &Delivery) -> Option<(String, u64)> {
    let Delivery::Messages { conversation, messages } = delivery else { return None };
    let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
    Some((conversation.clone(), bytes as u64))
}

/// Gives the credit again that messages took; now and then lets their conversation go instead.
async fn steer(
    worker: &mut Worker,
    subscription: &mut Subscription,
    (conversation, bytes): (String, u64),
    let_go: &mut HashSet<String>,
) -> Result<(), Error> {
    if worker.dice.random_bool(REMOVAL_SHARE) {
        subscription.remove(&conversation).await;
        let_go.insert(conversation);
        return Ok(());
    }
    subscription.grant(&conversation, bytes).await
}
