//! In which order the parking and Raft's metrics are locked (availability): the parking first, always.
//!
//! Three threads could wait for one another for ever otherwise: who holds the metrics and waits for the parking; who holds
//! the parking and waits for the metrics, as `told` does; and Raft's core, which has to change the metrics, and keeps who
//! comes later from reading them.

use std::sync::mpsc;

use tokio::sync::oneshot;
use tokio::task::block_in_place;
use tokio::time::timeout;

use super::*;
use crate::consensus::solitary::{Disks, EVENTUALLY, NODE};
use crate::types::{GroupId, HashRange, Incarnation, PlacementHash};

/// Each is a change of the metrics by another thread than those who look: more than enough for these to run meanwhile.
const ENTRIES: usize = 200;

/// Raft's core goes on while the parking is locked, whoever waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn nobody_waits_for_the_parking_with_rafts_metrics_in_hand() {
    let disks = Disks::default();
    let process = disks.start().await;
    let own = ReplicaId { node: NODE, incarnation: Incarnation(1) };
    let range = HashRange { start: PlacementHash(0), end: None };
    let group = process.leading(GroupId(1), own, range).await;

    let (release, released) = mpsc::channel::<()>();
    let (locked, is_locked) = oneshot::channel();
    let parked = group.clone();
    let holder = tokio::spawn(async move {
        let hold = |_: &Rest| {
            locked.send(()).expect("the test waits for it");
            let _ = released.recv();
        };
        block_in_place(|| parked.parking().look(hold));
    });
    is_locked.await.unwrap();
    let looks: [fn(&Group); 2] = [|group| drop(group.led_footing()), |group| drop(group.status())];
    let looking = looks.map(|look| {
        let group = group.clone();
        tokio::spawn(async move { block_in_place(|| look(&group)) })
    });
    let raft = group.raft().clone();
    let core = tokio::spawn(async move {
        for _ in 0..ENTRIES {
            raft.write_blank().await.expect("it leads");
        }
    });
    let goes_on = timeout(EVENTUALLY, core).await;
    drop(release);
    holder.await.unwrap();
    for look in looking {
        look.await.unwrap();
    }
    goes_on.expect("somebody holds the metrics and waits for the parking").unwrap();
    disks.crash(process).await;
}
