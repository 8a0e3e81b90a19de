//! Stable reasons of errors, for programs. None is renamed or reused.

// What servers say.

/// A required field is empty.
pub const EMPTY_FIELD: &str = "EMPTY_FIELD";
/// A field is over its limit.
pub const LIMIT_EXCEEDED: &str = "LIMIT_EXCEEDED";
/// A field has a value that it cannot have.
pub const INVALID_FIELD: &str = "INVALID_FIELD";
/// The request is not a message of the API, such as text that is not UTF-8.
pub const MALFORMED: &str = "MALFORMED";
/// The payload does not have the checksum that came with it.
pub const CHECKSUM_MISMATCH: &str = "CHECKSUM_MISMATCH";
/// `issued_at_us` is too far ahead of the leader's clock, and a majority's clocks agree with that.
pub const ISSUED_IN_FUTURE: &str = "ISSUED_IN_FUTURE";
/// `issued_at_us` is before the dedup floor: it is not committed from now on, and whether it was before is not known.
pub const TOO_OLD: &str = "TOO_OLD";
/// The id stands with another content or in another batch.
pub const ID_CONFLICT: &str = "ID_CONFLICT";
/// An id occurs twice in one batch.
pub const ID_REPEATED: &str = "ID_REPEATED";
/// The id was settled as never to be committed.
pub const ID_BURNT: &str = "ID_BURNT";
/// The tail is not the one expected.
pub const WRONG_TAIL: &str = "WRONG_TAIL";
/// `target_seq` does not name a message.
pub const BAD_TARGET: &str = "BAD_TARGET";
/// Another conversation has the same 128-bit id.
pub const NAME_COLLISION: &str = "NAME_COLLISION";
/// The append before this one in its lane is not committed.
pub const PREDECESSOR_MISSING: &str = "PREDECESSOR_MISSING";
/// An earlier request of the lane failed and the lane was not reset.
pub const LANE_BROKEN: &str = "LANE_BROKEN";
/// The conversation moved to another group while the call ran.
pub const WRONG_GROUP: &str = "WRONG_GROUP";
/// The cluster has not been initialized, or the conversation's group is still being made.
pub const NOT_INITIALIZED: &str = "NOT_INITIALIZED";
/// The node asked does not lead the group; `leader` says who does, if known.
pub const NOT_LEADER: &str = "NOT_LEADER";
/// Nobody is known to lead the group.
pub const NO_LEADER: &str = "NO_LEADER";
/// No quorum answered.
pub const NO_QUORUM: &str = "NO_QUORUM";
/// The node asked has no replica of the group.
pub const NO_REPLICA: &str = "NO_REPLICA";
/// The replica stopped or is damaged.
pub const REPLICA_STOPPED: &str = "REPLICA_STOPPED";
/// The node to forward to did not answer.
pub const PEER_UNREACHABLE: &str = "PEER_UNREACHABLE";
/// The append was made and its outcome is not known.
pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// The deadline passed before anything was done.
pub const EXPIRED: &str = "EXPIRED";
/// The replica did not reach the seq asked for.
pub const SEQ_NOT_REACHED: &str = "SEQ_NOT_REACHED";
/// No confirmation of the replica's state is young enough.
pub const TOO_STALE: &str = "TOO_STALE";
/// Too much work waits.
pub const OVERLOADED: &str = "OVERLOADED";
/// A disk that the append needs is nearly full.
pub const DISK_LOW: &str = "DISK_LOW";
/// The leader's clock cannot be trusted, or what depends on it is refused before it is known to be right.
pub const CLOCK_UNTRUSTED: &str = "CLOCK_UNTRUSTED";
/// The start lies below the first seq that can be read.
pub const TRIMMED: &str = "TRIMMED";
/// There is no such conversation.
pub const NOT_FOUND: &str = "NOT_FOUND";
/// The answer would be too large for one response.
pub const RESPONSE_TOO_LARGE: &str = "RESPONSE_TOO_LARGE";
/// The subscription has this conversation already.
pub const ALREADY_SUBSCRIBED: &str = "ALREADY_SUBSCRIBED";
/// The node is shutting down.
pub const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
/// The caller may not do this.
pub const PERMISSION_DENIED: &str = "PERMISSION_DENIED";
/// A bug.
pub const INTERNAL: &str = "INTERNAL";
/// A cluster operation that will not be done as things are.
pub const CLUSTER_REFUSED: &str = "CLUSTER_REFUSED";
/// A cluster operation that did not get through; asking again goes on from where it stopped.
pub const CLUSTER_UNAVAILABLE: &str = "CLUSTER_UNAVAILABLE";

// What this library itself finds.

/// No connection could be made: the request was never sent.
pub const CONNECT_FAILED: &str = "CONNECT_FAILED";
/// The connection broke, or the node answered without details: the request may have arrived.
pub const CONNECTION_BROKEN: &str = "CONNECTION_BROKEN";
/// The call's deadline passed.
pub const DEADLINE_PASSED: &str = "DEADLINE_PASSED";
/// The session was closed before the append was answered, or takes no more because too much has failed on it.
pub const SESSION_CLOSED: &str = "SESSION_CLOSED";
/// An answer contradicts the protocol, for instance with a seq left out.
pub const PROTOCOL_VIOLATION: &str = "PROTOCOL_VIOLATION";
/// A payload does not match its checksum.
pub const DAMAGED_PAYLOAD: &str = "DAMAGED_PAYLOAD";
/// An option or an endpoint makes no sense.
pub const BAD_OPTION: &str = "BAD_OPTION";
