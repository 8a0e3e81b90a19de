//! openraft's types fixed for Quorate, and the way between them and our records.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use openraft::OptionalSend;
use openraft::alias::CommittedLeaderIdOf;
use openraft::impls::leader_id_adv::LeaderId as OpenraftLeaderId;
use openraft::impls::{BoxedErrorSource, EmptyNode, InlineBatch, TokioRuntime};
use openraft::raft::responder::Responder;
use serde::{Deserialize, Serialize};

use super::state_machine::GroupStateMachine;
use crate::log::Outcome;
use crate::storage::records::{EntryPayload, EntryRecord, LogId, MembershipRecord, VoteRecord};
use crate::types::{LogIndex, ReplicaId, Term};

/// The one configuration of openraft; everything above is concrete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

/// As `openraft::declare_raft_types!` would write it, which has no place for a responder of our own.
impl openraft::RaftTypeConfig for TypeConfig {
    type D = EncodedProposal;
    type R = Outcomes;
    type NodeId = ReplicaId;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = OpenraftLeaderId<u64, ReplicaId>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = openraft::Entry<CommittedLeaderIdOf<Self>, Self::Payload>;
    type AsyncRuntime = TokioRuntime;
    type Responder<T: OptionalSend + 'static> = OnComplete<T>;
    type Batch<T: OptionalSend + 'static> = InlineBatch<T>;
    type ErrorSource = BoxedErrorSource;
}

/// What openraft calls once, where it is done with a proposal: there is no task that waits for it. Dropped uncalled
/// where openraft stops. It must not block.
pub struct OnComplete<T>(Box<dyn FnOnce(T) + Send>);

impl<T> OnComplete<T> {
    /// Calls `done` with the result.
    pub fn new(done: impl FnOnce(T) + Send + 'static) -> Self {
        OnComplete(Box::new(done))
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for OnComplete<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// The Raft instance of a group.
pub type Raft = openraft::Raft<TypeConfig, GroupStateMachine>;
/// A position in the log, as openraft has it.
pub type RaftLogId = openraft::LogId<OpenraftLeaderId<u64, ReplicaId>>;
/// A vote, as openraft has it.
pub type RaftVote = openraft::Vote<OpenraftLeaderId<u64, ReplicaId>>;
/// An entry, as openraft has it.
pub type RaftEntry = openraft::alias::EntryOf<TypeConfig>;
/// A membership, as openraft has it.
pub type RaftMembership = openraft::Membership<ReplicaId, EmptyNode>;
/// A membership and where it stands, as openraft has it.
pub type RaftStoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What describes a snapshot, as openraft has it.
pub type RaftSnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// A `log::Proposal` in its encoded form: encoded once by the proposer, decoded once by each replica that applies
/// it, stored and sent as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedProposal(pub Bytes);

impl fmt::Display for EncodedProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proposal of {} bytes", self.0.len())
    }
}

/// What the commands of an entry led to, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes(pub Vec<Outcome>);

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outcomes", self.0.len())
    }
}

/// A log id for openraft.
pub fn to_raft_log_id(id: &LogId) -> RaftLogId {
    RaftLogId {
        leader_id: OpenraftLeaderId { term: id.term.0, node_id: id.leader },
        index: id.index.0,
    }
}

/// A log id from openraft.
pub fn from_raft_log_id(id: &RaftLogId) -> LogId {
    LogId { term: Term(id.leader_id.term), leader: id.leader_id.node_id, index: LogIndex(id.index) }
}

/// A vote for openraft.
pub fn to_raft_vote(vote: &VoteRecord) -> RaftVote {
    RaftVote {
        leader_id: OpenraftLeaderId { term: vote.term.0, node_id: vote.candidate },
        committed: vote.committed,
    }
}

/// A vote from openraft.
pub fn from_raft_vote(vote: &RaftVote) -> VoteRecord {
    VoteRecord {
        term: Term(vote.leader_id.term),
        candidate: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

/// An entry for openraft.
pub fn to_raft_entry(record: EntryRecord) -> RaftEntry {
    let payload = match record.payload {
        EntryPayload::Blank => openraft::EntryPayload::Blank,
        EntryPayload::Commands(encoded) => openraft::EntryPayload::Normal(EncodedProposal(encoded)),
        EntryPayload::Membership { configs, replicas } => {
            openraft::EntryPayload::Membership(to_membership(&configs, &replicas))
        }
    };
    RaftEntry { log_id: to_raft_log_id(&record.log_id), payload }
}

/// An entry from openraft.
pub fn from_raft_entry(entry: &RaftEntry) -> EntryRecord {
    let payload = match &entry.payload {
        openraft::EntryPayload::Blank => EntryPayload::Blank,
        openraft::EntryPayload::Normal(proposal) => EntryPayload::Commands(proposal.0.clone()),
        openraft::EntryPayload::Membership(membership) => {
            let (configs, replicas) = from_membership(membership);
            EntryPayload::Membership { configs, replicas }
        }
    };
    EntryRecord { log_id: from_raft_log_id(&entry.log_id), payload }
}

/// Memory of an entry, about: its payload, and what holds it.
pub fn entry_bytes(entry: &RaftEntry) -> usize {
    const ENVELOPE: usize = 64;
    match &entry.payload {
        openraft::EntryPayload::Normal(proposal) => ENVELOPE + proposal.0.len(),
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => ENVELOPE,
    }
}

/// A stored membership for openraft.
pub fn to_stored_membership(record: &MembershipRecord) -> RaftStoredMembership {
    RaftStoredMembership::new(
        record.log_id.as_ref().map(to_raft_log_id),
        to_membership(&record.configs, &record.replicas),
    )
}

/// The record of a membership that an entry carries.
pub fn membership_record(log_id: LogId, membership: &RaftMembership) -> MembershipRecord {
    let (configs, replicas) = from_membership(membership);
    MembershipRecord { log_id: Some(log_id), configs, replicas }
}

fn to_membership(configs: &[Vec<ReplicaId>], replicas: &[ReplicaId]) -> RaftMembership {
    let configs = configs.iter().map(|voters| voters.iter().copied().collect::<BTreeSet<_>>());
    let nodes: BTreeMap<_, _> = replicas.iter().map(|id| (*id, EmptyNode::new())).collect();
    RaftMembership::new_with_defaults(configs.collect(), nodes.keys().copied())
}

fn from_membership(membership: &RaftMembership) -> (Vec<Vec<ReplicaId>>, Vec<ReplicaId>) {
    let configs = membership.get_joint_config().iter();
    let configs = configs.map(|voters| voters.iter().copied().collect()).collect();
    (configs, membership.nodes().map(|(id, _)| *id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Incarnation, NodeId};

    fn replica(node: u32) -> ReplicaId {
        ReplicaId { node: NodeId(node), incarnation: Incarnation(1) }
    }

    #[test]
    fn entries_survive_the_way_there_and_back() {
        let log_id = LogId { term: Term(3), leader: replica(2), index: LogIndex(7) };
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Commands(Bytes::from_static(b"encoded")),
            EntryPayload::Membership {
                configs: vec![vec![replica(1), replica(2)], vec![replica(2), replica(3)]],
                replicas: vec![replica(1), replica(2), replica(3), replica(4)],
            },
        ];
        for payload in payloads {
            let record = EntryRecord { log_id, payload };
            assert_eq!(from_raft_entry(&to_raft_entry(record.clone())), record);
        }
    }
}
