//! What became of a message: asked of those whose answer was lost, of acknowledged ones, and of some that are on their
//! way; at times finally.

use rand::Rng;

use super::{Worker, Workload};

pub(super) const WORKLOAD: Workload = Workload {
    name: "outcome",
    about: "what became of a message, with and without settle (G8)",
    workers: 2,
    share: 8,
    work: |worker| Box::pin(work(worker)),
};

async fn work(mut worker: Worker) {
    let Some(mut caller) = worker.caller().await else { return };
    let mut other = caller.sibling();
    let sender = format!("outcome-{}", worker.number);
    while worker.pause().await {
        let settle = worker.dice.random_bool(0.4);
        match worker.dice.random_range(0..3) {
            // A message of somebody else.
            0 => {
                if let Some(recent) = worker.floor.any_recent(&mut worker.dice) {
                    let _ = caller.outcome(&recent, settle).await;
                }
            }
            // One that was never sent, or is sent only after it was asked for.
            1 => {
                let conversation = worker.floor.any_conversation(&mut worker.dice);
                let messages = caller.compose(&conversation, &sender, 1);
                let _ = caller.outcome(&messages[0], settle).await;
                if worker.dice.random_bool(0.5) {
                    let _ = caller.append(&messages, None).await;
                }
            }
            // One that is on its way.
            _ => {
                let conversation = worker.floor.any_conversation(&mut worker.dice);
                let messages = caller.compose(&conversation, &sender, 1);
                let asked = other.outcome(&messages[0], settle);
                tokio::join!(caller.append(&messages, None), asked).0.ok();
                worker.floor.note_sent(messages[0].clone());
            }
        }
    }
}
