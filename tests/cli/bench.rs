use serde_json::Value;

use crate::harness::{Cluster, quorate, run};

fn assert_latencies(latencies: &Value) {
    let of = |name: &str| latencies[name].as_u64().unwrap_or_else(|| panic!("{name}: {latencies}"));
    assert!(of("count") > 0, "{latencies}");
    assert!(of("p50") > 0 && of("p50") <= of("p90"), "{latencies}");
    assert!(of("p90") <= of("p99") && of("p99") <= of("max"), "{latencies}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tiny_run_of_each_bench_gives_figures() {
    let cluster = Cluster::start().await;
    let load = ["--count", "300", "--warm-up", "100ms", "--conversations", "10", "--size", "100"];
    for shape in [
        &["--mode", "unary", "--producers", "2"][..],
        &["--mode", "session", "--in-flight", "16"],
        &["--rate", "2000", "--in-flight", "16"],
        &["--producers", "3", "--proxied"],
    ] {
        let done = cluster.json(&[&["bench", "append"][..], &load, shape].concat()).await;
        let result = &done["result"];
        assert_eq!((&result["acknowledged"], &result["errors"]), (&300.into(), &0.into()));
        assert_eq!(result["payload_bytes"], 30_000);
        assert!(result["appends_per_second"].as_f64().unwrap() > 0.0);
        assert_latencies(&result["latency_us"]);
    }
    let done = cluster
        .json(&[&["bench", "follow", "--followers", "2", "--in-flight", "16"][..], &load].concat())
        .await;
    let messages = done["result"]["messages"].as_u64().unwrap();
    assert!(messages >= 300);
    assert_eq!(done["result"]["delivered"], messages * 2);

    let subscribe =
        ["bench", "subscribe", "--subscribers", "2", "--rate", "500", "--in-flight", "16"];
    let done = cluster.json(&[&subscribe[..], &load].concat()).await;
    let result = &done["result"];
    assert_eq!(result["deliveries"], 600);
    // Deliveries may come before the acknowledgement, and count as zero then: only how many is sure.
    assert_eq!(result["ack_to_delivery_us"]["count"], 600);
    assert_latencies(&result["commit_to_delivery_us"]);
    assert_latencies(&result["append_to_delivery_us"]);
    let fan_out =
        ["bench", "fan-out", "--subscribers", "5", "--silent", "1", "--duration", "500ms"];
    let done = cluster.json(&[&fan_out[..], &["--warm-up", "100ms"]].concat()).await;
    let result = &done["result"];
    assert!(result["deliveries"].as_u64() > result["messages"].as_u64(), "{done}");
    assert_latencies(&result["append_to_delivery_us"]);
    let text = cluster.text(&[&["bench", "append", "--in-flight", "16"][..], &load].concat()).await;
    assert!(text.contains("latency") && text.contains("p50"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_makes_a_pause_that_is_measured() {
    let arguments =
        ["bench", "failover", "--rounds", "1", "--conversations", "8", "--output", "json"];
    let ended = run(quorate(&arguments), "").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let done: Value = serde_json::from_str(&ended.stdout).unwrap();
    let round = &done["result"]["rounds"][0];
    assert!(round["victim_node_id"].as_u64().is_some_and(|node| (1..=3).contains(&node)), "{done}");
    assert_latencies(&round["pause_us"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_cluster_is_counted_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let done = local(
        folder.path(),
        &["append", "--local", "--count", "200", "--in-flight", "8", "--flush", "--probe"],
    )
    .await;
    assert_latencies(&done["probe"]["fdatasync_us"]);
    assert_latencies(&done["probe"]["loopback_round_trip_us"]);
    let nodes = done["local"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3, "{done}");
    for node in nodes {
        let bytes = |name: &str| node[name].as_u64().unwrap_or_else(|| panic!("{name}: {node}"));
        assert!(bytes("resident_bytes") > 1024 * 1024, "{node}");
        assert!(bytes("resident_bytes_peak") >= bytes("resident_bytes"), "{node}");
        // Each payload is in the log and in what was flushed, compressed by nothing.
        assert!(bytes("wal_bytes") > 200 * 256 && bytes("flushed_bytes") > 200 * 256, "{node}");
        assert!(bytes("state_bytes_on_disk") > 200 * 256, "{node}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_read_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let read = ["follow", "--local", "--nodes", "1", "--by", "read", "--followers", "2", "--cold"];
    let load = ["--count", "300", "--in-flight", "16", "--conversations", "5", "--warm-up", "0s"];
    let done = local(folder.path(), &[&read[..], &load].concat()).await;
    assert_eq!(done["result"]["delivered"], 300, "{done}");
    assert!(done["cold"]["page_cache_dropped"].is_boolean(), "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_rest_and_overload_give_figures() {
    let folder = tempfile::tempdir().unwrap();
    let growth = ["growth", "--conversations", "200", "--few", "4", "--duration", "500ms"];
    let shape = ["--nodes", "1", "--producers", "2", "--in-flight", "4"];
    let done = local(folder.path(), &[&growth[..], &shape].concat()).await;
    let result = &done["result"];
    assert!(result["ratio"].as_f64().unwrap() > 0.0, "{result}");
    assert!(result["state_bytes_per_message"].as_f64().unwrap() > 256.0, "{result}");

    let idle = ["idle", "--conversations", "50", "--groups", "8", "--settle", "0s"];
    let done = local(folder.path(), &[&idle[..], &["--window", "500ms"]].concat()).await;
    assert_eq!(done["result"]["nodes"].as_array().map(Vec::len), Some(3), "{done}");

    let overload = ["overload", "--duration", "1s", "--step", "200ms", "--factor", "2"];
    let shape = ["--groups", "3", "--sessions", "2", "--conversations", "300"];
    let done = local(folder.path(), &[&overload[..], &shape].concat()).await;
    let result = &done["result"];
    assert_eq!(result["acknowledged_lost"], 0, "{done}");
    assert!(result["sustained_appends_per_second"].as_f64() > Some(0.0), "{done}");
    assert!(result["accepted_appends_per_second"].as_f64() > Some(0.0), "{done}");
    assert_eq!(result["refused_for_good"], 0, "{done}");
    let appends = |name: &str| result[name].as_u64().unwrap();
    assert!(appends("appends_ahead_p99") <= appends("appends_waiting_max"), "{done}");
}

/// What a bench says of a cluster of its own.
async fn local(data: &std::path::Path, arguments: &[&str]) -> Value {
    // Much of what is counted waits for a flush.
    let often = ["--storage", "flush_interval_ms=1000"];
    let place = ["--data", data.to_str().unwrap(), "--output", "json"];
    let ended = run(quorate(&[&["bench"], arguments, &often, &place].concat()), "").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
}
