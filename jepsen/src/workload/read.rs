//! Reads at every level of consistency, of the end of a conversation, or of several in one call.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::{Caller, Worker, Workload};
use crate::history::{Consistency, ReadCall};

/// How far before the known tail a read begins.
const BACK_MAX: u64 = 12;
const LIMIT: u64 = 60;
/// How often the ends of several conversations are read at once, how many, and how much of each.
const BATCH_SHARE: f64 = 0.15;
const BATCH: usize = 4;
const BATCH_LIMIT_MAX: u64 = 12;

pub(super) const WORKLOAD: Workload = Workload {
    name: "read",
    about: "reads at every level of consistency, of one conversation or several, from pinned clients (G2, G3, G10)",
    workers: 8,
    share: 30,
    work: |worker| Box::pin(work(worker)),
};

async fn work(mut worker: Worker) {
    let Some(mut caller) = worker.caller().await else { return };
    let mut several: Vec<Caller> = (0..BATCH).map(|_| caller.sibling()).collect();
    while worker.pause().await {
        if worker.dice.random_bool(BATCH_SHARE) {
            let calls = ends(&mut worker);
            Caller::read_ends(&mut several, calls).await;
            continue;
        }
        let conversation = worker.floor.any_conversation(&mut worker.dice);
        let known = worker.floor.tail(&conversation);
        let consistency = match worker.dice.random_range(0..10) {
            0..=5 => Consistency::Linearizable,
            6 => Consistency::AtLeast(known.saturating_sub(1)),
            7 => Consistency::MaxStalenessMs(worker.dice.random_range(50..2_000)),
            _ => Consistency::Local,
        };
        let from_seq = known.saturating_sub(worker.dice.random_range(0..=BACK_MAX)).max(1);
        let (limit, of_the_end, is_final) = (LIMIT, false, false);
        let call = ReadCall { conversation, consistency, from_seq, limit, of_the_end, is_final };
        // What it was answered stands in the history.
        let _ = caller.read(call).await;
    }
}

/// The ends of some conversations, all as fresh. A seq would be one of each.
fn ends(worker: &mut Worker) -> Vec<ReadCall> {
    let consistency = match worker.dice.random_range(0..4) {
        0 | 1 => Consistency::Linearizable,
        2 => Consistency::MaxStalenessMs(worker.dice.random_range(50..2_000)),
        _ => Consistency::Local,
    };
    let limit = worker.dice.random_range(1..=BATCH_LIMIT_MAX);
    let end = |conversation: &String| {
        let (conversation, from_seq) = (conversation.clone(), 0);
        let (of_the_end, is_final) = (true, false);
        ReadCall { conversation, consistency, from_seq, limit, of_the_end, is_final }
    };
    worker.floor.conversations.choose_multiple(&mut worker.dice, BATCH).map(end).collect()
}
