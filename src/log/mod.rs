//! Floor 2: the state machine, pure. `apply` takes a view and a command and returns what changed and what to tell
//! the caller. No clock, no randomness, no I/O of its own: the leader stamps time and salts into the command.

mod append;
mod apply;
mod codec;
mod command;
mod dedup;
pub mod digest;
pub mod invariants;
pub mod queries;
mod rows;
mod settle;
#[cfg(test)]
mod tests;
mod topology;

pub use append::latest_issued_at;
pub use apply::{Applied, ApplyError, GroupState, apply};
pub use codec::DecodeError;
pub use command::{
    Append, AppendRef, AppendRefusal, Appended, Command, CommandRef, IdKey, LanePlace, NewMessage,
    NewMessageRef, Outcome, OutcomeState, Predecessor, Proposal, ProposalRef, Settle, SettleRef,
    Topology, TopologyChange, TopologyGroup, TopologyNode, TopologyRefusal, TopologyReplica,
};
pub use topology::read_topology;
