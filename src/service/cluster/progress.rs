//! What a replacement tells its caller.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_client::proto::ReplaceResponse;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::ClusterError;
use crate::types::GroupId;

/// How long a caller hears nothing at most.
const TOLD_INTERVAL: Duration = Duration::from_secs(1);
/// Groups that could not be repaired, and are told again at the end with the reasons: what there is room for in a header.
const FAILURES_TOLD_MAX: usize = 8;

/// Who hears of the progress.
pub(super) struct Progress {
    sender: mpsc::Sender<ReplaceResponse>,
    told: Mutex<Told>,
    /// Why groups could not be repaired.
    failures: Mutex<Vec<(GroupId, ClusterError)>>,
}

/// What the caller has heard of last, and what went wrong since.
struct Told {
    at: Instant,
    response: ReplaceResponse,
}

impl Progress {
    pub(super) fn new(sender: mpsc::Sender<ReplaceResponse>) -> Progress {
        let told = Told { at: Instant::now(), response: ReplaceResponse::default() };
        Progress { sender, told: Mutex::new(told), failures: Mutex::default() }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, groups_total: usize) {
        self.told().response.groups_total = groups_total as u32;
    }

    pub(super) async fn tell(
        &self,
        group: GroupId,
        step: &str,
        applied: u64,
        target: u64,
    ) -> Result<(), ClusterError> {
        self.tell_why(group, step, (applied, target), String::new()).await
    }

    async fn tell_why(
        &self,
        group: GroupId,
        step: &str,
        (applied, target): (u64, u64),
        reason: String,
    ) -> Result<(), ClusterError> {
        let response = {
            let mut told = self.told();
            told.at = Instant::now();
            told.response = ReplaceResponse {
                group_id: group.0,
                step: step.to_owned(),
                applied_index: applied,
                target_index: target,
                reason,
                ..told.response
            };
            told.response.clone()
        };
        let gone = |_| ClusterError::Unavailable("the caller has gone".into());
        self.sender.send(response).await.map_err(gone)
    }

    pub(super) async fn done(&self, group: GroupId) -> Result<(), ClusterError> {
        self.told().response.groups_done += 1;
        self.tell(group, "done", 0, 0).await
    }

    /// That a group is left as it is for now, and why.
    pub(super) async fn failed(
        &self,
        group: GroupId,
        error: ClusterError,
    ) -> Result<(), ClusterError> {
        let reason = error.to_string();
        self.failures().push((group, error));
        self.tell_why(group, "failed", (0, 0), reason).await
    }

    /// Whether a group has failed.
    pub(super) fn has_failed(&self) -> bool {
        !self.failures().is_empty()
    }

    fn failures(&self) -> MutexGuard<'_, Vec<(GroupId, ClusterError)>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has all come to.
    ///
    /// # Errors
    /// A group could not be repaired. It may be worth asking again if that holds of any.
    pub(super) fn end(&self) -> Result<(), ClusterError> {
        let failures = self.failures();
        if failures.is_empty() {
            return Ok(());
        }
        let told = failures.iter().take(FAILURES_TOLD_MAX).map(|(group, error)| match group {
            meta if meta.is_meta() => format!("meta group: {error}"),
            other => format!("group {other}: {error}"),
        });
        let told: Vec<_> = told.collect();
        let more = match failures.len() - told.len() {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let message = format!("replicas could not be made anew: {}{more}", told.join("; "));
        let is_final = |(_, error): &(_, _)| !matches!(error, ClusterError::Unavailable(_));
        Err(match failures.iter().all(is_final) {
            true => ClusterError::Refused(message),
            false => ClusterError::Unavailable(message),
        })
    }

    /// Why something is tried again; empty once it is done.
    pub(super) fn note(&self, reason: String) {
        self.told().response.reason = reason;
    }

    /// Says again and again that a step takes its time, and why, for as long as there is a caller. That is also how a node
    /// notices that the caller's machine has gone without a word: what a step waits for could come about after whoever
    /// asked has asked elsewhere.
    pub(super) async fn repeat(&self) {
        loop {
            let (at, mut response) = {
                let told = self.told();
                (told.at, told.response.clone())
            };
            let next = at + TOLD_INTERVAL;
            if Instant::now() < next {
                sleep_until(next).await;
                continue;
            }
            self.told().at = Instant::now();
            response.step = "waiting".to_owned();
            if self.sender.send(response).await.is_err() {
                return;
            }
        }
    }
}
