//! List: conversations by prefix, in name order, merged from this node's replicas and, for groups that have none
//! here, from one other node each.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use quorate_client::proto::{Conversation, ListRequest, ListResponse};

use super::authorize::Resource;
use super::call::Call;
use super::errors::{CallError, Effect};
use super::responses::Share;
use super::{Api, convert, forward, memory, page_token, reads, validate};
use crate::log::TopologyGroup;
use crate::types::{ConversationId, ConversationName, HashRange, NodeId, PlacementHash, limits};

/// Conversations of a page when the caller does not say.
const PAGE_DEFAULT: u32 = 100;

/// Lists a page of conversations.
///
/// # Errors
/// Retryable if a group can be asked nowhere, or, by another node, not here: a list with holes would look complete.
/// OVERLOADED if there is no room for what has been listed until all of it has.
pub async fn list(api: &Api, call: &Call, request: ListRequest) -> Result<ListResponse, CallError> {
    call.authorize(api.authorizer.as_ref(), Resource::Prefix(&request.prefix))?;
    validate::at_most("prefix", request.prefix.len(), limits::CONVERSATION_NAME_BYTES_MAX)?;
    validate::at_most("page_size", request.page_size as usize, limits::LIST_PAGE_MAX as usize)?;
    // Two digits for each byte of a name.
    let token_limit = 2 * limits::CONVERSATION_NAME_BYTES_MAX;
    validate::at_most("page_token", request.page_token.len(), token_limit)?;
    let after = page_token::decode(&request.page_token)?;
    let page_size = if request.page_size == 0 { PAGE_DEFAULT } else { request.page_size } as usize;
    let topology = api.replicas.topology().borrow().clone();
    let topology = topology.ok_or_else(CallError::not_initialized)?;

    // Looked at once: a replica that comes or goes meanwhile is neither listed twice nor left out.
    let is_here = |group: &&TopologyGroup| api.replicas.serving(group).is_some();
    let (here, missing): (Vec<_>, Vec<_>) = topology.groups.iter().partition(is_here);
    // Whoever hands this on relies on what the topology says is here, and does not know better.
    let should_be_here =
        |group: &&TopologyGroup| group.made_on().any(|node| node == api.replicas.node());
    if call.forwarded && missing.iter().any(should_be_here) {
        return Err(CallError::replica_gone());
    }
    let share = Share::new(api.replicas.admission().responses());
    let mut sources = Vec::new();
    if let Some(here) = list_here(api, &here, &request.prefix, after, page_size).await? {
        share.keep(memory::conversations_bytes(&here.conversations))?;
        sources.push(here);
    }
    if !call.forwarded {
        let asks = sources_of(api, missing)?.into_iter().map(|(node, groups)| {
            list_there(api, call, node, groups, request.clone(), page_size, &share)
        });
        sources.extend(try_join_all(asks).await?);
    }
    Ok(merge(sources, page_size))
}

/// One node's part of a page: complete up to `complete_to`, or to the end.
struct Source {
    conversations: Vec<Conversation>,
    complete_to: Option<String>,
}

async fn list_here(
    api: &Api,
    groups: &[&TopologyGroup],
    prefix: &str,
    after: Option<String>,
    page_size: usize,
) -> Result<Option<Source>, CallError> {
    let held: Vec<(HashRange, _)> = groups.iter().map(|group| (group.range, group.id)).collect();
    let replicas = held.iter().map(|(_, group)| api.replicas.get(*group));
    let replicas: Option<Vec<_>> = replicas.collect();
    let replicas = replicas.ok_or_else(CallError::replica_gone)?;
    // All replicas of a node share one state database, so that any of them shows the names of all.
    let Some(any) = replicas.first().cloned() else { return Ok(None) };
    let (view, prefix) = (any.pin(), prefix.to_owned());
    let list = move || -> Result<Vec<Conversation>, CallError> {
        for group in replicas {
            let row = reads::group_row(view.as_ref(), group.id(), group.replica())?;
            row.range.ok_or_else(CallError::replica_gone)?;
        }
        let group_of = |hash: PlacementHash| {
            held.iter().find(|(range, _)| range.contains(hash)).map(|(_, group)| *group)
        };
        let is_held = |conversation: ConversationId| group_of(conversation.placement()).is_some();
        let after = after.map(ConversationName);
        let heads = reads::list(view.as_ref(), is_held, &prefix, after.as_ref(), page_size)?;
        let conversations = heads.into_iter().filter_map(|head| {
            let group = group_of(head.name.id().placement())?;
            Some(convert::conversation(head, group))
        });
        Ok(conversations.collect())
    };
    let conversations = any.offload(list).await?;
    let complete_to = match conversations.len() < page_size {
        true => None,
        false => conversations.last().map(|last| last.name.clone()),
    };
    Ok(Some(Source { conversations, complete_to }))
}

/// For each node to be asked, the groups that it is asked for.
type Asked<'t> = BTreeMap<NodeId, Vec<&'t TopologyGroup>>;

fn sources_of<'t>(api: &Api, missing: Vec<&'t TopologyGroup>) -> Result<Asked<'t>, CallError> {
    let mut asked = Asked::new();
    for group in missing {
        let node = source_of(api, group, &asked).ok_or_else(CallError::replica_gone)?;
        asked.entry(node).or_default().push(group);
    }
    Ok(asked)
}

/// A node with a replica: preferably one that is asked anyway.
fn source_of(api: &Api, group: &TopologyGroup, asked: &Asked<'_>) -> Option<NodeId> {
    let here = api.replicas.node();
    let others: Vec<_> = group.made_on().filter(|node| *node != here).collect();
    let asked_anyway =
        |node: &NodeId| asked.contains_key(node) && !api.elsewhere.avoids(group.id, *node);
    let found = others.iter().copied().find(asked_anyway);
    found.or_else(|| api.elsewhere.choose(group.id, &others))
}

async fn list_there(
    api: &Api,
    call: &Call,
    node: NodeId,
    groups: Vec<&TopologyGroup>,
    request: ListRequest,
    page_size: usize,
    share: &Share,
) -> Result<Source, CallError> {
    let mut client = forward::client(api, call, node, CallError::replica_gone())?;
    let request = ListRequest { page_size: page_size as u32, ..request };
    let request = forward::request(api, call, Some(call.deadline), request);
    let (ids, answer) =
        (groups.iter().map(|group| group.id).collect::<Vec<_>>(), client.list(request));
    let page = forward::answer(api, node, &ids, call.deadline, Effect::None, answer).await?;
    // Other nodes may take longer.
    share.keep(memory::conversations_bytes(&page.conversations))?;
    let complete_to = page_token::decode(&page.next_page_token)
        .map_err(|_| CallError::internal("a node sent a bad page token", Effect::None))?;
    let wanted = |conversation: &Conversation| {
        let hash = ConversationName(conversation.name.clone()).id().placement();
        groups.iter().any(|group| group.range.contains(hash))
    };
    let conversations = page.conversations.into_iter().filter(wanted).collect();
    Ok(Source { conversations, complete_to })
}

/// One page of what the sources hold, up to where all of them are complete. May be empty with more to come.
fn merge(sources: Vec<Source>, page_size: usize) -> ListResponse {
    let mut complete_to = sources.iter().filter_map(|s| s.complete_to.clone()).min();
    let mut conversations: Vec<Conversation> = sources
        .into_iter()
        .flat_map(|source| source.conversations)
        .filter(|found| complete_to.as_ref().is_none_or(|end| found.name <= *end))
        .collect();
    conversations.sort_by(|a, b| a.name.cmp(&b.name));
    if conversations.len() > page_size {
        conversations.truncate(page_size);
        complete_to = conversations.last().map(|last| last.name.clone());
    }
    let next_page_token = complete_to.map_or_else(String::new, |name| page_token::encode(&name));
    ListResponse { conversations, next_page_token }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::metadata::MetadataMap;

    use super::*;
    use crate::consensus::solitary::{Disks, NODE};
    use crate::service::fixture::{self, GROUP};
    use crate::service::other_node::NoPeers;
    use crate::service::{FORWARDED, Operation, reason};
    use crate::types::{Incarnation, ReplicaId};

    /// What a node answers to another one that asks it for what is there, as the topology says.
    async fn asked_by_another(api: &Api) -> Result<ListResponse, CallError> {
        let mut metadata = MetadataMap::new();
        metadata.insert(FORWARDED, 2.into());
        let call = Call::new(Operation::List, &metadata);
        list(api, &call, ListRequest::default()).await
    }

    #[tokio::test]
    async fn a_node_does_not_leave_out_what_should_be_there_and_is_not() {
        let process = Disks::default().start().await;
        let api = fixture::api(&process, NODE, Arc::new(NoPeers));
        // Damaged, it was not started.
        let error = asked_by_another(&api).await.unwrap_err();
        assert_eq!((error.reason(), error.is_retryable()), (reason::REPLICA_STOPPED, true));
        // Made anew, it knows nothing yet.
        let replica = ReplicaId { node: NODE, incarnation: Incarnation(1) };
        let group = process.replicas.make(GROUP, replica).await.unwrap();
        assert_eq!(asked_by_another(&api).await.unwrap_err().reason(), reason::REPLICA_STOPPED);
        group.stop().await;
    }

    #[tokio::test]
    async fn a_node_that_is_asked_has_no_more_than_the_topology_says() {
        let process = Disks::default().start().await;
        let api = fixture::api(&process, NodeId(1), Arc::new(NoPeers));
        assert_eq!(asked_by_another(&api).await.unwrap(), ListResponse::default());
        let call = Call::new(Operation::List, &MetadataMap::new());
        let error = list(&api, &call, ListRequest::default()).await.unwrap_err();
        assert_eq!(error.reason(), reason::REPLICA_STOPPED, "there is nobody to ask");
    }

    fn source(names: &[&str], complete_to: Option<&str>) -> Source {
        let conversation =
            |name: &&str| Conversation { name: (*name).into(), ..Conversation::default() };
        Source {
            conversations: names.iter().map(conversation).collect(),
            complete_to: complete_to.map(str::to_owned),
        }
    }

    fn merged(sources: Vec<Source>, page_size: usize) -> (Vec<String>, Option<String>) {
        let page = merge(sources, page_size);
        let names = page.conversations.into_iter().map(|found| found.name).collect();
        (names, page_token::decode(&page.next_page_token).unwrap())
    }

    #[test]
    fn complete_sources_merge_in_name_order() {
        let page = merged(vec![source(&["b", "d"], None), source(&["a", "c"], None)], 10);
        assert_eq!(page, (vec!["a".into(), "b".into(), "c".into(), "d".into()], None));
    }

    #[test]
    fn a_page_ends_where_a_source_may_have_more() {
        let sources = vec![source(&["a", "c"], Some("c")), source(&["b", "d"], None)];
        let page = merged(sources, 10);
        assert_eq!(page, (vec!["a".into(), "b".into(), "c".into()], Some("c".into())));
    }

    #[test]
    fn a_full_page_ends_with_its_last_name() {
        let sources = vec![source(&["a", "c"], None), source(&["b", "d"], None)];
        assert_eq!(merged(sources, 3).1, Some("c".into()));
    }

    #[test]
    fn a_page_may_be_empty_with_more_to_come() {
        let sources = vec![source(&[], Some("b")), source(&["x"], None)];
        assert_eq!(merged(sources, 10), (Vec::new(), Some("b".into())));
    }
}
