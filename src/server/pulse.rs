//! Keeps an eye on the clocks and disks of the other nodes, and has every group that this node leads weighed by them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::consensus::{Admission, ClockReading, ClockSkew, Fitness, Group, Replicas, Sighting};
use crate::transport::Peers;
use crate::types::{Clock, NodeId};

const INTERVAL: Duration = Duration::from_secs(1);

/// What this node needs to see itself and others.
pub struct PulseWatch {
    pub(super) replicas: Arc<Replicas>,
    pub(super) peers: Arc<Peers>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) admission: Arc<Admission>,
}

impl PulseWatch {
    /// Runs until the node stops.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let read = ClockReading::of(self.clock.as_ref());
            let seen = self.look_around().await;
            let groups = self.replicas.all();
            for group in &groups {
                let before = group.fitness();
                let now = group.weigh(&seen, read);
                note_changes(group, before, now);
            }
            join_all(groups.iter().map(|group| group.give_way(&seen))).await;
        }
    }

    /// Asks every node at once. One that does not answer is not in the result.
    async fn look_around(&self) -> BTreeMap<NodeId, Sighting> {
        let own = Sighting { clock: ClockSkew::NONE, disk: self.admission.disk() };
        let nodes = self.peers.addresses().into_keys().filter(|node| *node != self.replicas.node());
        let asked = nodes.map(|node| async move {
            self.peers.pulse(node, self.clock.as_ref()).await.ok().map(|sighting| (node, sighting))
        });
        let answers = join_all(asked).await.into_iter().flatten();
        answers.chain([(self.replicas.node(), own)]).collect()
    }
}

fn note_changes(group: &Group, before: Fitness, now: Fitness) {
    let group = group.id();
    if now.clock_is_off && !before.clock_is_off {
        tracing::error!(
            %group,
            "this node's clock is more than 500 ms from the median of the group's voters: it proposes nothing and \
             hands leadership over; check its time synchronization"
        );
    } else if before.clock_is_off && !now.clock_is_off {
        tracing::info!(%group, "nothing is held against this node's clock any more");
    }
    if now.needs_low_disk && !before.needs_low_disk {
        tracing::warn!(%group, "appends are refused: the quorum needs a voter whose disk is low");
    } else if before.needs_low_disk && !now.needs_low_disk {
        tracing::info!(%group, "appends are taken again");
    }
}
