//! Whoever runs the cluster of a simulation: replaces replicas while things break, healthy ones too, goes away in the
//! middle of it, and comes back. At the end what was begun is completed, as the documentation says: by asking again.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_client::proto::ReplaceRequest;
use quorate_client::{Client, Error};
use quorate_jepsen::history::{Fault, Nanos};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use crate::record::{Phase, now};
use crate::workload::{self, Plan};

/// How long a replacement may take once all is mended, however often it has to be asked for.
const COMPLETE_LIMIT: Duration = Duration::from_secs(60);

/// Works until everything is mended, and then completes what it has begun.
pub async fn operate(plan: Plan, seed: u64) {
    let mut randomness = SmallRng::seed_from_u64(seed);
    let mut begun = BTreeMap::new();
    while plan.shared.phase() < Phase::Working {
        sleep(Duration::from_millis(20)).await;
    }
    loop {
        sleep(Duration::from_millis(randomness.random_range(300..6_000))).await;
        if plan.shared.phase() > Phase::Working {
            break;
        }
        let (node, through) = (pick(&mut randomness, &plan), pick(&mut randomness, &plan));
        let all = randomness.random_ratio(2, 3);
        begun.entry(node).or_insert_with(now);
        // It is gone in the middle more often than not.
        let patience = Duration::from_millis(randomness.random_range(50..9_000));
        let attempt = async {
            let client = workload::connect(&plan, Some(through)).await;
            replace(&client, node, all).await
        };
        match timeout(patience, attempt).await {
            Ok(Ok(())) => complete(&plan, &mut begun, node),
            Ok(Err(error)) => tracing::info!(node, %error, "not replaced"),
            Err(_) => tracing::info!(node, "the operator has gone"),
        }
    }
    for node in begun.keys().copied().collect::<Vec<_>>() {
        let completing = async {
            let client = workload::connect(&plan, None).await;
            while let Err(error) = replace(&client, node, false).await {
                tracing::info!(node, %error, "not replaced yet");
                sleep(Duration::from_millis(200)).await;
            }
        };
        match timeout(COMPLETE_LIMIT, completing).await {
            Ok(()) => complete(&plan, &mut begun, node),
            Err(_) => plan.shared.problem(format!("G9: node {node} cannot be replaced in time")),
        }
    }
    plan.shared.change_working(-1);
}

fn pick(randomness: &mut SmallRng, plan: &Plan) -> u64 {
    randomness.random_range(1..=plan.nodes)
}

async fn replace(client: &Client, node: u64, all: bool) -> Result<(), Error> {
    let request = ReplaceRequest { node_id: node, all, ..ReplaceRequest::default() };
    let mut steps = client.replace(request).await?;
    while let Some(step) = steps.next().await? {
        tracing::info!(node, group = step.group_id, step = step.step, "replacing");
    }
    Ok(())
}

/// From the first attempt on the node's replicas were disturbed.
fn complete(plan: &Plan, begun: &mut BTreeMap<u64, Nanos>, node: u64) {
    let Some(from) = begun.remove(&node) else { return };
    plan.shared.fault(Fault {
        from,
        to: now(),
        nemesis: "replace".to_owned(),
        nodes: vec![node as u32],
        what: "its replicas were made anew".to_owned(),
        effect: Some("as simulated".to_owned()),
        served_after: None,
    });
}
