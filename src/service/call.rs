//! One call: who asks, until when, and under which id.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::authorize::{Authorizer, Operation, Principal, Resource, authorize};
use super::errors::CallError;

/// Metadata: the caller's name for the request, or the one that the first node gave it. It is in every log line.
pub const REQUEST_ID: &str = "x-request-id";
/// Metadata: present on a call that another node handed on. It is not handed on again.
pub const FORWARDED: &str = "x-quorate-forwarded";

/// Bytes of a request id that a caller chose; a longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// How long a call may take when the caller does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// How long a call may take whatever the caller says.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// The caller's transport gives up at the deadline itself, and would then not learn whether the call took effect:
/// the answer sets off a tenth of the time earlier, or this much if that is less. A group that has lost its quorum
/// answers everybody who waits at about the same time, so that this has to be enough for many answers, on a machine
/// that may be busy.
const ANSWER_MARGIN_MAX: Duration = Duration::from_secs(1);

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is asked.
    pub operation: Operation,
    /// Crosses forwarding.
    pub request_id: String,
    /// Whether another node handed it on.
    pub forwarded: bool,
    /// Who asks.
    pub principal: Principal,
    /// How long it may take; for each append of a session anew.
    pub timeout: Duration,
    /// When it has to be answered.
    pub deadline: Instant,
}

impl Call {
    /// Reads a call's metadata.
    pub fn new(operation: Operation, metadata: &MetadataMap) -> Self {
        let timeout = timeout(metadata);
        Call {
            operation,
            request_id: request_id(metadata),
            forwarded: metadata.contains_key(FORWARDED),
            principal: Principal::Anonymous,
            timeout,
            deadline: Instant::now() + timeout,
        }
    }

    /// Passes if the caller may do this to `resource`.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn authorize(
        &self,
        authorizer: &dyn Authorizer,
        resource: Resource<'_>,
    ) -> Result<(), CallError> {
        authorize(authorizer, &self.principal, self.operation, resource)
    }

    /// One line for each call, at debug level. On every node that a call passes, it has the same request id.
    pub fn log_answer(&self, error: Option<&CallError>, took: Duration) {
        tracing::debug!(
            request_id = %self.request_id,
            operation = self.operation.name(),
            forwarded = self.forwarded,
            took_ms = took.as_secs_f64() * 1_000.0,
            error = error.map(tracing::field::display),
            "answered a call"
        );
    }

    /// The span that the call's work runs in.
    pub fn span(&self) -> tracing::Span {
        tracing::info_span!(
            "call",
            operation = self.operation.name(),
            request_id = %self.request_id,
            forwarded = self.forwarded,
        )
    }
}

fn request_id(metadata: &MetadataMap) -> String {
    metadata
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX)
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

fn timeout(metadata: &MetadataMap) -> Duration {
    let asked = metadata
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok())
        .and_then(parse_grpc_timeout);
    match asked {
        Some(asked) => asked.saturating_sub(ANSWER_MARGIN_MAX.min(asked / 10)).min(TIMEOUT_MAX),
        None => TIMEOUT_DEFAULT,
    }
}

/// `100m` is 100 milliseconds: at most eight digits and a unit, as the gRPC protocol has it.
fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &'static str, value: &str) -> Call {
        let mut metadata = MetadataMap::new();
        metadata.insert(key, value.parse().unwrap());
        Call::new(Operation::Read, &metadata)
    }

    #[test]
    fn the_callers_timeout_holds_with_room_for_the_answer() {
        assert_eq!(with("grpc-timeout", "5S").timeout, Duration::from_millis(4_500));
        assert_eq!(with("grpc-timeout", "30S").timeout, Duration::from_secs(29));
        assert_eq!(with("grpc-timeout", "100m").timeout, Duration::from_millis(90));
        assert_eq!(with("grpc-timeout", "2H").timeout, TIMEOUT_MAX);
    }

    #[test]
    fn no_timeout_or_nonsense_means_the_default() {
        assert_eq!(Call::new(Operation::Read, &MetadataMap::new()).timeout, TIMEOUT_DEFAULT);
        for nonsense in ["", "S", "5", "5x", "-5S", "123456789S", "1.5S"] {
            assert_eq!(with("grpc-timeout", nonsense).timeout, TIMEOUT_DEFAULT, "{nonsense:?}");
        }
    }

    #[test]
    fn a_request_id_is_kept_and_a_missing_or_endless_one_is_made() {
        assert_eq!(with(REQUEST_ID, "abc").request_id, "abc");
        assert_eq!(with(REQUEST_ID, &"x".repeat(129)).request_id.len(), 36);
        assert_eq!(with("other", "x").request_id.len(), 36);
    }

    #[test]
    fn the_mark_of_another_node_is_seen() {
        assert!(with(FORWARDED, "2").forwarded);
        assert!(!with("other", "2").forwarded);
    }
}
