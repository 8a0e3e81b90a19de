//! BatchRead: the ends of many conversations in one call, one confirmation for each group.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use quorate_client::proto::batch_read_response::Item;
use quorate_client::proto::{BatchReadRequest, BatchReadResponse, Consistency, ReadResponse};

use super::authorize::Resource;
use super::call::Call;
use super::consistency::{Level, ReadPoint, check_age, confirm, look, open};
use super::errors::{CallError, Effect};
use super::read::elsewhere;
use super::reads::{self, Slice};
use super::responses::Share;
use super::{Api, convert, forward, memory, validate};
use crate::consensus::Group;
use crate::storage::Direction;
use crate::types::{ConversationName, GroupId, NodeId, Seq, limits};

/// Reads the last messages of each conversation.
///
/// # Errors
/// Of the call as a whole only if the request itself is wrong; what is wrong with one conversation stands in its
/// item.
pub async fn batch_read(
    api: &Api,
    call: &Call,
    request: BatchReadRequest,
) -> Result<BatchReadResponse, CallError> {
    call.authorize(api.authorizer.as_ref(), Resource::Conversations)?;
    let level = Level::from_proto(request.consistency)?;
    let asked = request.conversations.len();
    if asked == 0 {
        let empty = validate::Violation::of("conversations", validate::Problem::Empty);
        return Err(empty.into());
    }
    validate::at_most("conversations", asked, limits::BATCH_READ_CONVERSATIONS_MAX)?;
    validate::at_most("last", request.last as usize, limits::BATCH_READ_LAST_MAX as usize)?;

    let plan = plan(api, call, level, &request.conversations);
    // For what has been read until all of it has.
    let mut share = Share::new(api.replicas.admission().responses());
    let here = read_here(api, call, level, u64::from(request.last), plan.here, &mut share);
    let there = plan
        .there
        .into_iter()
        .map(|(node, places)| hand_on(api, call, node, places, request.last, request.consistency));
    let (here, there) = tokio::join!(here, join_all(there));
    let mut results = plan.failed;
    results.extend(here);
    results.extend(there.into_iter().flatten().map(|(place, result)| {
        let keep = |read: ReadResponse| {
            share.keep(memory::messages_bytes(&read.messages))?;
            Ok(read)
        };
        (place, result.and_then(keep))
    }));
    results.sort_by_key(|(place, _)| *place);
    Ok(BatchReadResponse { items: fit(request.conversations, results) })
}

type Read = (usize, Result<ReadResponse, CallError>);

/// Who reads what. A place is a position in the request.
struct Plan {
    here: BTreeMap<GroupId, Part>,
    there: BTreeMap<NodeId, Vec<(usize, GroupId, String)>>,
    failed: Vec<Read>,
}

/// The conversations of one group with a replica here.
struct Part {
    group: Arc<Group>,
    names: Vec<(usize, ConversationName)>,
}

fn plan(api: &Api, call: &Call, level: Level, conversations: &[String]) -> Plan {
    let mut plan = Plan { here: BTreeMap::new(), there: BTreeMap::new(), failed: Vec::new() };
    for (place, conversation) in conversations.iter().enumerate() {
        if let Err(error) = assign(api, call, level, place, conversation, &mut plan) {
            plan.failed.push((place, Err(error)));
        }
    }
    plan
}

fn assign(
    api: &Api,
    call: &Call,
    level: Level,
    place: usize,
    conversation: &str,
    plan: &mut Plan,
) -> Result<(), CallError> {
    call.authorize(api.authorizer.as_ref(), Resource::Conversation(conversation))?;
    let name = validate::conversation(conversation)?;
    let route = api.route(&name)?;
    match route.local.clone() {
        Some(group) => {
            let part = plan.here.entry(route.group).or_insert(Part { group, names: Vec::new() });
            part.names.push((place, name));
        }
        None => {
            let node = elsewhere(api, &route, level)?;
            plan.there.entry(node).or_default().push((place, route.group, name.0));
        }
    }
    Ok(())
}

/// Confirms all groups at once, then reads one conversation after the other: the memory of the whole stays within
/// one response.
async fn read_here(
    api: &Api,
    call: &Call,
    level: Level,
    last: u64,
    parts: BTreeMap<GroupId, Part>,
    share: &mut Share,
) -> Vec<Read> {
    let barriers = parts.values().map(|part| confirm(api, &part.group, level, call.deadline));
    let barriers = join_all(barriers).await;
    let mut room = Room::new();
    let mut results = Vec::new();
    for (Part { group, names }, barrier) in parts.into_values().zip(barriers) {
        for (place, name) in names {
            let point = match (&barrier, level) {
                (Err(error), _) => Err(error.clone()),
                (Ok(_), Level::AtLeast(_)) => open(api, &group, &name, level, call.deadline).await,
                (Ok(barrier), _) => look(api, &group, &name, *barrier).await,
            };
            let point = point.and_then(|point| {
                check_age(level, &point.position)?;
                Ok(point)
            });
            let result = match point {
                Ok(point) => end_of(&group, point, last, &mut room, share).await,
                Err(error) => Err(error),
            };
            results.push((place, result));
        }
    }
    results
}

async fn end_of(
    group: &Group,
    point: ReadPoint,
    last: u64,
    room: &mut Room,
    share: &mut Share,
) -> Result<ReadResponse, CallError> {
    let (first, tail) = point.bounds();
    let from = Seq(tail.0.saturating_sub(last).max(first.0));
    let wanted = (tail.0 - from.0) as usize;
    let mut messages = Vec::new();
    if let Some(head) = point.head.clone().filter(|_| wanted > 0) {
        room.check(wanted, 0)?;
        let view = point.view.clone();
        // A message that does not fit is left out by the read, and so noticed.
        let slice = Slice {
            from,
            to: tail,
            direction: Direction::Forward,
            messages_max: wanted,
            bytes_max: room.bytes,
        };
        let read = move || reads::messages(view.as_ref(), &head, slice);
        let records = group.offload(read).await?;
        if records.len() < wanted {
            return Err(room.too_large());
        }
        messages = records.into_iter().map(convert::message).collect();
    }
    let response =
        ReadResponse { messages, first_seq: first.0, tail: tail.0, position: Some(point.position) };
    room.take(&response)?;
    share.keep(memory::messages_bytes(&response.messages))?;
    Ok(response)
}

/// What one response still has room for.
struct Room {
    messages: usize,
    bytes: u64,
}

impl Room {
    fn new() -> Self {
        Room { messages: limits::BATCH_READ_MESSAGES_MAX, bytes: limits::BATCH_READ_BYTES_MAX }
    }

    fn too_large(&self) -> CallError {
        let untouched = self.messages == limits::BATCH_READ_MESSAGES_MAX;
        CallError::response_too_large(limits::BATCH_READ_BYTES_MAX as usize, !untouched)
    }

    fn check(&self, messages: usize, bytes: u64) -> Result<(), CallError> {
        match messages <= self.messages && bytes <= self.bytes {
            true => Ok(()),
            false => Err(self.too_large()),
        }
    }

    fn take(&mut self, response: &ReadResponse) -> Result<(), CallError> {
        let messages = response.messages.len();
        let bytes = response.messages.iter().map(convert::content_bytes).sum();
        self.check(messages, bytes)?;
        self.messages -= messages;
        self.bytes -= bytes;
        Ok(())
    }
}

/// Items in the order asked. What no longer fits into one response fails for itself, and can be asked for again.
fn fit(conversations: Vec<String>, results: Vec<Read>) -> Vec<Item> {
    let mut room = Room::new();
    let item = |(conversation, (_, result)): (String, Read)| {
        let result = result.and_then(|read| room.take(&read).map(|()| read));
        let (read, failed) = match result {
            Ok(read) => (Some(read), None),
            Err(error) => (None, Some(error.into())),
        };
        Item { conversation, read, failed }
    };
    conversations.into_iter().zip(results).map(item).collect()
}

async fn hand_on(
    api: &Api,
    call: &Call,
    node: NodeId,
    places: Vec<(usize, GroupId, String)>,
    last: u32,
    consistency: Option<Consistency>,
) -> Vec<Read> {
    let (places, conversations): (Vec<_>, Vec<_>) =
        places.into_iter().map(|(place, group, name)| ((place, group), name)).unzip();
    let asked = BatchReadRequest { conversations, last, consistency };
    let answer = match forward::client(api, call, node, CallError::replica_gone()) {
        Ok(mut client) => {
            let request = forward::request(api, call, Some(call.deadline), asked);
            let answer = client.batch_read(request);
            forward::answer(api, node, &[], call.deadline, Effect::None, answer).await
        }
        Err(error) => Err(error),
    };
    let answer = answer.and_then(|response| match response.items.len() == places.len() {
        true => Ok(response.items),
        false => {
            let message = format!("node {node} answered for another number of conversations");
            Err(CallError::internal(message, Effect::None))
        }
    });
    let result = |item: Item| match (item.read, item.failed) {
        (Some(read), _) => Ok(read),
        (None, Some(failed)) => Err(failed.into()),
        (None, None) => Err(CallError::internal("an item without an answer", Effect::None)),
    };
    let results: Vec<_> = match answer {
        Ok(items) => items.into_iter().map(result).collect(),
        Err(error) => vec![Err(error); places.len()],
    };
    let learn = |((place, group), result): ((usize, GroupId), Result<ReadResponse, CallError>)| {
        api.elsewhere.learn_of_replica(group, node, &result);
        (place, result)
    };
    places.into_iter().zip(results).map(learn).collect()
}

#[cfg(test)]
mod tests {
    use quorate_client::proto::Message;

    use super::*;

    fn read(messages: usize, payload_bytes: usize) -> ReadResponse {
        let message = Message { payload: vec![0; payload_bytes].into(), ..Message::default() };
        ReadResponse { messages: vec![message; messages], ..ReadResponse::default() }
    }

    #[test]
    fn what_does_not_fit_fails_alone_and_can_be_asked_again() {
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        let large = limits::BATCH_READ_BYTES_MAX as usize / 2 + 1;
        let results = vec![(0, Ok(read(1, large))), (1, Ok(read(1, large))), (2, Ok(read(1, 1)))];
        let items = fit(names, results);
        assert!(items[0].read.is_some() && items[2].read.is_some());
        let failed = items[1].failed.as_ref().unwrap();
        assert_eq!(failed.reason, "RESPONSE_TOO_LARGE");
        assert!(failed.retryable);
    }

    #[test]
    fn what_never_fits_is_not_to_be_asked_again() {
        let large = limits::BATCH_READ_BYTES_MAX as usize + 1;
        let items = fit(vec!["a".into()], vec![(0, Ok(read(1, large)))]);
        assert!(!items[0].failed.as_ref().unwrap().retryable);
    }
}
