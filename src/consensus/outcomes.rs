//! The outcomes of many commands, of any groups, for one task that waits for all of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::{Group, ProposeError};
use crate::log::{Command, Outcome};

/// What was proposed and has no outcome yet. As many as whoever proposes lets there be.
#[derive(Default)]
pub struct Outcomes {
    awaited: FuturesUnordered<Awaited>,
}

type Awaited = Pin<Box<dyn Future<Output = (u64, Result<Outcome, ProposeError>)> + Send>>;

impl Outcomes {
    /// Proposes a command, as [`Group::propose`] does, when the outcomes are next asked for. Commands to one group get
    /// there in this order.
    ///
    /// Outside of tokio's budget for a task: who has used it up finds nothing there, and an outcome would go behind others
    /// again and again; but a refusal needs none. Under overload outcomes were so told 10 s late.
    pub fn propose(&mut self, group: Arc<Group>, command: Command, deadline: Instant, ticket: u64) {
        let outcome = async move { (ticket, group.propose(command, deadline).await) };
        self.awaited.push(Box::pin(unconstrained(outcome)));
    }

    /// The next outcome with its ticket, in any order; pending also while there is nothing to wait for.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(u64, Result<Outcome, ProposeError>)> {
        match self.awaited.poll_next_unpin(cx) {
            Poll::Ready(Some(outcome)) => Poll::Ready(outcome),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
