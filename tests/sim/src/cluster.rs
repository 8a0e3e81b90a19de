//! One simulation from its seed to its verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate::log::invariants;
use quorate_jepsen::history::{Event, Fault};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use turmoil::Sim;

use crate::faults::{self, Planned, What};
use crate::ground::Machine;
use crate::ledger::Ledger;
use crate::memberships;
use crate::node::{self, Ended, Manners};
use crate::record::{Phase, Shared};
use crate::verdict;
use crate::workload::Plan;
use crate::{crew, determinism};

/// One step of the simulation.
const TICK: Duration = Duration::from_millis(2);
/// How long clients work and things break; without further faults as long again, while too little was done.
const WORK: Duration = Duration::from_secs(60);
/// A simulation that has not ended by then never will.
const END_LIMIT: Duration = Duration::from_secs(240);
/// How often the whole state of every node is checked while nothing happens that calls for it; each write is compared
/// as it is made.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const DAY_US: i64 = 24 * 3600 * 1_000_000;
/// By how much clocks are set wrong: within a step of the dedup floor, and beyond the horizon.
const CLOCK_SKEWS_US: [i64; 5] = [900_000, -2_000_000, 45_000_000, 40 * DAY_US, -40 * DAY_US];

/// What became of a simulation.
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: u64,
    /// What must not be and was.
    pub problems: Vec<String>,
    /// What clients did and saw.
    pub events: Vec<Event>,
    /// What was broken, and took effect.
    pub faults: Vec<Fault>,
    /// Simulated time.
    pub elapsed: Duration,
    /// From everything mended to every group serving.
    pub served_after: Option<Duration>,
    /// When everything was mended, in nanoseconds.
    pub healed_at: Option<u64>,
    /// What happened inside, each of which a run of many seeds has to have seen.
    pub seen: Coverage,
}

/// How often what is rare happened.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Logs that were cut short.
    pub truncations: u64,
    /// Snapshots that were installed.
    pub installs: u64,
    /// Leaders that died while appends were in flight.
    pub leader_deaths_in_flight: u64,
    /// Faults that met a node with every replica parked: of the meta group and of all others.
    pub faults_at_rest: u64,
}

impl Coverage {
    /// Adds what another simulation has seen.
    pub fn add(&mut self, other: Coverage) {
        self.truncations += other.truncations;
        self.installs += other.installs;
        self.leader_deaths_in_flight += other.leader_deaths_in_flight;
        self.faults_at_rest += other.faults_at_rest;
    }
}

/// Runs a seed to its end on this thread, which has entered its determinism.
pub fn simulate(seed: u64) -> Outcome {
    let mut randomness = SmallRng::seed_from_u64(seed);
    let nodes = if randomness.random_ratio(1, 3) { 5 } else { 3 };
    let mut world = World::new(seed, nodes, &mut randomness);
    let problem = world.run();
    if let Err(problem) = problem {
        world.plan.shared.problem(problem);
    }
    world.outcome(seed)
}

struct World {
    sim: Sim<'static>,
    plan: Plan,
    machines: Vec<Machine>,
    ledger: Arc<Ledger>,
    ended: Ended,
    /// Faults to come, by their beginning.
    to_come: Vec<Planned>,
    /// Faults under way, with when they began.
    lasting: Vec<Planned>,
    leader_deaths_in_flight: u64,
    faults_at_rest: u64,
}

impl World {
    fn new(seed: u64, nodes: u64, randomness: &mut SmallRng) -> World {
        let slowest = Duration::from_millis(randomness.random_range(2..25));
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .simulation_duration(END_LIMIT)
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(slowest)
            .tcp_capacity(16_384)
            .enable_random_order()
            .build();
        let groups = randomness.random_range(2..=3);
        let shared = Shared::default();
        let conversations = (0..6).map(|number| format!("sim/{number}")).collect();
        let plan =
            Plan { nodes, conversations: Rc::new(conversations), shared, sent: Rc::default() };
        let ledger = Arc::<Ledger>::default();
        let machine = |node| Machine::new(node, randomness.random(), ledger.clone());
        let machines: Vec<_> = (1..=nodes).map(machine).collect();
        let ended = Ended::default();
        let storage = Manners {
            flush_interval_ms: randomness.random_range(200..2_000),
            log_keep_bytes: randomness.random_range(1..32) * 1_024,
        };
        for machine in &machines {
            node::add(&mut sim, machine.clone(), ended.clone(), storage);
        }
        let begin = Duration::from_secs(5);
        let to_come = faults::plan(randomness, nodes, begin, begin + WORK);
        let mut world = World {
            sim,
            plan,
            machines,
            ledger,
            ended,
            to_come,
            lasting: Vec::new(),
            leader_deaths_in_flight: 0,
            faults_at_rest: 0,
        };
        let operators = crew::add(&mut world.sim, &world.plan, groups, randomness);
        // Not beside operators, who may have taken one of three out already. Drawn last, so that what known seeds have
        // found stays where it was.
        if operators == 0 && randomness.random_ratio(1, 3) {
            crew::add_replacers(&mut world.sim, &world.plan, randomness);
            world.to_come.extend(faults::plan_wipes(randomness, nodes, begin, begin + WORK));
            world.to_come.sort_by_key(|fault| fault.from);
        }
        world
    }

    /// Steps until everything has been read, or something makes that impossible.
    fn run(&mut self) -> Result<(), String> {
        let mut checked = Duration::ZERO;
        let mut work_ends = None;
        loop {
            determinism::set_elapsed(self.sim.elapsed());
            let finished = self.sim.step().map_err(|error| error.to_string())?;
            determinism::set_elapsed(self.sim.elapsed());
            let now = self.sim.elapsed();
            let changed = self.break_and_mend(now);
            if changed || now >= checked + CHECK_INTERVAL {
                checked = now;
                self.check_invariants();
            }
            let shared = &self.plan.shared;
            if shared.phase() == Phase::Working && work_ends.is_none() {
                work_ends = Some(now + WORK);
            }
            let done_enough = shared.calls() >= verdict::CALLS_MIN as u64;
            let is_over = |end| now >= end && (done_enough || now >= end + WORK);
            if shared.phase() == Phase::Working && work_ends.is_some_and(is_over) {
                self.mend_all();
                self.plan.shared.set_phase(Phase::Healed);
            }
            self.expect_to_live();
            for difference in self.ledger.differences() {
                self.plan.shared.problem(difference);
            }
            if finished {
                break;
            }
            if !self.plan.shared.problems().is_empty() {
                return Ok(());
            }
        }
        if !self.plan.shared.is_verified() {
            return Err("the simulation ended before everything was read".to_owned());
        }
        self.check_invariants();
        for machine in &self.machines {
            let broken = machine.replicas("missing") + machine.replicas("damaged");
            if broken > 0 {
                let what = format!("G9: {broken} replicas of node {} do not serve", machine.node);
                self.plan.shared.problem(what);
            }
        }
        for difference in memberships::differences(&self.machines) {
            self.plan.shared.problem(difference);
        }
        Ok(())
    }

    /// Begins and ends faults whose time has come. Whether there were any.
    fn break_and_mend(&mut self, now: Duration) -> bool {
        let mut changed = false;
        if self.plan.shared.phase() > Phase::Working {
            return false;
        }
        while let Some(at) = self.lasting.iter().position(|fault| fault.to <= now) {
            let fault = self.lasting.remove(at);
            self.mend(&fault);
            changed = true;
        }
        while self.to_come.first().is_some_and(|fault| fault.from <= now) {
            let fault = self.to_come.remove(0);
            changed |= self.begin(fault);
        }
        for fault in &self.lasting {
            if fault.what == What::ClockStrobe {
                let wrong = (now.as_millis() / 100).is_multiple_of(2);
                for node in &fault.nodes {
                    self.machine(*node).set_skew_us(if wrong { 700_000 } else { 0 });
                }
            }
        }
        changed
    }

    /// Begins a fault, unless one of its kind lasts already: which of the two would a mending end?
    fn begin(&mut self, fault: Planned) -> bool {
        if self.lasting.iter().any(|other| other.what.clashes_with(fault.what)) {
            return false;
        }
        if fault.what == What::Wipe {
            return self.wipe(fault.nodes[0]);
        }
        let shared = self.plan.shared.clone();
        self.faults_at_rest += u64::from(fault.nodes.iter().any(|node| self.rests(*node)));
        match fault.what {
            What::Crash => {
                let leads = |node: &u64| self.machine(*node).replicas("leader") > 0;
                if shared.in_flight() > 0 && fault.nodes.iter().any(leads) {
                    self.leader_deaths_in_flight += 1;
                }
                for node in &fault.nodes {
                    self.sim.crash(self.machine(*node).name());
                    self.machine(*node).lose_unsynced();
                }
            }
            What::Pause => self.each_link(&fault, Sim::hold),
            What::Isolate => self.each_link(&fault, Sim::partition),
            What::Deaf => self.each_link(&fault, Sim::partition_oneway),
            What::Ring | What::Bridge => {
                for (a, b) in self.cut_links(fault.what) {
                    self.sim.partition(a, b);
                }
            }
            What::Loss => {
                let pairs = self.links_of(&fault);
                for (a, b) in pairs {
                    self.sim.set_link_fail_rate(a, b, 0.01);
                }
            }
            What::Delay => self.each_link(&fault, |sim, a, b| {
                sim.set_link_max_message_latency(a, b, Duration::from_millis(400));
            }),
            What::Clock => {
                let drawn = fault.from.as_millis() as usize;
                for (place, node) in fault.nodes.iter().enumerate() {
                    let skew = CLOCK_SKEWS_US[(drawn + place) % CLOCK_SKEWS_US.len()];
                    self.machine(*node).set_skew_us(skew);
                }
            }
            What::ClockStrobe => {}
            What::DiskError => {
                for node in &fault.nodes {
                    self.machine(*node).set_failing(Some("input/output error (simulated)"));
                }
            }
            What::DiskFull => {
                for node in &fault.nodes {
                    self.machine(*node).set_free_bytes(if node % 2 == 0 {
                        1 << 10
                    } else {
                        1 << 28
                    });
                }
            }
            What::Wipe => {}
            What::SlowDisk => {
                for node in &fault.nodes {
                    self.machine(*node).set_slowest(Some(Duration::from_millis(900)));
                }
            }
        }
        tracing::info!(what = fault.what.name(), nodes = ?fault.nodes, "begins");
        self.lasting.push(fault);
        true
    }

    /// One node at a time loses its data, and none while a replica is on its way: more than a minority would be gone.
    fn wipe(&mut self, node: u64) -> bool {
        let shared = self.plan.shared.clone();
        let is_whole = shared.wiped().is_none() && shared.replacing() == 0;
        if !is_whole || !memberships::differences(&self.machines).is_empty() {
            return false;
        }
        let machine = self.machine(node).clone();
        self.sim.crash(machine.name());
        machine.wipe();
        shared.set_wiped(Some(node));
        self.start(&[node]);
        tracing::info!(node, "has lost its disk");
        true
    }

    fn mend(&mut self, fault: &Planned) {
        tracing::info!(what = fault.what.name(), nodes = ?fault.nodes, "is mended");
        let mut effect = Some("as simulated".to_owned());
        match fault.what {
            What::Crash => self.start(&fault.nodes),
            What::Pause => self.each_link(fault, Sim::release),
            What::Isolate | What::Deaf => self.each_link(fault, Sim::repair),
            What::Ring | What::Bridge => {
                for (a, b) in self.cut_links(fault.what) {
                    self.sim.repair(a, b);
                }
            }
            What::Loss => {
                let pairs = self.links_of(fault);
                for (a, b) in pairs {
                    self.sim.set_link_fail_rate(a.clone(), b.clone(), 0.0);
                    self.sim.repair(a, b);
                }
            }
            What::Delay => self.each_link(fault, |sim, a, b| {
                sim.set_link_max_message_latency(a, b, Duration::from_millis(10));
            }),
            What::Clock | What::ClockStrobe => {
                for node in &fault.nodes {
                    self.machine(*node).set_skew_us(0);
                }
            }
            What::DiskError => {
                let stopped = fault.nodes.iter().filter(|n| self.ended.borrow().contains_key(*n));
                effect = (stopped.count() > 0).then(|| "the node stopped".to_owned());
                for node in &fault.nodes {
                    self.machine(*node).set_failing(None);
                    self.sim.crash(self.machine(*node).name());
                    self.machine(*node).lose_unsynced();
                }
                self.start(&fault.nodes);
            }
            What::DiskFull => {
                for node in &fault.nodes {
                    self.machine(*node).set_free_bytes(u64::MAX);
                }
            }
            What::Wipe => {}
            What::SlowDisk => {
                for node in &fault.nodes {
                    self.machine(*node).set_slowest(None);
                }
            }
        }
        self.plan.shared.fault(Fault {
            from: fault.from.as_nanos() as u64,
            to: self.sim.elapsed().as_nanos() as u64,
            nemesis: fault.what.name().to_owned(),
            nodes: fault.nodes.iter().map(|node| *node as u32).collect(),
            what: format!("{:?}", fault.what),
            effect,
            served_after: None,
        });
    }

    fn mend_all(&mut self) {
        for fault in std::mem::take(&mut self.lasting) {
            self.mend(&fault);
        }
        self.to_come.clear();
    }

    fn start(&mut self, nodes: &[u64]) {
        for node in nodes {
            self.ended.borrow_mut().remove(node);
            self.sim.bounce(self.machine(*node).name());
        }
    }

    /// Nodes end by themselves only where their disks fail.
    fn expect_to_live(&self) {
        for (node, why) in self.ended.borrow().iter() {
            let is_excused =
                |fault: &Planned| fault.what == What::DiskError && fault.nodes.contains(node);
            if !self.lasting.iter().any(is_excused) {
                self.plan.shared.problem(format!("node {node} ended by itself: {why}"));
            }
        }
    }

    /// Whether all replicas of a node are parked.
    fn rests(&self, node: u64) -> bool {
        let machine = self.machine(node);
        let replicas = machine.replicas("leader") + machine.replicas("follower");
        replicas > 0 && machine.parked() == replicas
    }

    fn machine(&self, node: u64) -> &Machine {
        &self.machines[node as usize - 1]
    }

    /// Links between nodes of a fault and the others.
    fn links_of(&self, fault: &Planned) -> Vec<(String, String)> {
        let all = 1..=self.plan.nodes;
        let others: Vec<u64> = all.filter(|node| !fault.nodes.contains(node)).collect();
        let pairs = fault.nodes.iter().flat_map(|a| others.iter().map(move |b| (*a, *b)));
        pairs.map(|(a, b)| (format!("n{a}"), format!("n{b}"))).collect()
    }

    fn each_link(&self, fault: &Planned, change: impl Fn(&Sim<'static>, String, String)) {
        for (a, b) in self.links_of(fault) {
            change(&self.sim, a, b);
        }
    }

    /// Links that a ring or a bridge does not have.
    fn cut_links(&self, what: What) -> Vec<(String, String)> {
        let nodes = self.plan.nodes;
        let middle = nodes.div_ceil(2);
        let mut cut = BTreeSet::new();
        for a in 1..=nodes {
            for b in a + 1..=nodes {
                let is_cut = match what {
                    What::Bridge => a < middle && b > middle,
                    _ => b - a != 1 && nodes > 3,
                };
                if is_cut {
                    cut.insert((format!("n{a}"), format!("n{b}")));
                }
            }
        }
        cut.into_iter().collect()
    }

    /// What must hold of every node's state, and between them.
    fn check_invariants(&self) {
        let mut digests = BTreeMap::new();
        for machine in &self.machines {
            let report = invariants::check(&machine.state(), &mut |_| {});
            for violation in &report.violations {
                let (place, what) = (&violation.place, &violation.what);
                self.plan.shared.problem(format!("node {}: {place}: {what}", machine.node));
            }
            for group in report.groups {
                let Some(applied) = group.applied else { continue };
                let key = (group.group, applied.index);
                let (first, digest) = digests.entry(key).or_insert((machine.node, group.digest));
                if *digest != group.digest {
                    self.plan.shared.problem(format!(
                        "nodes {first} and {} differ in group {} at index {}",
                        machine.node, group.group, applied.index
                    ));
                }
            }
        }
    }

    fn outcome(self, seed: u64) -> Outcome {
        let shared = &self.plan.shared;
        let count = |count: fn(&Machine) -> u64| self.machines.iter().map(count).sum();
        Outcome {
            seed,
            nodes: self.plan.nodes,
            problems: shared.problems(),
            events: shared.events(),
            faults: shared.faults().into_iter().filter(|fault| fault.effect.is_some()).collect(),
            elapsed: self.sim.elapsed(),
            served_after: shared.served_after().map(Duration::from_nanos),
            healed_at: shared.healed_at(),
            seen: Coverage {
                truncations: count(|machine| machine.disk.truncations.load(Ordering::Relaxed)),
                installs: count(|machine| machine.disk.installs.load(Ordering::Relaxed)),
                leader_deaths_in_flight: self.leader_deaths_in_flight,
                faults_at_rest: self.faults_at_rest,
            },
        }
    }
}
