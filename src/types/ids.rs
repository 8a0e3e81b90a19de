//! Newtypes for every number that could be mistaken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// One server process. From 1; 0 stands for "none" on the wire only.
    NodeId(u32)
}
number! {
    /// One Raft group. 0 is the meta group; conversation groups count from 1.
    GroupId(u64)
}
number! {
    /// How often a replica was made anew on its node. From 1.
    Incarnation(u32)
}
number! {
    /// A message's position in its conversation: dense, from 1.
    Seq(u64)
}
number! {
    /// One attempt to append on a session. Its session counts from a random number, so that two never meet.
    AttemptId(u64)
}
number! {
    /// A position in a group's Raft log, from 0.
    LogIndex(u64)
}
number! {
    /// A Raft term.
    Term(u64)
}

impl GroupId {
    /// The group that holds the cluster's topology.
    pub const META: GroupId = GroupId(0);

    /// Whether this is the meta group.
    pub fn is_meta(self) -> bool {
        self == Self::META
    }
}

impl AttemptId {
    /// The one that follows on the same session.
    pub fn next(self) -> AttemptId {
        AttemptId(self.0.wrapping_add(1))
    }
}

impl LogIndex {
    /// Every index of a log has one that follows it, so the last of all numbers is none.
    pub fn is_beyond_all_logs(self) -> bool {
        self.0 == u64::MAX
    }
}

impl Term {
    /// Every term has one that follows it. No cluster lives to see half of all numbers, one election at a time; a
    /// replica that took one of the others would never give it up, and the last of them has none that follows.
    pub fn is_beyond_all_terms(self) -> bool {
        self.0 > u64::MAX / 2
    }
}

impl Seq {
    /// The seq of the first message of a conversation, and the tail of an empty one.
    pub const FIRST: Seq = Seq(1);

    /// The seq that follows.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }

    /// The seq `count` places further on.
    pub fn plus(self, count: u64) -> Seq {
        Seq(self.0 + count)
    }
}

/// The Raft id of a replica: a node and the incarnation of the replica there. A replica that was made anew has
/// another id, so that nothing the old one promised can be asked of it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ReplicaId {
    /// Where the replica is.
    pub node: NodeId,
    /// Which making of it.
    pub incarnation: Incarnation,
}

impl ReplicaId {
    /// Whether it is an earlier making of the same node's replica.
    pub fn is_older_than(&self, other: ReplicaId) -> bool {
        self.node == other.node && self.incarnation < other.incarnation
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.incarnation)
    }
}

/// 128-bit identity of a cluster, drawn when it is initialized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::str::FromStr for ClusterId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(ClusterId)
    }
}
