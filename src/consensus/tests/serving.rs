//! Which replicas are asked: none that may never learn more (G9).

use tokio::time::Instant;

use super::fixture::{EVENTUALLY, replica};
use super::links::{Three, of};
use crate::consensus::ReadError;
use crate::types::LogIndex;

/// It goes on naming its leader, and a read there would wait for an index that never comes.
#[tokio::test(start_paused = true)]
async fn a_follower_in_whose_place_another_is_wanted_does_not_count() {
    let three = Three::begin().await;
    let leader = three.leader().await;
    let follower = three.others(leader)[0];
    let newer = |node| Some(replica(node, 2));
    let (led, removed) = (three.group(leader), three.group(follower));
    assert!(removed.takes_part(Some(of(follower))) && removed.takes_part(None));
    assert!(led.takes_part(newer(leader)), "a leader does as long as it leads");
    assert!(!removed.takes_part(newer(follower)));

    led.remove_older(replica(follower, 2), 3).await.unwrap();
    assert_eq!(removed.leader(), Some(led.replica().node), "it was not told");
    assert!(!removed.takes_part(newer(follower)));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_has_stopped_does_not_count_and_lets_go_who_waits_for_it() {
    let three = Three::begin().await;
    let leader = three.leader().await;
    let stopped = three.group(three.others(leader)[0]);
    let never = stopped.wait_applied(LogIndex(1 << 40), Instant::now() + EVENTUALLY);
    let (waited, ()) = tokio::join!(never, stopped.stop());
    assert!(matches!(waited, Err(ReadError::Stopped { .. })), "{waited:?}");
    assert!(!stopped.takes_part(Some(stopped.replica())) && !stopped.takes_part(None));
}
