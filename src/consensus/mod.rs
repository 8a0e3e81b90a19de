//! Floor 3: openraft behind one handle for each group. Its names stay here and in `transport`.

mod acknowledged;
mod admission;
mod config;
#[cfg(test)]
mod conformance;
mod errors;
mod fitness;
pub mod flusher;
mod group;
mod leadership;
mod live;
mod log_needs;
mod log_store;
mod membership;
pub mod network;
mod next_entry;
mod observer;
mod outcomes;
pub mod parking;
mod proposer;
pub mod raft_types;
mod read_index;
mod replicas;
mod snapshot_source;
#[cfg(any(test, feature = "failpoints"))]
pub mod solitary;
mod state_machine;
mod succession;
mod tails;
#[cfg(test)]
mod tests;
mod weighing;

pub use admission::{Admission, MemoryLimits, Room, RoomLeft};
pub use config::RaftTiming;
pub use errors::{GroupStatus, ProposeError, ReadError};
pub use fitness::{ClockReading, ClockSkew, Fitness, Sighting};
pub use group::{Barrier, Group};
pub use live::{LiveMessage, Sent};
pub use membership::{CAUGHT_UP_LAG_MAX, CAUGHT_UP_WITHIN, MembershipChangeError};
pub use observer::{ConsensusObserver, ProposalEnd};
pub use outcomes::Outcomes;
pub use read_index::RemoteReadIndex;
pub use replicas::{NodeParts, ReplicaError, Replicas, Route, active_group};
pub use snapshot_source::{SnapshotReader, SnapshotRow, SnapshotSource};
pub use state_machine::SnapshotData;
pub use succession::Refusal;
pub use tails::{TailWatch, Tails};
