use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{LocalCluster, LocalClusterOptions, Output, output};

/// Where the command line looks without `--endpoints`.
const DEFAULT_ENDPOINT: &str = "127.0.0.1:7101";

/// Run a whole cluster on this machine until Ctrl-C
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate dev
  quorate dev --data ./dev-data      (kept: the next start continues with it)
  quorate dev --nodes 5

Each node is a process of its own: kill one, and watch the others go on.")]
pub struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    nodes: u32,

    /// Where to keep data, configuration and logs [default: a directory that is removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Raft groups of a new cluster [default: the larger of 12 and 4 × nodes]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    groups: Option<u32>,
}

pub(super) async fn run(args: DevArgs, output: Output) -> anyhow::Result<ExitCode> {
    let options = LocalClusterOptions {
        nodes: args.nodes,
        dir: args.data,
        standard_ports: true,
        groups: args.groups.unwrap_or(0),
        quiet: output == Output::Json,
        ..LocalClusterOptions::default()
    };
    // From here on Ctrl-C ends the wait below instead of this process, so that the nodes are stopped and data that
    // is not kept is removed.
    let interrupted = crate::server::shutdown::on_signal()?;
    let cluster = tokio::select! {
        cluster = LocalCluster::start(options) => cluster?,
        () = interrupted.cancelled() => return Ok(ExitCode::FAILURE),
    };
    output.print(|| what_next(&cluster), || to_json(&cluster))?;
    interrupted.cancelled().await;
    if output == Output::Text {
        output::note("\nstopping");
    }
    // Nodes are killed here for the fun of it: that does not make this a failure.
    if let Err(error) = cluster.stop().await
        && output == Output::Text
    {
        output::note(&format!("{error:#}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn what_next(cluster: &LocalCluster) -> String {
    let endpoints = cluster.endpoints();
    let mut page = format!("\ncluster {} is ready:\n\n", cluster.cluster_id());
    for (position, (client, http)) in endpoints.iter().zip(cluster.http_addresses()).enumerate() {
        let node = position as u32 + 1;
        let pid = cluster.pid(node).unwrap_or(0);
        writeln!(page, "  node {node}  gRPC {client}  http://{http}/  pid {pid}")
            .expect("String takes all");
    }
    let program = std::env::current_exe().map_or("quorate".into(), |p| p.display().to_string());
    let first = &endpoints[0];
    let setting = match first == DEFAULT_ENDPOINT {
        true => String::new(),
        false => format!("  export QUORATE_ENDPOINTS={}\n", endpoints.join(",")),
    };
    let last = endpoints.last().expect("a cluster has nodes");
    let dir = cluster.dir().display();
    write!(
        page,
        "
Type in another terminal:

  alias quorate={program}
{setting}  quorate status
  quorate send acme/room-42 --sender alice 'hello, world'
  quorate read acme/room-42
  quorate follow acme/room-42

or, without our command line, with grpcurl (https://github.com/fullstorydev/grpcurl):

  grpcurl -plaintext {first} list quorate.v1.MessageLog
  grpcurl -plaintext -d '{{\"conversation\":\"acme/room-42\",\"sender\":\"bob\",\"messages\":[{{\"client_msg_id\":\"m1\",\\
    \"issued_at_us\":'$(date +%s)000000',\"payload\":\"'$(echo -n hi | base64)'\"}}]}}' \\
    {first} quorate.v1.MessageLog/Append
  grpcurl -plaintext -d '{{\"conversation\":\"acme/room-42\"}}' {last} quorate.v1.MessageLog/Read

Kill a node and watch:  kill -9 PID; quorate status
Data, configuration and logs: {dir}
Ctrl-C stops the cluster.
"
    )
    .expect("String takes all");
    page
}

fn to_json(cluster: &LocalCluster) -> serde_json::Value {
    let endpoints = cluster.endpoints();
    let nodes: Vec<_> = endpoints
        .iter()
        .zip(cluster.http_addresses())
        .enumerate()
        .map(|(position, (client, http))| {
            let node = position as u32 + 1;
            json!({
                "node_id": node,
                "client_address": client,
                "http_address": http,
                "pid": cluster.pid(node),
            })
        })
        .collect();
    json!({ "cluster_id": cluster.cluster_id(), "dir": cluster.dir(), "nodes": nodes })
}
