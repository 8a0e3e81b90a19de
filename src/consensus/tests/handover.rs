//! Who is handed leadership, and who is not because it is not there (G9, G12).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fixture::{GROUP, append_to, names, replica};
use super::links::{TIMING, Three, of};
use crate::consensus::solitary::NOW;
use crate::consensus::{ClockSkew, MembershipChangeError, ProposeError, Sighting};
use crate::storage::DiskMark;
use crate::types::{NodeId, Timestamp};

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
        assert!(!three.group(leader).transfer_leader(of(gone)).await);
        let took = three.append(leader, &format!("parked-{is_parked}")).await;
        assert!(took < LEASE / 4, "{took:?}");
        assert_eq!(three.term(leader), term);
        three.start(gone).await;
    }
}

/// What it answered before it died says nothing, however lately that was.
#[tokio::test(start_paused = true)]
async fn leadership_is_not_handed_to_who_has_just_died() {
    let mut three = Three::begin().await;
    let leader = three.leader().await;
    let term = three.term(leader);
    let gone = three.others(leader)[0];
    three.append(leader, "before").await;
    three.kill(gone).await;
    assert!(!three.group(leader).transfer_leader(of(gone)).await);
    let took = three.append(leader, "after").await;
    assert!(took < LEASE / 4, "{took:?}");
    assert_eq!(three.term(leader), term);
}

/// As one that dies in the moment in which it is to lead, or whose disk hangs: the old leader appends nothing any more.
#[tokio::test(start_paused = true)]
async fn leadership_that_an_heir_does_not_take_goes_to_another() {
    let three = Three::begin().await;
    let leader = three.leader().await;
    let (heir, other) = (three.others(leader)[0], three.others(leader)[1]);
    three.links.keep_unaware(heir);
    let began = Instant::now();
    assert!(three.group(leader).transfer_leader(of(heir)).await);
    three.until("the other one leads", |three| three.group(other).is_leader()).await;
    let took = began.elapsed();
    assert!(took < LEASE / 2, "{took:?}");
    three.serves(other).await;
    three.append(other, "after").await;
}

/// It leads no more when another was elected meanwhile, and waits for no answer.
#[tokio::test(start_paused = true)]
async fn who_was_succeeded_hands_nothing_over() {
    let mut three = Three::begin().await;
    let leader = three.leader().await;
    let (silent, heir) = (three.others(leader)[0], three.others(leader)[1]);
    three.append(leader, "before").await;
    three.kill(silent).await;
    let waiting = three.group(leader);
    let waiting = tokio::spawn(async move { waiting.transfer_leader(of(silent)).await });
    three.group(leader).raft().trigger().transfer_leader(of(heir)).await.unwrap();
    three.until("another leads", |three| three.group(heir).is_leader()).await;
    let succeeded_at = Instant::now();
    assert!(!waiting.await.unwrap());
    assert!(succeeded_at.elapsed() < LEASE / 4);
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

/// It goes on believing that it leads. What it has not heard of may be that this very replica counts, and whoever asks
/// would wipe it.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_does_not_say_that_nothing_is_left_to_remove() {
    let three = Three::begin().await;
    let old = three.leader().await;
    let kept = of(three.others(old)[0]);
    three.group(old).check_removal(kept, 3).await.unwrap();
    three.links.cut_off(old, true);
    three
        .until("another leads", |three| {
            three.others(old).iter().any(|node| three.group(*node).is_leader())
        })
        .await;
    let group = three.group(old);
    assert!(group.is_leader(), "as far as it knows");
    let refused = group.check_removal(kept, 3).await.unwrap_err();
    assert!(matches!(refused, MembershipChangeError::NotMade(_)), "{refused}");
    assert!(group.remove_older(kept, 3).await.is_err());
    let next = three.leader().await;
    three.serves(next).await;
    three.group(next).remove_older(kept, 3).await.unwrap();
}

/// What a node sees of one whose clock is ahead by so much.
fn sighting(ahead_us: u64, disk: DiskMark) -> Sighting {
    let clock = ClockSkew::measured(Timestamp(0), Timestamp(ahead_us), 1_000);
    Sighting { clock, disk }
}

/// One replica is lost, and its node up: as nothing is appended by a leader whose clock is off, it stays caught up by its
/// log.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_clock_is_off_hands_over_to_who_answers() {
    let mut three = Three::begin().await;
    let leader = three.leader().await;
    let (gone, heir) = (three.others(leader)[0], three.others(leader)[1]);
    three.kill(gone).await;
    sleep(2 * LEASE).await;
    let far = sighting(5_000_000, DiskMark::Ok);
    let seen: BTreeMap<_, _> = [gone, heir].map(|node| (NodeId(node), far)).into();
    let led = three.group(leader);
    assert!(led.weigh(&seen, NOW).clock_is_off);
    led.give_way(&seen).await;
    three.until("it leads", |three| three.group(heir).is_leader()).await;
}

/// What was known of it when it followed counts from its first entry on, until it is weighed anew.
#[tokio::test(start_paused = true)]
async fn who_is_elected_and_known_to_have_a_clock_that_is_off_stamps_nothing() {
    let mut three = Three::begin().await;
    let leader = three.leader().await;
    let see = |three: &Three, node: u32, ahead_us| {
        let others = three.others(node);
        let seen = others.iter().map(|id| (NodeId(*id), sighting(ahead_us, DiskMark::Ok)));
        three.group(node).weigh(&seen.collect(), NOW)
    };
    for follower in three.others(leader) {
        assert!(!see(&three, follower, 5_000_000).clock_is_off, "nothing is held against it yet");
    }
    three.kill(leader).await;
    let next = three.leader().await;
    let append = append_to(&names(GROUP, "room", 1)[0], 1);
    let refused = three.group(next).propose(append, Instant::now() + LEASE).await.unwrap_err();
    assert!(matches!(refused, ProposeError::ClockUntrusted), "{refused}");
    see(&three, next, 0);
    three.append(next, "room").await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_alone_has_no_room_hands_over_to_who_has() {
    let three = Three::begin().await;
    let leader = three.leader().await;
    let term = three.term(leader);
    let led = three.group(leader);
    let (full, heir) = (three.others(leader)[0], three.others(leader)[1]);
    let seen = |own: DiskMark, other: DiskMark| -> BTreeMap<_, _> {
        let disks = [(leader, own), (full, other), (heir, DiskMark::Ok)];
        disks.map(|(node, disk)| (NodeId(node), sighting(0, disk))).into()
    };

    led.weigh(&seen(DiskMark::Ok, DiskMark::Soft), NOW);
    assert!(!led.has_seen_fit(NodeId(full)), "nor is leadership moved there by plan");
    led.give_way(&seen(DiskMark::Ok, DiskMark::Soft)).await;
    led.admission().set_disk(DiskMark::Soft);
    assert!(led.weigh(&seen(DiskMark::Soft, DiskMark::Soft), NOW).needs_low_disk);
    led.give_way(&seen(DiskMark::Soft, DiskMark::Soft)).await;
    sleep(2 * LEASE).await;
    assert_eq!((three.leader().await, three.term(leader)), (leader, term), "nobody is better off");

    let alone = seen(DiskMark::Soft, DiskMark::Ok);
    assert!(!led.weigh(&alone, NOW).needs_low_disk);
    led.give_way(&alone).await;
    three.until("another leads", |three| three.term(leader) > term).await;
    let next = three.leader().await;
    three.serves(next).await;
    three.append(next, "room").await;
}

/// As before its node stops. What is under way goes on under the heir.
#[tokio::test(start_paused = true)]
async fn a_leader_that_steps_down_leads_no_more_once_that_has_returned() {
    let three = Three::begin().await;
    let leader = three.leader().await;
    let led = three.group(leader);
    let others = three.others(leader);
    let all = [leader, others[0], others[1]];
    let before = Instant::now();
    led.step_down().await;
    assert!(led.is_leader(), "nobody was seen yet");

    let seen = all.map(|node| (NodeId(node), sighting(0, DiskMark::Ok))).into();
    led.weigh(&seen, NOW);
    led.step_down().await;
    assert!(!led.is_leader());
    let took = before.elapsed();
    assert!(took < LEASE / 2, "{took:?}: somebody waited for a lease to end");
    let next = three.leader().await;
    assert_ne!(next, leader);
    three.serves(next).await;
    three.append(next, "room").await;

    let next = three.group(next);
    next.step_down().await;
    assert!(next.is_leader(), "it has seen nobody");
    led.step_down().await;
}
