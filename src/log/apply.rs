//! What a command does to the state. Every replica applies the same commands to the same state and so arrives at
//! the same bytes: nothing here may depend on anything but the arguments.

use super::append::append;
use super::settle::settle;
use super::topology::change_topology;
use super::{Command, CommandRef, Outcome, TopologyRefusal};
use crate::storage::records::GroupRow;
use crate::storage::{Overlay, StorageError};
use crate::types::{ConversationId, GroupId, HashRange, Seq, Timestamp};

/// The parts of a group's row that commands read and change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// Which group applies.
    pub id: GroupId,
    /// What the group holds; absent until it was configured, and always in the meta group.
    pub range: Option<HashRange>,
    /// Raised with each change of range.
    pub epoch: u64,
    /// Appends issued before it are refused as too old.
    pub dedup_floor: Timestamp,
}

impl GroupState {
    /// As the row of group `id` has it.
    pub fn of(id: GroupId, row: &GroupRow) -> GroupState {
        GroupState { id, range: row.range, epoch: row.epoch, dedup_floor: row.dedup_floor }
    }

    /// Brings the row up to date; its other parts are not commands' business.
    pub fn store_in(&self, row: &mut GroupRow) {
        row.range = self.range;
        row.epoch = self.epoch;
        row.dedup_floor = self.dedup_floor;
    }

    /// Whether the group holds the conversation.
    pub fn holds(&self, conversation: ConversationId) -> bool {
        self.range.is_some_and(|range| range.contains(conversation.placement()))
    }
}

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What the caller is told.
    pub outcome: Outcome,
    /// The conversation that grew and its new tail: who follows it is woken once the state can be read.
    pub tail_moved: Option<(ConversationId, Seq)>,
}

impl Applied {
    pub(super) fn without_growth(outcome: Outcome) -> Applied {
        Applied { outcome, tail_moved: None }
    }
}

/// Why a command could not be applied. The replica has to stop before this entry: its state is not what the
/// commands so far have made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApplyError {
    /// Reading failed, or what was read is damaged.
    #[error("the state could not be read")]
    Storage(#[from] StorageError),
    /// Two parts of the state say different things.
    #[error("the state contradicts itself: {what}")]
    Contradiction {
        /// What does not fit.
        what: String,
    },
}

/// Applies one command. Changes go to the overlay and to `group`; on an error both are to be thrown away.
///
/// `stamped_at` is the time that the leader gave the proposal. A command that does not belong to this kind of group
/// changes nothing, rather than stopping every replica on an entry that they can never get past.
pub fn apply(
    overlay: &mut Overlay<'_>,
    group: &mut GroupState,
    stamped_at: Timestamp,
    command: &CommandRef<'_>,
) -> Result<Applied, ApplyError> {
    match command {
        Command::Configure { range, epoch } => {
            if group.range.is_none() && !group.id.is_meta() {
                group.range = Some(*range);
                group.epoch = *epoch;
            }
            Ok(Applied::without_growth(Outcome::Done))
        }
        Command::Append(request) => append(overlay, group, stamped_at, request),
        Command::Settle(request) => {
            settle(overlay, group, stamped_at, request).map(Applied::without_growth)
        }
        Command::RaiseDedupFloor { floor } => {
            group.dedup_floor = group.dedup_floor.max(*floor);
            Ok(Applied::without_growth(Outcome::Done))
        }
        Command::ChangeTopology(change) => {
            let outcome = if group.id.is_meta() {
                change_topology(overlay, change)?
            } else {
                let what = "topology outside the meta group".to_owned();
                Outcome::TopologyRefused(TopologyRefusal::NotFound { what })
            };
            Ok(Applied::without_growth(outcome))
        }
    }
}
