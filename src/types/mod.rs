//! Floor 0: the words of the product as types. Nothing here knows of anything else of ours.

mod clock;
mod hash_range;
mod ids;
pub mod limits;
mod memory;
mod names;
mod printable;
mod timestamp;

pub use clock::Clock;
pub use hash_range::HashRange;
pub use ids::{AttemptId, ClusterId, GroupId, Incarnation, LogIndex, NodeId, ReplicaId, Seq, Term};
pub use memory::{allocated, give_places_back};
pub use names::{ConversationId, ConversationName, PlacementHash};
pub use printable::printable;
pub use timestamp::Timestamp;
