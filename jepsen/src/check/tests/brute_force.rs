//! The scan by levels against a search over all orders, on small random histories of one conversation.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::super::linearizable::Linearizable;
use super::super::{Checker, Findings};
use super::simulate::simulate;
use crate::history::{
    Answer, AppendCall, Call, Consistency, Event, EventKind, Nanos, OutcomeCall, OutcomeState,
    Position, ReadCall, Refusal, Seen, Sent,
};
use crate::model::Model;

const HISTORIES: u64 = 20_000;

/// An operation of the search: it takes effect at one point between call and return, and wants this of the state then.
#[derive(Clone, Debug)]
struct Point {
    called: Nanos,
    returned: Nanos,
    wants: Wants,
}

#[derive(Clone, Debug, PartialEq)]
enum Wants {
    /// Appends this seq.
    Step(u64),
    /// The tail is this.
    Tail(u64),
    /// The tail is another.
    OtherTail(u64),
    /// The tail is above this seq.
    Past(u64),
    /// The tail is not above this seq.
    NotPast(u64),
}

/// Whether some order of points fits: depth first, next any that no other one returned before.
fn search(points: &[Point], done: u32, tail: u64) -> bool {
    let open = || (0..points.len()).filter(|at| done & (1 << at) == 0);
    let Some(earliest) = open().map(|at| points[at].returned).min() else { return true };
    open().filter(|at| points[*at].called <= earliest).any(|at| {
        let next = match points[at].wants {
            Wants::Step(seq) => (tail == seq).then_some(tail + 1),
            Wants::Tail(wanted) => (tail == wanted).then_some(tail),
            Wants::OtherTail(other) => (tail != other).then_some(tail),
            Wants::Past(seq) => (tail > seq).then_some(tail),
            Wants::NotPast(seq) => (tail <= seq).then_some(tail),
        };
        next.is_some_and(|tail| search(points, done | (1 << at), tail))
    })
}

struct Small {
    random: StdRng,
    events: Vec<Event>,
    points: Vec<Point>,
    process: u64,
    length: Nanos,
}

impl Small {
    /// A span of time, and the process that the operation is of.
    fn span(&mut self) -> (u64, Nanos, Nanos) {
        self.process += 1;
        let called = self.random.random_range(1..self.length);
        (self.process, called, called + self.random.random_range(1..self.length / 2))
    }

    fn push(&mut self, process: u64, at: Nanos, kind: EventKind) {
        self.events.push(Event { at, process, node: Some(1), kind });
    }

    fn append(&mut self, nth: u64, seq: u64) {
        let (process, called, returned) = self.span();
        self.push(process, called, EventKind::Invoke(append(nth, None)));
        let mut acknowledged = Nanos::MAX;
        if self.random.random_bool(0.7) {
            acknowledged = returned;
            self.push(process, returned, appended(seq, false));
        } else if self.random.random_bool(0.5) {
            // Its outcome stays unknown until a retry is told.
            let (process, called, returned) = self.span();
            self.push(process, called, EventKind::Invoke(append(nth, None)));
            self.push(process, returned, appended(seq, true));
            self.points.push(Point { called, returned, wants: Wants::Past(seq) });
            let first = self.points.len();
            let called = called.min(self.events[self.events.len() - 3].at);
            self.points.insert(first, Point { called, returned, wants: Wants::Step(seq) });
            return;
        }
        self.points.push(Point { called, returned: acknowledged, wants: Wants::Step(seq) });
    }

    fn read(&mut self, tail: u64, consistency: Consistency) {
        let (process, mut called, returned) = self.span();
        self.push(process, called, EventKind::Invoke(read(consistency, false)));
        self.push(process, returned, shown(Vec::new(), tail));
        let wants = match consistency {
            Consistency::Linearizable => Wants::Tail(tail),
            // It shows a state that had come by then.
            _ => {
                called = 0;
                Wants::Past(tail - 1)
            }
        };
        self.points.push(Point { called, returned, wants });
    }

    fn query(&mut self, nth: u64, seq: u64, committed: bool) {
        let (process, called, returned) = self.span();
        let call = OutcomeCall {
            conversation: "c".to_owned(),
            sender: "s".to_owned(),
            client_msg_id: nth.to_string(),
            issued_at_us: 1,
            settle: false,
        };
        self.push(process, called, EventKind::Invoke(Call::Outcome(call)));
        let (state, told, wants) = match committed {
            true => (OutcomeState::Committed, seq, Wants::Past(seq)),
            false => (OutcomeState::NotCommitted, 0, Wants::NotPast(seq)),
        };
        self.push(process, returned, EventKind::Ok(Answer::Outcome { state, seq: told }));
        self.points.push(Point { called, returned, wants });
    }

    fn wrong_tail(&mut self, expected: u64, found: Option<u64>) {
        let (process, called, returned) = self.span();
        self.push(process, called, EventKind::Invoke(append(100 + process, Some(expected))));
        let refusal = Refusal {
            reason: "WRONG_TAIL".to_owned(),
            message: String::new(),
            may_have_taken_effect: false,
            retryable: false,
            tail: found,
        };
        self.push(process, returned, EventKind::Fail(refusal));
        let wants = found.map_or(Wants::OtherTail(expected), Wants::Tail);
        self.points.push(Point { called, returned, wants });
    }
}

fn append(nth: u64, expected_tail: Option<u64>) -> Call {
    Call::Append(AppendCall {
        conversation: "c".to_owned(),
        sender: "s".to_owned(),
        messages: vec![Sent { client_msg_id: nth.to_string(), issued_at_us: 1, hash: nth }],
        expected_tail,
        lane: None,
    })
}

fn appended(seq: u64, duplicate: bool) -> EventKind {
    let (commit_time_us, digest) = (seq, String::new());
    let (first_seq, last_seq) = (seq, seq);
    EventKind::Ok(Answer::Appended { first_seq, last_seq, commit_time_us, duplicate, digest })
}

fn read(consistency: Consistency, is_final: bool) -> Call {
    let conversation = "c".to_owned();
    Call::Read(ReadCall {
        conversation,
        consistency,
        from_seq: 1,
        limit: 100,
        of_the_end: false,
        is_final,
    })
}

fn shown(messages: Vec<Seen>, tail: u64) -> EventKind {
    let position = Position { node: 1, group: 1, applied_index: tail, age_ms: None };
    EventKind::Ok(Answer::Read { messages, first_seq: 1, tail, position })
}

/// A history and its points. Where `is_certain` not, an expected tail may have been refused without saying the tail.
fn small(seed: u64, is_certain: bool) -> (Vec<Event>, Vec<Point>) {
    let mut random = StdRng::seed_from_u64(seed);
    let length = random.random_range(8..60);
    let mut small = Small { random, events: Vec::new(), points: Vec::new(), process: 0, length };
    let count = small.random.random_range(1..4_u64);
    let mut order: Vec<u64> = (1..=count).collect();
    order.shuffle(&mut small.random);
    for (nth, seq) in order.iter().zip(1..) {
        small.append(*nth, seq);
    }
    for _ in 0..small.random.random_range(1..5) {
        let seq = small.random.random_range(1..=count);
        let (nth, tail) = (order[seq as usize - 1], small.random.random_range(1..=count + 1));
        match small.random.random_range(0..7) {
            0..3 => small.read(tail, Consistency::Linearizable),
            3 => small.read(tail, Consistency::Local),
            4 => small.query(nth, seq, true),
            5 => small.query(nth, seq, false),
            _ if is_certain => small.wrong_tail(count + 9, Some(tail)),
            _ => small.wrong_tail(tail, None),
        }
    }
    let seen = |(nth, seq): (&u64, u64)| Seen {
        seq,
        sender: "s".to_owned(),
        client_msg_id: nth.to_string(),
        hash: *nth,
        commit_time_us: seq,
        digest: String::new(),
    };
    let everything = order.iter().zip(1..).map(seen).collect();
    let end = 10 * length;
    small.push(0, end, EventKind::Invoke(read(Consistency::Linearizable, true)));
    small.push(0, end + 1, shown(everything, count + 1));
    let wants = Wants::Tail(count + 1);
    small.points.push(Point { called: end, returned: end + 1, wants });
    // Stable: a call stands before an answer of the same process in any case.
    small.events.sort_by_key(|event| event.at);
    (small.events, small.points)
}

fn is_valid(events: Vec<Event>) -> bool {
    let simulated = simulate(0, 1, 1);
    let mut findings = Findings::default();
    Linearizable.check(&Model::of(simulated.run, Vec::new(), events).unwrap(), &mut findings);
    findings.violations == 0
}

#[test]
fn the_scan_by_levels_and_a_search_over_all_orders_agree() {
    let (mut valid, mut invalid) = (0, 0);
    for seed in 0..HISTORIES {
        let (events, points) = small(seed, true);
        let expected = search(&points, 0, 1);
        assert_eq!(is_valid(events), expected, "seed {seed}: {points:#?}");
        *(if expected { &mut valid } else { &mut invalid }) += 1;
    }
    assert!(valid > 2_000 && invalid > 2_000, "{valid} valid, {invalid} invalid");
}

/// A refusal that does not name the tail allows any state below and above: there the scan is told to err on the side
/// of no violation, and catches what two bounds alone can show.
#[test]
fn a_refused_tail_of_unknown_value_raises_no_false_alarm_and_is_mostly_caught() {
    let (mut caught, mut missed) = (0, 0);
    for seed in 0..HISTORIES {
        let (events, points) = small(seed, false);
        match (is_valid(events), search(&points, 0, 1)) {
            (false, true) => panic!("seed {seed}: {points:#?}"),
            (true, false) => missed += 1,
            (false, false) => caught += 1,
            (true, true) => {}
        }
    }
    assert!(caught > 2_000 && missed * 20 < caught, "{caught} caught, {missed} missed");
}
