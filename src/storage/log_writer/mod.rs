//! The one writer of a node's Raft logs. It gathers what every group has pending into one synced write, so that a
//! thousand groups cost one fsync, and it keeps the watermark in step.

mod gather;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::records::{LogId, VoteRecord};
use super::watermark::{Watermark, WatermarkFile};
use super::{Engine, StorageError};
use crate::seams::{crash, planted};
use crate::types::{GroupId, LogIndex, limits};
use gather::Gathered;

/// How far the stored watermark may lag behind the log while there is no vote and no truncation.
const WATERMARK_LAG: Duration = Duration::from_secs(1);
/// In how large steps is told how much was written.
const WRITTEN_STEP_BYTES: u64 = 1024 * 1024;
/// How many seconds a write may take before its disk counts as hanging. As long as CockroachDB gives one by default
/// (`storage.max_sync_duration`).
const HANGS_AFTER_S: u32 = 20;

/// Called once when a write is on stable storage, or has failed. Runs on the writer's thread: it must not block.
pub type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// One change of one group's log.
pub enum LogWrite {
    /// Adds entries.
    Append {
        /// Whose log.
        group: GroupId,
        /// Index and encoded [`EntryRecord`](super::records::EntryRecord) of each, ascending.
        entries: Vec<(LogIndex, Vec<u8>)>,
        /// Log id of the last of them.
        last: LogId,
        /// When it is durable. Dropped uncalled where a later append of the group became durable in the same write,
        /// with nothing of the group between: the later one's end says both.
        done: Done,
    },
    /// Replaces the vote.
    SaveVote {
        /// Whose vote.
        group: GroupId,
        /// The vote.
        vote: VoteRecord,
        /// When it is durable, in the watermark too: only then may it be answered.
        done: Done,
    },
    /// Removes all entries above one.
    Truncate {
        /// Whose log.
        group: GroupId,
        /// The last entry kept; none keeps no entry.
        after: Option<LogId>,
        /// When it is durable.
        done: Done,
    },
    /// Removes entries from the front.
    Purge {
        /// Whose log.
        group: GroupId,
        /// The last entry removed; may lie above the last entry there is.
        upto: LogId,
        /// When it is durable.
        done: Done,
    },
    /// Removes all there is of a group: log, vote and mark.
    RemoveGroup {
        /// Which.
        group: GroupId,
        /// When it is durable.
        done: Done,
    },
}

/// Is told of each synced write, for metrics.
pub trait WriterObserver: Send + Sync {
    /// A synced write ended. Must not block.
    fn synced(&self, write: SyncedWrite);
}

/// One synced write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncedWrite {
    /// Changes gathered into it.
    pub changes: usize,
    /// Bytes of keys and values.
    pub bytes: usize,
    /// Time it took until it was on stable storage.
    pub duration: Duration,
}

/// Tells nobody.
impl WriterObserver for () {
    fn synced(&self, _write: SyncedWrite) {}
}

/// Hands changes to the node's log writer. Clones share it; it ends when [`LogWriter::close`] is called or the last
/// clone is dropped.
#[derive(Clone)]
pub struct LogWriter {
    queue: mpsc::Sender<Message>,
    committed: CommittedHints,
    failed: watch::Receiver<Option<StorageError>>,
    written: watch::Receiver<u64>,
    rounds: Arc<AtomicU64>,
}

/// Committed log ids that wait for a write of their group to ride along with. At most one for each group.
type CommittedHints = Arc<Mutex<BTreeMap<GroupId, LogId>>>;

enum Message {
    Write(LogWrite),
    Tick,
    Close(oneshot::Sender<()>),
}

impl LogWriter {
    /// Starts the writer on the log database. Must be called on a runtime.
    pub fn start(
        engine: Arc<dyn Engine>,
        watermark: WatermarkFile,
        observer: Arc<dyn WriterObserver>,
    ) -> LogWriter {
        let (queue, messages) = mpsc::channel(limits::LOG_WRITER_QUEUE_MAX);
        let (announce, failed) = watch::channel(None);
        let (tell_written, written) = watch::channel(0);
        let committed = CommittedHints::default();
        let rounds = Arc::<AtomicU64>::default();
        tokio::spawn(tick(queue.downgrade()));
        let task = WriterTask {
            messages,
            carried: None,
            reached: watermark.stored().clone(),
            watermark,
            purged: BTreeMap::new(),
            committed: committed.clone(),
            observer,
            announce,
            written_bytes: 0,
            tell_written,
            rounds: rounds.clone(),
            engine: engine.clone(),
        };
        engine.host("log-writer", Box::pin(task.run()));
        LogWriter { queue, committed, failed, written, rounds }
    }

    /// Queues a change, waiting while [`limits::LOG_WRITER_QUEUE_MAX`] of them wait already. Changes of one group
    /// are written in the order in which their calls began to wait; `done` of each is called once, in that order, but
    /// of those appends that [`LogWrite::Append`] names.
    /// Cancel safe: a call that was dropped before it returned has queued nothing, and its `done` is dropped.
    pub async fn submit(&self, write: LogWrite) {
        if let Err(mpsc::error::SendError(Message::Write(write))) =
            self.queue.send(Message::Write(write)).await
        {
            write.into_done()(Err(ended()));
        }
    }

    /// Changes that wait for the writer to take them.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Bytes of keys and values that were written since the start, told in steps of a MiB.
    pub fn written_bytes(&self) -> u64 {
        *self.written.borrow()
    }

    /// Waits until at least so many bytes were written since the start. Never returns once the writer has ended. Cancel
    /// safe.
    pub async fn has_written(&self, bytes: u64) {
        if self.written.clone().wait_for(|written| *written >= bytes).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Notes how far a group's log is committed. It is stored with the group's next write and never causes one.
    pub fn note_committed(&self, group: GroupId, committed: LogId) {
        self.committed.lock().expect("no panic while locked").insert(group, committed);
    }

    /// Returns once the writer has failed, with the first failure: what is on disk is not known from then on, every
    /// later write fails as well, and the node has to stop. Also returns, saying so, when the writer was closed.
    pub async fn failed(&self) -> StorageError {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().unwrap_or_else(ended),
            Err(_) => ended(),
        }
    }

    /// Returns once the writer has been at one write for 20 s: a leader whose disk hangs goes on being heard,
    /// and so is not replaced, while nothing that is appended comes to an end. Time in which the process is stopped does
    /// not count. Cancel safe.
    pub async fn hangs(&self) -> StorageError {
        let mut looks = tokio::time::interval(Duration::from_secs(1));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut unchanged) = (None, 0);
        while unchanged < HANGS_AFTER_S {
            looks.tick().await;
            let round = Some(self.rounds.load(Ordering::Relaxed));
            unchanged = if round == seen { unchanged + 1 } else { 0 };
            seen = round;
        }
        StorageError::Failed {
            action: "writing the Raft log",
            reason: format!("the disk has not answered for {HANGS_AFTER_S} s"),
        }
    }

    /// Writes what was queued before, stores the watermark and ends the writer. Its hold on the database is gone
    /// when this returns.
    pub async fn close(&self) {
        let (ack, closed) = oneshot::channel();
        if self.queue.send(Message::Close(ack)).await.is_ok() {
            // An error means that the writer is gone, which is what was asked for.
            let _ = closed.await;
        }
    }
}

fn ended() -> StorageError {
    StorageError::Failed {
        action: "writing the Raft log",
        reason: "the log writer has ended".to_owned(),
    }
}

/// Reminds the writer of the watermark, for as long as somebody holds the queue.
async fn tick(queue: mpsc::WeakSender<Message>) {
    loop {
        tokio::time::sleep(WATERMARK_LAG).await;
        let Some(queue) = queue.upgrade() else { return };
        if queue.send(Message::Tick).await.is_err() {
            return;
        }
    }
}

impl LogWrite {
    fn into_done(self) -> Done {
        match self {
            LogWrite::Append { done, .. }
            | LogWrite::SaveVote { done, .. }
            | LogWrite::Truncate { done, .. }
            | LogWrite::Purge { done, .. }
            | LogWrite::RemoveGroup { done, .. } => done,
        }
    }
}

/// The writer itself.
struct WriterTask {
    messages: mpsc::Receiver<Message>,
    /// A write that did not fit into the batch before.
    carried: Option<LogWrite>,
    engine: Arc<dyn Engine>,
    watermark: WatermarkFile,
    /// What the log holds as of the last synced write; the stored watermark follows.
    reached: Watermark,
    /// How far each group was purged in this run, so that range deletions do not pile up on one another.
    purged: BTreeMap<GroupId, LogIndex>,
    committed: CommittedHints,
    observer: Arc<dyn WriterObserver>,
    announce: watch::Sender<Option<StorageError>>,
    written_bytes: u64,
    tell_written: watch::Sender<u64>,
    /// How many times it has begun to wait for messages: it is reminded of the watermark too often to wait for long.
    rounds: Arc<AtomicU64>,
}

/// What one round took from the queue besides writes.
#[derive(Default)]
struct Requests {
    tick: bool,
    close: Option<oneshot::Sender<()>>,
}

impl WriterTask {
    async fn run(mut self) {
        loop {
            self.rounds.fetch_add(1, Ordering::Relaxed);
            let Some((mut gathered, requests)) = self.gather().await else { break };
            crash::log_gathered();
            if planted::ack_before_sync() && !gathered.has_votes {
                for done in gathered.take_done() {
                    done(Ok(()));
                }
                tokio::time::sleep(planted::SYNC_DELAY).await;
            }
            if let Err(failure) = self.complete(gathered).await {
                return self.refuse_all(failure, requests.close).await;
            }
            if requests.tick
                && let Err(failure) = self.keep_watch()
                && !planted::ignore_eio()
            {
                return self.refuse_all(failure, requests.close).await;
            }
            if let Some(ack) = requests.close {
                self.store_last();
                return self.end(ended(), ack).await;
            }
        }
        self.store_last();
    }

    /// Waits for a message and takes all that wait with it, up to the size of one write; none when everybody who
    /// could send is gone.
    async fn gather(&mut self) -> Option<(Gathered, Requests)> {
        let mut gathered = Gathered::new(self.reached.clone());
        let mut requests = Requests::default();
        let mut next = match self.carried.take() {
            Some(write) => Some(Message::Write(write)),
            None => Some(self.messages.recv().await?),
        };
        while let Some(message) = next {
            match message {
                Message::Write(write) if !gathered.has_room_for(&write) => {
                    self.carried = Some(write);
                    break;
                }
                Message::Write(write) => {
                    let hint = self
                        .committed
                        .lock()
                        .expect("no panic while locked")
                        .remove(&write.group());
                    gathered.add(write, hint, &mut self.purged);
                }
                Message::Tick => requests.tick = true,
                Message::Close(ack) => {
                    requests.close = Some(ack);
                    break;
                }
            }
            next = self.messages.try_recv().ok();
        }
        Some((gathered, requests))
    }

    /// Makes a batch durable and reports it: lowered watermark, sync, raised watermark if votes wait for it, and
    /// only then every `done`.
    async fn complete(&mut self, mut gathered: Gathered) -> Result<(), StorageError> {
        if gathered.is_empty() {
            return Ok(());
        }
        let lowered = gathered.lowered(self.watermark.stored());
        let done = gathered.take_done();
        let Gathered { batch, reached, has_votes, changes, bytes, .. } = gathered;
        let result = self.make_durable(lowered, batch, &reached, has_votes).await;
        let result = result.map(|duration| {
            self.reached = reached;
            self.count(bytes);
            self.observer.synced(SyncedWrite { changes, bytes, duration });
        });
        let result = if planted::ignore_eio() { Ok(()) } else { result };
        if let Err(failure) = &result {
            self.announce.send_replace(Some(failure.clone()));
        }
        for done in done {
            done(result.clone());
        }
        crash::log_reported();
        result
    }

    fn count(&mut self, bytes: usize) {
        self.written_bytes += bytes as u64;
        let written = self.written_bytes;
        self.tell_written.send_if_modified(|told| {
            let is_news = written - *told >= WRITTEN_STEP_BYTES;
            if is_news {
                *told = written;
            }
            is_news
        });
    }

    /// Returns how long the sync took.
    async fn make_durable(
        &mut self,
        lowered: Watermark,
        batch: super::Batch,
        reached: &Watermark,
        has_votes: bool,
    ) -> Result<Duration, StorageError> {
        self.watermark.store(lowered)?;
        crash::log_watermark_lowered();
        let started = Instant::now();
        self.engine.write_synced(batch).await?;
        let duration = started.elapsed();
        crash::log_synced();
        // That its candidate leads now is no other vote: the mark that forbids to vote for another in that term stands.
        if has_votes && !self.watermark.stored().holds_votes_of(reached) {
            self.watermark.store(reached.clone())?;
        }
        crash::log_marked();
        Ok(duration)
    }

    fn keep_watch(&mut self) -> Result<(), StorageError> {
        if let Some(failure) = self.engine.background_error() {
            return Err(failure);
        }
        self.store_reached()
    }

    fn store_reached(&mut self) -> Result<(), StorageError> {
        self.watermark.store(self.reached.clone())
    }

    /// Stores the watermark for the last time. It may fail: a lower watermark is a true one.
    fn store_last(&mut self) {
        if let Err(error) = self.store_reached() {
            tracing::warn!(%error, "the watermark could not be stored while closing");
        }
    }

    /// After a failure nothing is written any more: every write that comes is answered with the first failure.
    async fn refuse_all(mut self, failure: StorageError, close: Option<oneshot::Sender<()>>) {
        tracing::error!(error = %failure, "the log writer failed; this node has to stop");
        self.announce.send_replace(Some(failure.clone()));
        if let Some(write) = self.carried.take() {
            write.into_done()(Err(failure.clone()));
        }
        let mut close = close;
        while close.is_none() {
            match self.messages.recv().await {
                Some(Message::Write(write)) => write.into_done()(Err(failure.clone())),
                Some(Message::Tick) => {}
                Some(Message::Close(ack)) => close = Some(ack),
                None => return,
            }
        }
        if let Some(ack) = close {
            self.end(failure, ack).await;
        }
    }

    /// Answers what was queued behind the request to close, lets go of the database, and says so.
    async fn end(mut self, answer: StorageError, ack: oneshot::Sender<()>) {
        self.messages.close();
        while let Some(message) = self.messages.recv().await {
            if let Message::Write(write) = message {
                write.into_done()(Err(answer.clone()));
            }
        }
        drop(self);
        // Nobody waits any more if the call to close was dropped.
        let _ = ack.send(());
    }
}
