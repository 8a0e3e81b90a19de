//! Whoever runs the cluster of a simulation: replaces replicas while things break, healthy ones too and those that lost
//! their disks, goes away in the middle of it, and comes back. At the end what was begun is completed, as the
//! documentation says: by asking again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_client::proto::ReplaceRequest;
use quorate_client::{Client, Error};
use quorate_jepsen::history::{Fault, Nanos};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use crate::faults::REPLACE;
use crate::record::{Phase, now};
use crate::workload::{self, Plan};

/// How long a replacement may take once all is mended, however often it has to be asked for.
const COMPLETE_LIMIT: Duration = Duration::from_secs(60);
/// A node that writes to an operator who has gone is told so within a second, and what it has proposed by then is made
/// within five or never.
const NOTICED_WITHIN: Duration = Duration::from_secs(7);
/// How long one of several is waited for before the next is tried.
const TURN: Duration = Duration::from_secs(10);

/// Works until everything is mended, and then completes what it has begun.
pub async fn operate(plan: Plan, seed: u64) {
    let mut operator = Operator::new(plan.clone(), seed);
    while plan.shared.phase() < Phase::Working {
        sleep(Duration::from_millis(20)).await;
    }
    loop {
        sleep(Duration::from_millis(operator.randomness.random_range(300..6_000))).await;
        if plan.shared.phase() > Phase::Working {
            break;
        }
        let node = operator.pick();
        let all = operator.randomness.random_ratio(2, 3);
        operator.attempt(node, all).await;
    }
    operator.finish().await;
    plan.shared.change_working(-1);
}

/// Replaces nodes that have lost their disks, and now and then, by mistake, another one meanwhile.
pub async fn replace_wiped(plan: Plan, seed: u64) {
    let mut operator = Operator::new(plan.clone(), seed);
    loop {
        match plan.shared.wiped() {
            _ if plan.shared.phase() > Phase::Working => break,
            Some(wiped) if operator.randomness.random_ratio(3, 4) => {
                if operator.attempt(wiped, false).await {
                    plan.shared.set_wiped(None);
                }
            }
            Some(_) => {
                let mistaken = operator.pick();
                operator.attempt(mistaken, true).await;
            }
            None => {
                operator.complete_all().await;
            }
        }
        sleep(Duration::from_millis(operator.randomness.random_range(20..2_000))).await;
    }
    // Its turn may come only after that of those that were replaced by mistake.
    if let Some(wiped) = plan.shared.wiped() {
        operator.begin(wiped);
    }
    if operator.finish().await {
        plan.shared.set_wiped(None);
    }
    plan.shared.change_working(-1);
}

struct Operator {
    plan: Plan,
    randomness: SmallRng,
    /// Nodes whose replacement is not complete, and since when.
    begun: BTreeMap<u64, Nanos>,
    /// Of those, the ones that it has not only asked about.
    disturbed: BTreeSet<u64>,
    /// All that it ever began.
    attempted: BTreeSet<u64>,
}

impl Operator {
    fn new(plan: Plan, seed: u64) -> Self {
        Operator {
            plan,
            randomness: SmallRng::seed_from_u64(seed),
            begun: BTreeMap::new(),
            disturbed: BTreeSet::new(),
            attempted: BTreeSet::new(),
        }
    }

    fn pick(&mut self) -> u64 {
        self.randomness.random_range(1..=self.plan.nodes)
    }

    fn begin(&mut self, node: u64) {
        self.begun.entry(node).or_insert_with(|| {
            self.plan.shared.change_replacing(1);
            now()
        });
    }

    /// Replaces a node's replicas, and is gone in the middle of it more often than not. Whether it was done.
    async fn attempt(&mut self, node: u64, all: bool) -> bool {
        let through = self.pick();
        let patience = Duration::from_millis(self.randomness.random_range(50..9_000));
        self.begin(node);
        self.disturbed.insert(node);
        self.attempted.insert(node);
        let attempt = async {
            let client = workload::connect(&self.plan, Some(through)).await;
            replace(&client, node, all).await
        };
        match timeout(patience, attempt).await {
            Ok(Ok(made)) => {
                self.complete(node, made);
                return true;
            }
            Ok(Err(error)) => tracing::info!(node, %error, "not replaced"),
            Err(_) => tracing::info!(node, "the operator has gone"),
        }
        false
    }

    /// Once all is mended: completes what was ever begun. Whoever gave up on a call does not know what became of it, and it
    /// may have gone on until the node noticed.
    async fn finish(&mut self) -> bool {
        sleep(NOTICED_WITHIN).await;
        for node in self.attempted.clone() {
            self.begin(node);
        }
        self.complete_all().await
    }

    /// What was begun is completed by asking for it again, of one node after the other: one may have to wait for another.
    /// Whether it is; that it is not in time, once all is mended, is a problem.
    async fn complete_all(&mut self) -> bool {
        let began = now();
        let mut turn = 0;
        while !self.begun.is_empty() {
            let since = self.plan.shared.healed_at().map_or(began, |healed| healed.max(began));
            if now() > since + COMPLETE_LIMIT.as_nanos() as Nanos {
                if self.plan.shared.phase() > Phase::Working {
                    let what = format!("G9: nodes {:?} cannot be replaced in time", self.begun);
                    self.plan.shared.problem(what);
                }
                return false;
            }
            let node = *self.begun.keys().nth(turn % self.begun.len()).expect("there is one");
            turn += 1;
            // One that has lost its disk knows no cluster.
            let mut through = self.pick();
            while through == node {
                through = self.pick();
            }
            let attempt = async {
                let client = workload::connect(&self.plan, Some(through)).await;
                replace(&client, node, false).await
            };
            match timeout(TURN, attempt).await {
                Ok(Ok(made)) => self.complete(node, made),
                Ok(Err(error)) => tracing::info!(node, %error, "not replaced yet"),
                Err(_) => tracing::info!(node, "not replaced yet"),
            }
            sleep(Duration::from_millis(200)).await;
        }
        true
    }

    /// From the first attempt on the node's replicas were disturbed.
    fn complete(&mut self, node: u64, made: usize) {
        let Some(from) = self.begun.remove(&node) else { return };
        let shared = &self.plan.shared;
        shared.change_replacing(-1);
        if !self.disturbed.remove(&node) && made == 0 {
            return;
        }
        shared.fault(Fault {
            from,
            to: now(),
            nemesis: REPLACE.to_owned(),
            nodes: vec![node as u32],
            what: "its replicas are made anew".to_owned(),
            // It may be that the attempt that was cut off made them all, and that it made none.
            effect: (made > 0).then(|| format!("{made} were")),
            served_after: None,
        });
    }
}

/// How many replicas were made anew.
async fn replace(client: &Client, node: u64, all: bool) -> Result<usize, Error> {
    let request = ReplaceRequest { node_id: node, all, ..ReplaceRequest::default() };
    let mut steps = client.replace(request).await?;
    let mut made = 0;
    while let Some(step) = steps.next().await? {
        let reason = step.reason;
        tracing::info!(node, group = step.group_id, step = step.step, reason, "replacing");
        made += usize::from(step.step == "voter");
    }
    Ok(made)
}
