//! More than a group can take: appends of a megabyte each, while its disks are slow.

use std::sync::Arc;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::{Beside, Need, Nemesis, Struck, World};
use crate::check::overload::OVERLOADED;

/// Four times what a group keeps waiting.
const APPENDS: u32 = 128;
const PAYLOAD_BYTES: usize = 1024 * 1024 - 64;
/// Little leaves the group while they come.
const SYNC_DELAY_MS: u32 = 400;

pub(super) const NEMESES: &[Nemesis] = &[Nemesis {
    name: "flood",
    family: "flood",
    about: "one group is asked for far more than it takes while its disks are slow, and has to refuse the rest",
    needs: &[Need::Shim],
    holds_ms: (2_500, 4_000),
    // Calls have to reach the leader all at once; and it sets the delay of every node's syncs, as `slow-disk`.
    mixes: Beside::Nothing,
    strike: |world, dice| Box::pin(strike(world, dice)),
}];

async fn strike(world: Arc<World>, mut dice: StdRng) -> Result<Struck> {
    let floor = world.floor.clone();
    let conversation = floor.any_conversation(&mut dice);
    set_sync_delay_ms(&world, SYNC_DELAY_MS).await?;
    let mut appends = JoinSet::new();
    for place in 0..APPENDS {
        let node = place % floor.nodes() + 1;
        let Some(mut caller) = floor.caller(Some(node)).await else { continue };
        let conversation = conversation.clone();
        appends.spawn(async move {
            let message = caller.compose_sized(&conversation, "flood", PAYLOAD_BYTES);
            // A tail that is long past: it goes through the log as anything else, and leaves nothing to be kept.
            let refused = caller.append_once(&message, Some(1)).await.err();
            refused.is_some_and(|error| error.reason() == OVERLOADED)
        });
    }
    let mib = appends.len() * PAYLOAD_BYTES / 1024 / 1024;
    let what = format!(
        "{mib} MiB of appends to {conversation} at once; syncs take {SYNC_DELAY_MS} ms longer"
    );
    Ok(Struck::new(world.cluster.ids().collect(), what, async move {
        set_sync_delay_ms(&world, 0).await?;
        let sent = appends.len();
        let refused = appends.join_all().await.into_iter().filter(|refused| *refused).count();
        let seen = format!("{refused} of {sent} appends were refused as {OVERLOADED}");
        Ok((refused > 0).then_some(seen))
    }))
}

async fn set_sync_delay_ms(world: &World, delay_ms: u32) -> Result<()> {
    for id in world.cluster.ids() {
        let node = world.cluster.node(id).await;
        node.shim.as_ref().context("there is no shim")?.set_sync_delay_ms(delay_ms)?;
    }
    Ok(())
}
