//! Who is taken out of a group, and who is not, for those who remain have to go on without.

use std::collections::BTreeSet;

use openraft::ServerState;

use super::fixture::{EVENTUALLY, GROUP, replica};
use super::scripted::{Asked, followers, leads_three, leads_three_at};
use crate::consensus::solitary::Disks;
use crate::consensus::{Group, MembershipChangeError, RaftTiming};
use crate::types::ReplicaId;

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
    others.follow_until(group.promote(new, wanted)).await.unwrap();
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
