//! What the floors below report, as callers see it.

use tonic::Code;

use super::{CallError, RETRY_LATER, RETRY_MUCH_LATER, RETRY_SOON, reason};
use crate::consensus::{ProposeError, ReadError};
use crate::log::AppendRefusal;
use crate::service::cluster::ClusterError;
use crate::service::validate::{Problem, Violation};
use crate::storage::StorageError;
use crate::types::Seq;

/// Seqs that one ID_CONFLICT lists. A status travels in the headers of a response, of which many clients take 8 KiB: so
/// many are less than half of that, also where each has all the digits that it can have.
const CONFLICT_SEQS_MAX: usize = 100;

impl From<Violation> for CallError {
    fn from(violation: Violation) -> CallError {
        let reason = match violation.problem {
            Problem::Empty => reason::EMPTY_FIELD,
            Problem::OverLimit(_) => reason::LIMIT_EXCEEDED,
            Problem::Invalid(_) => reason::INVALID_FIELD,
            Problem::ChecksumMismatch => reason::CHECKSUM_MISMATCH,
        };
        let mut error = CallError::new(Code::InvalidArgument, reason, violation.to_string())
            .with("field", violation.field);
        if let Problem::OverLimit(limit) = violation.problem {
            error = error.with("limit", limit);
        }
        if let Some(index) = violation.message_index {
            error = error.with("message_index", index);
        }
        error
    }
}

impl From<ProposeError> for CallError {
    fn from(error: ProposeError) -> CallError {
        let message = error.to_string();
        match error {
            ProposeError::NotLeader { leader } => CallError::not_leader(leader),
            ProposeError::Overloaded => {
                CallError::new(Code::ResourceExhausted, reason::OVERLOADED, message)
                    .retry_after(RETRY_SOON)
            }
            ProposeError::DiskLow => {
                CallError::new(Code::ResourceExhausted, reason::DISK_LOW, message)
                    .retry_after(RETRY_MUCH_LATER)
            }
            ProposeError::ClockUntrusted => {
                CallError::unavailable(reason::CLOCK_UNTRUSTED, message, RETRY_LATER)
            }
            ProposeError::Expired => CallError::expired(message),
            ProposeError::Unknown { .. } => CallError::outcome_unknown(message),
            ProposeError::Stopped { .. } => {
                CallError::unavailable(reason::REPLICA_STOPPED, message, RETRY_LATER)
            }
        }
    }
}

impl From<ReadError> for CallError {
    fn from(error: ReadError) -> CallError {
        let message = error.to_string();
        let reason = match error {
            ReadError::Overloaded => {
                return CallError::new(Code::ResourceExhausted, reason::OVERLOADED, message)
                    .retry_after(RETRY_SOON);
            }
            ReadError::NoQuorum { .. } => reason::NO_QUORUM,
            ReadError::Expired => reason::EXPIRED,
            ReadError::Stopped { .. } => reason::REPLICA_STOPPED,
        };
        CallError::unavailable(reason, message, RETRY_LATER)
    }
}

impl From<StorageError> for CallError {
    /// Another replica can serve what this one cannot, so it is worth another try.
    fn from(error: StorageError) -> CallError {
        tracing::error!(%error, "a read from storage failed");
        CallError::unavailable(reason::REPLICA_STOPPED, error.to_string(), RETRY_LATER)
    }
}

impl From<AppendRefusal> for CallError {
    fn from(refusal: AppendRefusal) -> CallError {
        let message = refusal.to_string();
        let error = |code, reason| CallError::new(code, reason, message.as_str());
        match refusal {
            AppendRefusal::WrongGroup { .. } => CallError::wrong_group(),
            AppendRefusal::NameCollision => error(Code::FailedPrecondition, reason::NAME_COLLISION)
                .with("field", "conversation"),
            AppendRefusal::TooOld { floor, .. } => {
                let mut error = error(Code::FailedPrecondition, reason::TOO_OLD)
                    .with("field", "issued_at_us")
                    .with("limit", floor.0);
                // This attempt changed nothing, but what became of an earlier one is not kept any more.
                error.may_have_taken_effect = true;
                error
            }
            AppendRefusal::FromTheFuture { latest, .. } => {
                error(Code::InvalidArgument, reason::ISSUED_IN_FUTURE)
                    .with("field", "issued_at_us")
                    .with("limit", latest.0)
            }
            AppendRefusal::Conflict { seqs } => error(Code::AlreadyExists, reason::ID_CONFLICT)
                .with("field", "client_msg_id")
                .with("seqs", joined(&seqs)),
            AppendRefusal::Repeated { .. } => {
                error(Code::InvalidArgument, reason::ID_REPEATED).with("field", "client_msg_id")
            }
            AppendRefusal::Burnt { .. } => {
                error(Code::FailedPrecondition, reason::ID_BURNT).with("field", "client_msg_id")
            }
            AppendRefusal::WrongTail { actual } => {
                error(Code::FailedPrecondition, reason::WRONG_TAIL).with("tail", actual)
            }
            AppendRefusal::PredecessorMissing => {
                error(Code::Aborted, reason::PREDECESSOR_MISSING).retry_after(RETRY_SOON)
            }
            AppendRefusal::BadTarget { tail } => error(Code::InvalidArgument, reason::BAD_TARGET)
                .with("field", "target_seq")
                .with("tail", tail),
        }
    }
}

impl From<ClusterError> for CallError {
    fn from(error: ClusterError) -> CallError {
        match error {
            ClusterError::Invalid { field, limit: None, message } => {
                CallError::new(Code::InvalidArgument, reason::INVALID_FIELD, message)
                    .with("field", field)
            }
            ClusterError::Invalid { field, limit: Some(limit), message } => {
                CallError::new(Code::InvalidArgument, reason::LIMIT_EXCEEDED, message)
                    .with("field", field)
                    .with("limit", limit)
            }
            ClusterError::Refused(message) => {
                CallError::new(Code::FailedPrecondition, reason::CLUSTER_REFUSED, message)
            }
            ClusterError::Unavailable(message) => {
                let mut error =
                    CallError::unavailable(reason::CLUSTER_UNAVAILABLE, message, RETRY_LATER);
                // Steps that were made stay made; asking again goes on from there.
                error.may_have_taken_effect = true;
                error
            }
        }
    }
}

/// The first of the seqs that an id conflicts with.
fn joined(seqs: &[Seq]) -> String {
    seqs.iter().take(CONFLICT_SEQS_MAX).map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::types::{NodeId, Timestamp, limits};

    /// (code, reason, retryable, may have taken effect)
    fn seen(error: impl Into<CallError>) -> (Code, String, bool, bool) {
        let error = error.into();
        let reason = error.reason().to_owned();
        (error.code(), reason, error.is_retryable(), error.may_have_taken_effect())
    }

    fn row(code: Code, reason: &str, retryable: bool, effect: bool) -> (Code, String, bool, bool) {
        (code, reason.to_owned(), retryable, effect)
    }

    #[test]
    fn only_an_unknown_outcome_may_have_taken_effect() {
        let reason = || "x".to_owned();
        let table = [
            (ProposeError::NotLeader { leader: None }, Code::Unavailable, reason::NO_LEADER, false),
            (
                ProposeError::NotLeader { leader: Some(NodeId(1)) },
                Code::Unavailable,
                reason::NOT_LEADER,
                false,
            ),
            (ProposeError::Overloaded, Code::ResourceExhausted, reason::OVERLOADED, false),
            (ProposeError::DiskLow, Code::ResourceExhausted, reason::DISK_LOW, false),
            (ProposeError::ClockUntrusted, Code::Unavailable, reason::CLOCK_UNTRUSTED, false),
            (ProposeError::Expired, Code::Unavailable, reason::EXPIRED, false),
            (
                ProposeError::Unknown { reason: reason() },
                Code::Unavailable,
                reason::OUTCOME_UNKNOWN,
                true,
            ),
            (
                ProposeError::Stopped { reason: reason() },
                Code::Unavailable,
                reason::REPLICA_STOPPED,
                false,
            ),
        ];
        for (error, code, reason, effect) in table {
            assert_eq!(seen(error), row(code, reason, true, effect));
        }
    }

    #[test]
    fn refusals_change_nothing_and_are_final_unless_the_place_was_wrong() {
        let id = || "m1".to_owned();
        let table = [
            (AppendRefusal::NameCollision, Code::FailedPrecondition, reason::NAME_COLLISION),
            (
                AppendRefusal::FromTheFuture {
                    client_msg_id: id(),
                    issued_at: Timestamp(8),
                    latest: Timestamp(7),
                },
                Code::InvalidArgument,
                reason::ISSUED_IN_FUTURE,
            ),
            (
                AppendRefusal::Conflict { seqs: vec![Seq(3)] },
                Code::AlreadyExists,
                reason::ID_CONFLICT,
            ),
            (
                AppendRefusal::Repeated { client_msg_id: id() },
                Code::InvalidArgument,
                reason::ID_REPEATED,
            ),
            (
                AppendRefusal::Burnt { client_msg_id: id() },
                Code::FailedPrecondition,
                reason::ID_BURNT,
            ),
            (
                AppendRefusal::WrongTail { actual: Seq(9) },
                Code::FailedPrecondition,
                reason::WRONG_TAIL,
            ),
            (AppendRefusal::BadTarget { tail: Seq(9) }, Code::InvalidArgument, reason::BAD_TARGET),
        ];
        for (refusal, code, reason) in table {
            assert_eq!(seen(refusal), row(code, reason, false, false));
        }
        assert_eq!(
            seen(AppendRefusal::TooOld { client_msg_id: id(), floor: Timestamp(7) }),
            row(Code::FailedPrecondition, reason::TOO_OLD, false, true),
            "an earlier attempt may have been committed"
        );
        assert_eq!(
            seen(AppendRefusal::WrongGroup { epoch: 2 }),
            row(Code::Unavailable, reason::WRONG_GROUP, true, false)
        );
        assert_eq!(
            seen(AppendRefusal::PredecessorMissing),
            row(Code::Aborted, reason::PREDECESSOR_MISSING, true, false)
        );
    }

    #[test]
    fn refusals_carry_what_the_caller_needs() {
        let conflict = CallError::from(AppendRefusal::Conflict { seqs: vec![Seq(3), Seq(5)] });
        assert_eq!(conflict.metadata("seqs"), Some("3,5"));
        let tail = CallError::from(AppendRefusal::WrongTail { actual: Seq(9) });
        assert_eq!(tail.metadata("tail"), Some("9"));
    }

    #[test]
    fn a_conflict_of_the_largest_batch_fits_into_the_headers_that_clients_take() {
        let first = u64::MAX - limits::BATCH_MESSAGES_MAX as u64;
        let seqs: Vec<_> = (first..u64::MAX).map(Seq).collect();
        let conflict = CallError::from(AppendRefusal::Conflict { seqs });
        let listed: Vec<_> = conflict.metadata("seqs").unwrap().split(',').collect();
        assert_eq!(listed.len(), CONFLICT_SEQS_MAX);
        assert_eq!(listed[0], first.to_string(), "the first ones, in the order of the batch");
        let status = Status::from(conflict);
        let headers = status.details().len().div_ceil(3) * 4 + status.message().len();
        assert!(headers < 4 * 1024, "{headers} bytes");
    }

    #[test]
    fn a_violation_names_field_limit_and_message() {
        let error = CallError::from(Violation {
            field: "payload",
            problem: Problem::OverLimit(10),
            message_index: Some(2),
        });
        assert_eq!(seen(error.clone()), row(Code::InvalidArgument, "LIMIT_EXCEEDED", false, false));
        assert_eq!(error.metadata("field"), Some("payload"));
        assert_eq!(error.metadata("limit"), Some("10"));
        assert_eq!(error.metadata("message_index"), Some("2"));
    }
}
