//! Gathers what waits while earlier entries are in flight into one Raft entry: pipelining makes the batch, no timer.
//!
//! Guarantees at stake: G8 (a caller that gives up is told truthfully whether its command may take effect) and G12
//! (the queue is bounded, in commands and in bytes: what was proposed counts until its outcome is known, also when
//! its caller has given up).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::admission::{Admission, Room, RoomLeft};
use super::raft_types::{EncodedProposal, Raft, TypeConfig};
use super::{ConsensusObserver, ProposeError};
use crate::log::{Command, Outcome, Proposal};
use crate::types::{Clock, NodeId, Timestamp, limits};

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
        clock: Arc<dyn Clock>,
        node: Arc<Admission>,
        observer: Arc<dyn ConsensusObserver>,
    ) -> Self {
        let (queue, receiver) = mpsc::channel(limits::PROPOSAL_QUEUE_MAX);
        tokio::spawn(Worker { raft, clock, observer, receiver, held: None }.run());
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
    clock: Arc<dyn Clock>,
    observer: Arc<dyn ConsensusObserver>,
    receiver: mpsc::Receiver<Waiting>,
    /// Taken from the queue but too large for the entry before.
    held: Option<Waiting>,
}

impl Worker {
    async fn run(mut self) {
        let in_flight = Arc::new(Semaphore::new(limits::PROPOSALS_IN_FLIGHT_MAX));
        loop {
            let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
            let Some((commands, replies)) = self.gather().await else { return };
            let stamped_at = self.clock.now();
            let encoded = encode(stamped_at, commands);
            let (responder, receiver) =
                ProgressResponder::<TypeConfig, WriteResult>::complete_only();
            let raft = self.raft.clone();
            let began = Instant::now();
            // Written from here and not from the task: entries keep the order of the queue.
            let written = raft.client_write_ff(EncodedProposal(encoded), Some(responder)).await;
            if let Err(fatal) = written {
                answer_all(replies, &ProposeError::Unknown { reason: fatal.to_string() });
                continue;
            }
            let observer = self.observer.clone();
            tokio::spawn(async move {
                let result = receiver.await;
                drop(permit);
                match result {
                    Ok(Ok(response)) => {
                        observer.entry_committed(began.elapsed());
                        answer_each(replies, response.data.0);
                    }
                    Ok(Err(error)) => answer_all(replies, &refused(&error)),
                    Err(_) => answer_all(replies, &unknown("the replica stopped")),
                }
            });
        }
    }

    /// Waits for a command and takes with it what else waits, up to an entry's size.
    async fn gather(&mut self) -> Option<(Vec<Command>, Vec<Reply>)> {
        let mut commands = Vec::new();
        let mut replies = Vec::new();
        let mut bytes = 0;
        loop {
            let waiting = match self.held.take() {
                Some(waiting) => waiting,
                None if commands.is_empty() => self.receiver.recv().await?,
                None => match self.receiver.try_recv() {
                    Ok(waiting) => waiting,
                    Err(_) => return Some((commands, replies)),
                },
            };
            if !commands.is_empty() && bytes + waiting.bytes > limits::ENTRY_BYTES_TARGET {
                self.held = Some(waiting);
                return Some((commands, replies));
            }
            if waiting.turn.take() {
                bytes += waiting.bytes;
                commands.push(waiting.command);
                replies.push(waiting.reply);
            }
            if commands.len() == limits::ENTRY_COMMANDS_MAX {
                return Some((commands, replies));
            }
        }
    }
}

fn encode(stamped_at: Timestamp, commands: Vec<Command>) -> Bytes {
    Proposal { stamped_at, commands }.encode()
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
