//! Leadership that is handed over to somebody who is not there (G9).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fixture::replica;
use super::links::{TIMING, Three, of};

const LEASE: Duration = Duration::from_millis(TIMING.election_timeout_max_ms);

/// A leader knows how much of the log a replica had, not whether it is still there: its node may be up without it.
#[tokio::test(start_paused = true)]
async fn leadership_is_not_handed_to_who_does_not_answer() {
    let mut three = Three::begin().await;
    let leader = three.leader().await;
    let term = three.term(leader);
    for is_parked in [false, true] {
        if is_parked {
            three.parked().await;
        }
        let gone = three.others(leader)[0];
        three.kill(gone).await;
        sleep(2 * LEASE).await;
        assert!(three.group(leader).can_hand_over_to(of(gone)), "by its log");
        three.group(leader).transfer_leader(of(gone)).await;
        let took = three.append(leader, &format!("parked-{is_parked}")).await;
        assert!(took < LEASE / 4, "{took:?}");
        assert_eq!(three.term(leader), term);
        three.start(gone).await;
    }
}

/// It died as it was to lead. What is asked of voters meanwhile must not keep them from electing another: this leader
/// appends nothing any more, and so changes no membership.
#[tokio::test(start_paused = true)]
async fn who_is_to_be_removed_keeps_no_leader_alive_that_has_handed_over_to_it() {
    let mut three = Three::begin().await;
    let leader = three.leader().await;
    let heir = three.others(leader)[0];
    three.kill(heir).await;
    three.group(leader).raft().trigger().transfer_leader(of(heir)).await.unwrap();
    let began = Instant::now();
    let asking = async {
        loop {
            assert!(three.group(leader).remove_older(replica(heir, 2), 3).await.is_err());
            sleep(LEASE / 10).await;
        }
    };
    let term = three.term(leader);
    tokio::select! {
        () = three.until("another leads", |three| three.term(leader) > term) => {}
        () = asking => unreachable!("it asks for ever"),
    }
    let took = began.elapsed();
    assert!(took < 4 * LEASE, "{took:?}");
    let next = three.leader().await;
    three.serves(next).await;
    three.group(next).remove_older(replica(heir, 2), 3).await.unwrap();
}
