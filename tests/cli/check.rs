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
    let running = check(&data[0]).await;
    assert_eq!(running.code, 1, "{running:?}");
    assert!(running.stderr.contains("stop the node first: ") && running.stderr.contains("in use"));
    let _dir = cluster.stop().await;

    let mut digests = Vec::new();
    for folder in &data {
        let ended = check(folder).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stdout.contains("every invariant holds"), "{ended:?}");
        assert!(ended.stdout.contains("2000 messages"), "{ended:?}");
        let groups = ended.stdout.lines().filter(|line| line.starts_with("group "));
        // Who stops first may not have heard of the last change of leaders.
        let state = |line: &str| line.split_once(" conversations ").unwrap().1.to_owned();
        digests.push(groups.map(state).collect::<Vec<_>>());
    }
    assert!(digests[0] == digests[1] && digests[1] == digests[2], "{digests:?}");

    // What the node has noted stands, though no byte of the databases shows it.
    std::fs::write(data[2].join("DAMAGED"), "a block does not have its checksum").unwrap();
    let ended = check(&data[2]).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stdout.starts_with("node 3: NOT SOUND\n"), "{ended:?}");
    let noted = "noted by the node while it ran: a block does not have its checksum";
    assert!(ended.stdout.contains(noted), "{ended:?}");
    assert!(ended.stdout.contains("with an empty one, then quorate node replace 3"), "{ended:?}");
    std::fs::remove_file(data[2].join("DAMAGED")).unwrap();
    // Nor does a node start where its watermark is gone.
    std::fs::remove_file(data[2].join("watermark")).unwrap();
    let ended = check(&data[2]).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("it is missing, and the databases have groups"), "{ended:?}");

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
