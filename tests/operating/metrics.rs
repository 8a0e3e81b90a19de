//! The documented metrics are those of a node, and they move.

use std::collections::{BTreeMap, BTreeSet};

use quorate_client::{Append, Client, ClientOptions, NewMessage, SessionOptions, Start};

use super::{cluster, eventually, get};

/// Names and types in the table of `docs/metrics.md`.
fn documented() -> BTreeSet<(String, String)> {
    let text = include_str!("../../docs/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `quorate_"));
    let cell = |line: &str, at: usize| line.split('|').nth(at).unwrap().trim().to_owned();
    rows.map(|line| (cell(line, 1).trim_matches('`').to_owned(), cell(line, 2))).collect()
}

/// Names and types on a page. OpenMetrics leaves out the end of a name that follows from its type.
fn on(page: &str) -> BTreeSet<(String, String)> {
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let family = |line: &str| {
        let (name, kind) = line.split_once(' ').unwrap();
        let end = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        (format!("{name}{end}"), kind.to_owned())
    };
    families.map(family).collect()
}

/// The samples of a page, by name and labels.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    lines.filter_map(parse).collect()
}

/// What must be above zero after some appends and a while. Queues may be empty at any moment.
const MOVED: [&str; 14] = [
    "quorate_append_duration_seconds_count",
    "quorate_append_duration_seconds_sum",
    "quorate_commit_duration_seconds_count",
    "quorate_commit_duration_seconds_sum",
    "quorate_log_sync_duration_seconds_count",
    "quorate_log_batch_writes_sum",
    "quorate_log_batch_bytes_sum",
    "quorate_proposals_total{outcome=\"committed\"}",
    "quorate_leader_changes_total",
    "quorate_subscriptions",
    "quorate_disk_free_bytes",
    "quorate_replicas{role=\"leader\"}",
    "quorate_uptime_seconds",
    "quorate_build_info{version=\"0.1.0\"}",
];

const PRESENT: [&str; 9] = [
    "quorate_applied_lag_entries{group=\"0\"}",
    "quorate_applied_lag_entries{group=\"3\"}",
    "quorate_queue_depth{queue=\"proposals\"}",
    "quorate_queue_depth{queue=\"log_writer\"}",
    "quorate_queue_depth{queue=\"peers\"}",
    "quorate_queue_depth{queue=\"sessions\"}",
    "quorate_connections_refused_total{port=\"client\"}",
    "quorate_replicas{role=\"damaged\"}",
    "quorate_append_duration_seconds_bucket{le=\"+Inf\"}",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_documented_metric_is_there_and_moves() {
    const APPENDS: u32 = 40;
    let cluster = cluster(1, "").await;
    let http = &cluster.http_addresses()[0];
    let client = Client::connect(ClientOptions::new(cluster.endpoints())).await.unwrap();
    let mut follow = client.follow([("room", Start::Seq(1))]).unwrap();
    for number in 0..APPENDS {
        let message = NewMessage::text(format!("message {number}"));
        client.append(Append::new("room", "ann", message)).await.unwrap();
    }
    follow.next().await.unwrap().unwrap();
    let refused = client.append(Append::new("room", "", NewMessage::text("by nobody"))).await;
    assert_eq!(refused.unwrap_err().reason(), "EMPTY_FIELD", "it is on no way, and is not counted");
    let session = client.session(SessionOptions::default()).unwrap();
    let handle = session.append(Append::new("room", "ann", NewMessage::text("last"))).await;
    handle.await.unwrap();
    let expected = |page: &str| {
        let samples = samples(page);
        let value = |name: &str| samples.get(name).copied();
        let still: Vec<_> =
            MOVED.iter().filter(|name| value(name).is_none_or(|value| value <= 0.0)).collect();
        let absent: Vec<_> = PRESENT.iter().filter(|name| value(name).is_none()).collect();
        let appended = value("quorate_append_duration_seconds_count");
        let enough = appended == Some(f64::from(APPENDS) + 1.0);
        match still.is_empty() && absent.is_empty() && enough {
            true => Ok(()),
            false => Err(format!("not moved: {still:?}\nabsent: {absent:?}\n{page}")),
        }
    };
    let page = eventually("the metrics have moved", async || {
        let (_, page) = get(http, "/metrics").await;
        expected(&page).map(|()| page)
    })
    .await;
    assert_eq!(on(&page), documented(), "docs/metrics.md is the list");
    let proposed = samples(&page)["quorate_proposals_total{outcome=\"committed\"}"];
    assert!(proposed >= f64::from(APPENDS), "each append is a proposal: {proposed}");
    cluster.stop().await.unwrap();
}
