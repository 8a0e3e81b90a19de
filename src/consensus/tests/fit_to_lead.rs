//! A leader whose clock is off, or whose quorum needs a voter without room, refuses and says why.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::ServerState;
use tokio::time::Instant;

use super::fixture::{GROUP, append_to, names, range_of, replica};
use crate::consensus::solitary::{Disks, NOW};
use crate::consensus::{ClockReading, ClockSkew, ProposeError, Sighting};
use crate::log::{Command, Outcome};
use crate::storage::DiskMark;
use crate::types::{NodeId, Timestamp};

const NODE: NodeId = NodeId(3);

/// What the leader's node is seen to be. A group of one: the leader alone is the majority.
fn seen(ahead_us: u64, disk: DiskMark) -> BTreeMap<NodeId, Sighting> {
    let clock = ClockSkew::measured(Timestamp(0), Timestamp(ahead_us), 1_000);
    [(NODE, Sighting { clock, disk })].into()
}

#[tokio::test]
async fn a_leader_refuses_while_its_clock_or_a_needed_disk_does_not_allow_more() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = process.replicas.make(GROUP, replica(3, 1)).await.unwrap();
    group.initialize(vec![replica(3, 1)]).await.unwrap();
    let deadline = || Instant::now() + Duration::from_secs(30);
    let configure = || Command::Configure { range: range_of(GROUP), epoch: 1 };
    let elected = group.raft().wait(Some(Duration::from_secs(30)));
    elected.state(ServerState::Leader, "a group of one elects itself").await.unwrap();
    assert_eq!(group.propose(configure(), deadline()).await.unwrap(), Outcome::Done);
    let append = || append_to(&names(GROUP, "room", 1)[0], 1);

    assert!(group.weigh(&seen(600_000, DiskMark::Ok), NOW).clock_is_off);
    let refused = group.propose(append(), deadline()).await.unwrap_err();
    assert!(matches!(refused, ProposeError::ClockUntrusted), "{refused}");
    let refused = group.propose(configure(), deadline()).await.unwrap_err();
    assert!(
        matches!(refused, ProposeError::ClockUntrusted),
        "every proposal is stamped: {refused}"
    );
    assert!(!group.has_seen_fit(NODE));

    let low = group.weigh(&seen(400_000, DiskMark::Soft), NOW);
    assert!(low.needs_low_disk && !low.clock_is_off && low.clocks_agree);
    let refused = group.propose(append(), deadline()).await.unwrap_err();
    assert!(matches!(refused, ProposeError::DiskLow), "{refused}");
    assert!(group.propose(configure(), deadline()).await.is_ok(), "what adds no data passes");

    assert!(!group.lacks_quorum());
    for round in 1..=3 {
        assert!(!group.lacks_quorum(), "in round {round} it is not sure yet");
        group.weigh(&BTreeMap::new(), NOW);
    }
    assert!(group.lacks_quorum());
    group.weigh(&seen(400_000, DiskMark::Ok), NOW);
    assert!(group.has_seen_fit(NODE) && !group.lacks_quorum());
    assert!(!group.has_seen_fit(NodeId(1)), "it did not answer");
    let appended = group.propose(append(), deadline()).await.unwrap();
    assert!(matches!(appended, Outcome::Appended(_)), "{appended:?}");
    disks.crash(process).await;
}

/// Who sets the clock after it was compared: what it shows then is neither stamped nor made the dedup floor, which never
/// goes back.
#[tokio::test]
async fn a_clock_that_was_set_since_it_was_compared_is_not_believed() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = process.leading(GROUP, replica(3, 1), range_of(GROUP)).await;
    assert_eq!(group.agreed_now(), None, "it was not compared yet");
    let fit = seen(0, DiskMark::Ok);
    let before = ClockReading { wall: NOW.wall.minus_us(600_000), ..NOW };
    for (read, is_believed) in [(NOW, true), (before, false), (NOW, true)] {
        assert!(group.weigh(&fit, read).clocks_agree);
        assert_eq!(group.agreed_now(), Some(read.wall), "whatever the clock shows");
        let deadline = Instant::now() + Duration::from_secs(30);
        let answer = group.propose(append_to(&names(GROUP, "room", 1)[0], 1), deadline).await;
        match answer {
            Ok(Outcome::Appended(_)) => assert!(is_believed),
            Err(ProposeError::ClockUntrusted) => assert!(!is_believed),
            other => panic!("{other:?}"),
        }
    }
    assert!(group.weigh(&seen(600_000, DiskMark::Ok), NOW).clock_is_off);
    assert_eq!(group.agreed_now(), None, "nobody agreed");
    disks.crash(process).await;
}
