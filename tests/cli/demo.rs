use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::harness::{DEADLINE, Ended, json_lines, quorate, run};

/// Chat of one sender in one room.
fn chat(count: u32) -> Vec<Value> {
    let line = |number: u32| {
        json!({
            "conversation": "room",
            "sender": "ann",
            "client_msg_id": format!("id-{number}"),
            "text": format!("message {number}"),
        })
    };
    (1..=count).map(line).collect()
}

async fn demo_with(lines: &[Value], path: &Path) -> Ended {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(path, text).unwrap();
    let arguments = ["demo", "--rate", "400", "--output", "json", "--file"];
    run(quorate(&[&arguments[..], &[path.to_str().unwrap()]].concat()), "").await
}

fn assert_counts(verdict: &Value, expected: &[(&str, u32)]) {
    for (name, count) in expected {
        assert_eq!(verdict[name], *count, "{name}: {verdict}");
    }
    for name in ["lost", "duplicated", "out_of_order", "altered"] {
        assert_eq!(verdict[name], 0, "{name}: {verdict}");
    }
    assert_eq!(verdict["identical_on_all_replicas"], true, "{verdict}");
    assert_eq!(verdict["replicas"], 3, "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_loses_nothing() {
    let arguments = ["demo", "--messages", "200", "--rate", "400", "--output", "json"];
    let ended = run(quorate(&arguments), "").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let verdicts = json_lines(&ended.stdout);
    assert_eq!(verdicts.len(), 1, "{ended:?}");
    assert_counts(&verdicts[0], &[("sent", 200), ("acknowledged", 200), ("failed", 0)]);
    assert_eq!(verdicts[0]["first_failure"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_refuses_a_file_before_it_starts_anything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.ndjson");
    let path_text = path.to_str().unwrap();
    for (field, value, says) in [
        ("text", Value::from(5), "line 3: text: not a string"),
        ("sender", "".into(), "line 3: sender is empty"),
        ("client_msg_id", "".into(), "line 3: client_msg_id is empty"),
        ("client_msg_id", "x".repeat(129).into(), "line 3: client_msg_id is over its limit of 128"),
        ("text", "x".repeat(1024 * 1024 + 1).into(), "line 3: text is over its limit of 1048576"),
        ("sent", "today".into(), "line 3: sent: unknown field"),
    ] {
        let mut lines = chat(4);
        lines[2][field] = value;
        let ended = demo_with(&lines, &path).await;
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.stderr.contains(&format!("{path_text} {says}")), "{says}: {ended:?}");
        assert!(ended.stdout.is_empty(), "{ended:?}");
    }
    let ended = demo_with(&[], &path).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("has no messages"), "{ended:?}");
}

/// The conversation stops at its second line, long before the leader's turn to be killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_ends_when_most_of_its_messages_fail() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = chat(50);
    lines[1]["client_msg_id"] = "id-1".into();
    let ended = demo_with(&lines, &folder.path().join("chat.ndjson")).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    let verdict = &json_lines(&ended.stdout)[0];
    assert_counts(verdict, &[("sent", 50), ("acknowledged", 1), ("failed", 49)]);
    let failure = verdict["first_failure"].as_str().unwrap();
    assert!(failure.starts_with("id-1 of ann in room: "), "{failure}");
    assert!(failure.contains("ID_CONFLICT"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_for_development_ends_with_its_nodes_and_its_data() {
    // With one of the standard ports taken, by this test or by somebody else, it chooses any that are free.
    let _taken = TcpListener::bind("127.0.0.1:7101");
    let mut command = quorate(&["dev", "--output", "json"]);
    let mut dev = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines();
    let line = timeout(DEADLINE, lines.next_line()).await.expect("it starts in time").unwrap();
    let cluster: Value = serde_json::from_str(&line.expect("it says where the nodes are")).unwrap();
    let nodes = cluster["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3, "{cluster}");
    let endpoints: Vec<&str> =
        nodes.iter().map(|node| node["client_address"].as_str().unwrap()).collect();
    let mut send = quorate(&["send", "room", "--sender", "ann", "--timeout", "60s", "hello"]);
    send.env("QUORATE_ENDPOINTS", endpoints.join(","));
    let sent = run(send, "").await;
    assert_eq!(sent.code, 0, "{sent:?}");
    let pids: Vec<Pid> = nodes
        .iter()
        .map(|node| Pid::from_raw(node["pid"].as_i64().unwrap() as i32).unwrap())
        .collect();
    pids.iter().for_each(|pid| test_kill_process(*pid).expect("the node runs"));
    let folder = Path::new(cluster["dir"].as_str().unwrap());
    assert!(folder.join("1.toml").exists(), "{cluster}");

    kill_process(Pid::from_raw(dev.id().unwrap() as i32).unwrap(), Signal::INT).unwrap();
    let ended = timeout(DEADLINE, dev.wait()).await.expect("Ctrl-C ends it").unwrap();
    assert_eq!(ended.code(), Some(0));
    for pid in pids {
        assert!(test_kill_process(pid).is_err(), "process {pid:?} runs on");
    }
    assert!(!folder.exists(), "{cluster}");
}
