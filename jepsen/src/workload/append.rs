//! Appends, one to three messages each, now and then only at an expected tail.

use rand::Rng;

use super::{Worker, Workload};

pub(super) const WORKLOAD: Workload = Workload {
    name: "append",
    about: "appends from pinned and roaming clients, some at an expected tail (G1, G2, G3)",
    workers: 8,
    share: 35,
    work: |worker| Box::pin(work(worker)),
};

async fn work(mut worker: Worker) {
    let Some(mut caller) = worker.caller().await else { return };
    let sender = format!("append-{}", worker.number);
    while worker.pause().await {
        let conversation = worker.floor.any_conversation(&mut worker.dice);
        let count = if worker.dice.random_bool(0.2) { worker.dice.random_range(2..=3) } else { 1 };
        let messages = caller.compose(&conversation, &sender, count);
        let known = worker.floor.tail(&conversation);
        let expected_tail = worker.dice.random_bool(0.1).then_some(known);
        let ended = caller.append(&messages, expected_tail).await;
        // A refused tail must not be tried again elsewhere as though the message had been wanted without one.
        let refused = ended.is_err_and(|error| !error.may_have_taken_effect());
        if let ([message], None, false) = (&messages[..], expected_tail, refused) {
            worker.floor.note_sent(message.clone());
        }
    }
}
