//! Pipelined appends. A lane that fails is opened again once everything in it has failed.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_client::SessionOptions;
use rand::Rng;

use super::{CALL_TIMEOUT, Worker, Workload};
use crate::history::LanePlace;

/// Appends in flight on one session.
const IN_FLIGHT_MAX: usize = 24;
/// Conversations of one session, and so lanes.
const LANES: usize = 4;

pub(super) const WORKLOAD: Workload = Workload {
    name: "session",
    about: "pipelined appends on lanes that are opened again after a failure (G5)",
    workers: 3,
    share: 15,
    work: |worker| Box::pin(work(worker)),
};

#[derive(Default)]
struct Lane {
    reset: u64,
    position: u64,
    outstanding: u32,
    has_failed: bool,
}

async fn work(mut worker: Worker) {
    let Some(caller) = worker.caller().await else { return };
    let options = SessionOptions {
        in_flight_max: IN_FLIGHT_MAX,
        append_timeout: CALL_TIMEOUT + Duration::from_secs(1),
        ..SessionOptions::default()
    };
    let Ok(session) = caller.client.session(options) else { return };
    let sender = format!("session-{}", worker.number);
    let all = worker.floor.conversations.len();
    let names: Vec<String> = (0..LANES)
        .map(|lane| worker.floor.conversations[(lane * 3 + worker.number as usize) % all].clone())
        .collect();
    let mut lanes: HashMap<String, Lane> = HashMap::new();
    let mut answers = FuturesUnordered::new();
    let mut is_on = true;
    while is_on || !answers.is_empty() {
        let next = tokio::select! {
            Some(answered) = answers.next() => Some(answered),
            goes_on = worker.pause(), if is_on => {
                is_on = goes_on;
                None
            }
        };
        if let Some((name, has_failed)) = next {
            let name: String = name;
            let lane = lanes.entry(name.clone()).or_default();
            lane.outstanding -= 1;
            lane.has_failed |= has_failed;
            if lane.has_failed && lane.outstanding == 0 {
                session.resume(&name).await;
                *lane = Lane { reset: lane.reset + 1, ..Lane::default() };
            }
            continue;
        }
        // A few at once, so that there is something to keep in order.
        let conversation = &names[worker.dice.random_range(0..names.len())];
        for _ in 0..worker.dice.random_range(1..=4) {
            let lane = lanes.entry(conversation.clone()).or_default();
            if !is_on || lane.has_failed || answers.len() >= IN_FLIGHT_MAX {
                break;
            }
            let place = LanePlace {
                session: u64::from(worker.number),
                reset: lane.reset,
                position: lane.position,
            };
            lane.position += 1;
            lane.outstanding += 1;
            let mut one = caller.sibling();
            let messages = one.compose(conversation, &sender, 1);
            let append = one.begin_append(&messages, None, Some(place));
            let handle = session.append(append).await;
            let name = conversation.clone();
            answers.push(async move {
                let ended = handle.await;
                let has_failed = one.end_append(&name, ended).is_err();
                (name, has_failed)
            });
        }
    }
}
