use std::path::Path;

use crate::harness::{Cluster, Ended, files, quorate, run};

async fn check(data: &Path) -> Ended {
    run(quorate(&["check", "--data", data.to_str().unwrap()]), "").await
}

/// Flips one bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_finds_what_is_damaged_and_says_where() {
    let cluster = Cluster::start().await;
    let lines: String = (0..2_000).map(|number| format!("line {number}\n")).collect();
    let sent = run(cluster.command(&["send", "room", "--sender", "ann"]), &lines).await;
    assert_eq!(sent.code, 0, "{sent:?}");
    let data = [1, 2, 3].map(|node| cluster.data_of(node));
    let _dir = cluster.stop().await;

    let mut digests = Vec::new();
    for folder in &data {
        let ended = check(folder).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stdout.contains("every invariant holds"), "{ended:?}");
        assert!(ended.stdout.contains("2000 messages"), "{ended:?}");
        let groups = ended.stdout.lines().filter(|line| line.starts_with("group "));
        digests.push(groups.map(str::to_owned).collect::<Vec<_>>());
    }
    assert!(digests[0] == digests[1] && digests[1] == digests[2], "{digests:?}");

    let state = files(&data[0].join("state"), ".sst").pop().expect("the state was flushed");
    damage(&state);
    let ended = check(&data[0]).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    let name = state.file_name().unwrap().to_str().unwrap();
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains(name), "it names {name}: {said}");
    assert!(said.contains("next: start the node, then quorate node replace 1"), "{said}");
    assert!(said.lines().count() < 40, "{said}");

    let log = files(&data[1].join("log"), ".log").pop().expect("there is a write-ahead log");
    damage(&log);
    let ended = check(&data[1]).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("log"), "{said}");

    let ended = check(&data[2].join("nothing")).await;
    assert_eq!(ended.code, 1, "{ended:?}");
}
