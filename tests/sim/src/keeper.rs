//! The client that makes the cluster of a simulation, and finds out at the end what became of everything.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_client::proto::{InitRequest, ReplaceRequest, init_request};
use quorate_client::{Client, Page, Start, reason};
use quorate_jepsen::history::{Consistency, ReadCall};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::sleep;

use crate::ground::PEER_PORT;
use crate::record::{Caller, Phase};
use crate::workload::{self, Plan};

/// Within this time after everything was mended every group has to serve: the longest election timeout, a lease, the
/// client's longest pauses, and snapshots for whoever missed much.
pub const SERVE_LIMIT: Duration = Duration::from_secs(30);

/// Makes the cluster, and reads everything when it is mended.
pub async fn keep(plan: Plan, groups: u32) {
    // There is no topology to learn yet.
    let client = workload::connect(&plan, Some(1)).await;
    let nodes = (1..=plan.nodes).map(|node| init_request::Node {
        node_id: node,
        peer_address: format!("n{node}:{PEER_PORT}"),
    });
    let request = InitRequest { nodes: nodes.collect(), groups, replication_factor: 0 };
    while let Err(error) = client.init(request.clone()).await {
        tracing::info!(%error, "not made yet");
        sleep(Duration::from_millis(200)).await;
    }
    plan.shared.set_phase(Phase::Working);
    while plan.shared.phase() == Phase::Working {
        sleep(Duration::from_millis(20)).await;
    }
    let serving = async {
        every_group_serves(&plan, None).await;
        meta_group_serves(&plan).await;
    };
    match tokio::time::timeout(SERVE_LIMIT, serving).await {
        Ok(()) => plan.shared.set_served(),
        Err(_) => {
            let what = "availability: a group does not serve in time once all is mended";
            return plan.shared.problem(what);
        }
    }
    // Whoever replaces it has a limit of its own.
    while plan.shared.wiped().is_some() {
        sleep(Duration::from_millis(50)).await;
    }
    for node in 1..=plan.nodes {
        let served = tokio::time::timeout(SERVE_LIMIT, every_group_serves(&plan, Some(node))).await;
        if served.is_err() {
            let what = format!("availability: a group does not serve in time through node {node}");
            return plan.shared.problem(what);
        }
    }
    while plan.shared.working() > 0 {
        sleep(Duration::from_millis(50)).await;
    }
    plan.shared.set_phase(Phase::Reading);
    let Ok(tails) = tokio::time::timeout(SERVE_LIMIT, read_everything(&plan)).await else {
        let what = "availability: not every node can be read in time once all is mended";
        return plan.shared.problem(what);
    };
    // What is committed reaches streams at once; their connections may have to notice that they broke.
    if tokio::time::timeout(SERVE_LIMIT, streams_reach(&plan, &tails)).await.is_err() {
        return plan.shared.problem("G6: a stream has not yielded everything in time");
    }
    plan.shared.set_verified();
    plan.shared.set_phase(Phase::Over);
}

/// Waits until the meta group's leader was confirmed by a quorum. Of a replacement that is the first step, and all that
/// is done for a node that does not exist.
async fn meta_group_serves(plan: &Plan) {
    let client = workload::connect(plan, None).await;
    let request = ReplaceRequest { node_id: plan.nodes + 1, ..ReplaceRequest::default() };
    loop {
        let replaced = async { client.replace(request.clone()).await?.next().await };
        match replaced.await {
            Err(error) if error.reason() == reason::INVALID_FIELD => return,
            said => tracing::info!(?said, "the meta group does not serve yet"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until every conversation was appended to: through this node, or else through whichever leads.
async fn every_group_serves(plan: &Plan, node: Option<u64>) {
    let client = workload::connect(plan, node).await;
    let mut randomness = SmallRng::seed_from_u64(1);
    let mut caller = plan.shared.caller(node.map(|node| node as u32));
    for conversation in plan.conversations.iter() {
        loop {
            let mut call = workload::new_append(plan, &mut randomness, "keeper");
            call.conversation.clone_from(conversation);
            if workload::append(plan, &client, &mut caller, call).await.is_ok() {
                break;
            }
        }
    }
}

async fn streams_reach(plan: &Plan, tails: &BTreeMap<String, u64>) {
    while !plan.shared.streams_reach(tails) {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Reads every conversation from every node, once all of them have everything. What their tails are.
async fn read_everything(plan: &Plan) -> BTreeMap<String, u64> {
    let client = workload::connect(plan, None).await;
    let mut tails = BTreeMap::new();
    for conversation in plan.conversations.iter() {
        let tail = loop {
            let request = quorate_client::Read::new(conversation.clone()).start(Start::Last(0));
            match client.read(request).await {
                Ok(page) => break page.tail,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        tails.insert(conversation.clone(), tail);
    }
    // This one binds: what it lacks is lost.
    let mut caller = plan.shared.caller(None);
    for conversation in tails.keys() {
        read_in_full(&client, &mut caller, conversation, Consistency::Linearizable).await;
    }
    for node in 1..=plan.nodes {
        let client = workload::connect(plan, Some(node)).await;
        let mut caller = plan.shared.caller(Some(node as u32));
        for (conversation, tail) in &tails {
            let up_to_tail = Consistency::AtLeast(tail.saturating_sub(1).max(1));
            let page = read_in_full(&client, &mut caller, conversation, up_to_tail).await;
            let answered_by = page.position.map_or(0, |position| position.node_id);
            let has_replica = answered_by == node;
            read_locally(plan, &client, &mut caller, (conversation, *tail), has_replica).await;
        }
    }
    tails
}

async fn read_in_full(
    client: &Client,
    caller: &mut Caller,
    conversation: &str,
    consistency: Consistency,
) -> Page {
    let conversation = conversation.to_owned();
    let call = ReadCall {
        conversation,
        consistency,
        from_seq: 1,
        limit: 100_000,
        of_the_end: false,
        is_final: true,
    };
    loop {
        match workload::read(client, caller, call.clone()).await {
            Ok(page) => return page,
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A node that answers from its own replica does so at `LOCAL` too, and has no less than it had. One without a replica
/// refuses: such reads are never handed on.
async fn read_locally(
    plan: &Plan,
    client: &Client,
    caller: &mut Caller,
    (conversation, tail): (&String, u64),
    has_replica: bool,
) {
    let consistency = Consistency::Local;
    let call = ReadCall {
        conversation: conversation.clone(),
        consistency,
        from_seq: 1,
        limit: 100_000,
        of_the_end: false,
        is_final: false,
    };
    let came = loop {
        match workload::read(client, caller, call.clone()).await {
            Ok(page) if has_replica && page.tail >= tail => return,
            Ok(page) => break format!("had a tail of {}", page.tail),
            Err(error) if error.reason() != reason::NO_REPLICA => {
                sleep(Duration::from_millis(100)).await;
            }
            Err(_) if !has_replica => return,
            Err(error) => break format!("was refused: {error}"),
        }
    };
    let has = if has_replica { "has a replica" } else { "has no replica" };
    let what =
        format!("G10: at tail {tail} a LOCAL read of {conversation} {came}, and the node {has}");
    plan.shared.problem(what);
}
