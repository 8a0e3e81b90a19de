//! Logs are purged behind what is durable, whether more comes or not.

use std::time::Duration;

use tokio::time::{Instant, interval, timeout};

use super::fixture::{EVENTUALLY, GROUP, append_to, leading, names, replica};
use crate::consensus::flusher::flush_once;
use crate::consensus::solitary::Disks;

#[tokio::test]
async fn the_log_of_a_group_that_has_nothing_to_apply_any_more_is_purged() {
    let disks = Disks::default();
    let process = disks.start().await;
    let own = replica(3, 1);
    let group = leading(&process, own).await;
    let deadline = || Instant::now() + EVENTUALLY;
    // Sizes are noted in steps.
    for name in names(GROUP, "room", 1_000) {
        group.propose(append_to(&name, 100), deadline()).await.unwrap();
        if group.log().index_behind(1).is_some() {
            break;
        }
    }
    let upto = group.log().index_behind(1).expect("enough was appended");
    flush_once(&process.replicas, 1).await.unwrap();
    let purging = async {
        let mut ticks = interval(Duration::from_millis(10));
        while group.status().purged_index < Some(upto) {
            ticks.tick().await;
            flush_once(&process.replicas, 1).await.unwrap();
        }
    };
    timeout(EVENTUALLY, purging).await.expect("it is purged though nothing more is applied");
    disks.crash(process).await;
}
