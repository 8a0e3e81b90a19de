use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::load::LoadArgs;
use super::target::TargetArgs;
use crate::cli::Output;

/// Measure appends: how many are acknowledged, and how long one takes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench append --local
  quorate bench append --local --producers 64 --mode unary --size 256
  quorate bench append --producers 8 --in-flight 128 --duration 30s --endpoints 10.0.0.1:7101
  quorate bench append --rate 5000 --in-flight 64 --output json
  quorate bench append --local --conversations 1000000 --count 1000000 --warm-up 0s --in-flight 1024
  quorate bench append --local --count 262144 --in-flight 1024 --flush --data /var/tmp

Latency is the time from handing an append to the client library to its acknowledgement, with --rate from the moment \
at which it was due. Without --rate the loop is closed: a stall delays one append for each that is in flight, not \
those that would have come meanwhile, so that the percentiles are those of a load that waits. The producers run in \
this process and share its machine. A local cluster has the product's default settings, and its memory and its \
writes are counted from Linux's /proc. Exits with 1 if an append failed.")]
pub struct AppendArgs {
    #[command(flatten)]
    load: LoadArgs,

    #[command(flatten)]
    target: TargetArgs,
}

pub(super) async fn run(args: AppendArgs, output: Output) -> anyhow::Result<ExitCode> {
    let target = args.target.start(output).await?;
    let outcome = args.load.prepare(&target, output).await?.run().await?;
    let all_payload_bytes = outcome.acknowledged_in_all * u64::from(args.load.size);
    let used = target.used(all_payload_bytes).await?;
    target.stop().await?;
    let text = || {
        let mut rows = outcome.rows();
        rows.extend(local_rows(&used));
        super::table(rows)
    };
    let json = || {
        json!({
            "bench": "append",
            "load": args.load.to_json(),
            "result": outcome.to_json(),
            "local": used,
        })
    };
    output.print(text, json)?;
    Ok(if outcome.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn local_rows(used: &Value) -> Vec<(&'static str, String)> {
    let of_nodes = |field: &str, show: &dyn Fn(f64) -> String| {
        let nodes = used["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let shown = nodes.iter().map(|node| node[field].as_f64().map_or("–".to_owned(), show));
        shown.collect::<Vec<_>>().join(", ")
    };
    if used.is_null() {
        return Vec::new();
    }
    let size = |bytes: f64| indicatif::BinaryBytes(bytes as u64).to_string();
    vec![
        ("resident memory of each node", of_nodes("resident_bytes", &size)),
        ("written to disk by each node", of_nodes("written_bytes", &size)),
        (
            "written per payload byte",
            of_nodes("written_bytes_per_payload_byte", &|ratio| format!("{ratio:.2}")),
        ),
    ]
}
