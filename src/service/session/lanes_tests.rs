use proptest::prelude::*;
use quorate_client::proto::NewMessage;

use super::*;
use crate::types::allocated;

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

/// Accepts a request to a conversation.
fn accept(
    lanes: &mut Lanes,
    conversation: &str,
    request_id: u64,
    reset: bool,
    append: Result<AppendRequest, CallError>,
) {
    let lane = lanes.of(conversation);
    lanes.accept(lane, request_id, reset, append);
}

/// Sends the next request to a conversation, if it may be sent there now.
fn depart(lanes: &mut Lanes, conversation: &str, destination: Destination) -> Option<Departure> {
    let lane = *lanes.names.get(conversation)?;
    lanes.depart(lane, destination)
}

fn has_waiting(lanes: &mut Lanes, conversation: &str) -> bool {
    let lane = lanes.names.get(conversation).copied();
    lane.is_some_and(|lane| lanes.waiting(lane) == Some(ConversationId::of(conversation)))
}

fn fail_waiting(lanes: &mut Lanes, error: CallError) {
    if let Some(lane) = lanes.names.get("a").copied() {
        lanes.fail_waiting(lane, error);
    }
}

fn taken(lanes: &mut Lanes, conversation: &str) -> Vec<Answer> {
    let mut answers = VecDeque::new();
    if let Some(lane) = lanes.names.get(conversation).copied() {
        lanes.answers(lane, &mut answers);
    }
    answers.into()
}

fn seq(first_seq: u64) -> Result<AppendResponse, CallError> {
    Ok(AppendResponse { first_seq, last_seq: first_seq, ..AppendResponse::default() })
}

fn failure() -> Result<AppendResponse, CallError> {
    Err(CallError::outcome_unknown("lost"))
}

/// Request ids with "ok" or the reason of the failure.
fn told(lanes: &mut Lanes) -> Vec<(u64, String)> {
    let answers = taken(lanes, "a").into_iter();
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
        accept(&mut lanes, "a", request_id, false, append(&format!("m{request_id}")));
        depart(&mut lanes, "a", HERE).unwrap()
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
        lanes.arrive(sent.slot, seq(n as u64 + 1));
    }
    assert_eq!(told(&mut lanes), [ok(1), ok(2), ok(3)]);
    accept(&mut lanes, "a", 4, false, append("m4"));
    assert_eq!(depart(&mut lanes, "a", HERE).unwrap().place.predecessor, None);
}

/// The answer in front tells nothing while an older one is missing: a repeat is told its first outcome in any turn.
#[test]
fn an_append_behind_an_answer_that_came_early_names_its_attempt() {
    let (mut lanes, sent) = in_flight(2);
    lanes.arrive(sent[1].slot, seq(2));
    accept(&mut lanes, "a", 3, false, append("m3"));
    assert_eq!(depart(&mut lanes, "a", HERE).unwrap().place.predecessor, after(&sent[1]));
}

#[test]
fn an_idle_lane_has_no_state_and_a_broken_one_has() {
    let (mut lanes, sent) = in_flight(1);
    lanes.arrive(sent[0].slot, seq(1));
    assert_eq!(told(&mut lanes), [ok(1)]);
    assert_eq!((lanes.len(), lanes.requests(), lanes.bytes()), (0, 0, 0));
    let (mut lanes, sent) = in_flight(1);
    lanes.arrive(sent[0].slot, failure());
    assert_eq!(told(&mut lanes), [unknown(1)]);
    assert_eq!((lanes.len(), lanes.requests()), (1, 0));
}

#[test]
fn a_broken_lane_holds_no_more_than_is_counted() {
    let (mut lanes, sent) = in_flight(100);
    for departure in &sent {
        lanes.arrive(departure.slot, failure());
    }
    assert_eq!(told(&mut lanes).len(), 100);
    let lane = &lanes.lanes[&lanes.names["a"]];
    assert_eq!(lane.requests.capacity(), 0);
    // A table is seven eighths full at most, and half of that after it has grown.
    let places = size_of::<(LaneId, Lane)>() + size_of::<(Arc<str>, LaneId)>() + 2;
    let name = allocated(limits::CONVERSATION_NAME_BYTES_MAX);
    assert!(16 * places / 7 + name + 4 * size_of::<Request>() <= limits::LANE_BYTES);
    accept(&mut lanes, "a", 101, true, append("m101"));
    let again = depart(&mut lanes, "a", HERE).unwrap();
    lanes.arrive(again.slot, seq(1));
    assert_eq!((told(&mut lanes), lanes.len()), (vec![ok(101)], 0));
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let (mut lanes, sent) = in_flight(2);
    lanes.arrive(sent[1].slot, seq(2));
    assert_eq!(told(&mut lanes), []);
    lanes.arrive(sent[0].slot, seq(1));
    assert_eq!(told(&mut lanes), [ok(1), ok(2)]);
}

#[test]
fn a_lane_fails_from_the_first_failure_on() {
    let (mut lanes, sent) = in_flight(3);
    accept(&mut lanes, "a", 4, false, append("m4"));
    lanes.arrive(sent[0].slot, seq(1));
    lanes.arrive(sent[1].slot, failure());
    assert_eq!(told(&mut lanes), [ok(1), unknown(2)]);
    assert_eq!(depart(&mut lanes, "a", HERE), None, "what waited behind the failure is not sent");
    lanes.arrive(sent[2].slot, seq(3));
    assert_eq!(told(&mut lanes), [broken(3), broken(4)]);
    accept(&mut lanes, "a", 5, false, append("m5"));
    assert_eq!(told(&mut lanes), [broken(5)]);
}

#[test]
fn behind_a_failure_the_answer_says_whether_there_may_be_an_effect() {
    let (mut lanes, sent) = in_flight(2);
    accept(&mut lanes, "a", 3, false, append("m3"));
    lanes.arrive(sent[0].slot, failure());
    lanes.arrive(sent[1].slot, seq(2));
    let effects: Vec<bool> = taken(&mut lanes, "a")
        .into_iter()
        .map(|(_, result)| result.unwrap_err().may_have_taken_effect())
        .collect();
    assert_eq!(effects, [true, true, false]);
}

#[test]
fn a_reset_lane_waits_for_what_was_in_flight_and_then_goes_on() {
    let (mut lanes, sent) = in_flight(2);
    lanes.arrive(sent[0].slot, failure());
    assert_eq!(told(&mut lanes), [unknown(1)]);
    accept(&mut lanes, "a", 3, true, append("m1"));
    assert_eq!(depart(&mut lanes, "a", HERE), None);
    lanes.arrive(sent[1].slot, failure());
    assert_eq!(told(&mut lanes), [broken(2)]);
    let departure = depart(&mut lanes, "a", HERE).unwrap();
    assert_eq!((departure.place.predecessor.clone(), departure.opens), (None, true));
    accept(&mut lanes, "a", 4, false, append("m2"));
    assert_eq!(depart(&mut lanes, "a", HERE).unwrap().place.predecessor, after(&departure));
}

#[test]
fn a_late_failure_of_the_old_epoch_does_not_break_the_new_one() {
    let (mut lanes, sent) = in_flight(2);
    lanes.arrive(sent[0].slot, failure());
    accept(&mut lanes, "a", 3, true, append("m1"));
    lanes.arrive(sent[1].slot, failure());
    let departure = depart(&mut lanes, "a", HERE).unwrap();
    lanes.arrive(departure.slot, seq(1));
    assert_eq!(told(&mut lanes), [unknown(1), broken(2), ok(3)]);
}

#[test]
fn a_lane_goes_elsewhere_only_when_nothing_is_in_flight() {
    let (mut lanes, sent) = in_flight(1);
    accept(&mut lanes, "a", 2, false, append("m2"));
    assert_eq!(depart(&mut lanes, "a", THERE), None);
    lanes.arrive(sent[0].slot, seq(1));
    let departure = depart(&mut lanes, "a", THERE).unwrap();
    assert_eq!((departure.place.predecessor.clone(), departure.opens), (None, true));
    let other_stream = Destination::There { node: NodeId(2), stream: 1 };
    accept(&mut lanes, "a", 3, false, append("m3"));
    assert_eq!(depart(&mut lanes, "a", other_stream), None);
}

#[test]
fn a_request_that_cannot_be_sent_breaks_its_lane_in_its_turn() {
    let (mut lanes, sent) = in_flight(1);
    accept(&mut lanes, "a", 2, false, Err(CallError::not_found()));
    accept(&mut lanes, "a", 3, false, append("m3"));
    assert!(!has_waiting(&mut lanes, "a"));
    assert_eq!(told(&mut lanes), []);
    lanes.arrive(sent[0].slot, seq(1));
    assert_eq!(told(&mut lanes), [ok(1), (2, "NOT_FOUND".into()), broken(3)]);
}

#[test]
fn nowhere_to_send_breaks_the_lane() {
    let mut lanes = lanes();
    accept(&mut lanes, "a", 1, false, append("m1"));
    accept(&mut lanes, "a", 2, false, append("m2"));
    fail_waiting(&mut lanes, CallError::not_leader(None));
    assert_eq!(told(&mut lanes), [(1, "NO_LEADER".into()), broken(2)]);
}

#[test]
fn other_lanes_go_on() {
    let (mut lanes, sent) = in_flight(1);
    lanes.arrive(sent[0].slot, failure());
    accept(&mut lanes, "b", 2, false, append("m2"));
    let departure = depart(&mut lanes, "b", HERE).unwrap();
    lanes.arrive(departure.slot, seq(1));
    assert_eq!(taken(&mut lanes, "b"), [(2, seq(1))]);
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
    /// Every request is answered once and in order; within an epoch nothing succeeds behind a failure; what is in flight
    /// is at one destination; and each names the attempt that was sent before it, unless nothing is in flight.
    #[test]
    fn order_holds_whatever_happens(steps in steps()) {
        let mut lanes = lanes();
        let mut accepted: u64 = 0;
        let mut resets = Vec::new();
        let mut flying: Vec<(Slot, Destination)> = Vec::new();
        let mut before = None;
        let mut answers = Vec::new();
        for step in steps {
            match step {
                Step::Accept { reset } => {
                    accepted += 1;
                    if reset {
                        resets.push(accepted);
                    }
                    accept(&mut lanes, "a", accepted, reset, append(&format!("m{accepted}")));
                }
                Step::Depart { there } => {
                    let destination = if there { THERE } else { HERE };
                    if let Some(departure) = depart(&mut lanes, "a", destination) {
                        prop_assert_eq!(departure.opens, flying.is_empty());
                        prop_assert!(flying.iter().all(|(_, other)| *other == destination));
                        let named = before.filter(|_| !departure.opens);
                        let predecessor = departure.place.predecessor;
                        prop_assert_eq!(predecessor.map(|named| named.attempt), named);
                        before = Some(departure.place.attempt);
                        flying.push((departure.slot, destination));
                    }
                }
                Step::Arrive { which, fails } if !flying.is_empty() => {
                    let (slot, _) = flying.remove(which % flying.len());
                    lanes.arrive(slot, if fails { failure() } else { seq(1) });
                }
                Step::Arrive { .. } => {}
                Step::FailWaiting => fail_waiting(&mut lanes, CallError::not_leader(None)),
            }
            answers.extend(taken(&mut lanes, "a"));
        }
        for (slot, _) in flying.drain(..) {
            lanes.arrive(slot, seq(1));
        }
        while has_waiting(&mut lanes, "a") {
            fail_waiting(&mut lanes, CallError::not_leader(None));
        }
        answers.extend(taken(&mut lanes, "a"));
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
    accept(&mut lanes, "a", 1, false, append("m1"));
    let message = size_of::<NewMessage>();
    assert!(lanes.bytes() >= message, "{}", lanes.bytes());
    let sent = depart(&mut lanes, "a", HERE).unwrap();
    assert!(lanes.bytes() >= message, "{}", lanes.bytes());
    lanes.arrive(sent.slot, seq(1));
    assert_eq!(told(&mut lanes), [ok(1)]);
    assert_eq!(lanes.bytes(), 0);
}
