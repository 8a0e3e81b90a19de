//! One simulation from its seed to its verdict.

mod breaking;
mod checking;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate::types::{ConversationName, GroupId};
use quorate_jepsen::history::{Event, Fault};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use turmoil::Sim;

use crate::faults::{self, Planned};
use crate::ground::Machine;
use crate::ledger::Ledger;
use crate::links::Links;
use crate::memberships;
use crate::node::{self, Ended, Manners};
use crate::record::{Phase, Shared};
use crate::traffic::Traffic;
use crate::verdict;
use crate::workload::{Plan, Straits};
use crate::{crew, determinism, work};

use breaking::Lasting;
use checking::Checked;

/// One step of the simulation.
const TICK: Duration = Duration::from_millis(2);
/// How long clients work and things break; without further faults as long again, while too little was done.
const WORK: Duration = Duration::from_secs(60);
/// A simulation that has not ended by then never will.
const END_LIMIT: Duration = Duration::from_secs(240);

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
    /// What was broken, whether it was seen to take effect or not.
    pub faults: Vec<Fault>,
    /// Simulated time.
    pub elapsed: Duration,
    /// From everything mended to every group serving.
    pub served_after: Option<Duration>,
    /// When everything was mended, in nanoseconds.
    pub healed_at: Option<u64>,
    /// The nodes that were to have a replica of each group at the end.
    pub replicas: BTreeMap<u64, Vec<u32>>,
    /// What happened inside, each of which a run of many seeds has to have seen.
    pub seen: Coverage,
}

/// How often what is rare happened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Logs that were cut short.
    pub truncations: u64,
    /// Snapshots that were installed.
    pub installs: u64,
    /// Leaders that died while appends to their groups were in flight, and that others led after.
    pub leader_deaths_in_flight: u64,
    /// Faults that met a node with every replica parked: of the meta group and of all others.
    pub faults_at_rest: u64,
    /// Appends that a node refused because it had no memory left for them.
    pub overloads: u64,
    /// What clients did with success, by its kind.
    pub work: BTreeMap<String, u64>,
}

impl Coverage {
    /// Adds what another simulation has seen.
    pub fn add(&mut self, other: &Coverage) {
        self.truncations += other.truncations;
        self.installs += other.installs;
        self.leader_deaths_in_flight += other.leader_deaths_in_flight;
        self.faults_at_rest += other.faults_at_rest;
        self.overloads += other.overloads;
        for (kind, count) in &other.work {
            *self.work.entry(kind.clone()).or_default() += count;
        }
    }
}

/// Runs a seed to its end on this thread, which has entered its determinism.
pub fn simulate(seed: u64, traffic: Traffic) -> Outcome {
    let mut randomness = SmallRng::seed_from_u64(seed);
    let nodes = if randomness.random_ratio(1, 3) { 5 } else { 3 };
    let mut world = World::new(seed, nodes, &mut randomness, traffic);
    let problem = world.run();
    if let Err(problem) = problem {
        world.plan.shared.problem(problem);
    }
    world.outcome(seed)
}

struct World {
    sim: Sim<'static>,
    links: Links,
    plan: Plan,
    machines: Vec<Machine>,
    ledger: Arc<Ledger>,
    ended: Ended,
    /// Faults to come, by their beginning.
    to_come: Vec<Planned>,
    /// Faults under way.
    lasting: Vec<Lasting>,
    /// Processes that were killed, or started again after they had ended by themselves.
    deaths: u64,
    faults_at_rest: u64,
    checked: Checked,
}

impl World {
    fn new(seed: u64, nodes: u64, randomness: &mut SmallRng, traffic: Traffic) -> World {
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
        let straits = Straits::of(seed);
        let conversations = (0..6).map(|number| format!("sim/{number}")).collect();
        let plan = Plan {
            nodes,
            straits,
            conversations: Rc::new(conversations),
            shared,
            sent: Rc::default(),
        };
        let ledger = Arc::<Ledger>::default();
        let machine = |node| Machine::new(node, randomness.random(), ledger.clone());
        let machines: Vec<_> = (1..=nodes).map(machine).collect();
        let ended = Ended::default();
        let storage = Manners {
            flush_interval_ms: randomness.random_range(200..2_000),
            log_keep_bytes: randomness.random_range(1..32) * 1_024,
            memory: straits.memory,
        };
        for machine in &machines {
            node::add(&mut sim, machine.clone(), ended.clone(), storage);
        }
        let begin = Duration::from_secs(5);
        let mut to_come = faults::plan(randomness, nodes, begin, begin + WORK);
        let mut crew = crew::add(&mut sim, &plan, groups, randomness);
        // Not beside operators, who may have taken one of three out already. Drawn last, so that what known seeds have
        // found stays where it was.
        if crew.operators == 0 && randomness.random_ratio(1, 3) {
            crew.add_replacers(&mut sim, &plan, randomness);
            to_come.extend(faults::plan_wipes(randomness, nodes, begin, begin + WORK));
            to_come.sort_by_key(|fault| fault.from);
        }
        World {
            sim,
            links: Links { nodes, callers: crew.hosts, slowest, traffic },
            plan,
            machines,
            ledger,
            ended,
            to_come,
            lasting: Vec::new(),
            deaths: 0,
            faults_at_rest: 0,
            checked: Checked::new(seed),
        }
    }

    /// Steps until everything has been read, or something makes that impossible.
    fn run(&mut self) -> Result<(), String> {
        let mut work_ends = None;
        loop {
            determinism::set_elapsed(self.sim.elapsed());
            let finished = self.sim.step().map_err(|error| format!("availability: {error}"))?;
            determinism::set_elapsed(self.sim.elapsed());
            let now = self.sim.elapsed();
            let changed = self.break_and_mend(now);
            self.check_in_time(now, changed);
            let shared = &self.plan.shared;
            if shared.phase() == Phase::Working && work_ends.is_none() {
                work_ends = Some(now + WORK);
            }
            let done_enough = shared.calls() >= verdict::CALLS_MIN as u64
                && shared.acknowledged() >= verdict::ACKNOWLEDGED_MIN as u64;
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
            return Err("availability: it ended before everything was read".to_owned());
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

    fn machine(&self, node: u64) -> &Machine {
        &self.machines[node as usize - 1]
    }

    /// Groups to which appends are in flight.
    fn groups_in_flight(&self) -> BTreeSet<GroupId> {
        let topology = memberships::topology(&self.machines);
        let group_of = |conversation: String| {
            let placement = ConversationName(conversation).id().placement();
            let groups = &topology.as_ref()?.groups;
            groups.iter().find(|group| group.range.contains(placement)).map(|group| group.id)
        };
        self.plan.shared.in_flight().into_iter().filter_map(group_of).collect()
    }

    fn outcome(self, seed: u64) -> Outcome {
        let shared = &self.plan.shared;
        let count = |count: fn(&Machine) -> u64| self.machines.iter().map(count).sum();
        Outcome {
            seed,
            nodes: self.plan.nodes,
            problems: shared.problems(),
            events: shared.events(),
            faults: shared.faults(),
            elapsed: self.sim.elapsed(),
            served_after: shared.served_after().map(Duration::from_nanos),
            healed_at: shared.healed_at(),
            replicas: memberships::replicas(&self.machines),
            seen: Coverage {
                truncations: count(|machine| machine.disk.truncations.load(Ordering::Relaxed)),
                installs: count(|machine| machine.disk.installs.load(Ordering::Relaxed)),
                leader_deaths_in_flight: self.ledger.leaders.succeeded(),
                faults_at_rest: self.faults_at_rest,
                overloads: self.links.traffic.overloads(),
                work: work::done(&shared.events()),
            },
        }
    }
}
