use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::load::LoadArgs;
use super::probe;
use super::target::TargetArgs;
use crate::cli::Output;

/// Measure appends: how many are acknowledged, and how long one takes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench append --local --mode unary --probe
  quorate bench append --local --producers 64 --mode unary
  quorate bench append --local --producers 64 --mode session
  quorate bench append --local --producers 8 --in-flight 128
  quorate bench append --local --conversations 1 --in-flight 512
  quorate bench append --local --producers 8 --in-flight 128 --proxied
  quorate bench append --producers 8 --in-flight 128 --duration 30s --endpoints 10.0.0.1:7101
  quorate bench append --rate 5000 --in-flight 64 --output json
  quorate bench append --local --size 1024 --count 524288 --in-flight 1024 --flush --data /var/tmp

Latency is the time from handing an append to the client library to its acknowledgement, with --rate from the moment \
at which it was due. Without --rate the loop is closed: a stall delays one append for each that is in flight, not \
those that would have come meanwhile, so that the percentiles are those of a load that waits. The producers run in \
this process and share its machine.

A local cluster has the product's default settings. Its memory, processor time and writes are counted from Linux's \
/proc, and its writes told apart: to the write-ahead log, by flushes of memtables, by compactions. Before compaction \
is what is left of the whole without the last. Exits with 1 if an append failed.")]
pub struct AppendArgs {
    #[command(flatten)]
    load: LoadArgs,

    #[command(flatten)]
    target: TargetArgs,

    /// Wait until the local nodes have flushed everything to disk before their writes are counted
    #[arg(long, requires = "local")]
    flush: bool,

    /// Time the local disk's synced append and a round trip over loopback first: what an append cannot be faster than
    #[arg(long, requires = "local")]
    probe: bool,
}

pub(super) async fn run(args: AppendArgs, output: Output) -> anyhow::Result<ExitCode> {
    let mut target = args.target.start(output).await?;
    let probe = match target.local().filter(|_| args.probe) {
        Some(local) => probe::latencies(local.dir(), args.load.size as usize).await?,
        None => Value::Null,
    };
    let outcome = args.load.prepare(&target, output).await?.run().await?;
    let all_payload_bytes = outcome.acknowledged_in_all * u64::from(args.load.size);
    let used = target.finish(all_payload_bytes, args.flush).await?;
    let text = || {
        let mut rows = outcome.rows();
        rows.extend(probe_rows(&probe));
        rows.extend(local_rows(&used));
        super::table(rows)
    };
    let json = || {
        json!({
            "bench": "append",
            "load": args.load.to_json(),
            "probe": probe,
            "result": outcome.to_json(),
            "local": used,
        })
    };
    output.print(text, json)?;
    Ok(if outcome.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn probe_rows(probe: &Value) -> Vec<(&'static str, String)> {
    let row = |name: &str| {
        let us = |quantile: &str| probe[name][quantile].as_f64().unwrap_or(f64::NAN);
        format!("p50 {:.3}  p99 {:.3} ms", us("p50") / 1e3, us("p99") / 1e3)
    };
    match probe.is_null() {
        true => Vec::new(),
        false => vec![
            ("fdatasync of one append", row("fdatasync_us")),
            ("round trip over loopback", row("loopback_round_trip_us")),
        ],
    }
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
    let ratio = |ratio: f64| format!("{ratio:.2}");
    vec![
        ("resident memory of each node", of_nodes("resident_bytes", &size)),
        ("processor time of each node", of_nodes("cpu_seconds", &|s| format!("{s:.2} s"))),
        ("written to disk by each node", of_nodes("written_bytes", &size)),
        ("of it to the write-ahead log", of_nodes("wal_bytes", &size)),
        ("by flushes", of_nodes("flushed_bytes", &size)),
        ("by compactions", of_nodes("compacted_bytes", &size)),
        ("written per payload byte", of_nodes("written_bytes_per_payload_byte", &ratio)),
        ("before compaction", of_nodes("written_bytes_before_compaction_per_payload_byte", &ratio)),
    ]
}
