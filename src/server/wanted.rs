//! What the topology wants of this node, and when a replica of it may be made blank.
//!
//! Guarantees at stake: G1 and G9. A replica that is made blank has forgotten what its id ever promised, so no id may
//! be made that can have voted or acknowledged anything.

use std::sync::Arc;

use tokio::time::Instant;

use crate::consensus::Replicas;
use crate::log::Topology;
use crate::seams::planted;
use crate::types::{GroupId, ReplicaId};

/// Whether a replica of this id can never have voted: a group begins only once all of its first replicas are said to be
/// made, and a later one counts only then.
pub fn may_be_blank(topology: &Topology, group: GroupId, replica: ReplicaId) -> bool {
    let group = topology.groups.iter().find(|known| known.id == group);
    group.is_some_and(|group| {
        group.replicas.iter().any(|wanted| {
            wanted.node == replica.node
                && wanted.incarnation == replica.incarnation
                && (wanted.joining || planted::wiped_replica_votes())
        })
    })
}

/// The topology as of now, confirmed by the meta group's leader; none while the cluster is being made.
///
/// A node that was wiped replays the meta group's log, and so sees again how its groups were being created. Were it to
/// believe that, it would make blank replicas under ids that have voted.
///
/// # Errors
/// It cannot be confirmed in time, or not be read.
pub async fn confirmed(
    replicas: &Replicas,
    deadline: Instant,
) -> Result<Option<Arc<Topology>>, String> {
    let meta = replicas.get(GroupId::META).ok_or("no meta replica here")?;
    let barrier = meta.barrier(deadline).await;
    barrier.map_err(|error| format!("the topology is not confirmed: {error}"))?;
    let read = replicas.refresh_topology();
    read.map_err(|error| format!("the topology cannot be read: {error}"))?;
    Ok(replicas.topology().borrow().clone())
}
