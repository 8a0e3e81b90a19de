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

/// The topology as of now, confirmed by the meta group's leader; none if that is not to be had in time.
///
/// A node that was wiped replays the meta group's log, and so sees again how its groups were being created. Were it to
/// believe that, it would make blank replicas under ids that have voted.
pub async fn confirmed(replicas: &Replicas, deadline: Instant) -> Option<Arc<Topology>> {
    let meta = replicas.get(GroupId::META)?;
    if let Err(error) = meta.barrier(deadline).await {
        tracing::debug!(%error, "the topology is not confirmed yet");
        return None;
    }
    if let Err(error) = replicas.refresh_topology() {
        tracing::error!(%error, "the topology cannot be read");
        return None;
    }
    replicas.topology().borrow().clone()
}
