//! Making the outcome of an id final (guarantee G8).

use super::append::{check_not_ahead, latest_issued_at};
use super::dedup::{keep_in_force, standing};
use super::{AppendRefusal, ApplyError, GroupState, Outcome, OutcomeState, SettleRef};
use crate::storage::records::{DedupOutcome, DedupRow};
use crate::storage::{Overlay, keys};
use crate::types::Timestamp;

/// Tells what became of an id; one of which nothing became is burnt. An answer other than a refusal is final for
/// this id with this `issued_at`.
///
/// A burnt id stays so for whatever may be on its way now, not only for the `issued_at` of the question, which nothing can
/// be compared with: whoever asks may not be who sends.
pub(super) fn settle(
    overlay: &mut Overlay<'_>,
    group: &GroupState,
    stamped_at: Timestamp,
    request: &SettleRef<'_>,
) -> Result<Outcome, ApplyError> {
    let conversation = request.conversation.id();
    if !group.holds(conversation) {
        return Ok(Outcome::AppendRefused(AppendRefusal::WrongGroup { epoch: group.epoch }));
    }
    let head = overlay.head(conversation)?;
    if head.is_some_and(|head| head.name.as_str() != request.conversation.as_str()) {
        return Ok(Outcome::AppendRefused(AppendRefusal::NameCollision));
    }
    let id = &request.id;
    let row = standing(overlay, group, conversation, id.sender, id.client_msg_id)?;
    let checked = check_not_ahead(stamped_at, id.client_msg_id, request.issued_at, row.as_ref());
    if let Err(refusal) = checked {
        return Ok(Outcome::AppendRefused(refusal));
    }
    let key = keys::dedup(conversation, id.sender, id.client_msg_id);
    let burnt = DedupRow { issued_at: latest_issued_at(stamped_at), outcome: DedupOutcome::Burnt };
    let state = match row {
        Some(row) => {
            let state = OutcomeState::of(&row);
            let until = match row.outcome {
                DedupOutcome::Committed { .. } => request.issued_at,
                DedupOutcome::Burnt => burnt.issued_at,
            };
            keep_in_force(overlay, key, row, until);
            state
        }
        None if request.issued_at < group.dedup_floor => {
            OutcomeState::TooOld { floor: group.dedup_floor }
        }
        None => {
            overlay.put_row(key, &burnt);
            OutcomeState::Burnt
        }
    };
    Ok(Outcome::Settled(state))
}

impl OutcomeState {
    /// What a row in force says.
    pub(super) fn of(row: &DedupRow) -> OutcomeState {
        match row.outcome {
            DedupOutcome::Committed { seq, commit_time, .. } => {
                OutcomeState::Committed { seq, commit_time }
            }
            DedupOutcome::Burnt => OutcomeState::Burnt,
        }
    }
}
