//! Breaks and mends, one round after another, at times two things at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use super::{RunOptions, served};
use crate::check::SERVED_WITHIN;
use crate::history::{ENDED_BY_ITSELF, Fault, Nanos};
use crate::nemesis::{Nemesis, Struck, World};
use crate::nodes::{Shim, WhyDown};
use crate::record::Recorder;
use crate::say;

/// How long clients work undisturbed between two rounds.
const CALM_MS: (u64, u64) = (500, 2_000);
/// The share of the rounds drawn by chance in which two things are broken at once.
const TWO_AT_ONCE: f64 = 0.35;

/// How often a nemesis has its turn at most, until it is seen to take effect.
const TRIES: u32 = 3;

struct Open {
    nemesis: &'static Nemesis,
    from: Nanos,
    struck: Struck,
}

/// What a round has broken.
#[derive(Default)]
struct Broken {
    open: Vec<Open>,
    /// What could not be done.
    undone: Vec<Fault>,
    /// How long it is to stay.
    holds: Duration,
}

/// Makes faults for as long as the run is to last, and records each once it has been mended.
///
/// # Errors
///
/// If the harness fails; not if the cluster does.
pub(super) async fn make(
    options: &RunOptions,
    world: &Arc<World>,
    nemeses: &[&'static Nemesis],
) -> anyhow::Result<()> {
    let mut dice = StdRng::seed_from_u64(options.seed);
    let until = Instant::now() + options.time;
    let mut turns: VecDeque<_> = nemeses.iter().map(|nemesis| (*nemesis, TRIES)).collect();
    // A run that is too short for all of them lasts longer: one that had no turn proves nothing.
    while Instant::now() < until || !turns.is_empty() {
        // Each in turn and alone first, so that a short run has them all, and none hides what another does: a process
        // that is killed no longer stands still. Then by chance.
        let turn = turns.pop_front();
        let in_turn = turn.map(|(nemesis, _)| nemesis);
        let Some(first) = in_turn.or_else(|| nemeses.choose(&mut dice).copied()) else {
            sleep(until.saturating_duration_since(Instant::now())).await;
            continue;
        };
        let mut chosen = vec![first];
        let others: Vec<&'static Nemesis> =
            nemeses.iter().copied().filter(|other| other.mixes_with(first)).collect();
        let other = others.choose(&mut dice).copied();
        let is_pair = options.in_pairs || in_turn.is_none() && dice.random_bool(TWO_AT_ONCE);
        chosen.extend(other.filter(|_| is_pair));
        let effects = one_round(options, world, chosen, &mut dice).await?;
        // What it takes may not have been there: a file of a kind, a snapshot on its way.
        if let Some((nemesis, tries @ 2..)) = turn
            && !effects.contains(&nemesis.name)
        {
            turns.push_back((nemesis, tries - 1));
        }
        if let Some((node, why)) = world.unreplaced().await.first_key_value() {
            say!(options, "nothing more is broken: node {node} could not be made anew: {why}");
            break;
        }
        sleep(Duration::from_millis(dice.random_range(CALM_MS.0..CALM_MS.1))).await;
    }
    Ok(())
}

/// Breaks these together, and mends them. Which of them were seen to take effect.
async fn one_round(
    options: &RunOptions,
    world: &Arc<World>,
    chosen: Vec<&'static Nemesis>,
    dice: &mut StdRng,
) -> anyhow::Result<Vec<&'static str>> {
    let recorder = &world.floor.recorder;
    let Broken { mut open, undone, holds } = strike(options, world, chosen, dice).await;
    sleep(holds).await;
    open.sort_by_key(|open| open.nemesis.mended_in_turn());
    let mending = async {
        let mut faults = Vec::new();
        for open in open {
            faults.push(mend(options, recorder, open).await);
        }
        note_ends(options, world).await;
        start_fallen(options, world).await?;
        anyhow::Ok(faults)
    };
    // Clients have waited since mending began, for processes to start and to read what they have, too. What is made anew
    // disturbs until it is there.
    let (faults, since_begun) = join(mending, served::wait(&world.floor)).await;
    let faults = faults?;
    let waited = match since_begun.unserved.is_empty() {
        true => since_begun.later(served::wait(&world.floor).await),
        // It was given up: nothing that is found now makes it in time.
        false => since_begun,
    };
    let took_effect = faults.iter().filter(|(_, fault)| fault.effect.is_some());
    let effects = took_effect.map(|(nemesis, _)| nemesis.name).collect();
    let served_after = Nanos::try_from(waited.took.as_nanos()).unwrap_or(Nanos::MAX);
    let seconds = served_after as f64 / 1e9;
    match served_after > SERVED_WITHIN {
        false => say!(options, "  all groups served after {seconds:.2} s"),
        true => {
            let late = waited.unserved.join(", ");
            say!(
                options,
                "  not served in time, but after {seconds:.0} s; not at all by then: {late}"
            );
        }
    }
    // Who was about to end may have looked alive.
    note_ends(options, world).await;
    start_fallen(options, world).await?;
    for (_, mut fault) in faults {
        say!(options, "  {}: {}", fault.nemesis, fault.effect.as_deref().unwrap_or("no effect"));
        // What was mended together was waited for together.
        fault.served_after = Some(served_after);
        recorder.fault(fault);
    }
    for mut fault in undone {
        fault.to = recorder.now();
        recorder.fault(fault);
    }
    Ok(effects)
}

async fn strike(
    options: &RunOptions,
    world: &Arc<World>,
    chosen: Vec<&'static Nemesis>,
    dice: &mut StdRng,
) -> Broken {
    let recorder = &world.floor.recorder;
    let mut broken = Broken::default();
    for nemesis in chosen {
        let from = recorder.now();
        match (nemesis.strike)(world.clone(), StdRng::seed_from_u64(dice.random())).await {
            Ok(struck) => {
                say!(options, "{}: nodes {:?}: {}", nemesis.name, struck.nodes, struck.what);
                let (least, most) = nemesis.holds_ms;
                broken.holds =
                    broken.holds.max(Duration::from_millis(dice.random_range(least..=most)));
                broken.open.push(Open { nemesis, from, struck });
            }
            // It may be that a node was down, or that nobody led. What was done up to then, and to whom, is not known.
            Err(error) => {
                say!(options, "{} could not be done: {error:#}", nemesis.name);
                broken.undone.push(Fault {
                    from,
                    to: recorder.now(),
                    nemesis: nemesis.name.to_owned(),
                    nodes: world.cluster.ids().collect(),
                    what: format!("could not be done: {error:#}"),
                    effect: None,
                    served_after: None,
                });
            }
        }
    }
    broken
}

async fn mend(
    options: &RunOptions,
    recorder: &Recorder,
    Open { nemesis, from, struck }: Open,
) -> (&'static Nemesis, Fault) {
    let mended = struck.mend.await;
    let effect = mended.unwrap_or_else(|error| {
        say!(options, "{}: mending: {error:#}", nemesis.name);
        None
    });
    let fault = Fault {
        from,
        to: recorder.now(),
        nemesis: nemesis.name.to_owned(),
        nodes: struck.nodes,
        what: struck.what,
        effect,
        served_after: None,
    };
    (nemesis, fault)
}

/// Records which nodes have ended by themselves, also those that run again: whether they should have is for those who
/// judge.
pub(super) async fn note_ends(options: &RunOptions, world: &World) {
    let excused = world.excused().await;
    for id in world.cluster.ids().filter(|id| !excused.iter().any(|(node, _)| node == id)) {
        let mut node = world.cluster.node(id).await;
        for how in node.take_ends() {
            let at = world.floor.recorder.now();
            say!(options, "node {id} had ended by itself ({how}):\n{}", node.end_of_log());
            world.floor.recorder.fault(Fault {
                from: at,
                to: at,
                nemesis: ENDED_BY_ITSELF.to_owned(),
                nodes: vec![id],
                what: how,
                effect: None,
                served_after: None,
            });
        }
    }
}

/// Starts what does not run.
async fn start_fallen(options: &RunOptions, world: &World) -> anyhow::Result<()> {
    let excused = world.excused().await;
    for id in world.cluster.ids().filter(|id| !excused.iter().any(|(node, _)| node == id)) {
        let mut node = world.cluster.node(id).await;
        if node.is_running() {
            continue;
        }
        match node.why_down() {
            WhyDown::NotStarted => continue,
            WhyDown::ByItself(_) => {}
            WhyDown::Ended => {
                say!(options, "node {id} was left ended by what could not be done: it is started");
            }
        }
        node.disk.mount().await?;
        node.shim.as_ref().map_or(Ok(()), Shim::mend)?;
        node.start()?;
    }
    Ok(())
}
