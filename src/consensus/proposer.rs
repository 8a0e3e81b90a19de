//! Gathers what waits while earlier entries are in flight into one Raft entry: pipelining makes the batch, no timer.
//!
//! Guarantees at stake: G8 (a caller that gives up is told truthfully whether its command may take effect) and G12
//! (the queue is bounded, in commands and in bytes: what was proposed counts until its outcome is known, also when
//! its caller has given up).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft::errors::ClientWriteError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::admission::{Admission, Room, RoomLeft};
use super::config::RaftTiming;
use super::next_entry::{NextEntry, OnTheirWay};
use super::parking::Parking;
use super::raft_types::{EncodedProposal, OnComplete, Raft, TypeConfig};
use super::weighing::Weighed;
use super::{ConsensusObserver, ProposeError};
use crate::log::{Command, Outcome, Proposal};
use crate::types::{NodeId, limits};

type Answer = Result<Outcome, ProposeError>;
type WriteResult = openraft::raft::ClientWriteResult<TypeConfig>;

/// Takes commands and proposes them in fat entries.
pub struct Proposer {
    queue: mpsc::Sender<Waiting>,
    room: RoomLeft,
    node: Arc<Admission>,
}

/// Who waits for an outcome, and the memory that the command takes until then.
struct Reply {
    caller: oneshot::Sender<Answer>,
    _room: [Room; 2],
}

impl Reply {
    /// A caller that no longer listens has been told that the outcome is unknown.
    fn send(self, answer: Answer) {
        let _ = self.caller.send(answer);
    }
}

struct Waiting {
    command: Command,
    /// In an entry.
    bytes: usize,
    turn: Arc<Turn>,
    reply: Reply,
}

/// Who was first: the proposer that takes a command, or the caller that gives it up. Exactly one of the two wins.
#[derive(Default)]
struct Turn(AtomicU8);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Turn {
    fn take(&self) -> bool {
        self.decide(TAKEN)
    }

    fn give_up(&self) -> bool {
        self.decide(GIVEN_UP)
    }

    fn decide(&self, winner: u8) -> bool {
        self.0.compare_exchange(WAITING, winner, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Proposer {
    /// Starts the group's proposer. It ends when the handle is dropped.
    pub fn start(
        raft: Raft,
        weighed: Arc<Weighed>,
        node: Arc<Admission>,
        parking: Parking,
        observer: Arc<dyn ConsensusObserver>,
        timing: &RaftTiming,
    ) -> Self {
        let (queue, receiver) = mpsc::channel(limits::PROPOSAL_QUEUE_MAX);
        let (next, in_flight, lease) = (NextEntry::new(), Arc::default(), timing.lease());
        let worker = Worker { raft, weighed, parking, observer, receiver, next, in_flight, lease };
        tokio::spawn(worker.run());
        Proposer { queue, room: RoomLeft::new(limits::GROUP_PROPOSALS_BYTES_MAX), node }
    }

    /// Proposals that wait for a place in an entry.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Proposes a command and waits for its outcome.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, ProposeError> {
        let (caller, outcome) = oneshot::channel();
        let memory = command.memory_bytes();
        let take = |left: &RoomLeft| left.take(memory).ok_or(ProposeError::Overloaded);
        let reply = Reply { caller, _room: [take(&self.room)?, take(self.node.proposals())?] };
        let turn = Arc::new(Turn::default());
        let bytes = command.encoded_bytes_estimate();
        let waiting = Waiting { command, bytes, turn: turn.clone(), reply };
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        match timeout_at(deadline, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) if turn.give_up() => Err(stopped()),
            Ok(Err(_)) => Err(unknown("the replica stopped")),
            Err(_) if turn.give_up() => Err(ProposeError::Expired),
            Err(_) => Err(unknown("the deadline passed after the proposal was made")),
        }
    }
}

fn stopped() -> ProposeError {
    ProposeError::Stopped { reason: "the replica is shutting down".into() }
}

fn unknown(reason: &str) -> ProposeError {
    ProposeError::Unknown { reason: reason.into() }
}

struct Worker {
    raft: Raft,
    weighed: Arc<Weighed>,
    parking: Parking,
    observer: Arc<dyn ConsensusObserver>,
    receiver: mpsc::Receiver<Waiting>,
    next: NextEntry<Waiting>,
    in_flight: Arc<InFlight>,
    /// Of the leader: an entry that is on its way for a quarter of it is slow.
    lease: Duration,
}

impl Worker {
    async fn run(mut self) {
        while self.fill().await {
            self.propose().await;
        }
    }

    /// Fills the next entry until it may go. False once nobody can propose any more.
    async fn fill(&mut self) -> bool {
        loop {
            while !self.next.is_full()
                && let Ok(waiting) = self.receiver.try_recv()
            {
                self.add(waiting);
            }
            if self.next.may_go(self.in_flight.now(self.lease)) {
                return true;
            }
            tokio::select! {
                () = self.in_flight.one_ended.notified() => {}
                waiting = self.receiver.recv(), if !self.next.is_full() => match waiting {
                    Some(waiting) => self.add(waiting),
                    None => return false,
                },
            }
        }
    }

    fn add(&mut self, waiting: Waiting) {
        let bytes = waiting.bytes;
        self.next.add(waiting, bytes);
    }

    async fn propose(&mut self) {
        self.parking.rouse().await;
        let waiting = self.next.take().into_iter();
        let wanted = waiting.filter(|waiting| waiting.turn.take());
        let stamp = self.weighed.stamp();
        // Asked again: the clock may have been set, and compared, while they waited.
        let stamped = wanted.filter_map(|Waiting { command, reply, .. }| {
            if stamp.is_some_and(|(_, known)| known.may_stamp(&command)) {
                return Some((command, reply));
            }
            reply.send(Err(ProposeError::ClockUntrusted));
            None
        });
        let (commands, replies): (Vec<_>, Vec<_>) = stamped.unzip();
        let Some((stamped_at, _)) = stamp.filter(|_| !commands.is_empty()) else {
            return; // All had given up, or were refused.
        };
        let proposal = Proposal { stamped_at, commands };
        let began = Instant::now();
        let entry = Entry {
            replies,
            began,
            observer: self.observer.clone(),
            _counted: InFlight::count(&self.in_flight, began),
        };
        let responder = OnComplete::new(|result| entry.answer(result));
        let encoded = EncodedProposal(proposal.encode());
        // Awaited here: entries keep the order of the queue.
        if let Err(error) = self.raft.client_write_ff(encoded, Some(responder)).await {
            // The replies were dropped with the entry, which tells their callers that the outcome is unknown.
            tracing::debug!(%error, "an entry was not proposed: the replica has stopped");
        }
    }
}

/// When the entries of the group that are on their way began it.
#[derive(Default)]
struct InFlight {
    began: Mutex<BTreeMap<u64, Instant>>,
    one_ended: Notify,
}

/// An entry on its way, for as long as it lives, and its number among those.
struct Counted(Arc<InFlight>, u64);

impl InFlight {
    fn began(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.began.lock().expect("no panic while locked")
    }

    /// Not slow after a whole lease: then it stands, and openraft refuses what follows, so that callers go elsewhere.
    fn now(&self, lease: Duration) -> OnTheirWay {
        let began = self.began();
        let age = began.first_key_value().map(|(_, began)| began.elapsed());
        let is_slow = age.is_some_and(|age| (lease / 4..lease).contains(&age));
        OnTheirWay { entries: began.len(), is_slow }
    }

    fn count(this: &Arc<Self>, now: Instant) -> Counted {
        let mut began = this.began();
        let number = began.last_key_value().map_or(0, |(last, _)| last + 1);
        began.insert(number, now);
        Counted(this.clone(), number)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.began().remove(&self.1);
        self.0.one_ended.notify_one();
    }
}

/// Who waits for the outcomes of one entry. Dropped without a result, it says that they are unknown.
struct Entry {
    replies: Vec<Reply>,
    began: Instant,
    observer: Arc<dyn ConsensusObserver>,
    _counted: Counted,
}

impl Entry {
    fn answer(self, result: WriteResult) {
        match result {
            Ok(response) => {
                self.observer.entry_committed(self.began.elapsed());
                answer_each(self.replies, response.data.0);
            }
            Err(error) => answer_all(self.replies, &refused(&error)),
        }
    }
}

fn answer_each(replies: Vec<Reply>, outcomes: Vec<Outcome>) {
    assert_eq!(replies.len(), outcomes.len(), "each command of an entry has one outcome");
    for (reply, outcome) in replies.into_iter().zip(outcomes) {
        reply.send(Ok(outcome));
    }
}

fn answer_all(replies: Vec<Reply>, error: &ProposeError) {
    for reply in replies {
        reply.send(Err(error.clone()));
    }
}

/// A refusal before the entry was appended had no effect; anything later may have.
fn refused(error: &ClientWriteError<TypeConfig>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => ProposeError::NotLeader {
            leader: forward.leader_id.map(|id: crate::types::ReplicaId| -> NodeId { id.node }),
        },
        other => ProposeError::Unknown { reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::types::HashRange;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_entry_is_slow_until_it_stands() {
        let (lease, in_flight) = (Duration::from_secs(1), Arc::<InFlight>::default());
        let first = InFlight::count(&in_flight, Instant::now());
        let now =
            |entries, is_slow| assert_eq!(in_flight.now(lease), OnTheirWay { entries, is_slow });
        now(1, false);
        advance(lease / 4).await;
        let second = InFlight::count(&in_flight, Instant::now());
        now(2, true);
        drop(first);
        now(1, false);
        advance(lease / 2).await;
        now(1, true);
        advance(lease / 2).await;
        now(1, false);
        drop(second);
        now(0, false);
    }

    /// When the caller's deadline passes, as its command goes on.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Passes {
        BeforeItIsTaken,
        BeforeItHasAnEnd,
        BehindThat,
    }

    /// What the proposer does with the command.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Does {
        Answers,
        /// Takes it, and stops.
        Drops,
        /// Stops before it takes it.
        Leaves,
    }

    /// What the caller is told, with a test in the place of the worker.
    async fn told(passes: Passes, does: Does) -> Answer {
        let (queue, mut receiver) = mpsc::channel(1);
        let room = RoomLeft::new(limits::GROUP_PROPOSALS_BYTES_MAX);
        let proposer = Proposer { queue, room, node: Arc::default() };
        let deadline = Instant::now() + Duration::from_secs(1);
        let command = Command::Configure { range: HashRange::ALL, epoch: 1 };
        let caller = tokio::spawn(async move { proposer.propose(command, deadline).await });
        let Waiting { turn, reply, .. } = receiver.recv().await.expect("it is proposed");
        let goes_on = async |at| {
            // Time that stands still goes on once the caller has nothing to do any more.
            if at == passes {
                tokio::time::sleep_until(deadline + Duration::from_secs(1)).await;
            }
        };
        goes_on(Passes::BeforeItIsTaken).await;
        let is_taken = does != Does::Leaves && turn.take();
        assert_eq!(is_taken, does != Does::Leaves && passes != Passes::BeforeItIsTaken);
        goes_on(Passes::BeforeItHasAnEnd).await;
        match is_taken && does == Does::Answers {
            true => reply.send(Ok(Outcome::Done)),
            false => drop(reply),
        }
        goes_on(Passes::BehindThat).await;
        assert!(!turn.take() && !turn.give_up(), "it was decided once");
        caller.await.expect("no panic")
    }

    /// Why not loom: `Turn` is one atomic that is changed by one compare-exchange, and hands nothing else over; so all that
    /// threads can do to it is to call in one order or another, and all orders are here, with what the caller makes of
    /// them. loom would have to be under `--cfg loom` for all that is built, where tokio has no `net` and tonic does not
    /// compile.
    #[tokio::test(start_paused = true)]
    async fn whoever_is_first_decides_what_the_caller_is_told() {
        use Passes::{BeforeItHasAnEnd, BeforeItIsTaken, BehindThat};
        for does in [Does::Answers, Does::Drops, Does::Leaves] {
            for passes in [BeforeItIsTaken, BeforeItHasAnEnd, BehindThat] {
                let told = told(passes, does).await;
                let is_true = match (passes, does) {
                    (BeforeItIsTaken, _) | (BeforeItHasAnEnd, Does::Leaves) => {
                        matches!(told, Err(ProposeError::Expired))
                    }
                    (BehindThat, Does::Answers) => matches!(told, Ok(Outcome::Done)),
                    (BehindThat, Does::Leaves) => matches!(told, Err(ProposeError::Stopped { .. })),
                    (BeforeItHasAnEnd, _) | (BehindThat, Does::Drops) => {
                        matches!(told, Err(ProposeError::Unknown { .. }))
                    }
                };
                assert!(is_true, "{passes:?}, {does:?}: {told:?}");
            }
        }
    }
}
