//! Who leads each group, by what replicas write down: that they have won, or that another one has. And who of those
//! that led died with appends in flight, until another one leads in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use quorate::storage::keys::RaftMetaField;
use quorate::storage::records::{Record, VoteRecord};
use quorate::storage::{Batch, Op, Table};
use quorate::types::{GroupId, NodeId};

/// Leaders of all groups.
#[derive(Default)]
pub struct Leaders(Mutex<Votes>);

#[derive(Default)]
struct Votes {
    /// What the leader of a group has written last.
    leading: BTreeMap<GroupId, VoteRecord>,
    /// Whoever led a group and died with appends in flight, until another one leads it.
    bereft: BTreeMap<GroupId, NodeId>,
    succeeded: u64,
}

impl Leaders {
    /// Takes what a node writes into its log's database.
    pub fn take(&self, node: NodeId, batch: &Batch) {
        for op in &batch.ops {
            let Op::Put(Table::RaftMeta, key, value) = op else { continue };
            let Some((group, [field])) = key.split_first_chunk::<8>() else { continue };
            if *field != RaftMetaField::Vote as u8 {
                continue;
            }
            if let Ok(vote) = VoteRecord::decode(key, value) {
                self.votes().take(node, GroupId(u64::from_be_bytes(*group)), vote);
            }
        }
    }

    /// A node's process has ended, while appends to these groups were in flight.
    pub fn died(&self, node: NodeId, in_flight: &BTreeSet<GroupId>) {
        let Votes { leading, bereft, .. } = &mut *self.votes();
        leading.retain(|group, vote| {
            let led = vote.candidate.node == node;
            if led && in_flight.contains(group) {
                bereft.insert(*group, node);
            }
            !led
        });
    }

    /// How often the leader of a group died with appends to it in flight, and another one led the group after it.
    pub fn succeeded(&self) -> u64 {
        self.votes().succeeded
    }

    fn votes(&self) -> MutexGuard<'_, Votes> {
        self.0.lock().expect("no panic while locked")
    }
}

impl Votes {
    fn take(&mut self, node: NodeId, group: GroupId, vote: VoteRecord) {
        let leading = self.leading.get(&group);
        if vote.committed && vote.candidate.node == node {
            if leading.is_none_or(|leading| leading.term <= vote.term) {
                self.leading.insert(group, vote);
            }
            if self.bereft.get(&group).is_some_and(|dead| *dead != node) {
                self.bereft.remove(&group);
                self.succeeded += 1;
            }
        } else if leading.is_some_and(|leading| leading.candidate.node == node) {
            // It has voted for another one, or for itself in a later term: it leads no more.
            self.leading.remove(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate::storage::keys;
    use quorate::types::{Incarnation, ReplicaId, Term};

    use super::*;

    const GROUP: GroupId = GroupId(3);

    fn vote(leaders: &Leaders, node: u32, term: u64, candidate: u32, committed: bool) {
        let candidate = ReplicaId { node: NodeId(candidate), incarnation: Incarnation(1) };
        let key = keys::raft_meta(GROUP, RaftMetaField::Vote);
        let value = VoteRecord { term: Term(term), candidate, committed }.encode(&key);
        let mut batch = Batch::default();
        batch.put(Table::RaftMeta, key, value);
        leaders.take(NodeId(node), &batch);
    }

    fn died(leaders: &Leaders, node: u32, in_flight: &[GroupId]) {
        leaders.died(NodeId(node), &in_flight.iter().copied().collect());
    }

    #[test]
    fn a_dead_leader_counts_once_another_one_leads() {
        let leaders = Leaders::default();
        vote(&leaders, 1, 1, 1, true);
        vote(&leaders, 2, 1, 1, true);
        died(&leaders, 1, &[GROUP]);
        vote(&leaders, 1, 2, 1, true);
        assert_eq!(leaders.succeeded(), 0);
        vote(&leaders, 2, 3, 2, false);
        assert_eq!(leaders.succeeded(), 0);
        vote(&leaders, 2, 3, 2, true);
        assert_eq!(leaders.succeeded(), 1);
    }

    #[test]
    fn what_does_not_lead_or_has_nothing_in_flight_does_not_count() {
        let leaders = Leaders::default();
        vote(&leaders, 1, 1, 1, true);
        died(&leaders, 1, &[GroupId(4)]);
        vote(&leaders, 2, 2, 2, true);
        died(&leaders, 3, &[GROUP]);
        // Deposed before it died.
        vote(&leaders, 2, 3, 1, false);
        died(&leaders, 2, &[GROUP]);
        vote(&leaders, 1, 3, 1, true);
        assert_eq!(leaders.succeeded(), 0);
    }
}
