//! The stable reasons. Callers program against them: none is renamed or reused.

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// The table in the proto has each reason on a line of its own, indented under its code.
    #[test]
    fn the_api_tells_every_reason_and_no_other() {
        let table = include_str!("../../../proto/quorate/v1/log.proto").lines();
        let row = |line: &'static str| {
            let row = line.strip_prefix("//     ").filter(|row| !row.starts_with(' '))?;
            row.split(' ').next()
        };
        let told: BTreeSet<_> = table.filter_map(row).collect();
        let constants = include_str!("reason.rs").lines();
        let name = |line: &'static str| line.strip_prefix("pub const ")?.split(':').next();
        let reasons: BTreeSet<_> = constants.filter_map(name).collect();
        assert_eq!(told, reasons);
        assert!(reasons.contains(super::INTERNAL));
    }
}
