//! The same message again, with the same ids: through another node, also when it was acknowledged, also while another
//! attempt runs.

use rand::Rng;

use super::{Worker, Workload};

pub(super) const WORKLOAD: Workload = Workload {
    name: "retry",
    about: "the same ids again through other nodes, also at the same time (G4)",
    workers: 3,
    share: 12,
    work: |worker| Box::pin(work(worker)),
};

async fn work(mut worker: Worker) {
    let mut callers = Vec::new();
    for node in 1..=worker.floor.nodes() {
        callers.extend(worker.floor.caller(Some(node)).await);
    }
    let sender = format!("retry-{}", worker.number);
    while worker.pause().await && callers.len() > 1 {
        let first = worker.dice.random_range(0..callers.len());
        let second = (first + worker.dice.random_range(1..callers.len())) % callers.len();
        let (one, other) = match first < second {
            true => {
                let (low, high) = callers.split_at_mut(second);
                (&mut low[first], &mut high[0])
            }
            false => {
                let (low, high) = callers.split_at_mut(first);
                (&mut high[0], &mut low[second])
            }
        };
        match worker.dice.random_range(0..3) {
            // Somebody else's message, whatever became of it; now and then with another content, which is refused
            // where the first stands.
            0 => {
                if let Some(recent) = worker.floor.any_recent(&mut worker.dice) {
                    let is_altered = worker.dice.random_bool(0.1);
                    let again = if is_altered { recent.altered() } else { recent };
                    let _ = one.append(&[again], None).await;
                }
            }
            // Through two nodes at once.
            1 => {
                let conversation = worker.floor.any_conversation(&mut worker.dice);
                let messages = one.compose(&conversation, &sender, 1);
                tokio::join!(one.append(&messages, None), other.append(&messages, None)).0.ok();
            }
            // Through one, and then through another.
            _ => {
                let conversation = worker.floor.any_conversation(&mut worker.dice);
                let messages = one.compose(&conversation, &sender, 1);
                let _ = one.append(&messages, None).await;
                let _ = other.append(&messages, None).await;
                worker.floor.note_sent(messages[0].clone());
            }
        }
    }
}
