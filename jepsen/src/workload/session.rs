//! Pipelined appends. A lane that fails is opened again once everything in it has ended, mostly with what failed in it.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use quorate_client::{Session, SessionOptions};
use rand::Rng;

use super::{CALL_TIMEOUT, Caller, Recent, Worker, Workload};
use crate::history::LanePlace;

pub(super) const SESSION: Workload = Workload {
    name: "session",
    about: "pipelined appends on lanes that are opened again after a failure (G5)",
    workers: 3,
    share: 15,
    work: |worker| Box::pin(in_bursts(worker)),
};

/// What `quorate bench append --producers 8 --in-flight 128` does.
pub(super) const BENCHMARK: Workload = Workload {
    name: "benchmark",
    about: "128 appends in flight on each of 8 sessions, as fast as the cluster takes them (G1, G5)",
    workers: 8,
    share: 0,
    work: |worker| Box::pin(without_pause(worker)),
};

/// A session with everything that is in flight on it.
struct Pipeline {
    caller: Caller,
    session: Session,
    /// Of its worker: no other session of the run has it.
    number: u32,
    in_flight_max: usize,
    conversations: Vec<String>,
    lanes: HashMap<String, Lane>,
    in_flight: FuturesUnordered<BoxFuture<'static, Ended>>,
}

#[derive(Default)]
struct Lane {
    reset: u64,
    position: u64,
    outstanding: u32,
    /// With their positions.
    failed: Vec<(u64, Recent)>,
}

/// How an append ended.
struct Ended {
    message: Recent,
    position: u64,
    has_failed: bool,
}

/// A few at once, so that there is something to keep in order, and then a pause.
async fn in_bursts(mut worker: Worker) {
    let Some(mut pipeline) = Pipeline::open(&worker, 24, 4).await else { return };
    let mut is_on = true;
    while is_on || !pipeline.in_flight.is_empty() {
        tokio::select! {
            Some(ended) = pipeline.in_flight.next() => {
                let sends_again = is_on && worker.dice.random_bool(0.7);
                pipeline.take(ended, sends_again).await;
            }
            goes_on = worker.pause(), if is_on => {
                is_on = goes_on;
                let lane = worker.dice.random_range(0..pipeline.conversations.len());
                for _ in 0..worker.dice.random_range(1..=4) {
                    if is_on {
                        pipeline.append(lane).await;
                    }
                }
            }
        }
    }
}

/// A closed loop: whatever has ended is followed by another.
async fn without_pause(mut worker: Worker) {
    let Some(mut pipeline) = Pipeline::open(&worker, 128, 8).await else { return };
    let lanes = pipeline.conversations.len();
    for lane in (0..lanes).cycle().take(pipeline.in_flight_max) {
        pipeline.append(lane).await;
    }
    let mut next_lane = 0;
    while let Some(ended) = pipeline.in_flight.next().await {
        let sends_again = !worker.stop.is_cancelled() && worker.dice.random_bool(0.7);
        pipeline.take(ended, sends_again).await;
        // A lane that has failed takes nothing until it is opened again.
        for _ in 0..lanes {
            if !worker.stop.is_cancelled() && pipeline.has_room() {
                pipeline.append(next_lane).await;
                next_lane = (next_lane + 1) % lanes;
            }
        }
    }
}

impl Pipeline {
    /// None if the run ends before a node answers.
    async fn open(worker: &Worker, in_flight_max: usize, lanes: usize) -> Option<Pipeline> {
        let caller = worker.caller().await?;
        let options = SessionOptions {
            in_flight_max,
            append_timeout: CALL_TIMEOUT + Duration::from_secs(1),
            ..SessionOptions::default()
        };
        let session = caller.client.session(options).ok()?;
        let all = &worker.floor.conversations;
        let of_lane = |lane: usize| all[(lane * 3 + worker.number as usize) % all.len()].clone();
        Some(Pipeline {
            caller,
            session,
            number: worker.place,
            in_flight_max,
            conversations: (0..lanes).map(of_lane).collect(),
            lanes: HashMap::new(),
            in_flight: FuturesUnordered::new(),
        })
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < self.in_flight_max
    }

    /// Appends something new on a lane, if that has not failed and there is room.
    async fn append(&mut self, lane: usize) {
        let conversation = self.conversations[lane].clone();
        let has_room = self.has_room();
        let lane = self.lanes.entry(conversation.clone()).or_default();
        if lane.failed.is_empty() && has_room {
            let sender = format!("session-{}", self.number);
            let messages = self.caller.compose(&conversation, &sender, 1);
            self.send(messages).await;
        }
    }

    /// Sends one message on its lane.
    async fn send(&mut self, messages: Vec<Recent>) {
        let message = messages[0].clone();
        let lane = self.lanes.entry(message.conversation.clone()).or_default();
        let place = LanePlace {
            session: u64::from(self.number),
            reset: lane.reset,
            position: lane.position,
        };
        lane.position += 1;
        lane.outstanding += 1;
        let position = place.position;
        let mut one = self.caller.sibling();
        let append = one.begin_append(&messages, None, Some(place));
        let handle = self.session.append(append).await;
        self.in_flight.push(Box::pin(async move {
            let ended = handle.await;
            let has_failed = one.end_append(&message.conversation, ended).is_err();
            Ended { message, position, has_failed }
        }));
    }

    /// Takes what has ended. Where that was the last of a lane that failed, the lane is opened again, with what failed or
    /// without: then others may send it.
    async fn take(&mut self, ended: Ended, sends_again: bool) {
        let Ended { message, position, has_failed } = ended;
        let conversation = message.conversation.clone();
        let lane = self.lanes.entry(conversation.clone()).or_default();
        lane.outstanding -= 1;
        if has_failed {
            lane.failed.push((position, message));
        }
        if lane.failed.is_empty() || lane.outstanding > 0 {
            return;
        }
        let mut failed = std::mem::take(&mut lane.failed);
        *lane = Lane { reset: lane.reset + 1, ..Lane::default() };
        self.session.resume(&conversation).await;
        failed.sort_unstable_by_key(|(position, _)| *position);
        for (_, message) in failed {
            match sends_again {
                true => self.send(vec![message]).await,
                false => self.caller.floor.note_sent(message),
            }
        }
    }
}
