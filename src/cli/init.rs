use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use quorate_client::proto::InitRequest;
use quorate_client::proto::init_request::Node;

use super::{ConnectArgs, Output};

/// Make a cluster of nodes that run and belong to none
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate init --node 1=127.0.0.1:7201
  quorate init --node 1=10.0.0.1:7201 --node 2=10.0.0.2:7201 --node 3=10.0.0.3:7201 \\
    --endpoints 10.0.0.1:7101

Run it once. The same nodes again change nothing and report the same cluster.")]
pub struct InitArgs {
    /// A node: its node_id and the address of its peer port, as the other nodes reach it
    #[arg(long = "node", value_name = "ID=HOST:PORT", required = true, value_parser = parse_node)]
    nodes: Vec<(u64, String)>,

    /// Raft groups to divide conversations among [default: the larger of 12 and 4 × nodes]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    groups: Option<u32>,

    /// Replicas of each group, odd [default: 3, or 1 with fewer than three nodes]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=7))]
    replication_factor: Option<u32>,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: InitArgs, output: Output) -> anyhow::Result<ExitCode> {
    let mut cluster = args.connect.cluster().await?;
    let nodes = args.nodes.iter().map(|(node_id, peer_address)| Node {
        node_id: *node_id,
        peer_address: peer_address.clone(),
    });
    let request = InitRequest {
        nodes: nodes.collect(),
        groups: args.groups.unwrap_or(0),
        replication_factor: args.replication_factor.unwrap_or(0),
    };
    let response = args
        .connect
        .within(cluster.init(request))
        .await
        .context("the cluster was not initialized")?;
    let text = || match response.created {
        true => format!("created cluster {}\nnext: quorate status", response.cluster_id),
        false => format!("cluster {} exists already: nothing changed", response.cluster_id),
    };
    let json =
        || serde_json::json!({ "cluster_id": response.cluster_id, "created": response.created });
    output.print(text, json)?;
    Ok(ExitCode::SUCCESS)
}

fn parse_node(text: &str) -> Result<(u64, String), String> {
    let (id, address) =
        text.split_once('=').ok_or("expected ID=HOST:PORT, such as 1=127.0.0.1:7201")?;
    let id = match id.parse::<u32>() {
        Ok(id) if id > 0 => u64::from(id),
        _ => return Err(format!("{id:?} is not a node id: they count from 1")),
    };
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0) => {
            Ok((id, address.to_owned()))
        }
        _ => Err(format!("{address:?} is not host:port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_an_id_and_an_address() {
        assert_eq!(parse_node("3=[::1]:7201"), Ok((3, "[::1]:7201".to_owned())));
        for wrong in ["", "1", "1=", "0=a:1", "x=a:1", "1=a", "1=a:0", "1=:1", "1=a:65536"] {
            assert!(parse_node(wrong).is_err(), "{wrong}");
        }
    }
}
