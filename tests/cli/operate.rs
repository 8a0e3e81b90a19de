use tokio::time::{Instant, sleep};

use crate::harness::{Cluster, DEADLINE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_healthy_or_what_is_not_and_what_to_type() {
    let mut cluster = Cluster::start().await;
    let text = cluster.text(&["status"]).await;
    assert!(text.starts_with("healthy\n"), "{text}");
    let status = cluster.json(&["status"]).await;
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(status["groups"].as_array().unwrap().len(), 4);

    cluster.local.kill(3).await.unwrap();
    let ended = cluster.run(&["status"]).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stdout.starts_with("node 3 ("), "{ended:?}");
    assert!(ended.stdout.contains("next: start node 3"), "{ended:?}");
    cluster.local.restart(3).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while cluster.run(&["status"]).await.code != 0 {
        assert!(Instant::now() < deadline, "{:?}", cluster.run(&["status"]).await);
        sleep(std::time::Duration::from_millis(100)).await;
    }

    // A node that lost everything is made anew with the command that status names.
    cluster.text(&["send", "room", "--sender", "ann", "hello"]).await;
    cluster.local.kill(2).await.unwrap();
    std::fs::remove_dir_all(cluster.data_of(2)).unwrap();
    cluster.local.spawn(2).unwrap();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let ended = cluster.run(&["status"]).await;
        if ended.code == 1 && ended.stdout.contains("next: quorate node replace 2") {
            break;
        }
        assert!(Instant::now() < deadline, "{ended:?}");
        sleep(std::time::Duration::from_millis(100)).await;
    }
    let steps = cluster.lines(&["node", "replace", "2"]).await;
    let last = steps.last().unwrap();
    // Its replica of each of the four groups and of the meta group.
    assert_eq!((&last["complete"], &last["replaced"]), (&true.into(), &5.into()), "{steps:?}");
    cluster.local.wait_ready().await.unwrap();
    let again = cluster.text(&["node", "replace", "2"]).await;
    assert!(again.starts_with("nothing to replace"), "{again}");
    let none = cluster.run(&["node", "replace", "9"]).await;
    assert!(none.code == 1 && none.stderr.contains("node 9 was not replaced"), "{none:?}");
    let deadline = Instant::now() + DEADLINE;
    while cluster.run(&["status"]).await.code != 0 {
        assert!(Instant::now() < deadline, "{:?}", cluster.run(&["status"]).await);
        sleep(std::time::Duration::from_millis(100)).await;
    }
}
