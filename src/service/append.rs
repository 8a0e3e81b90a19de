//! Append: to the local replica if it leads, otherwise to the node that does.

use quorate_client::proto::{AppendRequest, AppendResponse, Position};
use tokio::time::Instant;
use tonic::Code;

use super::authorize::Resource;
use super::call::Call;
use super::errors::{CallError, Effect};
use super::{Api, convert, forward, memory, validate};
use crate::consensus::{Admission, Group, ProposeError, Room, Route};
use crate::log::{AppendRefusal, Command, LanePlace, Outcome, latest_issued_at};
use crate::types::{NodeId, limits};

/// Leaders that one call tries: who this node believes leads, and whom that one names instead.
const LEADERS_TRIED_MAX: usize = 3;

/// Appends a batch.
///
/// # Errors
/// As the state machine refuses it, or retryable; each says whether the batch may have been appended. Cancel safe: a
/// dropped call may still take effect.
pub async fn append(
    api: &Api,
    call: &Call,
    mut request: AppendRequest,
) -> Result<AppendResponse, CallError> {
    call.authorize(api.authorizer.as_ref(), Resource::Conversation(&request.conversation))?;
    let name = validate::conversation(&request.conversation)?;
    validate::append(&mut request)?;
    let _room = room(api.replicas.admission(), &request)?;
    let (began, messages) = (Instant::now(), request.messages.len());
    let route = api.route(&name)?;
    let mut leader = match route.local.as_ref() {
        Some(group) if group.is_leader() => Some(api.replicas.node()),
        _ => api.leader(&route),
    };
    let mut result = Err(CallError::not_leader(None));
    let mut tried = Vec::with_capacity(LEADERS_TRIED_MAX);
    while let Some(node) = leader.filter(|_| tried.len() < LEADERS_TRIED_MAX) {
        tried.push(node);
        result = match route.local.as_ref() {
            Some(group) if node == api.replicas.node() => {
                propose(api, group, request.clone(), call.deadline).await
            }
            _ => hand_on(api, call, &route, node, request.clone()).await,
        };
        api.elsewhere.learn_leader(route.group, &result);
        // Where nothing was done, asking another is safe: whom this one names, or the next that may know.
        let Err(error) = &result else { break };
        if error.may_have_taken_effect() {
            break;
        }
        let named = error.leader_hint().filter(|named| !tried.contains(named));
        leader = match route.local {
            Some(_) => named,
            None => named.or_else(|| api.other(&route, &tried)),
        };
    }
    let code = result.as_ref().map_or_else(CallError::code, |_| Code::Ok);
    api.observer.appended(messages, code, began.elapsed());
    result
}

/// Memory for an append until its caller is answered.
///
/// # Errors
/// OVERLOADED if the appends that wait at this node take all that they may.
pub fn room(node: &Admission, request: &AppendRequest) -> Result<Room, CallError> {
    let message = "the appends that wait at this node take all the memory that they may";
    let room = node.calls().take(memory::memory_bytes(request));
    room.ok_or_else(|| CallError::overloaded(message, limits::APPEND_CALLS_BYTES_MAX))
}

/// Proposes a validated append to a replica that leads.
async fn propose(
    api: &Api,
    group: &Group,
    request: AppendRequest,
    deadline: Instant,
) -> Result<AppendResponse, CallError> {
    let outcome = group.propose(command(api, request, None), deadline).await;
    answer(api, group, outcome)
}

/// A validated append as a command.
pub fn command(api: &Api, request: AppendRequest, lane: Option<LanePlace>) -> Command {
    Command::Append(convert::append_command(request, lane, || (api.random)()))
}

/// What became of an append that was proposed to a replica here.
pub fn answer(
    api: &Api,
    group: &Group,
    outcome: Result<Outcome, ProposeError>,
) -> Result<AppendResponse, CallError> {
    match outcome? {
        Outcome::Appended(appended) => {
            Ok(convert::append_response(appended, applied_at(api, group)))
        }
        Outcome::AppendRefused(refusal) => Err(refused(group, refusal)),
        other => Err(unexpected(&other)),
    }
}

/// Why a replica here refused an append or a settle. That something was issued in the future is final only if it still is
/// by a clock that a majority's agree with: until that is known, it may be the leader's own that is behind, and the stamp
/// that judged it may be of before the clock was set (G8).
pub fn refused(group: &Group, refusal: AppendRefusal) -> CallError {
    match refusal {
        AppendRefusal::FromTheFuture { issued_at, .. }
            if group.agreed_now().is_none_or(|now| issued_at <= latest_issued_at(now)) =>
        {
            CallError::clock_untrusted(&refusal)
        }
        refusal => refusal.into(),
    }
}

/// Where a command that has its outcome was applied.
pub fn applied_at(api: &Api, group: &Group) -> Position {
    Position {
        node_id: api.replicas.node().0.into(),
        group_id: group.id().0,
        applied_index: group.applied_index().0,
        age_ms: None,
    }
}

/// An outcome of another command than the one proposed.
pub fn unexpected(outcome: &Outcome) -> CallError {
    tracing::error!(?outcome, "a command had the outcome of another kind of command");
    CallError::internal("the command had an unexpected outcome", Effect::Possible)
}

async fn hand_on(
    api: &Api,
    call: &Call,
    route: &Route,
    node: NodeId,
    request: AppendRequest,
) -> Result<AppendResponse, CallError> {
    let mut client = forward::client(api, call, node, CallError::not_leader(Some(node)))?;
    let request = forward::request(api, call, Some(call.deadline), request);
    let (groups, answer) = (&[route.group], client.append(request));
    forward::answer(api, node, groups, call.deadline, Effect::Possible, answer).await
}

#[cfg(test)]
mod tests {
    use quorate_client::proto::NewMessage;

    use super::*;

    #[test]
    fn appends_without_content_take_room_too() {
        let node = Admission::default();
        let messages = vec![NewMessage::default(); limits::BATCH_MESSAGES_MAX];
        let request = AppendRequest { messages, ..AppendRequest::default() };
        let least = limits::BATCH_MESSAGES_MAX * size_of::<NewMessage>();
        let most = limits::APPEND_CALLS_BYTES_MAX / least;
        let taken: Vec<_> = (0..=most).map_while(|_| room(&node, &request).ok()).collect();
        assert!(taken.len() <= most);
        let error = room(&node, &request).unwrap_err();
        assert_eq!((error.code(), error.reason()), (Code::ResourceExhausted, "OVERLOADED"));
        drop(taken);
        assert!(room(&node, &request).is_ok());
    }
}
