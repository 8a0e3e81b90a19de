//! A leader that was deposed while it was away, and comes back to voters that have just restarted: they have to know
//! without anybody's help that they elected another.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::future::{BoxFuture, try_join_all};
use tokio::time::{sleep, timeout};

use super::{Beside, Need, Nemesis, Struck, World};
use crate::network::{Direction, Place};

/// How long the others may take to elect another.
const ELECTED_WITHIN: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long they work under it.
const WORKS_WITHOUT: Duration = Duration::from_millis(1_500);
/// How long the leader has to find its way free again while none of them runs: it must be the first that they hear.
const ALONE: Duration = Duration::from_millis(700);

pub(super) const NEMESES: &[Nemesis] = &[Nemesis {
    name: "deposed-returns",
    family: "deposed",
    about: "the leader is kept away while the others work under another; then these restart, and it is back",
    needs: &[Need::Switch],
    holds_ms: (1_500, 2_000),
    // What it shows is a matter of who is alive and heard at which moment.
    mixes: Beside::Nothing,
    strike: |world, _| strike(world),
}];

fn strike(world: Arc<World>) -> BoxFuture<'static, Result<Struck>> {
    Box::pin(async move {
        let leader = world.leader().await?;
        let others: Vec<Place> = world.cluster.ids().filter(|id| *id != leader).collect();
        let both_ways = others.iter().flat_map(|other| [(leader, *other), (*other, leader)]);
        let links: Vec<Direction> = both_ways.collect();
        let before = world.switch()?.counts(&links).reset;
        keep_away(&world, &links, true)?;
        let deposed = async {
            while !world.sees_deposed(others[0], leader).await {
                sleep(POLL_INTERVAL).await;
            }
        };
        let is_deposed = timeout(ELECTED_WITHIN, deposed).await.is_ok();
        sleep(WORKS_WITHOUT).await;
        let resets = world.switch()?.counts(&links).reset - before;
        let kill = async |id: &Place| world.cluster.node(*id).await.kill().await;
        let killed = try_join_all(others.iter().map(kill)).await;
        keep_away(&world, &links, false)?;
        let has_effect = is_deposed && !killed?.contains(&false);
        sleep(ALONE).await;
        for id in &others {
            world.cluster.node(*id).await.start()?;
        }
        let what =
            format!("leader {leader} was kept away; then {others:?} were killed and started");
        Ok(Struck::new(world.cluster.ids().collect(), what, async move {
            world.revive(&others).await?;
            let effect = format!("{resets} packets were reset, and {others:?} had another leader");
            Ok(has_effect.then_some(effect))
        }))
    })
}

/// With resets and not in silence: of a dead process whose packets only got lost the kernel goes on sending what it had
/// said, and the leader would hear that it was deposed.
fn keep_away(world: &World, links: &[Direction], is_away: bool) -> Result<()> {
    let switch = world.switch()?;
    for (from, to) in links {
        switch.set(*from, *to, |link| link.resets = is_away);
    }
    Ok(())
}
