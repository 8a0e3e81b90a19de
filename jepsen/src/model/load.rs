//! From lines to a model.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::{
    Append, Appended, Attempt, Delivered, Delivery, Digest, Ending, Follow, Identity, Key, Map,
    Mark, Model, Name, Outcome, Read, ReadAnswer, Record, RecordId, Refused, Sent, Set, Sightings,
    Span,
};
use crate::clock;
use crate::history::{self, Answer, Call, Event, EventKind, Nanos, Process, Refusal};
use crate::record::{History, ReadError};

/// A record that cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A line contradicts what was agreed on histories: the recording client is wrong, not the cluster.
    #[error("line {line} of the history cannot follow what stands before it: {what}")]
    Contradiction {
        /// Of `history.jsonl`.
        line: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// More than numbers of 32 bits can count.
    #[error("the history is too large to be judged at once")]
    TooLarge,
}

impl Model {
    /// Reads a run's record.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let history = History::read(dir)?;
        let mut loader = Loader::new(history.run.clone(), history.faults.clone());
        loader.model.leaders.clone_from(&history.leaders);
        for event in history.events() {
            let (line, event) = event?;
            loader.take(line, event)?;
        }
        loader.finish()
    }

    /// The same of events in memory.
    pub fn of(
        run: history::Run,
        faults: Vec<history::Fault>,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Self, LoadError> {
        let mut loader = Loader::new(run, faults);
        for (event, line) in events.into_iter().zip(1..) {
            loader.take(line, event)?;
        }
        loader.finish()
    }
}

/// The operation that a process waits for.
#[derive(Clone, Copy)]
enum Pending {
    Append(usize),
    Read(usize),
    Outcome(usize),
    Follow(usize),
}

/// By how much a message may seem to be issued after its call: when a run began is written down to the second.
const ISSUED_SLACK_US: u64 = 2_000_000;

struct Loader {
    model: Model,
    /// When the run began, in microseconds since the Unix epoch; none if it does not say.
    began_us: Option<u64>,
    pending: HashMap<Process, Pending>,
}

impl Loader {
    fn new(run: history::Run, faults: Vec<history::Fault>) -> Self {
        let began_us = clock::read_us(&run.started);
        let model = Model {
            run,
            faults,
            leaders: Vec::new(),
            events: 0,
            appends: Vec::new(),
            sent: Vec::new(),
            reads: Vec::new(),
            seen: Vec::new(),
            outcomes: Vec::new(),
            follows: Vec::new(),
            attempts: Vec::new(),
            names: Set::default(),
            keys: Set::default(),
            records: Map::default(),
            places: Vec::new(),
            seqs: Vec::new(),
            finals: Vec::new(),
        };
        Self { model, began_us, pending: HashMap::new() }
    }

    /// Whether all messages of an append were issued since the run began, and before it was called.
    fn is_issued_in_run(&self, append: &history::AppendCall, called: Nanos) -> bool {
        let Some(began) = self.began_us else { return false };
        let until = began.saturating_add(called / 1_000).saturating_add(ISSUED_SLACK_US);
        append.messages.iter().all(|message| (began..=until).contains(&message.issued_at_us))
    }

    fn take(&mut self, line: u64, event: Event) -> Result<(), LoadError> {
        self.model.events += 1;
        let Event { at, process, node, kind } = event;
        let mark = Mark { line, at, process, node: node.unwrap_or(0) };
        let wrong = |what| LoadError::Contradiction { line, what };
        match kind {
            EventKind::Invoke(call) => {
                let pending = self.call(mark, call)?;
                match self.pending.insert(process, pending) {
                    Some(_) => Err(wrong("the process waits for another operation")),
                    None => Ok(()),
                }
            }
            EventKind::Deliver(delivery) => match self.pending.get(&process) {
                Some(Pending::Follow(at)) => self.deliver(*at, mark, delivery),
                _ => Err(wrong("the process follows nothing")),
            },
            EventKind::Ok(answer) => self.answer(mark, answer),
            EventKind::Fail(refusal) => self.refuse(mark, &refusal, true),
            EventKind::Info(refusal) => self.refuse(mark, &refusal, false),
        }
    }

    fn call(&mut self, call: Mark, what: Call) -> Result<Pending, LoadError> {
        let span = Span { call, answer_line: 0, answered: Nanos::MAX };
        let issued_in_run = |append| self.is_issued_in_run(append, call.at);
        let issued_in_run = matches!(&what, Call::Append(append) if issued_in_run(append));
        let model = &mut self.model;
        Ok(match what {
            Call::Append(append) => {
                let conversation = model.intern(&append.conversation)?;
                let sender = model.intern(&append.sender)?;
                let from = number(model.sent.len())?;
                for message in &append.messages {
                    let client_msg_id = model.intern(&message.client_msg_id)?;
                    let key = model.intern_key(Identity { conversation, sender, client_msg_id })?;
                    model.sent.push(Sent { key, hash: message.hash });
                }
                model.appends.push(Append {
                    span,
                    conversation,
                    sent: from..number(model.sent.len())?,
                    expected_tail: append.expected_tail,
                    lane: append.lane,
                    issued_in_run,
                    ending: Ending::Open,
                });
                Pending::Append(model.appends.len() - 1)
            }
            Call::Read(read) => {
                let conversation = model.intern(&read.conversation)?;
                model.reads.push(Read {
                    span,
                    conversation,
                    consistency: read.consistency,
                    from_seq: read.from_seq,
                    limit: read.limit,
                    of_the_end: read.of_the_end,
                    is_final: read.is_final,
                    ending: Ending::Open,
                });
                Pending::Read(model.reads.len() - 1)
            }
            Call::Outcome(query) => {
                let [conversation, sender, client_msg_id] =
                    [&query.conversation, &query.sender, &query.client_msg_id]
                        .map(|name| model.intern(name));
                let identity = Identity {
                    conversation: conversation?,
                    sender: sender?,
                    client_msg_id: client_msg_id?,
                };
                let key = model.intern_key(identity)?;
                let settle = query.settle;
                model.outcomes.push(Outcome { span, key, settle, ending: Ending::Open });
                Pending::Outcome(model.outcomes.len() - 1)
            }
            Call::Follow(follow) => {
                let from = follow.from.iter();
                let from = from.map(|(name, seq)| Ok((model.intern(name)?, *seq)));
                let from = from.collect::<Result<_, LoadError>>()?;
                model.follows.push(Follow {
                    span,
                    from,
                    is_subscription: follow.is_subscription,
                    without_library: follow.without_library,
                    deliveries: Vec::new(),
                    ending: Ending::Open,
                });
                Pending::Follow(model.follows.len() - 1)
            }
        })
    }

    fn answer(&mut self, mark: Mark, answer: Answer) -> Result<(), LoadError> {
        let wrong = |what| LoadError::Contradiction { line: mark.line, what };
        let pending = self.pending.remove(&mark.process);
        let pending = pending.ok_or_else(|| wrong("the process waits for no answer"))?;
        let model = &mut self.model;
        match (pending, answer) {
            (
                Pending::Append(at),
                Answer::Appended { first_seq, last_seq, commit_time_us, duplicate, digest },
            ) => {
                let digest = parse_digest(&digest, mark.line)?;
                let appended = Appended { first_seq, last_seq, commit_time_us, duplicate, digest };
                end(&mut model.appends[at].span, mark);
                model.appends[at].ending = Ending::Ok(appended);
            }
            (Pending::Read(at), Answer::Read { messages, first_seq, tail, position }) => {
                let answered = Mark { node: position.node, ..mark };
                let seen = model.see(model.reads[at].conversation, &messages, answered)?;
                let read = &mut model.reads[at];
                end(&mut read.span, answered);
                if read.of_the_end {
                    read.from_seq = tail.saturating_sub(read.limit).max(first_seq);
                }
                read.ending = Ending::Ok(ReadAnswer { seen, first_seq, tail, position });
            }
            (Pending::Outcome(at), Answer::Outcome { state, seq }) => {
                end(&mut model.outcomes[at].span, mark);
                model.outcomes[at].ending = Ending::Ok((state, seq));
            }
            (Pending::Follow(at), Answer::Ended) => {
                end(&mut model.follows[at].span, mark);
                model.follows[at].ending = Ending::Ok(());
            }
            _ => return Err(wrong("the answer is to another kind of operation")),
        }
        Ok(())
    }

    fn refuse(&mut self, mark: Mark, refusal: &Refusal, is_certain: bool) -> Result<(), LoadError> {
        let what = "the process waits for no answer";
        let pending = self.pending.remove(&mark.process);
        let pending = pending.ok_or(LoadError::Contradiction { line: mark.line, what })?;
        let model = &mut self.model;
        let refused = Refused {
            reason: model.intern(&refusal.reason)?,
            may_have_taken_effect: refusal.may_have_taken_effect,
            retryable: refusal.retryable,
            tail: refusal.tail,
        };
        match pending {
            Pending::Append(at) => {
                end(&mut model.appends[at].span, mark);
                model.appends[at].ending = ended(refused, is_certain);
            }
            Pending::Read(at) => {
                end(&mut model.reads[at].span, mark);
                model.reads[at].ending = ended(refused, is_certain);
            }
            Pending::Outcome(at) => {
                end(&mut model.outcomes[at].span, mark);
                model.outcomes[at].ending = ended(refused, is_certain);
            }
            Pending::Follow(at) => {
                end(&mut model.follows[at].span, mark);
                model.follows[at].ending = ended(refused, is_certain);
            }
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        at: usize,
        mark: Mark,
        delivery: history::Delivery,
    ) -> Result<(), LoadError> {
        let conversation = self.model.intern(&delivery.conversation)?;
        let what = match delivery.what {
            history::Delivered::Messages(messages) => {
                Delivered::Messages(self.model.see(conversation, &messages, mark)?)
            }
            history::Delivered::CaughtUp { next_seq } => Delivered::CaughtUp(next_seq),
            history::Delivered::Gap { from_seq, to_seq } => Delivered::Gap(from_seq..to_seq),
            history::Delivered::AddedAgain { from_seq } => Delivered::AddedAgain(from_seq),
        };
        self.model.follows[at].deliveries.push(Delivery { mark, conversation, what });
        Ok(())
    }

    fn finish(self) -> Result<Model, LoadError> {
        let mut model = self.model;
        for (append, index) in model.appends.iter().zip(0..) {
            let sent = model.sent_in(append).iter().zip(0..);
            let attempts: Vec<_> =
                sent.map(|(sent, nth)| Attempt { key: sent.key, append: index, nth }).collect();
            model.attempts.extend(attempts);
        }
        model.attempts.sort_unstable();
        model.find_order();
        Ok(model)
    }
}

impl Model {
    fn intern(&mut self, name: &str) -> Result<Name, LoadError> {
        // Looked up first: most names are there already, and a look-up needs no copy.
        match self.names.get_index_of(name) {
            Some(at) => number(at),
            None => number(self.names.insert_full(name.into()).0),
        }
    }

    fn intern_key(&mut self, identity: Identity) -> Result<Key, LoadError> {
        number(self.keys.insert_full(identity).0)
    }

    /// Takes messages that were seen at `mark`.
    fn see(
        &mut self,
        conversation: Name,
        messages: &[history::Seen],
        mark: Mark,
    ) -> Result<Range<usize>, LoadError> {
        let from = self.seen.len();
        for message in messages {
            let sender = self.intern(&message.sender)?;
            let client_msg_id = self.intern(&message.client_msg_id)?;
            let record = Record {
                key: self.intern_key(Identity { conversation, sender, client_msg_id })?,
                seq: message.seq,
                hash: message.hash,
                commit_time_us: message.commit_time_us,
                digest: parse_digest(&message.digest, mark.line)?,
            };
            let entry = self.records.entry(record);
            let id: RecordId = number(entry.index())?;
            let sightings = entry.or_insert(Sightings { first: mark, count: 0 });
            sightings.count += 1;
            // Lines are not quite in the order of their times.
            if mark.at < sightings.first.at {
                sightings.first = mark;
            }
            self.seen.push(id);
        }
        Ok(from..self.seen.len())
    }
}

fn end(span: &mut Span, mark: Mark) {
    (span.answered, span.answer_line) = (mark.at, mark.line);
    if mark.node != 0 {
        span.call.node = mark.node;
    }
}

fn ended<T>(refused: Refused, is_certain: bool) -> Ending<T> {
    if is_certain { Ending::Failed(refused) } else { Ending::Unknown(refused) }
}

fn number(at: usize) -> Result<u32, LoadError> {
    u32::try_from(at).map_err(|_| LoadError::TooLarge)
}

fn parse_digest(text: &str, line: u64) -> Result<Option<Digest>, LoadError> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut digest = [0; 32];
    let is_hexadecimal = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hexadecimal {
        return Err(LoadError::Contradiction { line, what: "a digest has 64 hexadecimal digits" });
    }
    for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).expect("both are hexadecimal digits");
    }
    Ok(Some(digest))
}
