//! What commands do whose output nobody reads to its end: `quorate … | head -1`.

use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;

use crate::harness::{Cluster, exit_code};

/// More than the command hands in before it looks at the first outcome.
const MESSAGES: usize = 3_000;

async fn write(stdin: &mut ChildStdin, lines: std::ops::Range<usize>) {
    let lines: String = lines.map(|number| format!("line {number}\n")).collect();
    stdin.write_all(lines.as_bytes()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_something_is_finished_and_says_how_it_ended() {
    let cluster = Cluster::start().await;
    let send = ["send", "room", "--sender", "ann", "--client-msg-id", "run", "--each"];
    let mut sending = cluster.begin(&send);
    let mut stdin = sending.child.stdin.take().unwrap();
    write(&mut stdin, 0..1).await;
    assert_eq!(sending.next().await["seq"], 1);
    let sending = sending.read_no_more();
    write(&mut stdin, 1..MESSAGES).await;
    drop(stdin);
    assert_eq!(exit_code(sending).await, 0);
    let sent = cluster.lines(&["read", "room", "--limit", "10000"]).await;
    assert_eq!(sent.len(), MESSAGES, "all of it was sent");

    // The same ids with another text: it is refused, also where neither that nor the sum can be written.
    let mut command = cluster.command(&[&send[..], &["--output", "json"]].concat());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdin(std::process::Stdio::piped()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut sending = command.spawn().unwrap();
    write(sending.stdin.as_mut().unwrap(), 1..3).await;
    drop(sending.stdin.take());
    assert_eq!(exit_code(sending).await, 1);

    let mut replacing = cluster.begin(&["node", "replace", "2", "--all"]);
    assert_eq!(replacing.next().await["step"], "waiting");
    assert_eq!(exit_code(replacing.read_no_more()).await, 0);
    let status = cluster.run(&["status", "--output", "json"]).await;
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    let replicas = status["nodes"][1]["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 5, "{status}");
    assert!(replicas.iter().all(|replica| replica["incarnation"] == 2), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_reads_ends() {
    let cluster = Cluster::start().await;
    cluster.text(&["send", "room", "--sender", "ann", "one"]).await;
    let mut following = cluster.begin(&["follow", "room"]);
    assert_eq!(following.next().await["text"], "one");
    let following = following.read_no_more();
    cluster.text(&["send", "room", "--sender", "ann", "two"]).await;
    assert_eq!(exit_code(following).await, 0);

    // More than fits into the pipe while nobody reads.
    let long = "x".repeat(100_000);
    for _ in 0..3 {
        cluster.text(&["send", "room", "--sender", "ann", &long]).await;
    }
    let mut reading = cluster.begin(&["read", "room"]);
    assert_eq!(reading.next().await["text"], "one");
    assert_eq!(exit_code(reading.read_no_more()).await, 0);
}
