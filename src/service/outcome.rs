//! GetOutcome (G8): what became of a message whose response was lost.

use quorate_client::proto::get_outcome_response::State;
use quorate_client::proto::{GetOutcomeRequest, GetOutcomeResponse, Position};

use super::append::{applied_at, refused, unexpected};
use super::authorize::Resource;
use super::call::Call;
use super::consistency::{Level, ReadPoint, open};
use super::errors::{CallError, Effect};
use super::validate::{Problem, Violation};
use super::{Api, forward, reads, validate};
use crate::consensus::{Group, Route};
use crate::log::{AppendRefusal, Command, IdKey, Outcome, OutcomeState, Settle};
use crate::storage::records::GroupRow;
use crate::types::{ConversationName, NodeId, Timestamp, limits};

/// Tells whether a message was committed; with `settle`, for good.
///
/// Without `issued_at_us` the answer "not committed" holds for messages issued since the dedup floor only, because
/// what became of older ones is not kept. The answer then says where that floor is, as does that of a settle, whose
/// `issued_at_us` may be a guess.
///
/// # Errors
/// TOO_OLD if the message was issued before the dedup floor: it cannot be committed from now on, and whether it was
/// is not known here. Retryable errors of the way there; a settling call may then have taken effect.
pub async fn get_outcome(
    api: &Api,
    call: &Call,
    request: GetOutcomeRequest,
) -> Result<GetOutcomeResponse, CallError> {
    call.authorize(api.authorizer.as_ref(), Resource::Conversation(&request.conversation))?;
    let name = validate::conversation(&request.conversation)?;
    validate::text("sender", &request.sender, limits::SENDER_BYTES_MAX)?;
    validate::text("client_msg_id", &request.client_msg_id, limits::CLIENT_MSG_ID_BYTES_MAX)?;
    if request.settle && request.issued_at_us == 0 {
        return Err(Violation::of("issued_at_us", Problem::Empty).into());
    }
    let route = api.route(&name)?;
    match request.settle {
        true => settle(api, call, &route, name, request).await,
        false => ask(api, call, &route, name, request).await,
    }
}

async fn ask(
    api: &Api,
    call: &Call,
    route: &Route,
    name: ConversationName,
    request: GetOutcomeRequest,
) -> Result<GetOutcomeResponse, CallError> {
    let Some(group) = route.local.as_ref() else {
        let node = api.other(route, &[]).ok_or_else(CallError::replica_gone)?;
        return hand_on(api, call, route, node, CallError::replica_gone(), request).await;
    };
    let point = open(api, group, &name, Level::Linearizable, call.deadline).await?;
    let issued_at = (request.issued_at_us != 0).then_some(Timestamp(request.issued_at_us));
    let id = IdKey { sender: request.sender, client_msg_id: request.client_msg_id };
    let ReadPoint { view, row, origin, .. } = point;
    let held_by = group.id();
    let holds_from = known_from(&row).filter(|_| issued_at.is_none());
    let state = group
        .offload(move || reads::outcome(view.as_ref(), held_by, &row, &name, &id, issued_at))
        .await?;
    let mut response = response(state, origin.position(api.clock.as_ref())?)?;
    if response.state() != State::Committed {
        response.dedup_floor_us = holds_from;
    }
    Ok(response)
}

async fn settle(
    api: &Api,
    call: &Call,
    route: &Route,
    name: ConversationName,
    request: GetOutcomeRequest,
) -> Result<GetOutcomeResponse, CallError> {
    let mut leader = api.leader(route);
    if let Some(group) = route.local.as_ref().filter(|group| group.is_leader()) {
        match settle_here(api, call, group, name, &request).await {
            // The replica that has just lost the lead did nothing: whoever leads now can be asked.
            Err(error) if error.leader_hint().is_some() => leader = error.leader_hint(),
            result => return result,
        }
    }
    let node = leader.ok_or_else(|| CallError::not_leader(None))?;
    let answer = hand_on(api, call, route, node, CallError::not_leader(Some(node)), request).await;
    api.elsewhere.learn_leader(route.group, &answer);
    answer
}

async fn settle_here(
    api: &Api,
    call: &Call,
    group: &Group,
    conversation: ConversationName,
    request: &GetOutcomeRequest,
) -> Result<GetOutcomeResponse, CallError> {
    let command = Command::Settle(Settle {
        conversation,
        id: IdKey { sender: request.sender.clone(), client_msg_id: request.client_msg_id.clone() },
        issued_at: Timestamp(request.issued_at_us),
    });
    match group.propose(command, call.deadline).await? {
        Outcome::Settled(state) => {
            let mut response = response(state, applied_at(api, group))?;
            if response.state() == State::Burnt {
                response.dedup_floor_us = known_from(&group.row());
            }
            Ok(response)
        }
        Outcome::AppendRefused(refusal) => Err(refused(group, refusal)),
        other => Err(unexpected(&other)),
    }
}

async fn hand_on(
    api: &Api,
    call: &Call,
    route: &Route,
    node: NodeId,
    otherwise: CallError,
    request: GetOutcomeRequest,
) -> Result<GetOutcomeResponse, CallError> {
    let effect = if request.settle { Effect::Possible } else { Effect::None };
    let mut client = forward::client(api, call, node, otherwise)?;
    let request = forward::request(api, call, Some(call.deadline), request);
    let (groups, answer) = (&[route.group], client.get_outcome(request));
    forward::answer(api, node, groups, call.deadline, effect, answer).await
}

/// From when on a message must have been issued for it to be known here that it was not committed; none if all are.
fn known_from(row: &GroupRow) -> Option<u64> {
    (row.dedup_floor > Timestamp(0)).then_some(row.dedup_floor.0)
}

fn response(state: OutcomeState, position: Position) -> Result<GetOutcomeResponse, CallError> {
    let (state, seq, commit_time_us) = match state {
        OutcomeState::Committed { seq, commit_time } => (State::Committed, seq.0, commit_time.0),
        OutcomeState::NotCommitted => (State::NotCommitted, 0, 0),
        OutcomeState::Burnt => (State::Burnt, 0, 0),
        OutcomeState::TooOld { floor } => {
            return Err(AppendRefusal::TooOld { client_msg_id: String::new(), floor }.into());
        }
    };
    let (state, position, dedup_floor_us) = (state.into(), Some(position), None);
    Ok(GetOutcomeResponse { state, seq, commit_time_us, position, dedup_floor_us })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Seq;

    #[test]
    fn each_state_is_told_apart() {
        let told =
            |state| response(state, Position::default()).map(|told| (told.state(), told.seq));
        let commit_time = Timestamp(1);
        let committed = OutcomeState::Committed { seq: Seq(5), commit_time };
        assert_eq!(told(committed).unwrap(), (State::Committed, 5));
        assert_eq!(told(OutcomeState::NotCommitted).unwrap(), (State::NotCommitted, 0));
        assert_eq!(told(OutcomeState::Burnt).unwrap(), (State::Burnt, 0));
        let error = told(OutcomeState::TooOld { floor: Timestamp(9) }).unwrap_err();
        assert_eq!(error.reason(), "TOO_OLD");
        assert_eq!(error.metadata("limit"), Some("9"));
        assert!(error.may_have_taken_effect(), "it may have been committed");
    }
}
