//! What consensus tells whoever counts.

use std::time::Duration;

use super::ProposeError;
use crate::log::Outcome;

/// What became of a command that was given to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalEnd {
    /// Committed and applied, whatever it led to.
    Committed,
    /// Refused before it was proposed: not the leader, too much waiting, a full disk, an untrusted clock.
    Refused,
    /// Its deadline passed before it was proposed.
    Expired,
    /// Proposed, and its caller was gone or was told that the outcome is not known.
    Unknown,
}

/// Told about proposals as they end, and of leaders. Must not block: it is called on the way of every command.
pub trait ConsensusObserver: Send + Sync {
    /// A command's caller has its answer, or is gone.
    fn proposal_ended(&self, end: ProposalEnd);

    /// A replica here has come to know a leader, another one or the same after a time without.
    fn leader_changed(&self);

    /// An entry of this leader was committed and applied, so long after it was proposed.
    fn entry_committed(&self, took: Duration);
}

/// Counts nothing.
impl ConsensusObserver for () {
    fn proposal_ended(&self, _: ProposalEnd) {}
    fn leader_changed(&self) {}
    fn entry_committed(&self, _: Duration) {}
}

impl From<&Result<Outcome, ProposeError>> for ProposalEnd {
    fn from(answer: &Result<Outcome, ProposeError>) -> Self {
        match answer {
            Ok(_) => ProposalEnd::Committed,
            Err(ProposeError::Expired) => ProposalEnd::Expired,
            Err(ProposeError::Unknown { .. }) => ProposalEnd::Unknown,
            Err(
                ProposeError::NotLeader { .. }
                | ProposeError::Overloaded
                | ProposeError::DiskLow
                | ProposeError::ClockUntrusted
                | ProposeError::Stopped { .. },
            ) => ProposalEnd::Refused,
        }
    }
}

/// Reports a proposal once, however its call ends: a dropped one's outcome is not known.
pub struct Proposal<'a> {
    observer: &'a dyn ConsensusObserver,
    end: ProposalEnd,
}

impl<'a> Proposal<'a> {
    /// A call begins.
    pub fn begin(observer: &'a dyn ConsensusObserver) -> Self {
        Proposal { observer, end: ProposalEnd::Unknown }
    }

    /// The call ends with an answer.
    pub fn answered(mut self, answer: &Result<Outcome, ProposeError>) {
        self.end = answer.into();
    }
}

impl Drop for Proposal<'_> {
    fn drop(&mut self) {
        self.observer.proposal_ended(self.end);
    }
}
