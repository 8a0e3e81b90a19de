//! A gate before a disk, so that a synced write can be under way for as long as a test wants.

use futures::future::BoxFuture;

use super::*;
use crate::storage::interposed::Interposer;
use crate::storage::{Batch, Durability};

/// Where the gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// A write waits before anything of it is there.
    BeforeIt,
    /// A write waits once all of it is there, and before it is said.
    BehindIt,
}

impl Interposer for watch::Receiver<Gate> {
    fn write_synced<'a>(
        &'a self,
        below: &'a dyn Engine,
        batch: Batch,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            let mut gate = self.clone();
            let is_there = *gate.borrow() == Gate::BehindIt;
            let early = is_there.then(|| below.write(batch.clone(), Durability::Synced));
            gate.wait_for(|gate| *gate == Gate::Open).await.expect("the test holds the gate");
            early.unwrap_or_else(|| below.write(batch, Durability::Synced))
        })
    }
}
