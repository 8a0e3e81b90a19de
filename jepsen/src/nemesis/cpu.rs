//! Nodes that get little of the processor.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::{Beside, HOLDS_MS, Nemesis, Struck, World};

const STANDS: Duration = Duration::from_millis(80);
const RUNS: Duration = Duration::from_millis(20);

pub(super) const NEMESES: &[Nemesis] = &[Nemesis {
    name: "cpu-squeeze",
    family: "cpu",
    about: "one node runs 20 ms of every 100: SIGSTOP and SIGCONT in turn",
    needs: &[],
    holds_ms: HOLDS_MS,
    mixes: Beside::Any,
    strike: |world, dice| Box::pin(strike(world, dice)),
}];

async fn strike(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let id = world.some(1, &mut dice)[0];
    let squeezing = world.clone();
    let (done, mut is_done) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let (begun, mut stood) = (Instant::now(), Duration::ZERO);
        while is_done.try_recv().is_err() {
            let paused_at = Instant::now();
            // Something else may have ended it.
            let paused = squeezing.cluster.node(id).await.pause().await;
            sleep(STANDS).await;
            if paused.is_ok() {
                squeezing.cluster.node(id).await.resume();
                stood += paused_at.elapsed();
            }
            sleep(RUNS).await;
        }
        (stood, begun.elapsed())
    });
    let what = format!("node {id} runs 20 ms of every 100");
    Ok(Struck::new(vec![id], what, async move {
        let _ = done.send(());
        let (stood, all) = task.await?;
        let seen = !stood.is_zero();
        Ok(seen.then(|| format!("it stood {} of {} ms", stood.as_millis(), all.as_millis())))
    }))
}
