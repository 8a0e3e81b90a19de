//! Calls that cross nodes: who lets whom in, and what the logs say.

use std::path::Path;

use quorate::cli::LocalCluster;
use quorate_client::proto::cluster_client::ClusterClient;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::{AppendRequest, DescribeClusterRequest, NewMessage, ReadRequest};
use serde_json::Value;
use tonic::{Code, Request};

use super::{cluster, eventually, get};

fn log_of(cluster: &LocalCluster, node: u64) -> String {
    std::fs::read_to_string(cluster.dir().join(format!("{node}.log"))).unwrap()
}

fn append(conversation: &str, id: &str) -> AppendRequest {
    let message = NewMessage {
        client_msg_id: id.to_owned(),
        issued_at_us: now_us(),
        payload: "hello".into(),
        ..NewMessage::default()
    };
    AppendRequest {
        conversation: conversation.to_owned(),
        sender: "ann".to_owned(),
        messages: vec![message],
        ..AppendRequest::default()
    }
}

fn now_us() -> u64 {
    use quorate::types::Clock;
    quorate::server::SystemClock.now().0
}

/// Appends through the first node until another one leads the conversation, and tells which.
async fn append_forwarded(cluster: &LocalCluster, request_id: &str) -> u64 {
    let address = format!("http://{}", cluster.endpoints()[0]);
    let mut client = MessageLogClient::connect(address).await.unwrap();
    for number in 0..100 {
        let conversation = format!("room-{number}");
        let mut request = Request::new(append(&conversation, "1"));
        let id = format!("{request_id}-{number}");
        request.metadata_mut().insert("x-request-id", id.parse().unwrap());
        let answered = client.append(request).await.unwrap();
        assert_eq!(answered.metadata().get("x-request-id").unwrap(), id.as_str());
        let leader = answered.into_inner().position.unwrap().node_id;
        if leader != 1 {
            return leader;
        }
    }
    panic!("the first node leads every group");
}

/// Whether each answered call with a request id that begins so was forwarded, in the order of the log.
fn answered_json(log: &str, request_id: &str) -> Vec<bool> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = lines.filter(|line| {
        line["message"] == "answered a call"
            && line["operation"] == "Append"
            && line["request_id"].as_str().is_some_and(|id| id.starts_with(request_id))
    });
    ours.map(|line| line["forwarded"].as_bool().unwrap()).collect()
}

/// The same in a log for people.
fn answered_text(log: &str, request_id: &str) -> Vec<bool> {
    let ours = log.lines().filter(|line| {
        line.contains("answered a call") && line.contains(&format!("request_id={request_id}"))
    });
    ours.map(|line| line.contains("forwarded=true")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_call_has_one_request_id_in_the_logs_of_both_nodes() {
    for (format, answered) in
        [("json", answered_json as fn(&str, &str) -> Vec<bool>), ("text", answered_text)]
    {
        let settings = format!("\n[log]\nformat = \"{format}\"\nfilter = \"info,quorate=debug\"\n");
        let cluster = cluster(3, &settings).await;
        let leader = append_forwarded(&cluster, "trace-me").await;
        eventually("the leader has logged the call", async || {
            let log = log_of(&cluster, leader);
            let found = answered(&log, "trace-me");
            if found == [true] { Ok(()) } else { Err(format!("{found:?} in\n{log}")) }
        })
        .await;
        let first = answered(&log_of(&cluster, 1), "trace-me");
        assert!(!first.is_empty() && first.iter().all(|forwarded| !forwarded), "{first:?}");
        cluster.stop().await.unwrap();
    }
}

async fn peer_address(cluster: &LocalCluster, node: u64) -> String {
    let address = format!("http://{}", cluster.endpoints()[0]);
    let mut client = ClusterClient::connect(address).await.unwrap();
    let described = client.describe_cluster(DescribeClusterRequest {}).await.unwrap().into_inner();
    let nodes = described.topology.unwrap().nodes;
    nodes.into_iter().find(|known| known.node_id == node).unwrap().peer_address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_peer_port_takes_no_call_without_the_hello_of_a_node() {
    let cluster = cluster(3, "").await;
    let address = format!("http://{}", peer_address(&cluster, 2).await);
    let mut stranger = MessageLogClient::connect(address).await.unwrap();
    for attempt in 0..3 {
        let refused = stranger.append(append("room", &attempt.to_string())).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("did not say hello"), "{refused}");
        let read = ReadRequest { conversation: "room".to_owned(), ..ReadRequest::default() };
        assert_eq!(stranger.read(read).await.unwrap_err().code(), Code::FailedPrecondition);
    }
    // The same on the client port is taken, and is the first of its conversation.
    let address = format!("http://{}", cluster.endpoints()[1]);
    let mut caller = MessageLogClient::connect(address).await.unwrap();
    let first = caller.append(append("room", "1")).await.unwrap().into_inner();
    assert_eq!(first.first_seq, 1);
    let log = log_of(&cluster, 2);
    assert_eq!(log.matches("did not say hello").count(), 1, "logged once:\n{log}");
    cluster.stop().await.unwrap();
}

/// Gives a stopped node's data to another cluster, as if somebody had mixed up two data directories.
fn move_to_another_cluster(data: &Path) {
    let file = data.join("IDENTITY");
    let text = std::fs::read_to_string(&file).unwrap();
    let (body, _) = text.rsplit_once("# crc32c ").unwrap();
    let change = |line: &str| match line.strip_prefix("cluster = \"") {
        Some(id) => format!("cluster = \"{}\n", id.replace(|c: char| c.is_ascii_hexdigit(), "7")),
        None => format!("{line}\n"),
    };
    let body: String = body.lines().map(change).collect();
    assert!(body.contains("7777"), "{body}");
    let crc = crc32c::crc32c(body.as_bytes());
    std::fs::write(&file, format!("{body}# crc32c {crc:08x}\n")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_named_by_readiness_status_and_once_by_the_log() {
    let mut cluster = cluster(3, "").await;
    let http = cluster.http_addresses();
    cluster.kill(3).await.unwrap();
    move_to_another_cluster(&cluster.dir().join("3"));
    cluster.spawn(3).unwrap();

    let told = "node 3 refused this node: node 1 belongs to cluster";
    eventually("node 1 says that node 3 refuses it, and serves", async || {
        let (status, page) = get(&http[0], "/readyz").await;
        if status == 200 && page.contains(told) { Ok(()) } else { Err(page) }
    })
    .await;
    eventually("node 3 says why it does not serve", async || {
        let (status, page) = get(&http[2], "/readyz").await;
        let why = page.contains("node 1 refused this node: node 3 belongs to cluster 7777");
        if status == 503 && why { Ok(()) } else { Err(page) }
    })
    .await;

    let status = tokio::process::Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(["status", "--endpoints", &cluster.endpoints()[0]])
        .output()
        .await
        .unwrap();
    let page = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(page.contains("it belongs to another cluster, 7777"), "{page}");
    assert!(page.contains(told), "{page}");

    // Both sides go on trying: what they answer each other is logged once all the same.
    let log = log_of(&cluster, 1);
    assert_eq!(log.matches("a peer refuses this node").count(), 1, "{log}");
    let refused = log.lines().filter(|line| line.contains("a peer is refused"));
    assert_eq!(refused.filter(|line| line.contains("node 3 belongs")).count(), 1, "{log}");
}
