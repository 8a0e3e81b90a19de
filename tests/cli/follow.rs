use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use crate::harness::{Cluster, DEADLINE};

async fn say(cluster: &Cluster, room: &str, text: &str) {
    cluster.text(&["send", room, "--sender", "ann", text]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_shows_what_is_there_and_then_what_comes() {
    let mut cluster = Cluster::start().await;
    for text in ["one", "two", "three"] {
        say(&cluster, "a", text).await;
    }
    say(&cluster, "b", "uno").await;

    let past = cluster.lines(&["follow", "a", "--until-caught-up"]).await;
    let kinds: Vec<_> = past.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "message", "message", "caught_up"]);
    assert_eq!((&past[3]["conversation"], &past[3]["next_seq"]), (&"a".into(), &4.into()));
    let two = cluster.lines(&["follow", "a", "b", "--until-caught-up"]).await;
    assert_eq!(two.iter().filter(|line| line["type"] == "message").count(), 4);
    let text = cluster.text(&["follow", "a", "b", "nobody", "--until-caught-up"]).await;
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.contains("b 1 ") && text.contains(" ann uno\n"), "{text}");
    let last = cluster.text(&["follow", "a", "--last", "2", "--limit", "1"]).await;
    assert!(last.starts_with("2 ") && last.ends_with(" ann two\n"), "{last}");
    let from = cluster.text(&["follow", "a", "--from", "3", "--limit", "1"]).await;
    assert!(from.ends_with(" ann three\n"), "{from}");
    let since = cluster.lines(&["follow", "a", "--since", "1h", "--limit", "3"]).await;
    assert_eq!(since[0]["seq"], 1);

    let mut following = cluster.begin(&["follow", "a", "c", "--new"]);
    for _ in 0..2 {
        assert_eq!(following.next().await["type"], "caught_up");
    }
    say(&cluster, "a", "four").await;
    let message = following.next().await;
    assert_eq!((&message["seq"], &message["text"]), (&4.into(), &"four".into()));
    // Whichever node it is connected to dies: it goes on without a gap or a repeat.
    for node in 1..=3 {
        cluster.local.kill(node).await.unwrap();
        say(&cluster, "a", &format!("without node {node}")).await;
        say(&cluster, "c", &format!("without node {node}")).await;
        cluster.local.restart(node).await.unwrap();
        let (first, second) = (following.next().await, following.next().await);
        let mut seen = [&first, &second].map(|m| (m["conversation"].as_str().unwrap(), &m["seq"]));
        seen.sort_by_key(|(conversation, _)| *conversation);
        assert_eq!(seen, [("a", &(4 + node).into()), ("c", &node.into())]);
    }
    let pid = Pid::from_raw(following.child.id().unwrap() as i32).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ended = timeout(DEADLINE, following.child.wait()).await.expect("Ctrl-C ends it").unwrap();
    assert_eq!(ended.code(), Some(0));
}
