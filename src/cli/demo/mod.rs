//! The product in one command: three processes, chat through all of them, a leader killed in the middle, and the
//! count of what was lost.

mod chat;
mod load;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use quorate_client::{Client, ClientOptions, Routing};

use super::chat::ChatLine;
use super::output::note;
use super::{LocalCluster, LocalClusterOptions, Output};
use load::{Load, Sent};
use verdict::Verdict;

const NODES: u32 = 3;
/// How long an append may take before the demo gives up: longer than any election.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Watch chat survive a killed leader
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate demo
  quorate demo --messages 100000 --rate 20000
  quorate demo --file chat.ndjson

The file is one that `quorate send --file` takes, and is checked as a whole before anything is started. \
Exits with 1 if anything was lost, duplicated, out of order or altered, or was not acknowledged.")]
pub struct DemoArgs {
    /// How many messages are generated
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    messages: u32,

    /// Messages a second, over all nodes
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    rate: u32,

    /// Chat of your own instead of generated chat, as NDJSON
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(super) async fn run(args: DemoArgs, output: Output) -> anyhow::Result<ExitCode> {
    let lines = match &args.file {
        Some(path) => chat::read(path).await?,
        None => chat::generate(args.messages),
    };
    let quiet = output == Output::Json;
    let interrupted = crate::server::shutdown::on_signal()?;
    let options = LocalClusterOptions { nodes: NODES, quiet, ..LocalClusterOptions::default() };
    let demo = async {
        let mut cluster = LocalCluster::start(options).await?;
        let verdict = play(&mut cluster, lines, args.rate, output).await;
        // The nodes are stopped whatever came out.
        cluster.stop().await?;
        verdict
    };
    let verdict = tokio::select! {
        verdict = demo => verdict?,
        // Dropping the demo kills the nodes and removes their data.
        () = interrupted.cancelled() => return Ok(ExitCode::FAILURE),
    };
    output.print(|| verdict.to_text(), || verdict.to_json())?;
    Ok(verdict.exit_code())
}

async fn play(
    cluster: &mut LocalCluster,
    lines: Vec<ChatLine>,
    rate: u32,
    output: Output,
) -> anyhow::Result<Verdict> {
    let clients = clients(cluster).await?;
    let victim = busy_leader(cluster, &lines).await?;
    let total = lines.len();
    say(output, &format!("sending {total} messages through all {NODES} nodes, {rate} a second"));
    let load = Load::start(&clients, lines, rate, output)?;
    load.wait_for_outcomes(total * 2 / 5).await;
    load.note(&format!("killing node {victim} with SIGKILL: it leads the busiest group"));
    cluster.kill(victim).await?;
    load.wait_for_outcomes(total * 3 / 5).await;
    load.note(&format!("starting node {victim} again"));
    cluster.restart(victim).await?;
    let sent = load.finish().await?;
    say(output, "reading everything back from each node");
    verify(cluster, sent).await
}

/// Progress in words, for people.
fn say(output: Output, what: &str) {
    if output == Output::Text {
        note(what);
    }
}

async fn verify(cluster: &LocalCluster, sent: Sent) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::new(&sent);
    for address in cluster.endpoints() {
        // Knows no other node, so that no other one answers in this one's place.
        let client = client([address]).await?;
        verdict.add_replica(&client, &sent).await?;
    }
    Ok(verdict)
}

/// A client for each node that asks this node first.
async fn clients(cluster: &LocalCluster) -> anyhow::Result<Vec<Client>> {
    let endpoints = cluster.endpoints();
    let mut clients = Vec::with_capacity(endpoints.len());
    for first in 0..endpoints.len() {
        let mut ordered = endpoints.clone();
        ordered.rotate_left(first);
        clients.push(client(ordered).await?);
    }
    Ok(clients)
}

/// A client that asks these nodes in turn, whoever leads.
async fn client(addresses: impl IntoIterator<Item = String>) -> anyhow::Result<Client> {
    let endpoints = addresses.into_iter().map(|address| format!("http://{address}"));
    let options =
        ClientOptions::new(endpoints).routing(Routing::Proxy).request_timeout(REQUEST_TIMEOUT);
    Client::connect(options).await.context("connecting to a node")
}

/// The node that leads the group with the most of these messages.
async fn busy_leader(cluster: &LocalCluster, lines: &[ChatLine]) -> anyhow::Result<u32> {
    let endpoints = cluster.endpoints().into_iter().map(|address| format!("http://{address}"));
    // Only a client that goes to leaders itself keeps the topology.
    let client = Client::connect(ClientOptions::new(endpoints)).await?;
    let mut messages = std::collections::BTreeMap::<u64, usize>::new();
    for line in lines {
        if let Some(group) = client.group_of(&line.conversation) {
            *messages.entry(group).or_default() += 1;
        }
    }
    let busiest = messages.into_iter().max_by_key(|(_, count)| *count).map(|(group, _)| group);
    let topology = client.describe_cluster().await?.topology.context("no topology")?;
    let group = topology.groups.iter().find(|group| Some(group.group_id) == busiest);
    let leader = group.map(|group| group.leader_node_id).filter(|leader| *leader > 0);
    leader.and_then(|leader| u32::try_from(leader).ok()).context("the busiest group has no leader")
}
