//! Subscribe: conversations come and go while the stream runs, and each has a byte credit.
//!
//! Credits are smaller than the window that HTTP/2 gives the stream, and conversations without credit are not read:
//! so a caller that is slow with one conversation still gets the others.

use futures::StreamExt;
use quorate_client::proto::SubscribeRequest;
use quorate_client::proto::subscribe_request::{Add, Change, Credit, Remove};
use tonic::{Status, Streaming};
use tracing::Instrument;

use super::Api;
use super::api::Responses;
use super::authorize::Resource;
use super::call::Call;
use super::delivery::{HEARTBEAT_DEFAULT, Pacing, Subscribed, Subscription};
use super::errors::CallError;
use super::malformed::stream_failure;
use super::validate::{self, Problem, Violation};

/// Opens a subscription without conversations.
///
/// # Errors
/// PERMISSION_DENIED, or OVERLOADED if there are too many. What is wrong with one conversation ends that one; the stream itself ends with an error if a
/// conversation is added twice, a change names none, or the node stops. A caller that ends its side keeps what it has.
pub async fn subscribe(
    api: &Api,
    call: &Call,
    changes: Streaming<SubscribeRequest>,
) -> Result<Responses<Subscribed>, CallError> {
    call.authorize(api.authorizer.as_ref(), Resource::Conversations)?;
    let (subscription, responses) =
        Subscription::new(api, call, Pacing::Credits, HEARTBEAT_DEFAULT)?;
    tokio::spawn(drive(subscription, changes, api.clone()).instrument(call.span()));
    Ok(Box::pin(responses))
}

/// Makes the caller's changes until the caller is gone or the node stops.
async fn drive(mut subscription: Subscription, changes: Streaming<SubscribeRequest>, api: Api) {
    let out = subscription.out().clone();
    let change_all = async {
        let mut changes = changes;
        while let Some(change) = changes.next().await {
            change_one(&mut subscription, change).await?;
        }
        std::future::pending::<Result<(), CallError>>().await
    };
    let error = tokio::select! {
        () = out.closed() => return,
        () = api.stopping.cancelled() => CallError::shutting_down(),
        Err(error) = change_all => error,
    };
    // If the caller is gone nobody needs to know.
    out.send(Err(error).into(), 0).await;
}

async fn change_one(
    subscription: &mut Subscription,
    request: Result<SubscribeRequest, Status>,
) -> Result<(), CallError> {
    let request = match request {
        Ok(request) => request,
        // The connection failed, or the caller cancelled: its side of the stream tells which.
        Err(status) => return stream_failure(&status).map_or(Ok(()), Err),
    };
    match request.change {
        Some(Change::Add(Add { conversation, start, credit_bytes })) => {
            subscription.add(conversation, start, credit_bytes).await
        }
        Some(Change::Remove(Remove { conversation })) => {
            validate::conversation(&conversation)?;
            subscription.remove(conversation).await
        }
        Some(Change::Credit(Credit { conversation, credit_bytes })) => {
            validate::conversation(&conversation)?;
            subscription.grant(conversation, credit_bytes).await;
            Ok(())
        }
        // Of a newer version, or nothing: what the caller believes to have changed would not have.
        None => Err(Violation::of("change", Problem::Empty).into()),
    }
}
