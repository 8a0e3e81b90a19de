use std::time::Duration;

use super::*;
use crate::error::Effect;

type Outcome = oneshot::Receiver<Result<proto::AppendResponse, Error>>;

fn lane_of(count: u64) -> (Lane, Vec<Outcome>) {
    let mut lane = Lane::new();
    let outcomes = (0..count)
        .map(|n| {
            let (done, outcome) = oneshot::channel();
            let request = proto::AppendRequest { sender: n.to_string(), ..Default::default() };
            let deadline = Instant::now() + Duration::from_secs(n + 1);
            lane.push(Pending::new(&request, deadline, done, None));
            outcome
        })
        .collect();
    (lane, outcomes)
}

/// Sends all that can be sent and returns who is sent, and on which requests the lane is opened again.
fn send_all(lane: &mut Lane, first_id: u64) -> Vec<(String, bool)> {
    let mut sent = Vec::new();
    while let Some(request) = lane.next_request(first_id + sent.len() as u64) {
        lane.mark_sent(request.request_id);
        let append = proto::AppendRequest::decode(request.append.unwrap()).unwrap();
        sent.push((append.sender, request.reset_lane));
    }
    sent
}

/// Takes the success of a request and tells its caller.
fn succeed(lane: &mut Lane, request_id: u64) {
    lane.succeed(request_id).map(|first| first.succeed(proto::AppendResponse::default())).unwrap();
}

fn failure(retryable: bool, may_have_taken_effect: bool) -> Error {
    Error::from_failure(proto::Failure {
        reason: "SOME".to_owned(),
        retryable,
        may_have_taken_effect,
        ..Default::default()
    })
}

fn in_order(resets: &[bool], first: u64) -> Vec<(String, bool)> {
    resets.iter().zip(first..).map(|(reset, n)| (n.to_string(), *reset)).collect()
}

#[tokio::test]
async fn a_retryable_failure_sends_the_rest_again_in_order_and_opens_the_lane() {
    let (mut lane, mut outcomes) = lane_of(3);
    assert_eq!(send_all(&mut lane, 1), in_order(&[true, false, false], 0));
    succeed(&mut lane, 1);
    assert!(outcomes.remove(0).await.unwrap().is_ok());

    assert!(matches!(lane.fail(2, &failure(true, false)), Ok(Failed::Again)));
    assert_eq!(send_all(&mut lane, 10), in_order(&[true, false], 1));
    succeed(&mut lane, 10);
    succeed(&mut lane, 11);
    assert!(lane.is_empty() && !lane.is_in_flight());
}

#[tokio::test]
async fn a_final_failure_fails_the_lane_behind_it() {
    let (mut lane, outcomes) = lane_of(3);
    send_all(&mut lane, 1);
    assert!(matches!(lane.fail(1, &failure(false, false)), Ok(Failed::Broken)));
    let mut errors = Vec::new();
    for outcome in outcomes {
        errors.push(outcome.await.unwrap().unwrap_err());
    }
    assert_eq!(errors[0].reason(), "SOME");
    assert!(errors[1..].iter().all(|e| e.reason() == reason::LANE_BROKEN && e.retryable()));
    assert!(errors.iter().all(|e| !e.may_have_taken_effect()));
}

#[tokio::test]
async fn what_is_too_old_casts_no_doubt_on_what_is_behind_it() {
    let (mut lane, outcomes) = lane_of(3);
    send_all(&mut lane, 1);
    let too_old = Error::local(Code::FailedPrecondition, reason::TOO_OLD, "").with_effect(true);
    assert!(matches!(lane.fail(1, &too_old), Ok(Failed::Broken)));
    let mut told = Vec::new();
    for outcome in outcomes {
        let error = outcome.await.unwrap().unwrap_err();
        told.push((error.reason().to_owned(), error.may_have_taken_effect()));
    }
    let behind = (reason::LANE_BROKEN.to_owned(), false);
    assert_eq!(told, [(reason::TOO_OLD.to_owned(), true), behind.clone(), behind]);
}

#[tokio::test]
async fn an_uncertain_attempt_is_remembered_through_later_certain_ones() {
    let (mut lane, mut outcomes) = lane_of(2);
    send_all(&mut lane, 1);
    lane.rewind(&Error::stream_ended(Effect::Possible));
    send_all(&mut lane, 3);
    assert!(matches!(lane.fail(3, &failure(false, false)), Ok(Failed::Broken)));
    for outcome in outcomes.drain(..) {
        assert!(outcome.await.unwrap().unwrap_err().may_have_taken_effect());
    }
}

#[test]
fn an_answer_out_of_order_is_a_violation_and_changes_nothing() {
    let (mut lane, _outcomes) = lane_of(2);
    send_all(&mut lane, 1);
    assert!(lane.succeed(2).is_err());
    assert!(lane.fail(2, &failure(false, false)).is_err());
    assert_eq!(lane.ids_in_flight().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_broken_lane_at_the_server_is_sent_again() {
    let (mut lane, _outcomes) = lane_of(2);
    send_all(&mut lane, 1);
    let broken = Error::local(Code::Aborted, reason::LANE_BROKEN, "");
    assert!(matches!(lane.fail(1, &broken), Ok(Failed::Again)));
}

/// An append that no server takes.
fn oversized() -> (Pending, Outcome) {
    let (done, outcome) = oneshot::channel();
    let payload = vec![0; limits::REQUEST_BYTES_MAX].into();
    let messages = vec![proto::NewMessage { payload, ..Default::default() }];
    let request = proto::AppendRequest { messages, ..Default::default() };
    (Pending::new(&request, Instant::now() + Duration::from_secs(9), done, None), outcome)
}

#[tokio::test]
async fn what_no_server_takes_stops_its_lane_behind_what_is_before_it() {
    let (mut lane, mut outcomes) = lane_of(2);
    let (pending, refused) = oversized();
    lane.push(pending);
    assert_eq!(send_all(&mut lane, 1).len(), 2);
    assert!(!lane.has_unsent() && lane.refusal().is_none());
    for id in [1, 2] {
        succeed(&mut lane, id);
        assert!(outcomes.remove(0).await.unwrap().is_ok());
    }
    let refusal = lane.refusal().expect("it is the first now");
    lane.break_off(refusal);
    let error = refused.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), reason::LIMIT_EXCEEDED);
    assert!(!error.may_have_taken_effect());
    assert!(lane.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_append_that_was_overtaken_on_its_way_here_waits_as_long_as_those_before_it() {
    let (mut lane, _outcomes) = lane_of(2);
    let (done, _outcome) = oneshot::channel();
    let (sooner, later) = (Duration::from_millis(1), Duration::from_secs(2));
    let began = Instant::now();
    lane.push(Pending::new(&proto::AppendRequest::default(), began + sooner, done, None));
    send_all(&mut lane, 1);
    for id in [1, 2] {
        succeed(&mut lane, id);
    }
    assert!(lane.expired(began + sooner).is_none());
    assert!(lane.expired(began + later).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_first_appends_deadline_is_the_lanes() {
    let (mut lane, _outcomes) = lane_of(2);
    assert!(lane.expired(Instant::now()).is_none());
    let later = Instant::now() + Duration::from_secs(1);
    assert!(!lane.expired(later).unwrap().may_have_taken_effect());
    send_all(&mut lane, 1);
    assert!(lane.expired(later).unwrap().may_have_taken_effect());
}
