//! Follow: history from the given starts, then live.

use std::collections::HashSet;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use quorate_client::proto::subscribe_response::{Ended, Kind};
use quorate_client::proto::{FollowRequest, FollowResponse, SubscribeResponse};
use tonic::Status;
use tracing::Instrument;

use super::api::Responses;
use super::authorize::Resource;
use super::call::Call;
use super::delivery::{Followed, HEARTBEAT_DEFAULT, Outgoing, Pacing, Subscribed, Subscription};
use super::errors::CallError;
use super::read::validate_start;
use super::validate::{Problem, Violation};
use super::{Api, validate};
use crate::types::limits;

/// The shortest interval of heartbeats.
const HEARTBEAT_MS_MIN: u32 = 100;
/// The longest interval of heartbeats.
const HEARTBEAT_MS_MAX: u32 = 60_000;

/// Follows conversations until the caller goes away.
///
/// # Errors
/// If the request is wrong, or OVERLOADED. The stream ends with an error as soon as one conversation cannot be followed
/// any more; what came before is complete.
pub async fn follow(
    api: &Api,
    call: &Call,
    request: FollowRequest,
) -> Result<Responses<Followed>, CallError> {
    call.authorize(api.authorizer.as_ref(), Resource::Conversations)?;
    let heartbeat = heartbeat(request.heartbeat_ms)?;
    check_conversations(&request)?;
    for follow in &request.conversations {
        let resource = Resource::Conversation(&follow.conversation);
        call.authorize(api.authorizer.as_ref(), resource)?;
    }
    let (subscription, responses) = Subscription::new(api, call, Pacing::Stream, heartbeat)?;
    subscription.make_room(request.conversations.len())?;
    tokio::spawn(drive(subscription, request, api.clone()).instrument(call.span()));
    Ok(Box::pin(until_one_ends(responses)))
}

/// Adds the conversations and keeps them until the caller is gone or the node stops.
async fn drive(mut subscription: Subscription, request: FollowRequest, api: Api) {
    let out = subscription.out().clone();
    let add_all = async {
        for follow in request.conversations {
            subscription.add(follow.conversation, follow.start, 0).await?;
        }
        std::future::pending::<Result<(), CallError>>().await
    };
    let error = tokio::select! {
        () = out.closed() => return,
        () = api.stopping.cancelled() => CallError::shutting_down(),
        Err(error) = add_all => error,
    };
    // If the caller is gone nobody needs to know.
    out.send(Err(error).into(), 0).await;
}

fn heartbeat(ms: u32) -> Result<Duration, Violation> {
    match ms {
        0 => Ok(HEARTBEAT_DEFAULT),
        HEARTBEAT_MS_MIN..=HEARTBEAT_MS_MAX => Ok(Duration::from_millis(ms.into())),
        _ => Err(Violation::of("heartbeat_ms", Problem::Invalid("between 100 and 60,000, or 0"))),
    }
}

fn check_conversations(request: &FollowRequest) -> Result<(), Violation> {
    let conversations = &request.conversations;
    if conversations.is_empty() {
        return Err(Violation::of("conversations", Problem::Empty));
    }
    let limit = limits::SUBSCRIPTION_CONVERSATIONS_MAX;
    validate::at_most("conversations", conversations.len(), limit)?;
    let mut seen = HashSet::with_capacity(conversations.len());
    for follow in conversations {
        validate::conversation(&follow.conversation)?;
        validate_start(follow.start.as_ref())?;
        if !seen.insert(&follow.conversation) {
            return Err(Violation::of("conversations", Problem::Invalid("named once each")));
        }
    }
    Ok(())
}

/// A Follow has no way to go on without one of its conversations: the first that ends, ends it.
fn until_one_ends(
    responses: impl Stream<Item = Result<Subscribed, Status>> + Send + 'static,
) -> impl Stream<Item = Result<Followed, Status>> + Send {
    stream::unfold(Some(Box::pin(responses)), |responses| async {
        let mut responses = responses?;
        loop {
            let kind = match responses.next().await? {
                Ok(Outgoing::Encoded(messages)) => {
                    return Some((Ok(Outgoing::Encoded(messages)), Some(responses)));
                }
                Ok(Outgoing::Plain(SubscribeResponse { kind })) => kind,
                Err(status) => return Some((Err(status), None)),
            };
            let failed = match kind {
                Some(Kind::Delivery(delivery)) => {
                    let response = FollowResponse { delivery: Some(delivery) };
                    return Some((Ok(Outgoing::Plain(response)), Some(responses)));
                }
                Some(Kind::Ended(Ended { failed, .. })) => failed,
                None => continue,
            };
            let error = failed.map_or_else(CallError::replica_gone, CallError::from);
            return Some((Err(error.into()), None));
        }
    })
}

#[cfg(test)]
mod tests {
    use quorate_client::proto::delivery::{Heartbeat, Kind as Delivered};
    use quorate_client::proto::{Delivery, FollowStart};

    use super::*;
    use crate::service::delivery::outgoing::EncodedMessages;

    fn request(conversations: &[&str]) -> FollowRequest {
        let follow = |name: &&str| FollowStart { conversation: (*name).into(), start: None };
        FollowRequest { conversations: conversations.iter().map(follow).collect(), heartbeat_ms: 0 }
    }

    #[test]
    fn heartbeats_have_bounds() {
        assert_eq!(heartbeat(0), Ok(HEARTBEAT_DEFAULT));
        assert_eq!(heartbeat(100), Ok(Duration::from_millis(100)));
        assert!(heartbeat(99).is_err());
        assert!(heartbeat(60_001).is_err());
    }

    #[test]
    fn each_conversation_is_named_once() {
        assert!(check_conversations(&request(&["a", "b"])).is_ok());
        assert!(check_conversations(&request(&["a", "a"])).is_err());
        assert!(check_conversations(&request(&[])).is_err());
        assert_eq!(check_conversations(&request(&[""])).unwrap_err().problem, Problem::Empty);
    }

    #[tokio::test]
    async fn a_follow_ends_with_the_first_conversation_that_ends() {
        let beat = || Delivery { kind: Some(Delivered::Heartbeat(Heartbeat { node_id: 1 })) };
        let failed = Some(CallError::replica_gone().into());
        let plain = |kind| Ok(Outgoing::Plain(SubscribeResponse { kind: Some(kind) }));
        let encoded = EncodedMessages { conversation: "a".into(), messages: Vec::new() };
        let responses = stream::iter([
            plain(Kind::Delivery(beat())),
            Ok(Outgoing::Encoded(encoded.clone())),
            plain(Kind::Ended(Ended { conversation: "a".into(), failed })),
            plain(Kind::Delivery(beat())),
        ]);
        let followed: Vec<_> = until_one_ends(responses).collect().await;
        assert_eq!(followed.len(), 3);
        let beat = FollowResponse { delivery: Some(beat()) };
        assert_eq!(*followed[0].as_ref().unwrap(), Outgoing::Plain(beat));
        assert_eq!(*followed[1].as_ref().unwrap(), Outgoing::Encoded(encoded));
        let error = followed[2].as_ref().unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unavailable);
    }
}
