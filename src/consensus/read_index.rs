//! Read barriers: one confirmation of leadership serves every read that waits for it (Raft dissertation, 6.4).
//!
//! Guarantees at stake: G3 and G10. A leader notes how far it has committed, and then asks the voters whether they still
//! follow it (`leadership.rs`). A read may use a confirmation only if the confirmation began after the read arrived, so
//! those that arrive while one is under way wait for the next. No lease reads: a restarted voter of this openraft forgets
//! the lease it granted.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::{mpsc, oneshot};

use super::leadership::{Lead, Standing, Voters};
use super::parking::Parking;
use super::raft_types::{Raft, RaftVote};
use super::{Barrier, ReadError};
use crate::seams::planted;
use crate::types::{Clock, GroupId, LogIndex, NodeId};

/// Reads that wait for a confirmation.
const WAITING_MAX: usize = 65_536;
/// How long one confirmation may take before those who wait are told.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks another node's replica, which should lead, to confirm. Implemented by the transport.
pub trait RemoteReadIndex: Send + Sync {
    /// The index that a read begun before the call has to wait for.
    fn read_index(
        &self,
        leader: NodeId,
        group: GroupId,
    ) -> BoxFuture<'_, Result<LogIndex, ReadError>>;
}

type Reply = oneshot::Sender<Result<Barrier, ReadError>>;

/// Confirms reads of one group.
pub struct ReadIndex {
    queue: mpsc::Sender<Reply>,
}

impl ReadIndex {
    /// Starts the group's confirmations. They end when the handle is dropped.
    pub fn start(
        group: GroupId,
        raft: Raft,
        voters: Voters,
        clock: Arc<dyn Clock>,
        remote: Arc<dyn RemoteReadIndex>,
        parking: Parking,
    ) -> Self {
        let (queue, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(Worker { group, raft, voters, clock, remote, parking }.run(receiver));
        ReadIndex { queue }
    }

    /// The index to wait for, confirmed after this call began.
    pub async fn confirm(&self) -> Result<Barrier, ReadError> {
        let (reply, result) = oneshot::channel();
        self.queue.try_send(reply).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        result.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn no_quorum(reason: impl ToString) -> ReadError {
    ReadError::NoQuorum { reason: reason.to_string() }
}

fn stopped() -> ReadError {
    ReadError::Stopped { reason: "the replica is shutting down".into() }
}

struct Worker {
    group: GroupId,
    raft: Raft,
    voters: Voters,
    clock: Arc<dyn Clock>,
    remote: Arc<dyn RemoteReadIndex>,
    parking: Parking,
}

impl Worker {
    async fn run(mut self, mut receiver: mpsc::Receiver<Reply>) {
        let mut waiting = Vec::new();
        while receiver.recv_many(&mut waiting, WAITING_MAX).await > 0 {
            let confirmed_from_us = self.clock.elapsed_us();
            let confirmed = tokio::time::timeout(CONFIRMATION_TIMEOUT, self.confirm_once()).await;
            let result = confirmed
                .unwrap_or_else(|_| Err(no_quorum("the confirmation timed out")))
                .map(|index| Barrier { index, confirmed_from_us });
            for reply in waiting.drain(..) {
                let _ = reply.send(result.clone());
            }
        }
    }

    async fn confirm_once(&mut self) -> Result<LogIndex, ReadError> {
        if planted::no_read_index() {
            return Ok(LogIndex(0));
        }
        loop {
            let lead = match standing(self.raft.clone()).await? {
                Standing::Leads(lead) => lead,
                Standing::Follows(Some(leader)) => {
                    return self.remote.read_index(leader, self.group).await;
                }
                Standing::Follows(None) => return Err(no_quorum("no leader is known")),
            };
            // To ask voters of a parked group would wake them alone.
            self.parking.rouse().await;
            let Lead { vote, index, .. } = lead;
            let deposed = deposed(self.raft.clone(), vote);
            tokio::select! {
                biased;
                confirmed = self.voters.confirm(&self.raft, &lead) => {
                    confirmed.map_err(no_quorum)?;
                    let is_early = planted::serve_before_term_commit();
                    return Ok(if is_early { LogIndex(0) } else { index });
                }
                // Who leads now is asked in its place.
                () = deposed => {}
            }
        }
    }
}

/// Taken after the reads that wait have arrived, and before any voter is asked.
async fn standing(raft: Raft) -> Result<Standing, ReadError> {
    let own = *raft.node_id();
    let standing = raft.with_raft_state(move |state| Standing::of(own, state)).await;
    standing.map_err(|fatal| ReadError::Stopped { reason: fatal.to_string() })
}

/// Ends once this replica has given a newer vote, or has stopped.
async fn deposed(raft: Raft, vote: RaftVote) {
    let mut metrics = raft.server_metrics();
    loop {
        let is_newer = metrics.borrow_watched().vote > vote;
        if is_newer || metrics.changed().await.is_err() {
            return;
        }
    }
}
