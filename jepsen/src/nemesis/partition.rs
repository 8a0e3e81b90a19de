//! Cuts in the network. A cut drops packets without a word, as a dead switch does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{Beside, HOLDS_MS, Need, Nemesis, Struck, World, end};
use crate::network::{CLIENTS, Direction, Place};

const fn nemesis(
    name: &'static str,
    about: &'static str,
    strike: fn(Arc<World>, StdRng) -> BoxFuture<'static, Result<Struck>>,
) -> Nemesis {
    let needs = &[Need::Switch];
    Nemesis {
        name,
        family: "partition",
        about,
        needs,
        holds_ms: HOLDS_MS,
        mixes: Beside::Any,
        strike,
    }
}

pub(super) const NEMESES: &[Nemesis] = &[
    nemesis(
        "partition-halves",
        "a minority and a majority do not hear each other",
        |world, mut dice| {
            Box::pin(async move {
                let few = world.some(world.minority(), &mut dice);
                cut(world, format!("nodes {few:?} from the others"), move |a, b| {
                    few.contains(&a) != few.contains(&b)
                })
            })
        },
    ),
    nemesis(
        "isolate-leader",
        "the node that leads the most groups hears no other node",
        |world, _| {
            Box::pin(async move {
                let leader = world.leader().await?;
                cut(world, format!("leader {leader} from all nodes"), move |a, b| {
                    a == leader || b == leader
                })
            })
        },
    ),
    nemesis(
        "majorities-ring",
        "every node hears a majority, and no two the same",
        |world, mut dice| {
            Box::pin(async move {
                let order = shuffled(&world, &mut dice);
                let (count, reach) = (order.len(), world.minority().div_ceil(2).max(1) as usize);
                let place = move |node| order.iter().position(|id| *id == node).unwrap_or(0);
                cut(world, "every node from those across the ring".to_owned(), move |a, b| {
                    let apart = place(a).abs_diff(place(b));
                    // Of three nodes all are neighbours: one side of the ring is cut instead.
                    apart.min(count - apart) > reach || (count == 3 && apart == 2)
                })
            })
        },
    ),
    nemesis("bridge", "two halves that only one node hears both of", |world, mut dice| {
        Box::pin(async move {
            let order = shuffled(&world, &mut dice);
            let (bridge, others) = (order[0], order[1..].to_vec());
            let left: Vec<u32> = others[..others.len() / 2].to_vec();
            cut(world, format!("{left:?} from all but node {bridge}"), move |a, b| {
                a != bridge && b != bridge && left.contains(&a) != left.contains(&b)
            })
        })
    }),
    nemesis(
        "one-way",
        "a node is heard and hears nobody, or the other way round",
        |world, mut dice| {
            Box::pin(async move {
                let victim = match world.leader().await {
                    Ok(leader) if dice.random_bool(0.5) => leader,
                    _ => world.some(1, &mut dice)[0],
                };
                let is_deaf = dice.random_bool(0.5);
                let how = if is_deaf { "hears no node" } else { "is heard by no node" };
                cut(world, format!("node {victim} {how}"), move |from, to| {
                    if is_deaf { to == victim } else { from == victim }
                })
            })
        },
    ),
    nemesis(
        "clients-cut",
        "clients do not reach a node that the other nodes reach",
        |world, mut dice| {
            Box::pin(async move {
                let victim = world.some(1, &mut dice)[0];
                let links = vec![(CLIENTS, victim), (victim, CLIENTS)];
                cut_links(world, vec![victim], format!("clients from node {victim}"), links)
            })
        },
    ),
    nemesis(
        "flapping",
        "a minority is cut off and joined again, several times a second",
        |world, mut dice| {
            Box::pin(async move { flap(world.some(world.minority(), &mut dice), world) })
        },
    ),
];

fn shuffled(world: &World, dice: &mut StdRng) -> Vec<u32> {
    let mut order = world.some(world.cluster.count(), dice);
    let turn = dice.random_range(0..order.len());
    order.rotate_left(turn);
    order
}

/// Cuts each direction between nodes for which this is so.
fn cut(world: Arc<World>, what: String, is_cut: impl Fn(Place, Place) -> bool) -> Result<Struck> {
    let ids = world.cluster.ids();
    let pairs = ids.clone().flat_map(|from| ids.clone().map(move |to| (from, to)));
    let links: Vec<_> = pairs.filter(|(from, to)| from != to && is_cut(*from, *to)).collect();
    let mut nodes: Vec<u32> = links.iter().flat_map(|(from, to)| [*from, *to]).collect();
    nodes.sort_unstable();
    nodes.dedup();
    cut_links(world, nodes, what, links)
}

fn cut_links(
    world: Arc<World>,
    nodes: Vec<u32>,
    what: String,
    links: Vec<Direction>,
) -> Result<Struck> {
    let switch = world.switch()?;
    let before = switch.counts(&links).cut;
    for (from, to) in &links {
        switch.set(*from, *to, |link| link.is_cut = true);
    }
    let what = format!("cut: {what}");
    Ok(Struck::new(nodes, what, async move {
        let switch = world.switch()?;
        for (from, to) in &links {
            switch.set(*from, *to, |link| link.is_cut = false);
        }
        let dropped = switch.counts(&links).cut - before;
        Ok((dropped > 0).then(|| format!("{dropped} packets were dropped")))
    }))
}

fn flap(few: Vec<u32>, world: Arc<World>) -> Result<Struck> {
    let others: Vec<u32> = world.cluster.ids().filter(|id| !few.contains(id)).collect();
    let pairs = few.iter().flat_map(|one| others.iter().map(move |other| (*one, *other)));
    let links: Vec<Direction> =
        pairs.flat_map(|(one, other)| [(one, other), (other, one)]).collect();
    let before = world.switch()?.counts(&links).cut;
    let set_all = |world: &World, links: &[Direction], is_cut| -> Result<()> {
        for (from, to) in links {
            world.switch()?.set(*from, *to, |link| link.is_cut = is_cut);
        }
        Ok(())
    };
    let what = format!("nodes {few:?} are cut off and joined every 150 ms");
    let (flapping, flapped) = (world.clone(), links.clone());
    let task = tokio::spawn(async move {
        for turn in 0_u64.. {
            set_all(&flapping, &flapped, turn % 2 == 0)?;
            sleep(Duration::from_millis(150)).await;
        }
        Ok::<(), anyhow::Error>(())
    });
    Ok(Struck::new(few, what, async move {
        let ended = end(task).await;
        set_all(&world, &links, false)?;
        ended?;
        let dropped = world.switch()?.counts(&links).cut - before;
        Ok((dropped > 0).then(|| format!("{dropped} packets were dropped")))
    }))
}
