//! What changes of one group's log come to.

use super::*;

/// One change of a group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Of this term.
    Vote(u64),
    /// Entries from the first of these indexes up to the second, which is none of them.
    Append(u64, u64),
    /// All entries above this index go.
    Truncate(u64),
    /// All entries up to this index go, which may lie above the last.
    Purge(u64),
    /// Everything goes.
    Remove,
}

impl Step {
    pub(super) fn of(self, group: GroupId, done: Done) -> LogWrite {
        match self {
            Step::Vote(term) => LogWrite::SaveVote { group, vote: vote(term), done },
            Step::Append(from, to) => append(group, 1, from..to, done),
            Step::Truncate(after) => {
                LogWrite::Truncate { group, after: Some(log_id(1, after)), done }
            }
            Step::Purge(upto) => LogWrite::Purge { group, upto: log_id(1, upto), done },
            Step::Remove => LogWrite::RemoveGroup { group, done },
        }
    }
}

/// What a group's log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    vote: Option<VoteRecord>,
    purged: Option<LogId>,
    entries: Vec<u64>,
}

impl Log {
    /// After these changes.
    pub(super) fn after(steps: impl Iterator<Item = Step>) -> Log {
        let mut log = Log::default();
        for step in steps {
            match step {
                Step::Vote(term) => log.vote = Some(vote(term)),
                Step::Append(from, to) => log.entries.extend(from..to),
                Step::Truncate(after) => log.entries.retain(|index| *index <= after),
                Step::Purge(upto) => {
                    log.purged = Some(log_id(1, upto));
                    log.entries.retain(|index| *index > upto);
                }
                Step::Remove => log = Log::default(),
            }
        }
        log
    }

    /// As it is on the disk.
    pub(super) fn stored(fixture: &Fixture, group: GroupId) -> Log {
        let engine = fixture.disk.open();
        let field = |field| {
            let key = keys::raft_meta(group, field);
            engine.get(Table::RaftMeta, &key).unwrap().map(|value| (key, value))
        };
        let vote = field(RaftMetaField::Vote);
        let purged = field(RaftMetaField::Purged);
        Log {
            vote: vote.map(|(key, value)| VoteRecord::decode(&key, &value).unwrap()),
            purged: purged.map(|(key, value)| LogIdRecord::decode(&key, &value).unwrap().0),
            entries: fixture.indexes(group),
        }
    }

    /// What the watermark may say of it at most.
    pub(super) fn mark(&self) -> GroupMark {
        let last = self.entries.last().map(|index| log_id(1, *index)).or(self.purged);
        GroupMark { vote: self.vote, last, damaged: None }
    }
}
