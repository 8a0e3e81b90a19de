use serde_json::Value;

use crate::harness::{Cluster, json_lines, run};

/// What a conversation holds, by seq.
async fn texts(cluster: &Cluster, conversation: &str) -> Vec<String> {
    let messages = cluster.lines(&["read", conversation]).await;
    messages.iter().map(|m| m["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_is_there_once_however_often_it_is_sent() {
    let cluster = Cluster::start().await;
    let send = ["send", "room", "--sender", "ann", "--client-msg-id", "m1", "--header", "lang=en"];
    let first = cluster.json(&[&send[..], &["hello"]].concat()).await;
    assert_eq!((&first["seq"], &first["duplicate"]), (&1.into(), &false.into()), "{first}");
    let again = cluster.json(&[&send[..], &["hello"]].concat()).await;
    assert_eq!((&again["seq"], &again["duplicate"]), (&1.into(), &true.into()), "{again}");
    assert_eq!(again["commit_time_us"], first["commit_time_us"]);
    let text = cluster.text(&[&send[..], &["hello"]].concat()).await;
    assert!(text.starts_with("room seq 1, already there, committed "), "{text}");

    let read = cluster.lines(&["read", "room"]).await;
    assert_eq!(read.len(), 1);
    assert_eq!(read[0]["headers"], serde_json::json!([{ "name": "lang", "value": "en" }]));
    assert_eq!(read[0]["content_type"], "text/plain; charset=utf-8");

    let long = "x".repeat(300);
    for (arguments, says) in [
        (["--client-msg-id", "m1", "other"], "ID_CONFLICT"),
        (["--expected-tail", "7", "later"], "WRONG_TAIL"),
        (["--client-msg-id", &long, "long"], "client_msg_id is over its limit of 128"),
    ] {
        let ended =
            cluster.run(&[&["send", "room", "--sender", "ann"][..], &arguments].concat()).await;
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.stderr.contains(says) && ended.stdout.is_empty(), "{ended:?}");
    }
    cluster.text(&["send", "room", "--sender", "ann", "--expected-tail", "2", "later"]).await;
    assert_eq!(texts(&cluster, "room").await, ["hello", "later"]);

    // Outcomes of what was sent, of what never was, and of what never will be.
    let outcome = cluster.json(&["outcome", "room", "ann", "m1"]).await;
    assert_eq!((&outcome["state"], &outcome["seq"]), (&"committed".into(), &1.into()));
    let outcome = cluster.json(&["outcome", "room", "ann", "m2"]).await;
    assert_eq!(outcome["state"], "not_committed");
    let issued_at = first["issued_at_us"].to_string();
    let settle = ["outcome", "room", "ann", "m2", "--settle", "--issued-at-us", &issued_at];
    assert_eq!(cluster.json(&settle).await["state"], "burnt");
    let ended =
        cluster.run(&["send", "room", "--sender", "ann", "--client-msg-id", "m2", "no"]).await;
    assert!(ended.code == 1 && ended.stderr.contains("ID_BURNT"), "{ended:?}");
    assert_eq!(texts(&cluster, "room").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_standard_input_are_messages_in_their_order() {
    let cluster = Cluster::start().await;
    let lines: Vec<String> = (1..=300).map(|number| format!("line {number}")).collect();
    let input = format!("{}\n\n", lines.join("\n"));
    let send = ["send", "log", "--sender", "app", "--client-msg-id", "run-1", "--output", "json"];
    for (sent, duplicates) in [(300, 0), (0, 300)] {
        let ended = run(cluster.command(&send), &input).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        let sum = &json_lines(&ended.stdout)[0];
        assert_eq!((&sum["sent"], &sum["duplicates"]), (&sent.into(), &duplicates.into()), "{sum}");
        assert_eq!(texts(&cluster, "log").await, lines);
    }
    let each = [&send[..], &["--each"]].concat();
    let ended = run(cluster.command(&each), "line 1\n").await;
    let answers = json_lines(&ended.stdout);
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert_eq!((&answers[0]["seq"], &answers[0]["client_msg_id"]), (&1.into(), &"run-1-1".into()));
}

/// Chat of five senders in seven conversations.
fn chat(count: u32) -> Vec<Value> {
    let line = |number: u32| {
        serde_json::json!({
            "conversation": format!("room-{}", number % 7),
            "sender": format!("user-{}", number % 5),
            "client_msg_id": format!("id-{number}"),
            "sent_at": "2004-12-25T09:14:00Z",
            "text": format!("message {number}"),
        })
    };
    (0..count).map(line).collect()
}

fn ndjson(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

async fn everything(cluster: &Cluster) -> Vec<Vec<Value>> {
    let mut all = Vec::new();
    for room in 0..7 {
        all.push(cluster.lines(&["read", &format!("room-{room}")]).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_can_be_sent_again_and_again() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.ndjson");
    let path = path.to_str().unwrap();
    let mut lines = chat(1_400);
    let send = ["send", "--file", path];

    // A line that cannot be sent is found before anything is.
    let good = lines[900].clone();
    for (field, value, says) in [
        ("text", Value::from(5), "line 901: text: not a string"),
        ("sender", Value::from(""), "line 901: sender is empty"),
        ("sent_at", Value::from("noon"), "line 901: sent_at: \"noon\" is not a time"),
        ("text", "x".repeat(1024 * 1024 + 1).into(), "line 901: text is over its limit of 1048576"),
    ] {
        lines[900][field] = value;
        std::fs::write(path, ndjson(&lines)).unwrap();
        let ended = cluster.run(&send).await;
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.stderr.contains(&format!("{path} {says}")), "{ended:?}");
        assert!(ended.stderr.contains("nothing was sent"), "{ended:?}");
        lines[900] = good.clone();
    }
    assert_eq!(everything(&cluster).await, vec![Vec::<Value>::new(); 7]);

    std::fs::write(path, ndjson(&lines)).unwrap();
    let sum = cluster.json(&send).await;
    assert_eq!(
        (&sum["sent"], &sum["duplicates"], &sum["failed"]),
        (&1_400.into(), &0.into(), &0.into())
    );
    let first = everything(&cluster).await;
    for (room, messages) in first.iter().enumerate() {
        let expected: Vec<&Value> =
            lines.iter().skip(room).step_by(7).map(|l| &l["text"]).collect();
        assert_eq!(messages.iter().map(|m| &m["text"]).collect::<Vec<_>>(), expected);
        let sent_at = serde_json::json!([{ "name": "sent_at", "value": "2004-12-25T09:14:00Z" }]);
        assert_eq!(messages[0]["headers"], sent_at);
    }
    // Again, by a new process, which stamps another `issued_at`: every answer is the first outcome.
    let sum = cluster.json(&send).await;
    assert_eq!((&sum["sent"], &sum["duplicates"]), (&0.into(), &1_400.into()), "{sum}");
    assert_eq!(everything(&cluster).await, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_stops_at_its_first_failure_and_the_others_go_on() {
    let cluster = Cluster::start().await;
    let mut lines = chat(70);
    let send = ["send", "--file", "-", "--output", "json"];
    assert_eq!(run(cluster.command(&send), &ndjson(&lines[..35])).await.code, 0);
    // The third message of room 3 comes with another text than the one that stands.
    lines[17]["text"] = "changed".into();
    let ended = run(cluster.command(&send), &ndjson(&lines)).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    let sum = &json_lines(&ended.stdout)[0];
    let of_room_3 = 10 - 2;
    assert_eq!(
        (&sum["failed"], &sum["failed_behind_another"]),
        (&of_room_3.into(), &7.into()),
        "{sum}"
    );
    assert_eq!((&sum["sent"], &sum["duplicates"]), (&30.into(), &32.into()), "{sum}");
    let failure = &sum["failures"][0];
    assert_eq!((&failure["line"], &failure["reason"]), (&18.into(), &"ID_CONFLICT".into()));
    assert_eq!(texts(&cluster, "room-4").await.len(), 10);

    // What comes from a pipe cannot be checked first: what stands before a bad line is sent, nothing after it.
    let more = format!("{}{{}}\n{}", ndjson(&chat(80)[70..75]), ndjson(&chat(80)[75..]));
    let ended = run(cluster.command(&send), &more).await;
    assert_eq!(ended.code, 1);
    assert_eq!(json_lines(&ended.stdout)[0]["sent"], 5);
    assert!(ended.stderr.contains("standard input line 6: conversation: missing"), "{ended:?}");
}
