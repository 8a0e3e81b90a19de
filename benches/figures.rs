//! `make bench`: takes the figures of README's table, one command after another on a release build, and writes
//! them with the machine, the date and the commit to `benches/RESULTS.md`.
//!
//! `make bench ARGS=failover` takes those whose name has this word, and shows them without writing.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use quorate::server::SystemClock;
use quorate::types::Clock;
use serde_json::Value;

/// One line of the table.
struct Figure {
    name: &'static str,
    /// What follows `quorate bench`.
    arguments: &'static str,
    show: fn(&Value) -> String,
}

const FIGURES: [Figure; 8] = [
    Figure {
        name: "closed loop, 1 producer",
        arguments: "append --local --producers 1 --mode unary",
        show: appends,
    },
    Figure {
        name: "closed loop, 64 producers",
        arguments: "append --local --producers 64 --mode unary",
        show: appends,
    },
    Figure {
        name: "pipelined, 8 producers × 128 in flight",
        arguments: "append --local --producers 8 --in-flight 128 --mode session",
        show: appends,
    },
    Figure {
        name: "commit to delivery, 1,000 appends/s",
        arguments: "subscribe --local --in-flight 64 --rate 1000",
        show: delivery,
    },
    Figure {
        name: "history to one follower",
        arguments: "follow --local --count 200000 --in-flight 1024 --warm-up 0s",
        show: history,
    },
    Figure {
        name: "without acknowledgements after a leader's SIGKILL",
        arguments: "failover --rounds 10",
        show: pause,
    },
    Figure {
        name: "resident memory of a node, one million conversations of one message each",
        arguments: "append --local --conversations 1000000 --count 1000000 --size 64 --in-flight 1024 --warm-up 0s",
        show: memory,
    },
    Figure {
        name: "bytes written to disk by a node per payload byte, 1 KiB messages",
        arguments: "append --local --count 524288 --in-flight 1024 --warm-up 0s --flush",
        show: written,
    },
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs this too, without the word.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("not measured: this is for `make bench`");
        return Ok(());
    }
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let is_wanted = |figure: &&Figure| wanted.iter().all(|word| figure.name.contains(*word));
    let mut rows = String::new();
    let mut commands = String::new();
    for figure in FIGURES.iter().filter(is_wanted) {
        eprintln!("{}: quorate bench {}", figure.name, figure.arguments);
        let shown = (figure.show)(&run(figure)?);
        eprintln!("  {shown}");
        writeln!(rows, "| {} | {shown} |", figure.name)?;
        writeln!(commands, "quorate bench {}", figure.arguments)?;
    }
    ensure!(!rows.is_empty(), "no figure has {wanted:?} in its name");
    let page = page(&rows, &commands)?;
    if !wanted.is_empty() {
        println!("{page}");
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
    std::fs::write(&path, page)?;
    eprintln!("written: {}", path.display());
    Ok(())
}

/// Runs one command; the nodes keep their data where Cargo builds, which is a disk.
fn run(figure: &Figure) -> anyhow::Result<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.arg("bench").args(figure.arguments.split(' '));
    command.args(["--output", "json", "--data", env!("CARGO_TARGET_TMPDIR")]);
    let ended = command.output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{}: {}{said}", figure.name, ended.status);
    let result: Value = serde_json::from_slice(&ended.stdout)?;
    ensure!(
        result["local"]["data_in_memory"] != true,
        "the data is in memory: set CARGO_TARGET_DIR"
    );
    Ok(result)
}

fn page(rows: &str, commands: &str) -> anyhow::Result<String> {
    let date = i64::try_from(SystemClock.now().0).map(jiff::Timestamp::from_microsecond)??;
    Ok(format!(
        "\
# Figures

Made by `make bench`, which writes this file. Three nodes, the producers and the subscribers share one machine and its
disk; messages of 1 KiB random bytes unless said otherwise; settings of a node that is configured by nobody. Latency
is that of acknowledged appends, from handing in to acknowledgement, through the client library. The loops are closed
(`quorate bench append --help` says what that means) except that of commit to delivery.

- machine: {}
- date: {}
- commit: {}

| load | figure |
|---|---|
{rows}
```sh
{commands}```
",
        machine()?,
        date.strftime("%Y-%m-%d"),
        commit(),
    ))
}

fn machine() -> anyhow::Result<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = field(&cpus, "model name").unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism()?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let memory_kib = field(&memory, "MemTotal").and_then(|total| total.split(' ').next());
    let memory_kib: u64 = memory_kib.context("no MemTotal")?.parse()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "{model}, {cores} cores, {} GiB of memory, Linux {}",
        memory_kib.div_ceil(1024 * 1024),
        kernel.trim()
    ))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let ended = Command::new("git").args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    match git(&["status", "--porcelain", "--untracked-files=no"]).as_deref() {
        Some("") => commit,
        _ => format!("{commit} with changes"),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn quantiles(us: &Value) -> String {
    let ms = |name: &str| format!("{:.2}", number(&us[name]) / 1e3);
    format!(
        "p50 {} ms, p90 {} ms, p99 {} ms, max {} ms",
        ms("p50"),
        ms("p90"),
        ms("p99"),
        ms("max")
    )
}

fn appends(result: &Value) -> String {
    let result = &result["result"];
    format!(
        "{:.0} appends/s, {}",
        number(&result["appends_per_second"]),
        quantiles(&result["latency_us"])
    )
}

fn delivery(result: &Value) -> String {
    quantiles(&result["result"]["commit_to_delivery_us"])
}

fn history(result: &Value) -> String {
    let result = &result["result"];
    let mib = number(&result["payload_bytes_per_second"]) / 1024.0 / 1024.0;
    format!("{:.0} messages/s, {mib:.0} MiB/s", number(&result["deliveries_per_second"]))
}

fn pause(result: &Value) -> String {
    quantiles(&result["result"]["pause_us"])
}

/// The largest of the nodes.
fn largest(result: &Value, field: &str) -> f64 {
    let nodes = result["local"]["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes.iter().map(|node| number(&node[field])).fold(f64::NAN, f64::max)
}

fn memory(result: &Value) -> String {
    format!("{:.0} MiB", largest(result, "resident_bytes") / 1024.0 / 1024.0)
}

fn written(result: &Value) -> String {
    format!("{:.2}", largest(result, "written_bytes_per_payload_byte"))
}
