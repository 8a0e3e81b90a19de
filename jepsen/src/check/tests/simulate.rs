//! A correct cluster in one loop: a source of valid histories with everything that makes checking them hard.
//! Operations overlap, take effect late or never, are retried, conflict, break lanes; replicas lag, and one restarts and goes back.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

mod words;

use words::{acknowledged, failed, fault, refusal, run};

use crate::history::{
    Answer, AppendCall, Call, Consistency, Delivered, Delivery, Event, EventKind, Fault,
    FollowCall, LanePlace, Nanos, OutcomeCall, OutcomeState, Position, ReadCall, Run, Seen, Sent,
};

const NODES: u32 = 3;
const MS: Nanos = 1_000_000;
/// No read at the end gets more at once, so that it takes pages.
const PAGE: u64 = 40;

/// What a run leaves.
#[derive(Clone)]
pub struct Simulated {
    pub run: Run,
    pub faults: Vec<Fault>,
    pub events: Vec<Event>,
}

/// Runs the cluster for a number of steps.
pub fn simulate(seed: u64, conversations: usize, steps: usize) -> Simulated {
    let mut cluster = Cluster {
        random: StdRng::seed_from_u64(seed),
        now: 0,
        events: Vec::new(),
        logs: (0..conversations).map(|_| Log::default()).collect(),
        waiting: Vec::new(),
        lanes: BTreeMap::new(),
        batches: Vec::new(),
        process: 0,
        restart: None,
    };
    for step in 0..steps {
        cluster.step(step, steps);
    }
    cluster.finish()
}

struct Cluster {
    random: StdRng,
    now: Nanos,
    events: Vec<Event>,
    logs: Vec<Log>,
    waiting: Vec<Waiting>,
    /// The lane of a session in a conversation.
    lanes: BTreeMap<(u64, usize), Lane>,
    batches: Vec<(usize, String, Vec<Sent>)>,
    process: u64,
    restart: Option<(Nanos, Nanos)>,
}

#[derive(Default)]
struct Log {
    committed: Vec<Seen>,
    /// When each was committed, on the run's clock.
    times: Vec<Nanos>,
    /// The seq that each command ends with: the applied index is its place.
    commands: Vec<u64>,
    /// How many commands each replica has applied.
    applied: [usize; NODES as usize],
    burnt: BTreeSet<(String, String)>,
}

#[derive(Clone, Copy, Default)]
struct Lane {
    reset: u64,
    sent: u64,
    applied: u64,
    is_broken: bool,
}

struct Waiting {
    process: u64,
    node: u32,
    call: Call,
    /// What it will be answered; none as long as it has had no effect.
    answer: Option<EventKind>,
    /// It has been given up by its client, and may still take effect.
    is_given_up: bool,
    /// Of a stream: the seq to deliver next, the tail at its start, whether it has caught up.
    streams: Vec<(usize, u64, u64, bool)>,
}

fn name(conversation: usize) -> String {
    format!("room-{conversation}")
}

fn index(name: &str) -> usize {
    name["room-".len()..].parse().unwrap()
}

impl Log {
    fn tail(&self) -> u64 {
        self.committed.len() as u64 + 1
    }

    fn replica_tail(&self, node: u32) -> u64 {
        match self.applied[node as usize - 1] {
            0 => 1,
            applied => self.commands[applied - 1] + 1,
        }
    }

    fn find(&self, sender: &str, id: &str) -> Option<&Seen> {
        self.committed.iter().find(|seen| seen.sender == sender && seen.client_msg_id == id)
    }
}

impl Cluster {
    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn emit(&mut self, process: u64, node: u32, kind: EventKind) {
        self.now += self.random.random_range(1..MS);
        self.events.push(Event { at: self.now, process, node: Some(node), kind });
    }

    fn step(&mut self, step: usize, steps: usize) {
        // One replica is killed for a while, and has lost a part of what it had applied when it is back.
        if step == steps / 3 {
            self.restart = Some((self.now, Nanos::MAX));
        } else if step == steps / 2 {
            self.logs.iter_mut().for_each(|log| log.applied[1] /= 2);
            self.now += 1;
            self.restart = self.restart.map(|(from, _)| (from, self.now));
        }
        match self.random.random_range(0..100) {
            0..35 => self.call(),
            35..60 => (0..4).for_each(|_| self.take_effect()),
            60..85 => (0..3).for_each(|_| self.answer()),
            85..93 => self.replicate(),
            _ => self.deliver(),
        }
    }

    fn replicate(&mut self) {
        let at = self.random.random_range(0..self.logs.len());
        let node = self.random.random_range(0..NODES as usize);
        let log = &mut self.logs[at];
        log.applied[node] = self.random.random_range(log.applied[node]..=log.commands.len());
    }

    fn call(&mut self) {
        self.process += 1;
        let conversation = self.random.random_range(0..self.logs.len());
        let call = match self.random.random_range(0..100) {
            0..60 => self.append(conversation),
            60..80 => Call::Read(self.read(conversation)),
            80..95 if !self.batches.is_empty() => self.query(),
            _ => {
                let from =
                    (0..self.logs.len()).map(|at| (name(at), self.random.random_range(1..4)));
                Call::Follow(FollowCall {
                    from: from.collect(),
                    is_subscription: self.process.is_multiple_of(2),
                    without_library: false,
                })
            }
        };
        let (process, node) = (self.process, self.random.random_range(1..=NODES));
        self.emit(process, node, EventKind::Invoke(call.clone()));
        let streams = Vec::new();
        self.waiting.push(Waiting {
            process,
            node,
            call,
            answer: None,
            is_given_up: false,
            streams,
        });
    }

    fn append(&mut self, conversation: usize) -> Call {
        let known = self.batches.len();
        let (conversation, sender, mut messages) = match known {
            1.. if self.chance(25) => self.batches[self.random.random_range(0..known)].clone(),
            _ => {
                let sender = format!("sender-{}", self.random.random_range(0..3));
                let message = |nth: u64| Sent {
                    client_msg_id: format!("{}-{nth}", self.process),
                    issued_at_us: 7,
                    hash: self.process * 100 + nth,
                };
                let messages: Vec<Sent> = (0..[1, 1, 1, 3][known % 4]).map(message).collect();
                (conversation, sender, messages)
            }
        };
        match self.random.random_range(0..20) {
            0 => messages[0].hash += 1_000_000_000,
            1 => messages.truncate(1),
            _ => {}
        }
        self.batches.push((conversation, sender.clone(), messages.clone()));
        let expected_tail = self.chance(10).then(|| self.logs[conversation].tail());
        let session = self.random.random_range(0..3);
        let is_in_lane = self.chance(35);
        let lane = is_in_lane.then(|| {
            let lane = self.lanes.entry((session, conversation)).or_default();
            if lane.is_broken {
                *lane = Lane { reset: lane.reset + 1, ..Lane::default() };
            }
            lane.sent += 1;
            LanePlace { session, reset: lane.reset, position: lane.sent - 1 }
        });
        let conversation = name(conversation);
        Call::Append(AppendCall { conversation, sender, messages, expected_tail, lane })
    }

    fn read(&mut self, conversation: usize) -> ReadCall {
        let consistency = match self.random.random_range(0..5) {
            0 | 1 => Consistency::Linearizable,
            2 => Consistency::AtLeast(self.random.random_range(0..6)),
            3 => Consistency::MaxStalenessMs(self.random.random_range(1..20)),
            _ => Consistency::Local,
        };
        let (from_seq, limit) = (self.random.random_range(1..5), self.random.random_range(1..9));
        let (conversation, of_the_end) = (name(conversation), self.chance(25));
        ReadCall { conversation, consistency, from_seq, limit, of_the_end, is_final: false }
    }

    fn query(&mut self) -> Call {
        let at = self.random.random_range(0..self.batches.len());
        let (conversation, sender, messages) = self.batches[at].clone();
        Call::Outcome(OutcomeCall {
            conversation: name(conversation),
            sender,
            client_msg_id: messages[0].client_msg_id.clone(),
            issued_at_us: 7,
            settle: self.chance(20),
        })
    }

    /// Lets an operation that waits take effect.
    fn take_effect(&mut self) {
        let waits = self.waiting.iter().enumerate().filter(|(_, w)| w.answer.is_none());
        let waits: Vec<usize> = waits.map(|(at, _)| at).collect();
        if waits.is_empty() {
            return;
        }
        let at = waits[self.random.random_range(0..waits.len())];
        let (call, node) = (self.waiting[at].call.clone(), self.waiting[at].node);
        let answer = match &call {
            Call::Append(append) => self.apply(append),
            Call::Read(read) => Some(self.look(read, node)),
            Call::Outcome(query) => Some(self.tell(query)),
            Call::Follow(follow) => {
                if self.waiting[at].streams.is_empty() {
                    let stood = follow.from.iter().map(|(name, seq)| {
                        (index(name), *seq, self.logs[index(name)].tail(), false)
                    });
                    self.waiting[at].streams = stood.collect();
                }
                None
            }
        };
        self.waiting[at].answer = answer;
    }

    /// None while it is not its turn.
    fn apply(&mut self, append: &AppendCall) -> Option<EventKind> {
        let place = append.lane.as_ref();
        let key = place.map(|place| (place.session, index(&append.conversation)));
        if let (Some(place), Some(key)) = (place, key) {
            let lane = self.lanes[&key];
            if lane.reset != place.reset || lane.is_broken {
                return Some(failed("LANE_BROKEN", None));
            }
            if lane.applied != place.position {
                return None;
            }
        }
        let answer = self.apply_in_turn(append);
        if let Some(lane) = key.and_then(|key| self.lanes.get_mut(&key)) {
            lane.applied += 1;
            lane.is_broken = matches!(answer, EventKind::Fail(_));
        }
        Some(answer)
    }

    fn apply_in_turn(&mut self, append: &AppendCall) -> EventKind {
        let says_tail = self.chance(50);
        let log = &mut self.logs[index(&append.conversation)];
        let id = |sent: &Sent| (append.sender.clone(), sent.client_msg_id.clone());
        if append.messages.iter().any(|sent| log.burnt.contains(&id(sent))) {
            return failed("ID_BURNT", None);
        }
        let found = |sent: &Sent| {
            let seen = log.find(&append.sender, &sent.client_msg_id);
            seen.map(|seen| (seen.clone(), seen.hash == sent.hash))
        };
        let found: Vec<_> = append.messages.iter().map(found).collect();
        let stand: Vec<Seen> = found.iter().flatten().map(|(seen, _)| seen.clone()).collect();
        if !stand.is_empty() {
            let same = found.iter().all(|found| found.as_ref().is_some_and(|(_, same)| *same));
            let next_to = stand.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq);
            return match same && next_to {
                true => acknowledged(&stand, true),
                false => failed("ID_CONFLICT", None),
            };
        }
        let tail = log.tail();
        if append.expected_tail.is_some_and(|expected| expected != tail) {
            return failed("WRONG_TAIL", says_tail.then_some(tail));
        }
        for (sent, seq) in append.messages.iter().zip(tail..) {
            log.committed.push(Seen {
                seq,
                sender: append.sender.clone(),
                client_msg_id: sent.client_msg_id.clone(),
                hash: sent.hash,
                commit_time_us: self.now / 1_000,
                digest: format!("{:064x}", sent.hash * 31 + seq),
            });
            log.times.push(self.now);
        }
        log.commands.push(log.tail() - 1);
        acknowledged(&log.committed[tail as usize - 1..], false)
    }

    fn look(&mut self, read: &ReadCall, node: u32) -> EventKind {
        let log = &mut self.logs[index(&read.conversation)];
        let replica = &mut log.applied[node as usize - 1];
        if read.consistency == Consistency::Linearizable {
            *replica = log.commands.len();
        }
        let applied = *replica;
        let tail = log.replica_tail(node);
        // The state was the newest one until the first command that the replica lacks.
        let lacks = log.times.get(tail as usize - 1);
        let age_ms = lacks.map_or(0, |time| (self.now - time).div_ceil(MS));
        match read.consistency {
            Consistency::AtLeast(seq) if tail <= seq => return failed("SEQ_NOT_REACHED", None),
            Consistency::MaxStalenessMs(bound) if age_ms > bound => {
                return failed("TOO_STALE", None);
            }
            _ => {}
        }
        let skipped = match read.of_the_end {
            true => (tail - 1).saturating_sub(read.limit),
            false => read.from_seq - 1,
        };
        let shown = log.committed[..tail as usize - 1].iter().skip(skipped as usize);
        let is_aged = matches!(read.consistency, Consistency::MaxStalenessMs(_));
        EventKind::Ok(Answer::Read {
            messages: shown.take(read.limit as usize).cloned().collect(),
            first_seq: 1,
            tail,
            position: Position {
                node,
                group: 1 + index(&read.conversation) as u64,
                applied_index: applied as u64,
                age_ms: is_aged.then_some(age_ms),
            },
        })
    }

    fn tell(&mut self, query: &OutcomeCall) -> EventKind {
        let log = &mut self.logs[index(&query.conversation)];
        let id = (query.sender.clone(), query.client_msg_id.clone());
        let seq = log.find(&id.0, &id.1).map(|seen| seen.seq);
        if seq.is_none() && query.settle {
            log.burnt.insert(id.clone());
        }
        let state = match seq {
            Some(_) => OutcomeState::Committed,
            None if log.burnt.contains(&id) => OutcomeState::Burnt,
            None => OutcomeState::NotCommitted,
        };
        EventKind::Ok(Answer::Outcome { state, seq: seq.unwrap_or(0) })
    }

    /// Answers an operation, or lets its client give it up.
    fn answer(&mut self) {
        let live = self.waiting.iter().enumerate().filter(|(_, w)| !w.is_given_up);
        let live: Vec<usize> = live.map(|(at, _)| at).collect();
        if live.is_empty() {
            return;
        }
        let at = live[self.random.random_range(0..live.len())];
        if matches!(self.waiting[at].call, Call::Follow(_)) {
            return;
        }
        let (process, node) = (self.waiting[at].process, self.waiting[at].node);
        if self.chance(15) {
            self.waiting[at].is_given_up = true;
            return self.emit(process, node, EventKind::Info(refusal("TIMEOUT", true, None)));
        }
        if let Some(answer) = self.waiting[at].answer.take() {
            self.waiting.remove(at);
            return self.emit(process, node, answer);
        }
        // What has had no effect may fail for certain, and never has one then; in a lane this breaks it.
        if self.chance(10) {
            let waiting = self.waiting.remove(at);
            if let Call::Append(AppendCall { lane: Some(place), conversation, .. }) = &waiting.call
            {
                let lane = self.lanes.get_mut(&(place.session, index(conversation))).unwrap();
                lane.is_broken |= lane.reset == place.reset;
            }
            let reason = if self.random.random_bool(0.5) { "NO_LEADER" } else { "OVERLOADED" };
            self.emit(process, node, failed(reason, None));
        }
    }

    /// Lets streams deliver what their nodes have applied.
    fn deliver(&mut self) {
        for at in 0..self.waiting.len() {
            for stream in 0..self.waiting[at].streams.len() {
                let (conversation, next, stood, caught_up) = self.waiting[at].streams[stream];
                let (process, node) = (self.waiting[at].process, self.waiting[at].node);
                let call = &self.waiting[at].call;
                let changes = matches!(call, Call::Follow(follow) if follow.is_subscription);
                let lets_go = changes && self.chance(20);
                let log = &self.logs[conversation];
                let until = log.replica_tail(node).min(next + 5);
                let (mut next, mut caught_up) = (next, caught_up);
                let mut said = Vec::new();
                if lets_go {
                    caught_up = false;
                    said.push(Delivered::AddedAgain { from_seq: next });
                }
                if next < until {
                    let messages = log.committed[next as usize - 1..until as usize - 1].to_vec();
                    said.push(Delivered::Messages(messages));
                    next = until;
                }
                if !caught_up && next >= stood {
                    caught_up = true;
                    said.push(Delivered::CaughtUp { next_seq: next });
                }
                self.waiting[at].streams[stream] = (conversation, next, stood, caught_up);
                for what in said {
                    let delivery = Delivery { conversation: name(conversation), what };
                    self.emit(process, node, EventKind::Deliver(delivery));
                }
            }
        }
    }

    /// Heals, lets streams come to their end, and reads everything.
    fn finish(mut self) -> Simulated {
        let healed_at = self.now;
        self.now += super::super::delivery::DELIVERED_WITHIN + MS;
        let is_stream = |w: &Waiting| matches!(w.call, Call::Follow(_));
        self.waiting.retain(|waiting| is_stream(waiting) && !waiting.streams.is_empty());
        for log in &mut self.logs {
            log.applied = [log.commands.len(); NODES as usize];
        }
        for _ in 0..self.logs.iter().map(|log| log.committed.len()).max().unwrap_or(0) {
            self.deliver();
        }
        // From here on everything has to be served.
        self.now += super::super::availability::SERVED_WITHIN;
        for waiting in std::mem::take(&mut self.waiting) {
            self.emit(waiting.process, waiting.node, EventKind::Ok(Answer::Ended));
        }
        for conversation in 0..self.logs.len() {
            let tail = self.logs[conversation].tail();
            self.read_all(conversation, 1, Consistency::Linearizable);
            for node in 1..=NODES {
                self.read_all(conversation, node, Consistency::AtLeast(tail - 1));
            }
        }
        let (from, to) = self.restart.unwrap_or((0, 1));
        Simulated { run: run(healed_at), faults: vec![fault(from, to)], events: self.events }
    }

    fn read_all(&mut self, conversation: usize, node: u32, consistency: Consistency) {
        for from_seq in (1..self.logs[conversation].tail().max(2)).step_by(PAGE as usize) {
            self.process += 1;
            let process = self.process;
            let conversation = name(conversation);
            let read = ReadCall {
                conversation,
                consistency,
                from_seq,
                limit: PAGE,
                of_the_end: false,
                is_final: true,
            };
            self.emit(process, node, EventKind::Invoke(Call::Read(read.clone())));
            let answer = self.look(&read, node);
            self.emit(process, node, answer);
        }
    }
}
