//! Begins and ends the faults of a simulation, and sees whether they took effect.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_jepsen::history::Fault;

use super::World;
use crate::faults::{Planned, What};
use crate::ground::Machine;
use crate::memberships;
use crate::node::ASKED_TO;
use crate::record::Phase;

/// How often whoever watches over nodes starts those again whose disks have no room.
const RESTART_INTERVAL: Duration = Duration::from_millis(500);
const DAY_US: i64 = 24 * 3600 * 1_000_000;
/// By how much clocks are set wrong: within a step of the dedup floor, and beyond the horizon.
const CLOCK_SKEWS_US: [i64; 5] = [900_000, -2_000_000, 45_000_000, 40 * DAY_US, -40 * DAY_US];

/// A fault under way.
pub(super) struct Lasting {
    fault: Planned,
    /// How often what it is seen by had happened before it began.
    before: u64,
}

impl World {
    /// Begins and ends faults whose time has come. Whether there were any.
    pub(super) fn break_and_mend(&mut self, now: Duration) -> bool {
        let mut changed = false;
        if self.plan.shared.phase() > Phase::Working {
            return false;
        }
        // Before their faults may end: what such a process has left must not be looked at.
        let midway = self
            .lasting
            .iter()
            .map(|lasting| &lasting.fault)
            .filter(|fault| matches!(fault.what, What::Midway | What::Install));
        let has_died = |node: &u64| self.machine(*node).take_death_midway();
        let dead: Vec<u64> =
            midway.flat_map(|fault| fault.nodes.clone()).filter(has_died).collect();
        for node in dead {
            self.kill(node);
        }
        while let Some(at) = self.lasting.iter().position(|lasting| lasting.fault.to <= now) {
            let lasting = self.lasting.remove(at);
            self.mend(&lasting);
            changed = true;
        }
        while self.to_come.first().is_some_and(|fault| fault.from <= now) {
            let fault = self.to_come.remove(0);
            changed |= self.begin(fault);
        }
        let mut to_restart = Vec::new();
        for Lasting { fault, .. } in &self.lasting {
            if fault.what == What::ClockStrobe {
                let wrong = (now.as_millis() / 100).is_multiple_of(2);
                for node in &fault.nodes {
                    self.machine(*node).set_skew_us(if wrong { 700_000 } else { 0 });
                }
            }
            if fault.what == What::NoSpace {
                to_restart.extend(fault.nodes.iter().copied().filter(|node| self.has_ended(*node)));
            }
        }
        if now.as_millis().is_multiple_of(RESTART_INTERVAL.as_millis()) {
            self.restart(&to_restart);
        }
        changed
    }

    /// Begins a fault, unless one of its kind lasts already: which of the two would a mending end?
    fn begin(&mut self, fault: Planned) -> bool {
        if self.lasting.iter().any(|other| other.fault.what.clashes_with(fault.what)) {
            return false;
        }
        if fault.what == What::Wipe {
            return self.wipe(fault.nodes[0]);
        }
        self.faults_at_rest += u64::from(fault.nodes.iter().any(|node| self.rests(*node)));
        let (before, _) = self.seen_of(&fault);
        match fault.what {
            What::Crash => {
                for node in &fault.nodes {
                    self.kill(*node);
                }
            }
            What::Midway | What::Install => {
                let drawn = fault.from.as_millis() as usize;
                for (place, node) in fault.nodes.iter().enumerate() {
                    let in_install = fault.what == What::Install;
                    self.machine(*node).die_midway(drawn / 5 + 7 * place, in_install);
                }
            }
            What::Stop => {
                for node in &fault.nodes {
                    self.machine(*node).ask_to_stop();
                }
            }
            What::Clock => {
                let drawn = fault.from.as_millis() as usize;
                for (place, node) in fault.nodes.iter().enumerate() {
                    let skew = CLOCK_SKEWS_US[(drawn + place) % CLOCK_SKEWS_US.len()];
                    self.machine(*node).set_skew_us(skew);
                }
            }
            What::DiskError => {
                const EIO: &str = "input/output error (simulated)";
                // Of each three what changes it fails, what reads it, and both.
                let drawn = fault.from.as_millis() % 3;
                for node in &fault.nodes {
                    let machine = self.machine(*node);
                    machine.set_failing((drawn != 1).then_some(EIO));
                    machine.set_unreadable((drawn != 0).then_some(EIO));
                }
            }
            What::NoSpace => {
                for node in &fault.nodes {
                    self.machine(*node).set_failing(Some("no space left on device (simulated)"));
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
            What::SlowDisk => {
                for node in &fault.nodes {
                    self.machine(*node).set_slowest(Some(Duration::from_millis(900)));
                }
            }
            _ => self.links.break_for(&fault, &mut self.sim),
        }
        tracing::info!(what = fault.what.name(), nodes = ?fault.nodes, "begins");
        self.lasting.push(Lasting { fault, before });
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
        self.stop(node);
        machine.wipe();
        shared.set_wiped(Some(node));
        self.start(&[node]);
        tracing::info!(node, "has lost its disk");
        let now = self.sim.elapsed().as_nanos() as u64;
        shared.fault(Fault {
            from: now,
            to: now,
            nemesis: What::Wipe.name().to_owned(),
            nodes: vec![node as u32],
            what: format!("{:?}", What::Wipe),
            effect: Some("started with an empty disk".to_owned()),
            served_after: None,
        });
        true
    }

    fn mend(&mut self, Lasting { fault, before }: &Lasting) {
        let (happened, what) = self.seen_of(fault);
        let effect = (happened > *before).then(|| format!("{} {what}", happened - before));
        tracing::info!(what = fault.what.name(), nodes = ?fault.nodes, effect, "is mended");
        match fault.what {
            What::Crash => self.start(&fault.nodes),
            // Those too that have changed nothing meanwhile, or not stopped yet.
            What::Midway | What::Install | What::Stop => self.restart(&fault.nodes),
            What::Clock | What::ClockStrobe => {
                for node in &fault.nodes {
                    self.machine(*node).set_skew_us(0);
                }
            }
            What::DiskError | What::NoSpace => {
                for node in &fault.nodes {
                    self.machine(*node).set_failing(None);
                    self.machine(*node).set_unreadable(None);
                }
                self.restart(&fault.nodes);
            }
            What::DiskFull => {
                for node in &fault.nodes {
                    self.machine(*node).set_free_bytes(u64::MAX);
                }
            }
            What::SlowDisk => {
                for node in &fault.nodes {
                    self.machine(*node).set_slowest(None);
                }
            }
            _ => self.links.mend(fault, &mut self.sim),
        }
        self.plan.shared.fault(Fault {
            from: fault.from.as_nanos() as u64,
            to: self.sim.elapsed().as_nanos() as u64,
            nemesis: fault.what.name().to_owned(),
            nodes: fault.nodes.iter().map(|node| *node as u32).collect(),
            what: if fault.reaches_clients() {
                format!("{:?}, of clients too", fault.what)
            } else {
                format!("{:?}", fault.what)
            },
            effect,
            served_after: None,
        });
    }

    pub(super) fn mend_all(&mut self) {
        for lasting in std::mem::take(&mut self.lasting) {
            self.mend(&lasting);
        }
        self.to_come.clear();
    }

    /// What a fault is seen by, and how often that has happened so far. One that lasts has taken effect when it has
    /// happened more often than before.
    fn seen_of(&self, fault: &Planned) -> (u64, &'static str) {
        let nodes = &fault.nodes;
        let sum = |count: &dyn Fn(&Machine) -> u64| {
            nodes.iter().map(|node| count(self.machine(*node))).sum::<u64>()
        };
        match fault.what {
            What::Crash => (self.deaths, "processes died"),
            What::Midway | What::Install => {
                (sum(&Machine::deaths_midway), "processes died in what they changed")
            }
            What::DiskError | What::NoSpace | What::Stop => {
                let ended = nodes.iter().filter(|node| self.has_ended(**node)).count() as u64;
                (self.deaths + ended, "times a node stopped")
            }
            What::Delay => {
                let counts = self.links.counts(fault, &self.sim);
                (counts.sent - counts.stopped, "messages took slow links")
            }
            What::Clock | What::ClockStrobe => {
                (sum(&Machine::misreadings), "times a wrong clock was read")
            }
            What::DiskFull => {
                let known = sum(&|machine| u64::from(machine.knows_of_little_room()));
                (known, "nodes knew of it")
            }
            What::SlowDisk => {
                let slowed = sum(&|machine| machine.disk.slowed.load(Ordering::Relaxed));
                (slowed, "operations were slow")
            }
            _ => (self.links.counts(fault, &self.sim).stopped, "messages were stopped"),
        }
    }

    fn kill(&mut self, node: u64) {
        self.stop(node);
        self.machine(node).lose_unsynced();
    }

    /// Ends its process, if that has not ended by itself.
    fn stop(&mut self, node: u64) {
        let name = self.machine(node).name();
        let runs = self.sim.is_host_running(name.clone());
        self.deaths += u64::from(runs);
        let in_flight = if runs { self.groups_in_flight() } else { BTreeSet::new() };
        self.ledger.leaders.died(self.machine(node).node, &in_flight);
        self.sim.crash(name);
    }

    /// Starts nodes again whose disks failed, whether they have noticed or not.
    fn restart(&mut self, nodes: &[u64]) {
        for node in nodes {
            self.deaths += u64::from(self.has_ended(*node));
            self.kill(*node);
        }
        self.start(nodes);
    }

    fn start(&mut self, nodes: &[u64]) {
        for node in nodes {
            self.ended.borrow_mut().remove(node);
            self.sim.bounce(self.machine(*node).name());
        }
    }

    /// Nodes end by themselves only where their disks fail, or where they are asked to.
    pub(super) fn expect_to_live(&self) {
        for (node, why) in self.ended.borrow().iter() {
            let may_end = |Lasting { fault, .. }: &Lasting| {
                let is_meant = match fault.what {
                    What::DiskError | What::NoSpace => true,
                    What::Midway | What::Install => self.machine(*node).is_half_done(),
                    What::Stop => why == ASKED_TO,
                    _ => false,
                };
                is_meant && fault.nodes.contains(node)
            };
            if !self.lasting.iter().any(may_end) {
                self.plan
                    .shared
                    .problem(format!("availability: node {node} ended by itself: {why}"));
            }
        }
    }

    /// Whether all replicas of a node are parked.
    fn rests(&self, node: u64) -> bool {
        let machine = self.machine(node);
        let replicas = machine.replicas("leader") + machine.replicas("follower");
        replicas > 0 && machine.parked() == replicas
    }

    /// Whether its process has ended by itself.
    fn has_ended(&self, node: u64) -> bool {
        self.ended.borrow().contains_key(&node)
    }
}
