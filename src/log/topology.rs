//! The topology that the meta group holds: one row, changed by one command.

use super::rows::row_of_view;
use super::{
    Outcome, Topology, TopologyChange, TopologyGroup, TopologyNode, TopologyRefusal,
    TopologyReplica,
};
use crate::storage::records::Record;
use crate::storage::{Overlay, StorageError, Table, View, keys};
use crate::types::{GroupId, Incarnation, NodeId};

impl Record for Topology {
    const TABLE: Table = Table::Topology;
    const WHAT: &'static str = "topology";
}

/// The topology as this view has it; none before the cluster is initialized.
pub fn read_topology(view: &dyn View) -> Result<Option<Topology>, StorageError> {
    row_of_view(view, &keys::topology())
}

impl Topology {
    /// Which making of a node's replica of a group is wanted; none if it is to have none.
    pub fn incarnation(&self, group: GroupId, node: NodeId) -> Option<Incarnation> {
        if group.is_meta() {
            let node = self.nodes.iter().find(|known| known.id == node);
            return node.map(|node| node.meta_incarnation);
        }
        let group = self.groups.iter().find(|known| known.id == group)?;
        let replica = group.replicas.iter().find(|replica| replica.node == node);
        replica.map(|replica| replica.incarnation)
    }

    fn node_mut(&mut self, id: NodeId) -> Result<&mut TopologyNode, TopologyRefusal> {
        let node = self.nodes.iter_mut().find(|node| node.id == id);
        node.ok_or_else(|| not_found(format!("node {id}")))
    }

    fn group_mut(&mut self, id: GroupId) -> Result<&mut TopologyGroup, TopologyRefusal> {
        let group = self.groups.iter_mut().find(|group| group.id == id);
        group.ok_or_else(|| not_found(format!("group {id}")))
    }

    fn replica_mut(
        &mut self,
        group: GroupId,
        node: NodeId,
    ) -> Result<&mut TopologyReplica, TopologyRefusal> {
        let replicas = &mut self.group_mut(group)?.replicas;
        let replica = replicas.iter_mut().find(|replica| replica.node == node);
        replica.ok_or_else(|| not_found(format!("replica of group {group} on node {node}")))
    }
}

/// Applies a change to the row. The version is raised exactly when something changed.
pub(super) fn change_topology(
    overlay: &mut Overlay<'_>,
    change: &TopologyChange,
) -> Result<Outcome, StorageError> {
    let key = keys::topology();
    let stored: Option<Topology> = overlay.row(&key)?;
    let changed = match (stored, change) {
        (None, TopologyChange::Create(first)) => Ok(Some(first.clone())),
        (None, _) => Err(TopologyRefusal::NotInitialized),
        (Some(topology), change) => changed(topology, change),
    };
    Ok(match changed {
        Ok(Some(topology)) => {
            overlay.put_row(key, &topology);
            Outcome::Done
        }
        Ok(None) => Outcome::Done,
        Err(refusal) => Outcome::TopologyRefused(refusal),
    })
}

/// The topology after the change, or none if it makes no difference.
fn changed(
    mut topology: Topology,
    change: &TopologyChange,
) -> Result<Option<Topology>, TopologyRefusal> {
    let differs = match change {
        TopologyChange::Create(other) if other.cluster == topology.cluster => false,
        TopologyChange::Create(_) => {
            return Err(TopologyRefusal::Exists { cluster: topology.cluster });
        }
        TopologyChange::ActivateGroup { group } => {
            let group = topology.group_mut(*group)?;
            !std::mem::replace(&mut group.active, true)
        }
        TopologyChange::UpdateNode(update) => {
            let node = topology.node_mut(update.id)?;
            let update = TopologyNode { meta_incarnation: node.meta_incarnation, ..update.clone() };
            std::mem::replace(node, update.clone()) != update
        }
        TopologyChange::RenewReplica { group, node, incarnation } if group.is_meta() => {
            renew(&mut topology.node_mut(*node)?.meta_incarnation, *incarnation)?
        }
        TopologyChange::RenewReplica { group, node, incarnation } => {
            let replica = topology.replica_mut(*group, *node)?;
            let renewed = renew(&mut replica.incarnation, *incarnation)?;
            replica.joining |= renewed;
            renewed
        }
        TopologyChange::ReplicaMade { group, node, incarnation } if group.is_meta() => {
            same_incarnation(topology.node_mut(*node)?.meta_incarnation, *incarnation)?;
            false
        }
        TopologyChange::ReplicaMade { group, node, incarnation } => {
            let replica = topology.replica_mut(*group, *node)?;
            same_incarnation(replica.incarnation, *incarnation)?;
            std::mem::replace(&mut replica.joining, false)
        }
    };
    topology.version += u64::from(differs);
    Ok(differs.then_some(topology))
}

/// Raises an incarnation by one and tells whether that was still to be done.
fn renew(actual: &mut Incarnation, wanted: Incarnation) -> Result<bool, TopologyRefusal> {
    if *actual == wanted {
        return Ok(false);
    }
    if actual.0.checked_add(1) != Some(wanted.0) {
        return Err(TopologyRefusal::WrongIncarnation { actual: *actual });
    }
    *actual = wanted;
    Ok(true)
}

fn same_incarnation(actual: Incarnation, named: Incarnation) -> Result<(), TopologyRefusal> {
    if actual == named { Ok(()) } else { Err(TopologyRefusal::WrongIncarnation { actual }) }
}

fn not_found(what: String) -> TopologyRefusal {
    TopologyRefusal::NotFound { what }
}
