//! What every subscriber of a measurement does: it begins with all that is there, and takes what comes until all of it
//! has come.

use std::time::Duration;

use anyhow::{Context, bail};
use quorate_client::proto::Message;
use quorate_client::{Delivery, Subscription};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a subscriber may wait for what was acknowledged.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Waits until a subscription has caught up with so many conversations, so that all that follows is live.
pub(super) async fn catch_up(
    subscription: &mut Subscription,
    mut conversations: u64,
) -> anyhow::Result<()> {
    while conversations > 0 {
        let next = timeout(SILENCE_MAX, subscription.next()).await;
        match next.context("a subscription does not begin")? {
            Delivery::CaughtUp { .. } => conversations -= 1,
            Delivery::Ended { conversation, error } => bail!("{conversation} ended: {error:?}"),
            _ => {}
        }
    }
    Ok(())
}

/// Takes messages until as many have come as `all` says in the end.
pub(super) async fn receive(
    subscription: &mut Subscription,
    mut all: watch::Receiver<Option<u64>>,
    mut note: impl FnMut(&[Message]),
) -> anyhow::Result<()> {
    let mut received = 0;
    loop {
        if all.borrow_and_update().is_some_and(|due| received >= due) {
            return Ok(());
        }
        let delivery = tokio::select! {
            delivery = timeout(SILENCE_MAX, subscription.next()) => delivery,
            Ok(()) = all.changed() => continue,
        };
        let delivery =
            delivery.with_context(|| format!("only {received} messages were delivered"))?;
        match delivery {
            Delivery::Messages { messages, .. } => {
                received += messages.len() as u64;
                note(&messages);
            }
            Delivery::Gap { conversation, .. } => bail!("{conversation} has a gap"),
            Delivery::Ended { conversation, error } => bail!("{conversation} ended: {error:?}"),
            _ => {}
        }
    }
}
