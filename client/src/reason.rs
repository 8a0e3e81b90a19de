//! Stable reasons of errors, for programs.
//!
//! The server may send reasons that are not named here; [`Error::reason`](crate::Error::reason) yields each as sent.
//! Those in the second half are given by this library itself.

/// A field is over its limit; metadata `field` and `limit` say which and by what.
pub const LIMIT_EXCEEDED: &str = "LIMIT_EXCEEDED";
/// A required field is empty; metadata `field` says which.
pub const EMPTY_FIELD: &str = "EMPTY_FIELD";
/// The node asked does not lead the group; metadata `leader` may say who does.
pub const NOT_LEADER: &str = "NOT_LEADER";
/// A LOCAL read on a node without a replica of the group.
pub const NO_REPLICA: &str = "NO_REPLICA";
/// An earlier append of the same lane failed.
pub const LANE_BROKEN: &str = "LANE_BROKEN";
/// The append that had to be committed before this one is not.
pub const PREDECESSOR_MISSING: &str = "PREDECESSOR_MISSING";

/// No connection could be made: the request was never sent.
pub const CONNECT_FAILED: &str = "CONNECT_FAILED";
/// The connection broke, or the node answered without details: the request may have arrived.
pub const CONNECTION_BROKEN: &str = "CONNECTION_BROKEN";
/// The call's deadline passed.
pub const DEADLINE_PASSED: &str = "DEADLINE_PASSED";
/// The session was closed before the append was answered.
pub const SESSION_CLOSED: &str = "SESSION_CLOSED";
/// An answer contradicts the protocol, for instance with a seq left out.
pub const PROTOCOL_VIOLATION: &str = "PROTOCOL_VIOLATION";
/// A payload does not match its checksum.
pub const DAMAGED_PAYLOAD: &str = "DAMAGED_PAYLOAD";
/// An option or an endpoint makes no sense.
pub const BAD_OPTION: &str = "BAD_OPTION";
