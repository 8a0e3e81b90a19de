use proptest::prelude::*;
use quorate_client::proto::NewMessage;

use super::*;

const HERE: Destination = Destination::Here;
const THERE: Destination = Destination::There { node: NodeId(2), stream: 0 };

/// Attempts count from the highest number, so that they go on at 0.
fn lanes() -> Lanes {
    Lanes::new(AttemptId(u64::MAX))
}

fn append(id: &str) -> Result<AppendRequest, CallError> {
    let message = NewMessage { client_msg_id: id.into(), ..NewMessage::default() };
    Ok(AppendRequest {
        conversation: "a".into(),
        sender: "alice".into(),
        messages: vec![message],
        expected_tail: None,
    })
}

/// `before` as the predecessor that a later departure names.
fn after(before: &Departure) -> Option<Predecessor> {
    let AppendRequest { sender, messages, .. } = &before.append;
    let client_msg_id = messages[0].client_msg_id.clone();
    let last = IdKey { sender: sender.clone(), client_msg_id };
    Some(Predecessor { attempt: before.place.attempt, last })
}

fn seq(first_seq: u64) -> Result<AppendResponse, CallError> {
    Ok(AppendResponse { first_seq, last_seq: first_seq, ..AppendResponse::default() })
}

fn failure() -> Result<AppendResponse, CallError> {
    Err(CallError::outcome_unknown("lost"))
}

/// Request ids with "ok" or the reason of the failure.
fn told(lanes: &mut Lanes) -> Vec<(u64, String)> {
    let answers = lanes.answers("a").into_iter();
    answers
        .map(|(request_id, result)| match result {
            Ok(_) => (request_id, "ok".to_owned()),
            Err(error) => (request_id, error.reason().to_owned()),
        })
        .collect()
}

fn ok(request_id: u64) -> (u64, String) {
    (request_id, "ok".into())
}

fn broken(request_id: u64) -> (u64, String) {
    (request_id, "LANE_BROKEN".into())
}

fn unknown(request_id: u64) -> (u64, String) {
    (request_id, "OUTCOME_UNKNOWN".into())
}

/// A session with requests 1 to `count` (ids m1, m2, …) in flight here.
fn in_flight(count: u64) -> (Lanes, Vec<Departure>) {
    let mut lanes = lanes();
    let departures = (1..=count).map(|request_id| {
        lanes.accept("a", request_id, false, append(&format!("m{request_id}")));
        lanes.depart("a", HERE).unwrap()
    });
    let departures = departures.collect();
    (lanes, departures)
}

#[test]
fn a_pipelined_append_names_the_one_in_flight_before_it() {
    let (mut lanes, sent) = in_flight(3);
    let predecessors: Vec<_> = sent.iter().map(|sent| sent.place.predecessor.clone()).collect();
    assert_eq!(predecessors, [None, after(&sent[0]), after(&sent[1])]);
    assert_eq!(sent.iter().map(|sent| sent.opens).collect::<Vec<_>>(), [true, false, false]);
    for (n, sent) in sent.iter().enumerate() {
        lanes.arrive("a", sent.place.attempt, seq(n as u64 + 1));
    }
    assert_eq!(told(&mut lanes), [ok(1), ok(2), ok(3)]);
    lanes.accept("a", 4, false, append("m4"));
    assert_eq!(lanes.depart("a", HERE).unwrap().place.predecessor, None);
}

/// The answer in front tells nothing while an older one is missing: a repeat is told its first outcome in any turn.
#[test]
fn an_append_behind_an_answer_that_came_early_names_its_attempt() {
    let (mut lanes, sent) = in_flight(2);
    lanes.arrive("a", sent[1].place.attempt, seq(2));
    lanes.accept("a", 3, false, append("m3"));
    assert_eq!(lanes.depart("a", HERE).unwrap().place.predecessor, after(&sent[1]));
}

#[test]
fn an_idle_lane_has_no_state_and_a_broken_one_has() {
    let (mut lanes, sent) = in_flight(1);
    lanes.arrive("a", sent[0].place.attempt, seq(1));
    assert_eq!(told(&mut lanes), [ok(1)]);
    assert_eq!((lanes.len(), lanes.requests(), lanes.bytes()), (0, 0, 0));
    let (mut lanes, sent) = in_flight(1);
    lanes.arrive("a", sent[0].place.attempt, failure());
    assert_eq!(told(&mut lanes), [unknown(1)]);
    assert_eq!((lanes.len(), lanes.requests()), (1, 0));
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let (mut lanes, sent) = in_flight(2);
    lanes.arrive("a", sent[1].place.attempt, seq(2));
    assert_eq!(told(&mut lanes), []);
    lanes.arrive("a", sent[0].place.attempt, seq(1));
    assert_eq!(told(&mut lanes), [ok(1), ok(2)]);
}

#[test]
fn a_lane_fails_from_the_first_failure_on() {
    let (mut lanes, sent) = in_flight(3);
    lanes.accept("a", 4, false, append("m4"));
    lanes.arrive("a", sent[0].place.attempt, seq(1));
    lanes.arrive("a", sent[1].place.attempt, failure());
    assert_eq!(told(&mut lanes), [ok(1), unknown(2)]);
    assert_eq!(lanes.depart("a", HERE), None, "what waited behind the failure is not sent");
    lanes.arrive("a", sent[2].place.attempt, seq(3));
    assert_eq!(told(&mut lanes), [broken(3), broken(4)]);
    lanes.accept("a", 5, false, append("m5"));
    assert_eq!(told(&mut lanes), [broken(5)]);
}

#[test]
fn behind_a_failure_the_answer_says_whether_there_may_be_an_effect() {
    let (mut lanes, sent) = in_flight(2);
    lanes.accept("a", 3, false, append("m3"));
    lanes.arrive("a", sent[0].place.attempt, failure());
    lanes.arrive("a", sent[1].place.attempt, seq(2));
    let effects: Vec<bool> = lanes
        .answers("a")
        .into_iter()
        .map(|(_, result)| result.unwrap_err().may_have_taken_effect())
        .collect();
    assert_eq!(effects, [true, true, false]);
}

#[test]
fn a_reset_lane_waits_for_what_was_in_flight_and_then_goes_on() {
    let (mut lanes, sent) = in_flight(2);
    lanes.arrive("a", sent[0].place.attempt, failure());
    assert_eq!(told(&mut lanes), [unknown(1)]);
    lanes.accept("a", 3, true, append("m1"));
    assert_eq!(lanes.depart("a", HERE), None);
    lanes.arrive("a", sent[1].place.attempt, failure());
    assert_eq!(told(&mut lanes), [broken(2)]);
    let departure = lanes.depart("a", HERE).unwrap();
    assert_eq!((departure.place.predecessor.clone(), departure.opens), (None, true));
    lanes.accept("a", 4, false, append("m2"));
    assert_eq!(lanes.depart("a", HERE).unwrap().place.predecessor, after(&departure));
}

#[test]
fn a_late_failure_of_the_old_epoch_does_not_break_the_new_one() {
    let (mut lanes, sent) = in_flight(2);
    lanes.arrive("a", sent[0].place.attempt, failure());
    lanes.accept("a", 3, true, append("m1"));
    lanes.arrive("a", sent[1].place.attempt, failure());
    let departure = lanes.depart("a", HERE).unwrap();
    lanes.arrive("a", departure.place.attempt, seq(1));
    assert_eq!(told(&mut lanes), [unknown(1), broken(2), ok(3)]);
}

#[test]
fn a_lane_goes_elsewhere_only_when_nothing_is_in_flight() {
    let (mut lanes, sent) = in_flight(1);
    lanes.accept("a", 2, false, append("m2"));
    assert_eq!(lanes.depart("a", THERE), None);
    lanes.arrive("a", sent[0].place.attempt, seq(1));
    let departure = lanes.depart("a", THERE).unwrap();
    assert_eq!((departure.place.predecessor.clone(), departure.opens), (None, true));
    let other_stream = Destination::There { node: NodeId(2), stream: 1 };
    lanes.accept("a", 3, false, append("m3"));
    assert_eq!(lanes.depart("a", other_stream), None);
}

#[test]
fn a_request_that_cannot_be_sent_breaks_its_lane_in_its_turn() {
    let (mut lanes, sent) = in_flight(1);
    lanes.accept("a", 2, false, Err(CallError::not_found()));
    lanes.accept("a", 3, false, append("m3"));
    assert!(!lanes.has_waiting("a"));
    assert_eq!(told(&mut lanes), []);
    lanes.arrive("a", sent[0].place.attempt, seq(1));
    assert_eq!(told(&mut lanes), [ok(1), (2, "NOT_FOUND".into()), broken(3)]);
}

#[test]
fn nowhere_to_send_breaks_the_lane() {
    let mut lanes = lanes();
    lanes.accept("a", 1, false, append("m1"));
    lanes.accept("a", 2, false, append("m2"));
    lanes.fail_waiting("a", CallError::not_leader(None));
    assert_eq!(told(&mut lanes), [(1, "NO_LEADER".into()), broken(2)]);
}

#[test]
fn other_lanes_go_on() {
    let (mut lanes, sent) = in_flight(1);
    lanes.arrive("a", sent[0].place.attempt, failure());
    lanes.accept("b", 2, false, append("m2"));
    let departure = lanes.depart("b", HERE).unwrap();
    lanes.arrive("b", departure.place.attempt, seq(1));
    assert_eq!(lanes.answers("b"), [(2, seq(1))]);
}

/// What happens to a lane, in any order.
#[derive(Clone, Debug)]
enum Step {
    Accept { reset: bool },
    Depart { there: bool },
    Arrive { which: usize, fails: bool },
    FailWaiting,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<bool>().prop_map(|reset| Step::Accept { reset }),
        4 => any::<bool>().prop_map(|there| Step::Depart { there }),
        4 => (any::<usize>(), prop::bool::weighted(0.2))
            .prop_map(|(which, fails)| Step::Arrive { which, fails }),
        1 => Just(Step::FailWaiting),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    /// Every request is answered once and in order; within an epoch nothing succeeds behind a failure; and what is
    /// in flight is at one destination.
    #[test]
    fn order_holds_whatever_happens(steps in steps()) {
        let mut lanes = lanes();
        let mut accepted: u64 = 0;
        let mut resets = Vec::new();
        let mut flying: Vec<(AttemptId, Destination)> = Vec::new();
        let mut answers = Vec::new();
        for step in steps {
            match step {
                Step::Accept { reset } => {
                    accepted += 1;
                    if reset {
                        resets.push(accepted);
                    }
                    lanes.accept("a", accepted, reset, append(&format!("m{accepted}")));
                }
                Step::Depart { there } => {
                    let destination = if there { THERE } else { HERE };
                    if let Some(departure) = lanes.depart("a", destination) {
                        prop_assert_eq!(departure.opens, flying.is_empty());
                        prop_assert!(flying.iter().all(|(_, other)| *other == destination));
                        flying.push((departure.place.attempt, destination));
                    }
                }
                Step::Arrive { which, fails } if !flying.is_empty() => {
                    let (attempt, _) = flying.remove(which % flying.len());
                    lanes.arrive("a", attempt, if fails { failure() } else { seq(1) });
                }
                Step::Arrive { .. } => {}
                Step::FailWaiting => lanes.fail_waiting("a", CallError::not_leader(None)),
            }
            answers.extend(lanes.answers("a"));
        }
        for (attempt, _) in flying.drain(..) {
            lanes.arrive("a", attempt, seq(1));
        }
        while lanes.has_waiting("a") {
            lanes.fail_waiting("a", CallError::not_leader(None));
        }
        answers.extend(lanes.answers("a"));
        let mut failed = false;
        for (expected, (request_id, result)) in (1..).zip(&answers) {
            prop_assert_eq!(*request_id, expected);
            failed &= !resets.contains(request_id);
            prop_assert!(!(failed && result.is_ok()), "request {} succeeded", request_id);
            failed |= result.is_err();
        }
        prop_assert_eq!(answers.len() as u64, accepted);
        prop_assert_eq!((lanes.requests(), lanes.bytes()), (0, 0));
    }
}

#[test]
fn an_append_without_content_takes_memory_until_it_is_answered() {
    let mut lanes = lanes();
    lanes.accept("a", 1, false, append("m1"));
    let message = size_of::<NewMessage>();
    assert!(lanes.bytes() >= message, "{}", lanes.bytes());
    let sent = lanes.depart("a", HERE).unwrap();
    assert!(lanes.bytes() >= message, "{}", lanes.bytes());
    lanes.arrive("a", sent.place.attempt, seq(1));
    assert_eq!(told(&mut lanes), [ok(1)]);
    assert_eq!(lanes.bytes(), 0);
}
