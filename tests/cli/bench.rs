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
    assert_latencies(&result["commit_to_delivery_us"]);
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
    let data = folder.path().to_str().unwrap();
    let arguments =
        ["bench", "append", "--local", "--count", "200", "--in-flight", "8", "--data", data];
    let ended = run(quorate(&[&arguments[..], &["--output", "json"]].concat()), "").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let done: Value = serde_json::from_str(&ended.stdout).unwrap();
    let nodes = done["local"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3, "{done}");
    for node in nodes {
        assert!(node["resident_bytes"].as_u64().unwrap() > 1024 * 1024, "{node}");
        assert!(node["written_bytes"].as_u64().is_some(), "{node}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}
