//! Links that work badly: slow, lossy, out of order, repeating themselves, or answering with resets.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;
use rand::rngs::StdRng;

use super::{Beside, HOLDS_MS, Need, Nemesis, Struck, World};
use crate::network::{CLIENTS, Counts, Direction, Link};

const fn nemesis(
    name: &'static str,
    about: &'static str,
    holds_ms: (u64, u64),
    strike: fn(Arc<World>, StdRng) -> BoxFuture<'static, Result<Struck>>,
) -> Nemesis {
    Nemesis {
        name,
        family: "link",
        about,
        needs: &[Need::Switch],
        holds_ms,
        mixes: Beside::Any,
        strike,
    }
}

pub(super) const NEMESES: &[Nemesis] = &[
    nemesis(
        "delay",
        "100 to 180 ms more for every packet of one node",
        HOLDS_MS,
        |world, mut dice| {
            Box::pin(async move {
                let nodes = world.some(1, &mut dice);
                let seen = |counts: Counts| (counts.delayed, "delayed");
                worsen(world, nodes, "delay of 100 to 180 ms", seen, |link| {
                    link.delay = Duration::from_millis(100);
                    link.jitter = Duration::from_millis(80);
                })
            })
        },
    ),
    nemesis("reorder", "packets between all nodes overtake each other", HOLDS_MS, |world, _| {
        Box::pin(async move {
            let nodes = world.cluster.ids().collect();
            let seen = |counts: Counts| (counts.delayed, "held back by chance");
            worsen(world, nodes, "packets overtake each other by up to 25 ms", seen, |link| {
                link.jitter = Duration::from_millis(25);
            })
        })
    }),
    nemesis(
        "duplicate",
        "a third of the packets comes twice, at every node",
        HOLDS_MS,
        |world, _| {
            Box::pin(async move {
                let nodes = world.cluster.ids().collect();
                let seen = |counts: Counts| (counts.duplicated, "handed over twice");
                worsen(world, nodes, "a third of the packets comes twice", seen, |link| {
                    link.duplication = 0.33;
                })
            })
        },
    ),
    nemesis("loss", "a fifth of the packets of a minority is lost", HOLDS_MS, |world, mut dice| {
        Box::pin(async move {
            let nodes = world.some(world.minority(), &mut dice);
            worsen(
                world,
                nodes,
                "loss of 20 %",
                |counts| (counts.lost, "lost"),
                |link| {
                    link.loss = 0.2;
                },
            )
        })
    }),
    nemesis("reset", "every connection of one node is reset", (300, 1_500), |world, mut dice| {
        Box::pin(async move {
            let nodes = world.some(1, &mut dice);
            let seen = |counts: Counts| (counts.reset, "answered with a reset");
            worsen(world, nodes, "every packet is answered with a reset", seen, |link| {
                link.resets = true;
            })
        })
    }),
];

/// Changes every link to and from these nodes, those of clients included.
fn worsen(
    world: Arc<World>,
    nodes: Vec<u32>,
    what: &str,
    seen: fn(Counts) -> (u64, &'static str),
    change: fn(&mut Link),
) -> Result<Struck> {
    let switch = world.switch()?;
    let links = links_of(&world, &nodes);
    let (before, _) = seen(switch.counts(&links));
    for (from, to) in &links {
        switch.set(*from, *to, change);
    }
    let what = format!("{what}: links of nodes {nodes:?}");
    Ok(Struck::new(nodes, what, async move {
        let switch = world.switch()?;
        for (from, to) in &links {
            switch.set(*from, *to, |link| *link = Link { is_cut: link.is_cut, ..Link::default() });
        }
        let (after, word) = seen(switch.counts(&links));
        let count = after - before;
        Ok((count > 0).then(|| format!("{count} packets were {word}")))
    }))
}

fn links_of(world: &World, nodes: &[u32]) -> Vec<Direction> {
    let places: Vec<u32> = std::iter::once(CLIENTS).chain(world.cluster.ids()).collect();
    let directions = places.iter().flat_map(|from| places.iter().map(move |to| (*from, *to)));
    let touches = |(from, to): &Direction| nodes.contains(from) || nodes.contains(to);
    directions.filter(|both| both.0 != both.1 && touches(both)).collect()
}
