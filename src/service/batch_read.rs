//! BatchRead: the ends of many conversations in one call, one confirmation for each group.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use quorate_client::proto::batch_read_response::Item;
use quorate_client::proto::{BatchReadRequest, BatchReadResponse, Consistency, ReadResponse};

use super::authorize::Resource;
use super::call::Call;
use super::consistency::{Level, Origin, ReadPoint, confirm, look, open};
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
    let batch = Batch {
        api,
        call,
        level,
        last: request.last,
        consistency: request.consistency,
        share: Share::new(api.replicas.admission().responses()),
    };
    let there = plan.there.into_iter().map(|(node, places)| batch.read_there(node, places));
    let (here, there) = tokio::join!(batch.read_here(plan.here), join_all(there));
    let mut results = plan.failed;
    results.extend(here);
    results.extend(there.into_iter().flatten());
    results.sort_by_key(|(place, _)| *place);
    // What was read first may have waited for the rest.
    let answer = |(place, found): Read| (place, found.and_then(|found| found.answer(api)));
    let results = results.into_iter().map(answer).collect();
    Ok(BatchReadResponse { items: fit(request.conversations, results) })
}

/// What is the same for all conversations of a call.
struct Batch<'a> {
    api: &'a Api,
    call: &'a Call,
    level: Level,
    last: u32,
    consistency: Option<Consistency>,
    /// For what has been read until all of it has.
    share: Share,
}

/// What was read of one conversation.
#[derive(Clone)]
struct Found {
    read: ReadResponse,
    origin: Option<Origin>,
}

impl Found {
    /// As it is answered now.
    fn answer(self, api: &Api) -> Result<ReadResponse, CallError> {
        let position = self.origin.map(|origin| origin.position(api.clock.as_ref())).transpose()?;
        Ok(ReadResponse { position, ..self.read })
    }
}

type Read = (usize, Result<Found, CallError>);

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

impl Batch<'_> {
    /// Confirms all groups at once, then reads one conversation after the other: the memory of the whole stays within
    /// one response.
    async fn read_here(&self, parts: BTreeMap<GroupId, Part>) -> Vec<Read> {
        let Batch { api, call, level, .. } = *self;
        let barriers = parts.values().map(|part| confirm(api, &part.group, level, call.deadline));
        let barriers = join_all(barriers).await;
        let mut room = Room::new();
        let mut results = Vec::new();
        for (Part { group, names }, barrier) in parts.into_values().zip(barriers) {
            for (place, name) in names {
                let point = match (&barrier, level) {
                    (Err(error), _) => Err(error.clone()),
                    (Ok(_), Level::AtLeast(_)) => {
                        open(api, &group, &name, level, call.deadline).await
                    }
                    (Ok(barrier), _) => look(api, &group, &name, level, *barrier).await,
                };
                let result = match point {
                    Ok(point) => self.end_of(&group, point, &mut room).await,
                    Err(error) => Err(error),
                };
                results.push((place, result));
            }
        }
        results
    }

    async fn end_of(
        &self,
        group: &Group,
        point: ReadPoint,
        room: &mut Room,
    ) -> Result<Found, CallError> {
        let (first, tail) = point.bounds();
        let from = Seq(tail.0.saturating_sub(self.last.into()).max(first.0));
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
        let read = ReadResponse { messages, first_seq: first.0, tail: tail.0, position: None };
        room.take(&read)?;
        self.share.keep(memory::messages_bytes(&read.messages))?;
        Ok(Found { read, origin: Some(point.origin) })
    }

    /// Has another node read what is there.
    async fn read_there(&self, node: NodeId, places: Vec<(usize, GroupId, String)>) -> Vec<Read> {
        let elsewhere = &self.api.elsewhere;
        let (places, conversations): (Vec<_>, Vec<_>) =
            places.into_iter().map(|(place, group, name)| ((place, group), name)).unzip();
        let results = match self.ask(node, conversations).await {
            Ok(items) => items.into_iter().map(|item| self.found(item)).collect(),
            Err(error) => vec![Err(error); places.len()],
        };
        let learn = |((place, group), result): ((usize, GroupId), Result<Found, CallError>)| {
            elsewhere.learn_of_replica(group, node, &result);
            (place, result)
        };
        places.into_iter().zip(results).map(learn).collect()
    }

    /// As many items as conversations.
    async fn ask(&self, node: NodeId, conversations: Vec<String>) -> Result<Vec<Item>, CallError> {
        let Batch { api, call, last, consistency, .. } = *self;
        let count = conversations.len();
        let asked = BatchReadRequest { conversations, last, consistency };
        let mut client = forward::client(api, call, node, CallError::replica_gone())?;
        let request = forward::request(api, call, Some(call.deadline), asked);
        let answer = client.batch_read(request);
        let answer = forward::answer(api, node, &[], call.deadline, Effect::None, answer).await?;
        if answer.items.len() != count {
            let message = format!("node {node} answered for another number of conversations");
            return Err(CallError::internal(message, Effect::None));
        }
        // All at once: what of it is kept may hold the whole buffer that it came in.
        let reads = answer.items.iter().filter_map(|item| item.read.as_ref());
        self.share.keep(reads.map(|read| memory::messages_bytes(&read.messages)).sum())?;
        Ok(answer.items)
    }

    /// What another node has just told.
    fn found(&self, item: Item) -> Result<Found, CallError> {
        match (item.read, item.failed) {
            (Some(read), _) => {
                let told = |position| Origin::told(self.level, position, self.api.clock.as_ref());
                Ok(Found { origin: read.position.map(told), read })
            }
            (None, Some(failed)) => Err(failed.into()),
            (None, None) => Err(CallError::internal("an item without an answer", Effect::None)),
        }
    }
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
fn fit(
    conversations: Vec<String>,
    results: Vec<(usize, Result<ReadResponse, CallError>)>,
) -> Vec<Item> {
    let mut room = Room::new();
    let item = |(conversation, (_, result)): (String, (_, Result<ReadResponse, CallError>))| {
        let result = result.and_then(|read| room.take(&read).map(|()| read));
        let (read, failed) = match result {
            Ok(read) => (Some(read), None),
            Err(error) => (None, Some(error.into())),
        };
        Item { conversation, read, failed }
    };
    conversations.into_iter().zip(results).map(item).collect()
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
