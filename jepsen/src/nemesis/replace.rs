//! Operators who replace what was not broken, and go away in the middle of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::timeout;

use super::{Beside, Nemesis, Struck, World};

/// How long the operator stays, in milliseconds: a replacement of a few groups takes about a second.
const STAYS_MS: std::ops::Range<u64> = 50..2_500;

const DONE: &str = "done";

/// The family.
pub const REPLACE: &str = "replace";

pub(super) const NEMESES: &[Nemesis] = &[Nemesis {
    name: "replace",
    family: REPLACE,
    about: "a sound node's replicas are made anew with `node replace --all`, which is cut off and repeated",
    needs: &[],
    holds_ms: (500, 3_000),
    mixes: Beside::Any,
    strike: |world, dice| Box::pin(strike(world, dice)),
}];

async fn strike(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let id = world.some(1, &mut dice)[0];
    let stays = Duration::from_millis(dice.random_range(STAYS_MS));
    let through = world.who_knows(id).await?;
    let first = match timeout(stays, world.replace_once(through, id, true)).await {
        Ok(Ok(_)) => DONE.to_owned(),
        Ok(Err(error)) => format!("refused: {error:#}"),
        Err(_) => format!("cut off after {} ms", stays.as_millis()),
    };
    let what = format!("`node replace --all` of node {id}: {first}");
    Ok(Struck::new(vec![id], what, async move {
        let done = world.replace(id).await?;
        // One that was cut off before anything was taken out has changed nothing.
        let effect = format!("{first}; the next one made {done} replicas anew");
        Ok((first == DONE || done > 0).then_some(effect))
    }))
}
