//! What is wrong with a call is said, and changes nothing.

use std::collections::BTreeMap;

use quorate_client::{Append, Consistency, NewMessage, Read, Start};

use crate::harness::{Cluster, NODES};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_and_changes_nothing() {
    let cluster = Cluster::start("").await;
    let client = cluster.client(1).await;
    let message = |id: &str, text: &str| NewMessage::text(text).client_msg_id(id);
    let first = client.append(Append::new("room", "ann", message("1", "hello"))).await.unwrap();
    assert_eq!((first.first_seq, first.duplicate), (1, false));
    // A retry, through another node.
    let again = cluster.client(2).await;
    let again = again.append(Append::new("room", "ann", message("1", "hello"))).await.unwrap();
    assert_eq!((again.first_seq, again.duplicate), (1, true));
    assert_eq!(again.commit_time_us, first.commit_time_us);

    let long = "x".repeat(600);
    let ahead = message("3", "ahead").issued_at_us(u64::MAX / 2);
    let refused: BTreeMap<&str, Append> = BTreeMap::from([
        ("EMPTY_FIELD", Append::new("", "ann", message("9", "x"))),
        ("LIMIT_EXCEEDED", Append::new(long.as_str(), "ann", message("9", "x"))),
        ("ID_CONFLICT", Append::new("room", "ann", message("1", "other"))),
        ("WRONG_TAIL", Append::new("room", "ann", message("9", "x")).expected_tail(7)),
        ("ISSUED_IN_FUTURE", Append::new("room", "ann", ahead)),
    ]);
    for (reason, append) in refused {
        let error = client.append(append).await.expect_err(reason);
        assert!(!error.may_have_taken_effect(), "{reason}: {error}");
        assert!(!error.retryable(), "{reason}: {error}");
        assert_eq!(error.reason(), reason);
    }
    let page = client.read(Read::new("room").start(Start::Seq(1))).await.unwrap();
    assert_eq!(page.messages.len(), 1);
    assert_eq!(page.tail, 2);
    let beyond = client.read(Read::new("room").start(Start::Seq(50))).await.unwrap();
    assert!(beyond.messages.is_empty());
    for node in NODES {
        let read = Read::new("room").consistency(Consistency::AtLeast(1));
        let page = cluster.client(node).await.read(read).await.unwrap();
        assert_eq!(page.messages[0].payload, "hello");
    }
}
