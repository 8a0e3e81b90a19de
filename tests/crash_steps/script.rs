//! What the child does, written down: operations on a node's storage, in batches. Those of one batch are under way at the
//! same time, and the next begins when all are reported done.

use Op::{Append, Apply, Flush, Install, Make, Purge, RemoveLog, RemoveState, Truncate, Vote};

/// Groups count from 1.
pub const GROUPS: u64 = 3;

/// One operation on one group, or on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A blank row, flushed.
    Make(u64),
    /// A vote of this term.
    Vote(u64, u64),
    /// Entries from the end of the log up to this index, of this term.
    Append(u64, u64, u64),
    /// Removes all entries above this index.
    Truncate(u64, u64),
    /// Removes all entries up to this index.
    Purge(u64, u64),
    /// Applies up to this index.
    Apply(u64, u64),
    /// Makes all that is applied durable.
    Flush,
    /// Takes a snapshot in that has applied up to this index.
    Install(u64, u64),
    /// Removes what is applied, with its row.
    RemoveState(u64),
    /// Removes log and votes.
    RemoveLog(u64),
}

impl Op {
    /// Whose log it changes, if it changes one.
    pub fn log_of(self) -> Option<u64> {
        match self {
            Vote(group, _) | Append(group, ..) | Truncate(group, _) | Purge(group, _) => {
                Some(group)
            }
            RemoveLog(group) => Some(group),
            Make(_) | Apply(..) | Flush | Install(..) | RemoveState(_) => None,
        }
    }
}

/// Logs are purged behind what is durable, and truncated above what is applied, as Raft does.
pub const SCRIPT: &[&[Op]] = &[
    &[Make(1), Make(2), Make(3)],
    &[Vote(1, 1), Vote(2, 1), Vote(3, 1)],
    &[Append(1, 5, 1), Append(2, 5, 1), Append(3, 3, 1)],
    &[Append(1, 7, 1), Apply(1, 3), Apply(2, 4), Apply(3, 2)],
    &[Append(1, 9, 1), Append(2, 8, 1)],
    &[Flush, Append(1, 10, 1)],
    &[Purge(1, 1), Append(2, 9, 1), Purge(2, 2)],
    &[Vote(1, 2), Append(1, 12, 2), Vote(2, 2)],
    &[Truncate(1, 10), Append(1, 14, 2), Apply(2, 8)],
    &[RemoveState(3)],
    &[RemoveLog(3), Append(1, 15, 2)],
    &[Make(3)],
    &[Vote(3, 4), Append(3, 1, 4), Apply(1, 12)],
    &[Flush],
    &[Purge(1, 9), Append(2, 10, 2), Vote(1, 3)],
    &[Install(2, 30), Append(1, 17, 3)],
    &[Purge(2, 30), Vote(2, 5)],
    &[Append(2, 33, 5), Truncate(1, 13), Append(1, 20, 3)],
    &[Apply(2, 32), Apply(1, 18)],
    &[Flush, Vote(1, 6)],
    &[Purge(1, 15), Purge(2, 31), Append(1, 24, 6)],
    &[Install(1, 40)],
    &[Purge(1, 40), Append(2, 36, 5)],
    &[Vote(1, 7), Append(1, 44, 7), Apply(1, 42), Apply(2, 35)],
    &[Flush],
];
