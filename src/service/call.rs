//! One call: who asks, until when, and under which id.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::authorize::{Authorizer, Operation, Principal, Resource, authorize};
use super::errors::CallError;

/// Metadata: the caller's name for the request, or the one that a node gave it. It is in every log line, and in the
/// response if the caller chose it or is told of an error.
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
    /// Crosses forwarding. Printed when it is first asked for, unless the caller chose it: that takes longer than much
    /// else of a call, and most calls are never asked about.
    request_id: OnceLock<String>,
    /// What it is made of then. Drawn in any case, so that what a seed decides does not depend on who looks.
    drawn: [u8; 16],
    /// Whether the caller chose it.
    pub named: bool,
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
        let given = given_request_id(metadata);
        Call {
            operation,
            named: given.is_some(),
            request_id: given.map_or_else(OnceLock::new, OnceLock::from),
            drawn: rand::random(),
            forwarded: metadata.contains_key(FORWARDED),
            principal: Principal::Anonymous,
            timeout,
            deadline: Instant::now() + timeout,
        }
    }

    /// Under which id the logs have the call, on every node that it passes.
    pub fn request_id(&self) -> &str {
        self.request_id
            .get_or_init(|| uuid::Builder::from_random_bytes(self.drawn).into_uuid().to_string())
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

    /// One line for each call, at debug level; where a node itself is at fault, as an error. On every node that a call
    /// passes, it has the same request id.
    pub fn log_answer(&self, error: Option<&CallError>, took: Duration) {
        if let Some(error) = error.filter(|error| error.code() == Code::Internal) {
            let (request_id, operation) = (self.request_id(), self.operation.name());
            tracing::error!(request_id, operation, %error, "a call failed");
        }
        tracing::debug!(
            request_id = %self.request_id(),
            operation = self.operation.name(),
            forwarded = self.forwarded,
            took_ms = took.as_secs_f64() * 1_000.0,
            error = error.map(tracing::field::display),
            "answered a call"
        );
    }

    /// The span that the call's work runs in.
    pub fn span(&self) -> tracing::Span {
        tracing::debug_span!(
            "call",
            operation = self.operation.name(),
            request_id = %self.request_id(),
            forwarded = self.forwarded,
        )
    }
}

fn given_request_id(metadata: &MetadataMap) -> Option<String> {
    let id = metadata.get(REQUEST_ID)?.to_str().ok()?;
    (!id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX).then(|| id.to_owned())
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
        let call = with(REQUEST_ID, "abc");
        assert_eq!((call.request_id(), call.named), ("abc", true));
        for call in [with(REQUEST_ID, &"x".repeat(129)), with(REQUEST_ID, ""), with("other", "x")] {
            let copy = call.clone();
            assert_eq!((call.request_id().len(), call.named), (36, false));
            assert_eq!(copy.request_id(), call.request_id());
        }
    }

    #[test]
    fn the_mark_of_another_node_is_seen() {
        assert!(with(FORWARDED, "2").forwarded);
        assert!(!with("other", "2").forwarded);
    }
}
