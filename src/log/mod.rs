//! Floor 2: the state machine, pure. `apply` takes a view and a command and returns what changed and what to tell
//! the caller. No clock, no randomness, no I/O of its own: the leader stamps time and salts into the command.

mod command;

pub use command::{
    Append, AppendRefusal, Appended, Command, IdKey, NewMessage, Outcome, OutcomeState, Proposal,
    Settle, Topology, TopologyChange, TopologyGroup, TopologyNode, TopologyRefusal,
    TopologyReplica,
};
