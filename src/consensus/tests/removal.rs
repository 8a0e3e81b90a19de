//! Who is taken out of a group, and who is not, for those who remain have to go on without.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, sleep};

use super::fixture::{EVENTUALLY, GROUP, range_of, replica};
use super::scripted::{Asked, Voters, followers, leads_three, leads_three_at};
use crate::consensus::solitary::{Disks, NOW};
use crate::consensus::{
    CAUGHT_UP_LAG_MAX, ClockSkew, Group, MembershipChangeError, RaftTiming, Sighting,
};
use crate::log::Command;
use crate::storage::DiskMark;
use crate::types::{LogIndex, ReplicaId};

/// So quick that a question to somebody who does not answer ends within a test.
const QUICK: RaftTiming = RaftTiming {
    heartbeat_interval_ms: 20,
    election_timeout_min_ms: 500,
    election_timeout_max_ms: 1_000,
    park_after_ms: 0,
};

fn voters(group: &Group) -> BTreeSet<ReplicaId> {
    group.row().membership.configs.into_iter().flatten().collect()
}

async fn wanted() -> Result<(), MembershipChangeError> {
    Ok(())
}

/// Makes a learner a voter, as soon as it has what there is.
async fn promoted(group: &Group, others: &mut Voters, learner: ReplicaId) {
    let promoted = async {
        while let Err(error) = group.promote(learner, wanted).await {
            assert!(matches!(error, MembershipChangeError::NotMade(_)), "{error}");
            sleep(Duration::from_millis(1)).await;
        }
    };
    others.follow_until(promoted).await;
}

/// More than a voter may lack is appended, and this one takes nothing of it.
async fn fall_behind(group: &Group, others: &mut Voters, behind: ReplicaId) {
    let appended = async {
        for _ in 0..=CAUGHT_UP_LAG_MAX {
            let configure = Command::Configure { range: range_of(GROUP), epoch: 1 };
            group.propose(configure, Instant::now() + EVENTUALLY).await.unwrap();
        }
    };
    others.answer_until(|asked| takes_nothing(asked, behind), appended).await;
}

/// What reaches voters while this one answers questions alone.
fn takes_nothing(asked: &Asked, behind: ReplicaId) -> bool {
    asked.to != behind || asked.last().is_none()
}

/// A membership that most of those who remain cannot agree to would be there for ever.
#[tokio::test]
async fn a_voter_is_not_taken_out_while_another_is_dead() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three_at(&disks, QUICK).await;
    let [dead, alive] = followers();
    let reaches = |asked: &Asked| asked.to != dead;

    let removal = group.remove_older(replica(alive.node.0, 2), 3);
    let refused = others.answer_until(reaches, removal).await.unwrap_err();
    assert!(matches!(refused, MembershipChangeError::NotMade(_)), "{refused}");
    let check = group.check_removal(replica(alive.node.0, 2), 3);
    assert!(others.answer_until(reaches, check).await.is_err());
    assert_eq!(voters(&group), [dead, alive, group.replica()].into());

    let removal = group.remove_older(replica(dead.node.0, 2), 3);
    others.answer_until(reaches, removal).await.unwrap();
    assert_eq!(voters(&group), [alive, group.replica()].into(), "the dead one can be");
    disks.crash(process).await;
}

/// The removal would be in force at once, and never be agreed to: with the leader gone nobody could be elected any more.
#[tokio::test]
async fn a_voter_is_not_taken_out_while_another_answers_and_lacks_the_log() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three(&disks).await;
    let [behind, sound] = followers();
    fall_behind(&group, &mut others, behind).await;
    let reaches = |asked: &Asked| takes_nothing(asked, behind);
    let (of_sound, of_behind) = (replica(sound.node.0, 2), replica(behind.node.0, 2));

    let check = others.answer_until(reaches, group.check_removal(of_sound, 3)).await;
    let refused = check.unwrap_err().to_string();
    assert!(refused.contains(&format!("replica {behind} lacks ")), "{refused}");
    assert!(others.answer_until(reaches, group.remove_older(of_sound, 3)).await.is_err());
    assert_eq!(voters(&group), [behind, sound, group.replica()].into());

    others.answer_until(reaches, group.remove_older(of_behind, 3)).await.unwrap();
    assert_eq!(voters(&group), [sound, group.replica()].into(), "the one that lags can be");
    disks.crash(process).await;
}

/// Under load there are always more entries on their way to it than it may lack; what it held a moment ago it has.
#[tokio::test]
async fn a_voter_counts_that_soon_holds_what_the_leader_holds_now() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three(&disks).await;
    let [behind, sound] = followers();
    fall_behind(&group, &mut others, behind).await;
    let check = group.check_removal(replica(sound.node.0, 2), 3);
    others.follow_until(check).await.unwrap();
    disks.crash(process).await;
}

/// As long as nothing is appended it lacks nothing.
#[tokio::test]
async fn a_voter_is_not_taken_out_while_another_has_no_room() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three(&disks).await;
    let [full, sound] = followers();
    let seen = |disk| [(full.node, Sighting { clock: ClockSkew::NONE, disk })].into();
    group.weigh(&seen(DiskMark::Hard), NOW);
    let check = others.follow_until(group.check_removal(replica(sound.node.0, 2), 3)).await;
    let refused = check.unwrap_err().to_string();
    assert!(refused.contains(&format!("node {} has no room", full.node)), "{refused}");
    others.follow_until(group.check_removal(replica(full.node.0, 2), 3)).await.unwrap();
    group.weigh(&seen(DiskMark::Soft), NOW);
    others.follow_until(group.check_removal(replica(sound.node.0, 2), 3)).await.unwrap();
    disks.crash(process).await;
}

/// It would count, and those who have the log could no more agree without it once another is lost.
#[tokio::test]
async fn a_learner_becomes_a_voter_once_it_has_the_log() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three(&disks).await;
    let [first, second] = followers();
    let new = replica(first.node.0, 2);
    others.follow_until(group.remove_older(new, 3)).await.unwrap();
    let blank = |asked: &Asked| takes_nothing(asked, new);
    others.answer_until(blank, group.add_learner(new, wanted)).await.unwrap();
    let promotion = others.answer_until(blank, group.promote(new, wanted)).await;
    assert!(matches!(promotion, Err(MembershipChangeError::NotMade(_))), "{promotion:?}");
    fall_behind(&group, &mut others, new).await;
    let promotion = others.answer_until(blank, group.promote(new, wanted)).await;
    assert!(matches!(promotion, Err(MembershipChangeError::NotMade(_))), "{promotion:?}");
    assert_eq!(voters(&group), [second, group.replica()].into());
    promoted(&group, &mut others, new).await;
    assert_eq!(voters(&group), [new, second, group.replica()].into());
    disks.crash(process).await;
}

/// They would be two of one node, and the older may be gone.
#[tokio::test]
async fn a_learner_becomes_no_voter_beside_an_older_one_of_its_node() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three(&disks).await;
    let [first, second] = followers();
    let new = replica(first.node.0, 2);
    others.follow_until(group.add_learner(new, wanted)).await.unwrap();
    let promotion = others.follow_until(group.promote(new, wanted)).await;
    let refused = promotion.unwrap_err().to_string();
    assert!(refused.contains(&format!("{first} is a voter still")), "{refused}");
    assert_eq!(voters(&group), [first, second, group.replica()].into());
    disks.crash(process).await;
}

/// Whatever was acknowledged is on a majority of as many voters as there are to be.
#[tokio::test]
async fn two_of_three_are_not_taken_out_at_the_same_time() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three(&disks).await;
    let [first, second] = followers();
    others.follow_until(group.remove_older(replica(first.node.0, 2), 3)).await.unwrap();
    let removal = group.remove_older(replica(second.node.0, 2), 3);
    let refused = others.follow_until(removal).await.unwrap_err();
    assert!(matches!(refused, MembershipChangeError::NotMade(_)), "{refused}");

    let new = replica(first.node.0, 2);
    others.follow_until(group.add_learner(new, wanted)).await.unwrap();
    promoted(&group, &mut others, new).await;
    others.follow_until(group.remove_older(replica(second.node.0, 2), 3)).await.unwrap();
    assert_eq!(voters(&group), [new, group.replica()].into(), "once the first is made anew");
    disks.crash(process).await;
}

#[tokio::test]
async fn the_only_voter_is_not_taken_out() {
    let disks = Disks::default();
    let process = disks.start().await;
    let own = replica(3, 1);
    let group = process.replicas.make(GROUP, own).await.unwrap();
    group.initialize(vec![own]).await.unwrap();
    let elected = group.raft().wait(Some(EVENTUALLY));
    elected.state(ServerState::Leader, "a group of one elects itself").await.unwrap();
    let refused = group.remove_older(replica(3, 2), 1).await.unwrap_err();
    assert!(matches!(refused, MembershipChangeError::Last), "{refused}");
    disks.crash(process).await;
}

/// Somebody else has begun to make a newer one, and may remove this one's data at any time.
#[tokio::test]
async fn who_is_not_wanted_any_more_becomes_no_voter() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three(&disks).await;
    let [first, _] = followers();
    let (made, newer) = (replica(first.node.0, 2), replica(first.node.0, 3));
    others.follow_until(group.remove_older(made, 3)).await.unwrap();
    others.follow_until(group.add_learner(made, wanted)).await.unwrap();
    let not_wanted = async || Err(MembershipChangeError::Newer(newer));
    let refused = others.follow_until(group.promote(made, not_wanted)).await.unwrap_err();
    assert!(matches!(refused, MembershipChangeError::Newer(_)), "{refused}");
    others.follow_until(group.remove_older(newer, 3)).await.unwrap();
    let mut members = group.raft().voter_ids().chain(group.raft().learner_ids());
    assert!(members.all(|member| member != made));
    disks.crash(process).await;
}

/// Of two operators who replace one node, the slower comes when the faster has brought in a newer replica.
#[tokio::test]
async fn a_newer_replica_of_the_node_is_not_taken_out() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three(&disks).await;
    let [first, second] = followers();
    let (slower, faster) = (replica(first.node.0, 2), replica(first.node.0, 3));
    others.follow_until(group.remove_older(faster, 3)).await.unwrap();
    others.follow_until(group.add_learner(faster, wanted)).await.unwrap();
    promoted(&group, &mut others, faster).await;
    let refused = others.follow_until(group.remove_older(slower, 3)).await.unwrap_err();
    assert!(matches!(refused, MembershipChangeError::Newer(id) if id == faster), "{refused}");
    assert_eq!(voters(&group), [faster, second, group.replica()].into());
    disks.crash(process).await;
}

/// A group between two memberships needs majorities of both, and whoever has begun the change may have gone.
#[tokio::test]
async fn what_a_change_has_left_between_two_memberships_is_completed() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three(&disks).await;
    let [first, second] = followers();
    let is_between = group.raft().wait(Some(EVENTUALLY));
    let is_between = is_between.metrics(
        |metrics| metrics.membership_config.membership().get_joint_config().len() > 1,
        "the first step is made",
    );
    let goes_away = async {
        tokio::select! {
            biased;
            between = is_between => drop(between.unwrap()),
            removed = group.remove_older(replica(first.node.0, 2), 3) => panic!("{removed:?}"),
        }
    };
    let first_step = group.raft().metrics().borrow_watched().last_log_index.unwrap() + 1;
    others.follow_until(goes_away).await;
    let committed = group.wait_applied(LogIndex(first_step), Instant::now() + EVENTUALLY);
    others.follow_until(committed).await.unwrap();
    assert!(group.is_between_memberships());
    others.follow_until(group.settle()).await.unwrap();
    assert!(!group.is_between_memberships());
    assert_eq!(voters(&group), [second, group.replica()].into());
    disks.crash(process).await;
}

/// It may yet be rolled back, and the data of the removed replica would be gone by then, with its votes (G1).
#[tokio::test(start_paused = true)]
async fn a_removal_that_is_not_committed_is_not_done() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three(&disks).await;
    let [first, second] = followers();
    let remaining: BTreeSet<_> = [second, group.replica()].into();
    let removal = || group.remove_older(replica(first.node.0, 2), 3);
    // The step into the change is committed, and the one out of it is not.
    let first_step = group.raft().metrics().borrow_watched().last_log_index.unwrap() + 1;
    let reaches = |asked: &Asked| asked.last().is_none_or(|last| last.index <= first_step);
    let is_appended = group.raft().wait(Some(EVENTUALLY));
    let is_appended = is_appended
        .metrics(|m| m.last_log_index == Some(first_step + 1), "the second step is appended");
    let goes_away = async {
        tokio::select! {
            biased;
            appended = is_appended => drop(appended.unwrap()),
            removed = removal() => panic!("{removed:?}"),
        }
    };
    others.answer_until(reaches, goes_away).await;

    let repeated = others.answer_until(reaches, removal()).await.unwrap_err();
    assert!(matches!(repeated, MembershipChangeError::NotMade(_)), "{repeated}");
    others.follow_until(removal()).await.unwrap();
    assert_eq!(voters(&group), remaining);
    disks.crash(process).await;
}

/// openraft takes changes from a leader that was taken out, and asserts that there are none.
#[tokio::test]
async fn a_leader_that_is_taken_out_changes_nothing_more() {
    let disks = Disks::default();
    let (process, group, mut others) = leads_three(&disks).await;
    let [first, second] = followers();
    let both = async {
        tokio::join!(
            group.remove_older(replica(3, 2), 3),
            group.remove_older(replica(first.node.0, 2), 2),
        )
    };
    let (_, other) = others.follow_until(both).await;
    let refused = other.unwrap_err();
    assert!(matches!(refused, MembershipChangeError::NotLeader), "{refused}");
    assert_eq!(voters(&group), [first, second].into());
    assert_eq!(group.status().problem, "", "openraft goes on");
    disks.crash(process).await;
}
