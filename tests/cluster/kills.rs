//! Nodes killed and started again, time and again, while every group is under load: nothing acknowledged is lost.
//!
//! A run proves something only if its kills hit. So each kill notes what the victim led and how many appends were in
//! flight there. One that died with too little in flight, because a busy machine answered it all between the last look
//! and the kill, does not count, and its kind has another turn. A run in which too few victims led, or a kind missed
//! every time, fails.

mod hits;

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use self::hits::{IN_FLIGHT_MIN, Kill, Victim, judge};
use crate::harness::{Cluster, Leaders, Load, NODES, Pace, Way, eventually};

/// Cycles where `KILLS` does not say: enough for each kind of kill.
const CYCLES_DEFAULT: usize = 12;
/// Appends in flight of each lane: with six lanes for each group several times what a kill has to hit.
const WINDOW: usize = 64;
/// Between two messages of a lane while nobody is about to be killed, so that there is little to read in the end.
const CALM: Pace = Pace::Trickle(Duration::from_millis(100));
/// How many kills of a kind may be needed until one hits.
const TURNS_MAX: usize = 3;
/// A kill comes up to this long after all is in flight.
const KILL_DELAY_MAX: Duration = Duration::from_millis(200);

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One that leads groups.
    Leader,
    /// One that leads none; and once more while it starts.
    Follower,
    /// Two at once: no quorum is left.
    Two,
    /// Everybody at once.
    All,
}

/// Ten cycles, again and again.
const KINDS: [Kind; 10] = {
    use Kind::{All, Follower, Leader, Two};
    [Leader, Leader, Follower, Leader, Two, Leader, Leader, Follower, Leader, All]
};

/// A number from the environment.
fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_over_kill_and_restart_cycles() {
    let cycles = variable("KILLS").map_or(CYCLES_DEFAULT, |cycles| cycles as usize);
    let seed = variable("KILLS_SEED").unwrap_or_else(rand::random);
    println!("{cycles} cycles; the same choices again: KILLS={cycles} KILLS_SEED={seed}");
    let began = Instant::now();
    let mut choices = StdRng::seed_from_u64(seed);
    // Small pieces of log are kept, so that nodes come back to purged logs and need snapshots now and then.
    let cluster = Cluster::start("flush_interval_ms = 1000\nlog_keep_bytes = 65536\n").await;
    let ways = [1, 2, 3].map(Way::Only);
    let ways = [&ways[..], &[Way::Leaders; 3]].concat();
    let load = Load::start(&cluster, "kills", &ways, WINDOW, CALM).await;
    let mut run = Run { cluster, load, choices: &mut choices, kills: Vec::new() };
    for kind in KINDS.into_iter().cycle().take(cycles) {
        run.hit(kind).await;
    }
    let Run { mut cluster, mut load, kills, .. } = run;
    load.finish().await;
    let sent = load.acknowledged();
    load.verify(&cluster).await;
    cluster.stop_and_check().await;
    let summary = judge(&kills).unwrap_or_else(|why| panic!("this run proves nothing: {why}"));
    println!("{summary}\n{sent} messages, {:.0} s in all", began.elapsed().as_secs_f64());
}

struct Run<'a> {
    cluster: Cluster,
    load: Load,
    choices: &'a mut StdRng,
    kills: Vec<Kill>,
}

impl Run<'_> {
    /// Cycles until a kill hits.
    async fn hit(&mut self, kind: Kind) {
        for turn in 1.. {
            let kill = self.cycle(kind).await;
            println!("{:>3} {kind:?}: {kill}", self.kills.len() + 1);
            let Some(idle) = kill.missed() else { return self.kills.push(kill) };
            assert!(
                turn < TURNS_MAX,
                "this run proves nothing: {turn} kills missed, last {idle:?}"
            );
            println!("    a miss: once more");
        }
    }

    async fn cycle(&mut self, kind: Kind) -> Kill {
        let leaders = self.cluster.leaders(&NODES).await;
        let nodes = self.choose(kind, &leaders);
        self.load.take_longest_pause(|_| true);
        self.surge(&nodes, &leaders).await;

        let before = self.load.progress();
        self.cluster.kill(&nodes).await;
        let after = self.load.progress();
        self.load.set_pace(CALM);
        let victim = |node: &u32| {
            let groups = leaders[node].clone();
            let in_flight = before.in_flight_through(&after, &groups);
            Victim { node: *node, groups, in_flight }
        };
        let mut victims: Vec<Victim> = nodes.iter().map(victim).collect();

        // Half of the time the others take over first.
        let survived = nodes.len() == 1;
        if survived && self.choices.random() {
            self.load.wait_flowing(&after, 1, |lane| lane.way == Way::Leaders).await;
        }
        if kind == Kind::Follower {
            self.cluster.spawn(&nodes);
            self.cluster.wait_listening(nodes[0]).await;
            self.cluster.kill(&nodes).await;
            victims.push(Victim { groups: BTreeSet::new(), in_flight: 0, ..victims[0].clone() });
        }
        self.cluster.restart(&nodes).await;
        self.load.wait_flowing(&after, 1, |_| true).await;
        Kill { victims, pause: self.load.take_longest_pause(|_| true) }
    }

    fn choose(&mut self, kind: Kind, leaders: &Leaders) -> Vec<u32> {
        let leading = |node: &u32| !leaders[node].is_empty();
        let (mut leading, following): (Vec<u32>, Vec<u32>) = NODES.iter().partition(|n| leading(n));
        match kind {
            Kind::All => NODES.to_vec(),
            Kind::Two => {
                leading.extend(following);
                leading.truncate(2);
                leading
            }
            Kind::Leader => vec![*leading.choose(self.choices).expect("somebody leads")],
            // After a calm time everybody leads something; judge() sees to it that that is rare.
            Kind::Follower => {
                let chosen = following.choose(self.choices).or(leading.choose(self.choices));
                vec![*chosen.expect("there are nodes")]
            }
        }
    }

    /// Waits until every lane of the groups that are hit moves, and enough of their appends are in flight.
    async fn surge(&mut self, nodes: &[u32], leaders: &Leaders) {
        let hit: BTreeSet<u64> = nodes.iter().flat_map(|node| leaders[node].clone()).collect();
        let calm = self.load.progress();
        self.load.set_pace(Pace::Surge);
        self.load.wait_flowing(&calm, 1, |lane| hit.contains(&lane.group)).await;
        let enough = || {
            let now = self.load.progress();
            let full = |node: &u32| {
                leaders[node].is_empty()
                    || now.in_flight_through(&now, &leaders[node]) >= 2 * IN_FLIGHT_MIN
            };
            nodes.iter().all(full)
        };
        // A busy machine may take the load from under the delay.
        loop {
            eventually("enough is in flight", async || enough().then_some(())).await;
            tokio::time::sleep(self.choices.random_range(Duration::ZERO..KILL_DELAY_MAX)).await;
            if enough() {
                return;
            }
        }
    }
}
