//! A group without a quorum: every call ends in time with a retryable error, and what is said of its effect is true.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_client::proto::get_outcome_response::State;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::{
    AppendRequest, GetOutcomeRequest, NewMessage, ReadRequest, SessionRequest, session_response,
};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::harness::{Cluster, append, append_surely, eventually, local, message, read_all};
use super::wire::Refusal;

/// The caller's deadline, and how much later an answer may arrive on a busy machine.
const DEADLINE: Duration = Duration::from_millis(1_500);
const LATENESS: Duration = Duration::from_millis(1_000);

fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// The error of a call that has to fail in time, as the server says it. On a busy machine the caller's own transport
/// may give up just before that arrives; then it is asked again.
async fn failure<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Refusal {
    eventually("the server itself says why", async || {
        let began = Instant::now();
        let Err(status) = call().await else { panic!("there is no quorum") };
        assert!(began.elapsed() < DEADLINE + LATENESS, "{:?}: {status:?}", began.elapsed());
        if status.get_error_details().error_info().is_none() {
            assert_eq!(status.code(), Code::Cancelled, "{status:?}");
            return None;
        }
        let refusal = Refusal::of(&status);
        assert_eq!(refusal.code, Code::Unavailable, "{refusal:?}");
        assert!(refusal.retryable && refusal.retry_delay.is_some(), "{refusal:?}");
        Some(refusal)
    })
    .await
}

/// What was said of each append while there was no quorum: whether it may have taken effect.
type Said = BTreeMap<(String, String), (NewMessage, bool)>;

fn note(said: &mut Said, request: &AppendRequest, refusal: &Refusal) {
    let message = request.messages[0].clone();
    let key = (request.conversation.clone(), message.client_msg_id.clone());
    said.insert(key, (message, refusal.may_have_taken_effect));
}

async fn session_failure(
    client: &mut MessageLogClient<Channel>,
    request: AppendRequest,
) -> Refusal {
    let request = SessionRequest { request_id: 1, append: Some(request), reset_lane: false };
    let call = client.append_session(with_deadline(futures::stream::iter([request])));
    let mut responses = call.await.unwrap().into_inner();
    let began = Instant::now();
    let response = responses.message().await.unwrap().expect("an answer");
    assert!(began.elapsed() < DEADLINE + LATENESS, "{:?}", began.elapsed());
    let Some(session_response::Result::Failed(failure)) = response.result else {
        panic!("{response:?}");
    };
    let refusal = Refusal::in_stream(failure);
    assert_eq!(refusal.code, Code::Unavailable, "{refusal:?}");
    assert!(refusal.retryable && refusal.retry_delay.is_some(), "{refusal:?}");
    refusal
}

fn outcome_of(conversation: &str, message: &NewMessage, settle: bool) -> GetOutcomeRequest {
    GetOutcomeRequest {
        conversation: conversation.to_owned(),
        sender: "ann".to_owned(),
        client_msg_id: message.client_msg_id.clone(),
        issued_at_us: message.issued_at_us,
        settle,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_every_call_fails_in_time_and_tells_the_truth_about_its_effect() {
    let mut cluster = Cluster::start(3, "").await;
    let led_here = cluster.conversation_led_by(1).await;
    let led_there = cluster.conversation_led_by(2).await;
    let mut client = cluster.messages(1);
    for conversation in [&led_here, &led_there] {
        append_surely(&mut client, append(conversation, vec![message("before", "b")])).await;
        // What a quorum without this node has acknowledged may not be applied here yet.
        eventually("it is applied here", async || {
            let here = read_all(&mut client, conversation, local()).await.ok()?;
            (!here.is_empty()).then_some(())
        })
        .await;
    }
    cluster.kill(2).await;
    cluster.kill(3).await;

    let mut said = Said::new();
    // This node leads: the entry is proposed, and nobody can say what becomes of it.
    let request = append(&led_here, vec![message("proposed", "p")]);
    let refusal = failure(async || client.append(with_deadline(request.clone())).await).await;
    assert!(refusal.may_have_taken_effect, "it was proposed: {refusal:?}");
    note(&mut said, &request, &refusal);
    let request = append(&led_here, vec![message("proposed in session", "p")]);
    let refusal = session_failure(&mut client, request.clone()).await;
    note(&mut said, &request, &refusal);

    // Another node led. Once its connection is known to be gone nothing is sent any more, and it is said so.
    for (name, session) in [("call", false), ("session", true)] {
        let mut number = 0;
        eventually("an append is known to have had no effect", async || {
            number += 1;
            let request = append(&led_there, vec![message(&format!("{name} {number}"), "x")]);
            let refusal = match session {
                true => session_failure(&mut client, request.clone()).await,
                false => {
                    failure(async || client.append(with_deadline(request.clone())).await).await
                }
            };
            note(&mut said, &request, &refusal);
            (!refusal.may_have_taken_effect).then_some(())
        })
        .await;
    }

    for conversation in [&led_here, &led_there] {
        let request = ReadRequest { conversation: conversation.clone(), ..ReadRequest::default() };
        let read = failure(async || client.read(with_deadline(request.clone())).await).await;
        assert!(!read.may_have_taken_effect, "a read has no effect: {read:?}");
        let request = outcome_of(conversation, &message("before", "b"), false);
        let outcome =
            failure(async || client.get_outcome(with_deadline(request.clone())).await).await;
        assert!(!outcome.may_have_taken_effect, "{outcome:?}");
        let unsettled = message("to be burnt", "x");
        let request = outcome_of(conversation, &unsettled, true);
        let refusal =
            failure(async || client.get_outcome(with_deadline(request.clone())).await).await;
        note(&mut said, &append(conversation, vec![unsettled]), &refusal);
        // What was applied is still read, by whoever does not ask for more.
        let here = read_all(&mut client, conversation, local()).await.unwrap();
        assert_eq!(here[0].client_msg_id, "before");
    }

    eventually("the survivor is not ready, whoever it takes for the leader", async || {
        let (status, body) = cluster.page(1, "/readyz").await?;
        (status == 503 && body.contains("most voters of group")).then_some(())
    })
    .await;
    cluster.restart(2).await;
    cluster.restart(3).await;
    cluster.wait_ready().await;
    compare(&mut client, said).await;
    cluster.assert_no_panic(3);
    cluster.stop().await;
}

/// What was said to have had no effect is not there, and what is sent again is there once.
async fn compare(client: &mut MessageLogClient<Channel>, said: Said) {
    for ((conversation, id), (message, may_have_taken_effect)) in said {
        let settled = id == "to be burnt";
        let outcome = eventually("the outcome is known", async || {
            let request = outcome_of(&conversation, &message, false);
            client.get_outcome(request).await.ok().map(tonic::Response::into_inner)
        })
        .await;
        if !may_have_taken_effect {
            assert_eq!(outcome.state(), State::NotCommitted, "{conversation}: {id}");
        }
        match outcome.state() {
            State::Burnt => assert!(settled, "{conversation}: {id}"),
            _ => {
                append_surely(client, append(&conversation, vec![message])).await;
            }
        }
        let all = read_all(client, &conversation, None).await.unwrap();
        let times = all.iter().filter(|message| message.client_msg_id == id).count();
        assert_eq!(times, usize::from(outcome.state() != State::Burnt), "{conversation}: {id}");
    }
}
