use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use comfy_table::{Table, presets};
use quorate_client::proto::{
    DescribeClusterRequest, DescribeClusterResponse, Group, Node, NodeStatus, Topology,
};
use serde_json::{Value, json};

use super::health::{Problem, bytes, diagnose, lag_by_group};
use super::{ConnectArgs, Output};

/// Say whether the cluster is healthy, or what is not and what to do
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate status
  quorate status --endpoints 10.0.0.1:7101,10.0.0.2:7101
  quorate status --output json | jq .problems

The first line is `healthy`, or names what is not. Exits with 1 when the cluster is not healthy.")]
pub struct StatusArgs {
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: StatusArgs, output: Output) -> anyhow::Result<ExitCode> {
    let mut cluster = args.connect.cluster().await?;
    let described =
        args.connect.within(cluster.describe_cluster(DescribeClusterRequest {})).await?;
    let problems = diagnose(&described);
    output.print(|| text(&described, &problems), || to_json(&described, &problems))?;
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(described: &DescribeClusterResponse, problems: &[Problem]) -> String {
    let mut page = String::new();
    if problems.is_empty() {
        page.push_str("healthy\n");
    }
    for problem in problems {
        writeln!(page, "{}\n  next: {}", problem.what, problem.next).expect("String takes all");
    }
    if let Some(topology) = described.topology.as_ref().filter(|t| !t.cluster_id.is_empty()) {
        let leads = match topology.meta_leader_node_id {
            0 => "the meta group has no known leader".to_owned(),
            node => format!("node {node} leads the meta group"),
        };
        let (id, version) = (&topology.cluster_id, topology.version);
        writeln!(page, "\ncluster {id}, topology version {version}, {leads}\n")
            .expect("String takes all");
        writeln!(page, "{}\n", nodes_table(topology, described)).expect("String takes all");
        writeln!(page, "{}", groups_table(topology, described)).expect("String takes all");
    }
    page
}

fn nodes_table(topology: &Topology, described: &DescribeClusterResponse) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "node",
        "state",
        "client",
        "zone",
        "leads",
        "replicas",
        "parked",
        "disk free",
        "up",
    ]);
    for node in &topology.nodes {
        let status = status_of(described, node);
        let up = status.filter(|status| status.reachable);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
        table.add_row([
            node.node_id.to_string(),
            if up.is_some() { "up".to_owned() } else { "no answer".to_owned() },
            node.client_address.clone(),
            node.zone.clone(),
            or_dash(up.map(|status| count_of(status, "leader").to_string())),
            or_dash(up.map(|status| status.replicas.len().to_string())),
            or_dash(up.map(|status| {
                status.replicas.iter().filter(|replica| replica.parked).count().to_string()
            })),
            or_dash(up.map(|status| bytes(status.disk_free_bytes))),
            or_dash(up.map(|status| {
                let up = Duration::from_micros(status.uptime_us);
                indicatif::HumanDuration(up).to_string()
            })),
        ]);
    }
    table
}

fn groups_table(topology: &Topology, described: &DescribeClusterResponse) -> Table {
    let lag = lag_by_group(described);
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["group", "leader", "replicas on nodes", "applied", "lag"]);
    for group in &topology.groups {
        let applied = applied_by_node(described, group.group_id);
        table.add_row([
            group.group_id.to_string(),
            match group.leader_node_id {
                0 => "none".to_owned(),
                node => format!("node {node}"),
            },
            replica_nodes(group),
            applied.values().max().map_or_else(|| "–".to_owned(), ToString::to_string),
            lag.get(&group.group_id).map_or_else(|| "–".to_owned(), ToString::to_string),
        ]);
    }
    table
}

fn replica_nodes(group: &Group) -> String {
    let nodes: Vec<String> = group.replicas.iter().map(|r| r.node_id.to_string()).collect();
    nodes.join(" ")
}

fn status_of<'a>(described: &'a DescribeClusterResponse, node: &Node) -> Option<&'a NodeStatus> {
    described.nodes.iter().find(|status| status.node_id == node.node_id)
}

fn count_of(status: &NodeStatus, role: &str) -> usize {
    status.replicas.iter().filter(|replica| replica.role == role).count()
}

fn applied_by_node(described: &DescribeClusterResponse, group: u64) -> BTreeMap<u64, u64> {
    let mut applied = BTreeMap::new();
    for node in &described.nodes {
        for replica in node.replicas.iter().filter(|replica| replica.group_id == group) {
            applied.insert(node.node_id, replica.applied_index);
        }
    }
    applied
}

fn to_json(described: &DescribeClusterResponse, problems: &[Problem]) -> Value {
    let topology = described.topology.clone().unwrap_or_default();
    let lag = lag_by_group(described);
    let problems: Vec<Value> =
        problems.iter().map(|p| json!({ "what": p.what, "next": p.next })).collect();
    let nodes: Vec<Value> =
        topology.nodes.iter().map(|node| node_json(node, status_of(described, node))).collect();
    let groups: Vec<Value> = topology
        .groups
        .iter()
        .map(|group| {
            json!({
                "group_id": group.group_id,
                "active": group.active,
                "leader_node_id": group.leader_node_id,
                "epoch": group.epoch,
                "nodes": group.replicas.iter().map(|r| r.node_id).collect::<Vec<_>>(),
                "applied_index_by_node": applied_by_node(described, group.group_id),
                "lag_entries": lag.get(&group.group_id),
            })
        })
        .collect();
    json!({
        "healthy": problems.is_empty(),
        "problems": problems,
        "cluster_id": topology.cluster_id,
        "topology_version": topology.version,
        "feature_level": topology.feature_level,
        "meta_leader_node_id": topology.meta_leader_node_id,
        "answered_by": described.node_id,
        "nodes": nodes,
        "groups": groups,
    })
}

fn node_json(node: &Node, status: Option<&NodeStatus>) -> Value {
    let status = status.cloned().unwrap_or_default();
    let replicas: Vec<Value> = status
        .replicas
        .iter()
        .map(|replica| {
            json!({
                "group_id": replica.group_id,
                "role": replica.role,
                "term": replica.term,
                "last_index": replica.last_index,
                "applied_index": replica.applied_index,
                "durable_index": replica.durable_index,
                "purged_index": replica.purged_index,
                "leader_node_id": replica.leader_node_id,
                "incarnation": replica.incarnation,
                "parked": replica.parked,
                "problem": replica.problem,
            })
        })
        .collect();
    json!({
        "node_id": node.node_id,
        "client_address": node.client_address,
        "peer_address": node.peer_address,
        "http_address": node.http_address,
        "zone": node.zone,
        "reachable": status.reachable,
        "version": status.version,
        "disk_free_bytes": status.disk_free_bytes,
        "disk_mark": status.disk_mark,
        "uptime_us": status.uptime_us,
        "replicas": replicas,
    })
}
