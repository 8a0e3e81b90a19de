//! The cases, each with its target.

use serde_json::Value;

use crate::peers::{Beside, Measure};

/// What a command printed.
pub type Case = Value;

/// One line of the table.
pub struct Figure {
    pub name: &'static str,
    pub target: &'static str,
    /// What follows `quorate bench`.
    pub arguments: &'static str,
    /// How often it is run.
    pub runs: u32,
    /// What the runs are ordered by.
    pub main: fn(&Case) -> f64,
    pub show: fn(&Case) -> String,
    /// Whether the target is met, but for what it says of other systems; none if it says nothing else, or there is none.
    pub met: fn(&Case) -> Option<bool>,
    /// What it says of other systems.
    pub beside: &'static [Beside],
    /// What holds the figure where it is, said where that is below the target.
    pub bound: &'static str,
}

/// Runs of a case that takes seconds.
const RUNS: u32 = 3;

pub const FIGURES: [Figure; 18] = [
    Figure {
        name: "1 × 1: one producer, unary",
        target: "p50 ≤ 2 × (fdatasync + two round trips over loopback), p99 ≤ 2 × (theirs), in the same run; p50 \
             below etcd's and RabbitMQ's",
        arguments: "append --local --groups 3 --mode unary --probe",
        runs: RUNS,
        main: appends_per_second,
        show: |case| {
            let (p50, p99) = (floor_us(case, "p50") / 1e3, floor_us(case, "p99") / 1e3);
            format!("{}; the bounds are p50 {p50:.2} ms, p99 {p99:.2} ms", appends(case))
        },
        met: |case| {
            let is_within = |quantile| latency_us(case, quantile) <= floor_us(case, quantile);
            Some(is_within("p50") && is_within("p99"))
        },
        beside: &[
            beside("1 producer, 1 in flight", "etcd", 1.0, Measure::Quickness),
            beside("1 producer, 1 in flight", "RabbitMQ quorum queues", 1.0, Measure::Quickness),
        ],
        bound: "Processor time and wakes of threads, which the bound has none of: its sync and round trips are \
             timed on a cluster at rest, alone on two cores. An append goes through four processes on these: \
             applying and the log's writers a fifth each, HTTP/2 a seventh, Raft's core another, wakes and timers \
             another; waking a thread takes tens of µs on a virtual core and happens 35 times. And where the bound \
             has one sync of one file, three growing files are synced at once. Both cores were busy for seven \
             tenths of a profile, so that an append waits for one now and then: its tail. Nodes with cores and \
             disks of their own have less of all that.",
    },
    Figure {
        name: "64 × 1: 64 producers, unary",
        target: "≥ 2.5 × etcd, ≥ 1.2 × NATS without fsync",
        arguments: "append --local --groups 3 --producers 64 --mode unary",
        runs: RUNS,
        main: appends_per_second,
        show: appends,
        met: |_| None,
        beside: &[
            beside("64 producers, 1 in flight", "etcd", 2.5, Measure::Rate),
            beside("64 producers, 1 in flight", "NATS JetStream", 1.2, Measure::Rate),
        ],
        bound: "Processor time: both cores are busy. In a profile of 152 µs an append nearly two fifths were one \
             gRPC call for each over HTTP/2: client, connections, and the kernel's network. The API is gRPC, so \
             what has many appends at once is to use a session. A third was applying on three replicas, with what \
             8 × 128 says. What is not gRPC took 88 µs; 1.2 × NATS leaves 105 for all in PEERS.md's run, and 2.5 × \
             etcd 150.",
    },
    Figure {
        name: "64 × 1 on sessions: 64 producers",
        target: "reported: the same load as unary calls, in frames",
        arguments: "append --local --groups 3 --producers 64 --mode session",
        runs: RUNS,
        main: appends_per_second,
        show: appends,
        met: |_| None,
        beside: &[],
        bound: "",
    },
    Figure {
        name: "8 × 128: pipelined on sessions, 64 conversations",
        target: "≥ 5 × etcd, ≥ 1.2 × NATS without fsync",
        arguments: "append --local --groups 3 --producers 8 --in-flight 128",
        runs: RUNS,
        main: appends_per_second,
        show: appends,
        met: |_| None,
        beside: &[
            beside("8 producers × 128 in flight", "etcd", 5.0, Measure::Rate),
            beside("8 producers × 128 in flight", "NATS JetStream", 1.2, Measure::Rate),
        ],
        bound: "Processor time: both cores are busy. In a profile of 49 µs an append more than half was applying \
             on three replicas: rows in the memtables of five tables, ids looked up for idempotency over 30 days, \
             the digest chain. A log that only appends bytes does none of that. The rest took 22 µs; 1.2 × NATS \
             leaves 34 and 5 × etcd 39 for all in PEERS.md's run, so that applying would have to do with half. A \
             tenth is client and network, a fourteenth the logs' writers with their syncs, a twelfth flushes. Of \
             three nodes on machines of their own each applies a third of it.",
    },
    Figure {
        name: "one conversation, one session, 512 in flight",
        target: "≥ 50,000 appends/s",
        arguments: "append --local --groups 3 --conversations 1 --in-flight 512",
        runs: RUNS,
        main: appends_per_second,
        show: appends,
        met: |case| Some(appends_per_second(case) >= 50_000.0),
        beside: &[],
        bound: "Processor time, as in the row above: in a profile of 42 µs an append more than half was applying \
             on three replicas, and a ninth flushes and compactions. Two cores that do nothing else do 48,000 a \
             second with that, of which nine tenths were reached; 50,000 take 40 µs and no moment of rest.",
    },
    Figure {
        name: "ACK to delivery at 10,000 appends/s",
        target: "p50 ≤ 1 ms, p99 ≤ 5 ms",
        arguments: "subscribe --local --groups 3 --rate 10000 --in-flight 1024",
        runs: RUNS,
        main: |case| number(&case["result"]["ack_to_delivery_us"]["p99"]),
        show: |case| {
            let result = &case["result"];
            let rate = number(&result["append"]["appends_per_second"]);
            let commit = number(&result["commit_to_delivery_us"]["p50"]) / 1e3;
            let ack = quantiles(&result["ack_to_delivery_us"]);
            format!("{ack}; from commit time p50 {commit:.2} ms; {rate:.0} appends/s")
        },
        met: |case| {
            let result = &case["result"];
            let us = |quantile: &str| number(&result["ack_to_delivery_us"][quantile]);
            let keeps_up = number(&result["append"]["appends_per_second"]) >= 9_800.0;
            Some(keeps_up && us("p50") <= 1_000.0 && us("p99") <= 5_000.0)
        },
        beside: &[],
        bound: "Scheduling: nodes and generator keep two cores busy for nine tenths of the time.",
    },
    Figure {
        name: "fan-out: one conversation to 1,000 subscribers",
        target: "≥ 300,000 deliveries/s",
        arguments: "fan-out --local",
        runs: RUNS,
        main: deliveries_per_second,
        show: fan_out,
        met: |case| Some(deliveries_per_second(case) >= 300_000.0),
        beside: &[],
        bound: "",
    },
    Figure {
        name: "fan-out, and one subscriber that does not read",
        target: "≥ 300,000 deliveries/s, and ≥ 0.9 of those without it in the same run, medians of three turns \
             each (not 1: turns that are the same differ by a tenth)",
        arguments: "fan-out --local --silent 1",
        runs: 1,
        main: deliveries_per_second,
        show: |case| {
            let without = number(&case["without_silent"]["deliveries_per_second"]);
            format!("{}; {:.2} of {without:.0} without it", fan_out(case), silent_ratio(case))
        },
        met: |case| Some(deliveries_per_second(case) >= 300_000.0 && silent_ratio(case) >= 0.9),
        beside: &[],
        bound: "",
    },
    Figure {
        name: "catch-up read, 4 KiB messages, 3 GiB, cold, from one node",
        target: "≥ 400 MB/s of payload, or 70 % of the disk's sequential rate; twice as much data as memtables and \
             caches take",
        arguments: "follow --local --by read --followers 4 --cold --size 4096 --count 786432 --in-flight 512 \
             --warm-up 0s",
        runs: 1,
        main: payload_bytes_per_second,
        show: catch_up,
        met: is_caught_up,
        beside: &[],
        bound: "",
    },
    Figure {
        name: "catch-up read, 64 KiB messages, 3 GiB, cold, from one node",
        target: "≥ 400 MB/s of payload, or 70 % of the disk's sequential rate; twice as much data as memtables and \
             caches take",
        arguments: "follow --local --by read --followers 4 --cold --size 65536 --count 49152 --in-flight 32 \
             --warm-up 0s",
        runs: 1,
        main: payload_bytes_per_second,
        show: catch_up,
        met: is_caught_up,
        beside: &[],
        bound: "",
    },
    Figure {
        name: "catch-up read, 256-byte messages, 1 GiB, cold, from one node",
        target: "reported",
        arguments: "follow --local --by read --followers 4 --cold --count 4194304 --in-flight 1024 --warm-up 0s",
        runs: 1,
        main: payload_bytes_per_second,
        show: catch_up,
        met: |_| None,
        beside: &[],
        bound: "",
    },
    Figure {
        name: "idle: 256 groups, one million conversations",
        target: "< 2 % of one core and < 512 MiB resident, each node",
        arguments: "idle",
        runs: 1,
        main: |case| largest(&case["result"]["nodes"], "cpu_percent_of_one_core"),
        show: |case| {
            let nodes = &case["result"]["nodes"];
            let (cpu, memory) = idle(case);
            let disk = largest(nodes, "state_bytes_on_disk") / 1e6;
            format!(
                "at most {cpu:.2} % of one core, {memory:.0} MiB; {disk:.0} MB of state on disk"
            )
        },
        met: |case| {
            let (cpu, memory) = idle(case);
            Some(cpu < 2.0 && memory < 512.0)
        },
        beside: &[],
        bound: "Memory that the fill has left: memtables and caches are given back as the log is flushed, some \
             minutes later.",
    },
    Figure {
        name: "growth: one million conversations against 64",
        target: "≥ 0.7 of the rate; bytes on disk stated",
        arguments: "growth --duration 60s",
        runs: RUNS,
        main: |case| number(&case["result"]["ratio"]),
        show: |case| {
            let result = &case["result"];
            let rate = |which: &str| number(&result[which]["appends_per_second"]);
            format!(
                "{:.2}: {:.0} to {:.0} appends/s, {:.0} to {:.0} µs of processor time each; {:.0} bytes of state \
                     per message, {:.0} per conversation of one",
                number(&result["ratio"]),
                rate("few"),
                rate("many"),
                processor_us(&result["few"]),
                processor_us(&result["many"]),
                number(&result["state_bytes_per_message"]),
                number(&result["state_bytes_per_conversation_of_one_message"]),
            )
        },
        met: |case| Some(number(&case["result"]["ratio"]) >= 0.7),
        beside: &[],
        bound: "Processor time: an append takes twice as much. Each reads a head out of a million from files and \
             writes rows at random places of the memtables: while no files were merged, searching those was 27 % \
             of both cores, and reading files 20 %. While some were, merging took 60 % of both, and one part or \
             another of the minute falls into that. An order, ids and a digest of its own for each conversation \
             need its head and rows at each append, however many there are.",
    },
    Figure {
        name: "bytes written per payload byte, 1 KiB messages",
        target: "≤ 3 before compaction, with < 512 MiB resident",
        arguments: "append --local --size 1024 --count 524288 --in-flight 1024 --warm-up 0s --flush",
        runs: 1,
        main: before_compaction,
        show: |case| {
            let nodes = &case["local"]["nodes"];
            let part = |name: &str| largest(nodes, &format!("{name}_bytes_per_payload_byte"));
            format!(
                "{:.2} (of files: log {:.2}, flushes {:.2}), compactions {:.2}; at most {:.0} MiB resident",
                before_compaction(case),
                part("wal"),
                part("flushed"),
                part("compacted"),
                largest(nodes, "resident_bytes_peak") / MIB,
            )
        },
        met: |case| {
            let resident = largest(&case["local"]["nodes"], "resident_bytes_peak") / MIB;
            Some(before_compaction(case) <= 3.0 && resident < 512.0)
        },
        beside: &[],
        bound: "",
    },
    Figure {
        name: "failover: SIGKILL of a leader, 50 times",
        target: "the longest without acknowledgements until the next loss p50 ≤ 0.6 s, p99 ≤ 1.2 s",
        arguments: "failover --rounds 50",
        runs: 1,
        main: |case| pause_us(case, "p99"),
        show: pause,
        met: |case| Some(pause_us(case, "p50") <= 600e3 && pause_us(case, "p99") <= 1_200e3),
        beside: &[],
        bound: "The 99th percentile of 50 is the longest of all: one event decides.",
    },
    Figure {
        name: "failover: all packets of a leader dropped, 50 times",
        target: "the same: p99 ≤ 2 × the longest election timeout + 0.2 s (2.2 s)",
        arguments: "failover --by drop --rounds 50",
        runs: 1,
        main: |case| pause_us(case, "p99"),
        show: pause,
        met: |case| Some(pause_us(case, "p99") <= 2_200e3),
        beside: &[],
        bound: "",
    },
    Figure {
        name: "overload: ten times the sustainable load",
        target: "so much is offered, of what is sustained or, if that is more, accepted; nothing acknowledged is \
             lost; what is refused may be tried again; ahead of 99 of 100 of the accepted are no more than a \
             group's queue holds (17,408 appends); ≤ 1,536 MiB a node",
        arguments: "overload --groups 3",
        runs: 1,
        main: |case| latency_us(case, "p99"),
        show: overload,
        met: |case| {
            let result = &case["result"];
            let is_judged = number(&result["refused"]) > 0.0 && result["refused_for_good"] == 0;
            let is_bounded = peak(case) <= number(&result["resident_bytes_max"]);
            let is_queued =
                number(&result["appends_ahead_p99"]) <= number(&result["appends_waiting_max"]);
            let is_offered = number(&result["factor_offered"]) >= 10.0;
            let is_kept = result["acknowledged_lost"] == 0;
            Some(is_offered && is_judged && is_bounded && is_queued && is_kept)
        },
        beside: &[],
        bound: "Where less than ten times is offered: so much is due, and what is offered is what two cores take \
             in and refuse, generator and nodes together; with nine times as many sessions it was as much \
             (docs/performance.md). Where more are ahead of an append than a group's queue holds: they lay in its \
             connection before the node had read it, as long as those did that are refused; a smaller window would \
             have them wait at the sender.",
    },
    Figure {
        name: "history to one follower, from memory",
        target: "reported",
        arguments: "follow --local --count 500000 --in-flight 1024 --warm-up 0s",
        runs: 1,
        main: payload_bytes_per_second,
        show: catch_up,
        met: |_| None,
        beside: &[],
        bound: "",
    },
];

const MIB: f64 = 1024.0 * 1024.0;

const fn beside(
    workload: &'static str,
    system: &'static str,
    at_least: f64,
    of: Measure,
) -> Beside {
    Beside { workload, system, at_least, of }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn quantiles(us: &Value) -> String {
    let ms = |name: &str| format!("{:.2}", number(&us[name]) / 1e3);
    format!("p50 {} ms, p99 {} ms, max {} ms", ms("p50"), ms("p99"), ms("max"))
}

fn latency_us(case: &Case, quantile: &str) -> f64 {
    number(&case["result"]["latency_us"][quantile])
}

/// Twice the sync and the two round trips that an append cannot do without.
fn floor_us(case: &Case, quantile: &str) -> f64 {
    let probe = &case["probe"];
    let of = |name: &str| number(&probe[name][quantile]);
    2.0 * (of("fdatasync_us") + 2.0 * of("loopback_round_trip_us"))
}

fn appends_per_second(case: &Case) -> f64 {
    number(&case["result"]["appends_per_second"])
}

/// Processor time of an append in µs, over all nodes and the producers.
fn processor_us(outcome: &Value) -> f64 {
    let of = &outcome["processor_us_per_append"];
    number(&of["nodes"]) + number(&of["here"])
}

fn appends(case: &Case) -> String {
    let result = &case["result"];
    format!(
        "{:.0} appends/s, {}; an append takes {:.0} µs of processor time",
        appends_per_second(case),
        quantiles(&result["latency_us"]),
        processor_us(result),
    )
}

fn deliveries_per_second(case: &Case) -> f64 {
    number(&case["result"]["deliveries_per_second"])
}

fn fan_out(case: &Case) -> String {
    let latency = quantiles(&case["result"]["append_to_delivery_us"]);
    format!("{:.0} deliveries/s, from append {latency}", deliveries_per_second(case))
}

/// What subscribers that do not read leave of the rate.
fn silent_ratio(case: &Case) -> f64 {
    number(&case["ratio_to_without_silent"])
}

fn payload_bytes_per_second(case: &Case) -> f64 {
    number(&case["result"]["payload_bytes_per_second"])
}

fn catch_up(case: &Case) -> String {
    let rate = format!(
        "{:.0} MB/s, {:.0} messages/s",
        payload_bytes_per_second(case) / 1e6,
        deliveries_per_second(case)
    );
    let cold = &case["cold"];
    if cold.is_null() {
        return rate;
    }
    let disk = number(&cold["disk_sequential_read_bytes_per_second"]) / 1e6;
    let caveat = match cold["page_cache_dropped"].as_bool() {
        Some(true) => "",
        _ => "; page cache not dropped for want of root: no figure of the disk",
    };
    format!("{rate}; the disk in sequence {disk:.0} MB/s{caveat}")
}

fn is_caught_up(case: &Case) -> Option<bool> {
    let disk = number(&case["cold"]["disk_sequential_read_bytes_per_second"]);
    let is_fast = payload_bytes_per_second(case) >= (0.7 * disk).min(400e6);
    Some(is_fast && case["cold"]["page_cache_dropped"] == true)
}

/// The longest of each loss over all conversations, until the next loss.
fn pause_us(case: &Case, quantile: &str) -> f64 {
    number(&case["result"]["longest_pause_of_all_until_the_next_loss_us"][quantile])
}

fn pause(case: &Case) -> String {
    let result = &case["result"];
    format!(
        "{}; of those that it led, until they went on, {}",
        quantiles(&result["longest_pause_of_all_until_the_next_loss_us"]),
        quantiles(&result["longest_pause_of_a_round_us"]),
    )
}

/// The largest of the nodes.
fn largest(nodes: &Value, field: &str) -> f64 {
    let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
    nodes.iter().map(|node| number(&node[field])).fold(f64::NAN, f64::max)
}

fn before_compaction(case: &Case) -> f64 {
    largest(&case["local"]["nodes"], "written_bytes_before_compaction_per_payload_byte")
}

/// Percent of one core, and MiB.
fn idle(case: &Case) -> (f64, f64) {
    let nodes = &case["result"]["nodes"];
    (largest(nodes, "cpu_percent_of_one_core"), largest(nodes, "resident_bytes") / MIB)
}

/// The most memory that a node was seen to use.
fn peak(case: &Case) -> f64 {
    let peaks = case["result"]["resident_bytes_peak_by_node"].as_object();
    peaks.into_iter().flat_map(|nodes| nodes.values()).map(number).fold(f64::NAN, f64::max)
}

fn overload(case: &Case) -> String {
    let result = &case["result"];
    let rate = |name: &str| number(&result[&format!("{name}_appends_per_second")]);
    let reasons = result["refused_by_reason"].as_object().into_iter().flatten();
    let refused: Vec<String> = reasons.map(|(reason, count)| format!("{count} {reason}")).collect();
    format!(
        "{} lost; {:.0}/s sustained, {:.0}/s due, {:.0}/s offered ({:.1} ×), {:.0}/s accepted; refused: {}, {} of \
             them for good; {}; ahead of 99 of 100 at most {:.0} appends; a full queue takes {:.2} s, a refusal \
             p99 {:.2} s; at most {:.0} MiB resident",
        number(&result["acknowledged_lost"]),
        rate("sustained"),
        rate("due"),
        rate("offered"),
        number(&result["factor_offered"]),
        rate("accepted"),
        refused.join(", "),
        number(&result["refused_for_good"]),
        quantiles(&result["latency_us"]),
        number(&result["appends_ahead_p99"]),
        number(&result["full_queue_seconds"]),
        number(&result["refused_latency_us"]["p99"]) / 1e6,
        peak(case) / MIB,
    )
}
