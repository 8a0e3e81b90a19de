//! How a node ends: others lead before anybody is turned away, and its databases are closed last, if the disk lets it.

use std::future::Future;
use std::mem::ManuallyDrop;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::future::join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Node;
use crate::consensus::Replicas;
use crate::storage::Storage;

/// How long a node that is asked to stop may take to hand over what it leads, and streams to end.
pub(super) const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long of that leadership may take to be handed over. What is led longer finds another leader once the node is gone.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long its disk may take to close what is open. With the goodbye and the last look it is less than the 30 s that
/// Kubernetes gives a process by default.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take to say what was found damaged by then.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// What ends in turn when the node stops.
#[derive(Default)]
pub(super) struct Stopping {
    /// Calls at the client port are taken no more, and streams end.
    pub(super) clients: CancellationToken,
    /// The same for calls that other nodes hand on.
    pub(super) handed_on: CancellationToken,
    /// Has those of them that are still to be answered.
    pub(super) under_way: TaskTracker,
    /// Other nodes are not heard any more, and nobody is told how this one is.
    pub(super) peers: CancellationToken,
}

/// The first step of stopping: others lead before anybody here is turned away, so that appends go on.
pub(super) async fn lead_nothing(node: &Node, stopping: &Stopping) {
    let groups = node.replicas.all();
    let handed_over = join_all(groups.iter().map(|group| group.step_down()));
    let in_time = timeout(HANDOVER_TIMEOUT, handed_over).await.is_ok();
    // Of a node that is alone, all of them.
    let still_led = groups.iter().filter(|group| group.is_leader()).count();
    tracing::info!(
        in_time,
        still_led,
        "what this node led was handed over, as far as others take it"
    );
    stopping.clients.cancel();
}

/// The last step: no replica goes on, and what was applied is durable, so that the next start has nothing to replay.
/// `last_look` says whether anything was found damaged by then. What was acknowledged is synced long before.
///
/// # Errors
/// The storage fails, `last_look` does, or the disk has not answered in time.
pub(super) async fn close(
    replicas: &Replicas,
    storage: &Storage,
    last_look: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let closing = async {
        join_all(replicas.all().iter().map(|group| group.stop())).await;
        storage.close().await.context("closing the storage")
    };
    let closed = timeout(CLOSING_TIMEOUT, closing).await.unwrap_or_else(|_| {
        leave_open(storage);
        let seconds = CLOSING_TIMEOUT.as_secs();
        Err(anyhow!("the disk has not closed the storage within {seconds} s; nothing is lost"))
    });
    // Also where it was not closed: what is not noted is met by the next start.
    match timeout(LOOK_TIMEOUT, last_look).await {
        Ok(found) => found.and(closed),
        Err(_) => closed,
    }
}

/// Leaves the databases to the end of the process: closing one waits for what it has under way, which a disk that hangs
/// does not end.
pub(super) fn leave_open(storage: &Storage) {
    let _ = ManuallyDrop::new((storage.log.clone(), storage.state.clone()));
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::time::Instant;

    use super::*;
    use crate::consensus::solitary::{Disks, NODE};
    use crate::log::Command;
    use crate::storage::StorageError;
    use crate::types::{GroupId, HashRange, Incarnation, ReplicaId};

    const OWN: ReplicaId = ReplicaId { node: NODE, incarnation: Incarnation(1) };

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_disk_hangs_stops_all_the_same() {
        let disks = Disks::default();
        let process = disks.start().await;
        let group = process.leading(GroupId(1), OWN, HashRange::ALL).await;
        disks.log.hang();
        let configure = Command::Configure { range: HashRange::ALL, epoch: 2 };
        let late = Instant::now() + Duration::from_secs(3_600);
        tokio::spawn(async move { group.propose(configure, late).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let closed = close(&process.replicas, &process.storage, ready(Ok(())));
        let ended = timeout(Duration::from_secs(600), closed).await.expect("it ends");
        assert!(ended.unwrap_err().to_string().contains("nothing is lost"));
    }

    #[tokio::test]
    async fn what_was_applied_is_durable_once_a_node_has_stopped() {
        let disks = Disks::default();
        let process = disks.start().await;
        process.leading(GroupId(1), OWN, HashRange::ALL).await;
        close(&process.replicas, &process.storage, ready(Ok(()))).await.unwrap();
        disks.state.crash();
        let row = process.replicas.get(GroupId(1)).unwrap().row();
        drop(process);
        let again = disks.start().await;
        assert_eq!(again.replicas.get(GroupId(1)).unwrap().row(), row);
    }

    #[tokio::test]
    async fn damage_that_is_found_last_is_what_is_said() {
        let disks = Disks::default();
        let process = disks.start().await;
        disks.state.set_failing(Some("no room"));
        let found = ready(Err(anyhow!("damage")));
        let refused = close(&process.replicas, &process.storage, found).await.unwrap_err();
        assert_eq!(refused.to_string(), "damage");
        let refused = close(&process.replicas, &process.storage, ready(Ok(()))).await.unwrap_err();
        assert!(refused.downcast_ref::<StorageError>().is_some(), "{refused:#}");
    }
}
