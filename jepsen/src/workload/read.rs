//! Reads at every level of consistency, of the end of a conversation.

use rand::Rng;

use super::{Worker, Workload};
use crate::history::{Consistency, ReadCall};

/// How far before the known tail a read begins.
const BACK_MAX: u64 = 12;
const LIMIT: u64 = 60;

pub(super) const WORKLOAD: Workload = Workload {
    name: "read",
    about: "reads at every level of consistency, mostly linearizable, from pinned clients (G2, G3, G10)",
    workers: 8,
    share: 30,
    work: |worker| Box::pin(work(worker)),
};

async fn work(mut worker: Worker) {
    let Some(mut caller) = worker.caller().await else { return };
    while worker.pause().await {
        let conversation = worker.floor.any_conversation(&mut worker.dice);
        let known = worker.floor.tail(&conversation);
        let consistency = match worker.dice.random_range(0..10) {
            0..=5 => Consistency::Linearizable,
            6 => Consistency::AtLeast(known.saturating_sub(1)),
            7 => Consistency::MaxStalenessMs(worker.dice.random_range(50..2_000)),
            _ => Consistency::Local,
        };
        let from_seq = known.saturating_sub(worker.dice.random_range(0..=BACK_MAX)).max(1);
        let limit = LIMIT;
        let call = ReadCall { conversation, consistency, from_seq, limit, is_final: false };
        // What it was answered stands in the history.
        let _ = caller.read(call).await;
    }
}
