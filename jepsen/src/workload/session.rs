//! Pipelined appends. A lane that fails is opened again once everything in it has failed.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use quorate_client::{Session, SessionOptions};
use rand::Rng;

use super::{CALL_TIMEOUT, Caller, Worker, Workload};
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
    has_failed: bool,
}

/// How an append ended.
struct Ended {
    conversation: String,
    has_failed: bool,
}

/// A few at once, so that there is something to keep in order, and then a pause.
async fn in_bursts(mut worker: Worker) {
    let Some(mut pipeline) = Pipeline::open(&worker, 24, 4).await else { return };
    let mut is_on = true;
    while is_on || !pipeline.in_flight.is_empty() {
        tokio::select! {
            Some(ended) = pipeline.in_flight.next() => pipeline.take(ended).await,
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
async fn without_pause(worker: Worker) {
    let Some(mut pipeline) = Pipeline::open(&worker, 128, 8).await else { return };
    let lanes = pipeline.conversations.len();
    for lane in (0..lanes).cycle().take(pipeline.in_flight_max) {
        pipeline.append(lane).await;
    }
    let mut next_lane = 0;
    while let Some(ended) = pipeline.in_flight.next().await {
        pipeline.take(ended).await;
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
            number: worker.number,
            in_flight_max,
            conversations: (0..lanes).map(of_lane).collect(),
            lanes: HashMap::new(),
            in_flight: FuturesUnordered::new(),
        })
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < self.in_flight_max
    }

    /// Appends on a lane, if that has not failed and there is room.
    async fn append(&mut self, lane: usize) {
        let conversation = self.conversations[lane].clone();
        let has_room = self.has_room();
        let lane = self.lanes.entry(conversation.clone()).or_default();
        if lane.has_failed || !has_room {
            return;
        }
        let place = LanePlace {
            session: u64::from(self.number),
            reset: lane.reset,
            position: lane.position,
        };
        lane.position += 1;
        lane.outstanding += 1;
        let mut one = self.caller.sibling();
        let messages = one.compose(&conversation, &format!("session-{}", self.number), 1);
        let append = one.begin_append(&messages, None, Some(place));
        let handle = self.session.append(append).await;
        self.in_flight.push(Box::pin(async move {
            let ended = handle.await;
            let has_failed = one.end_append(&conversation, ended).is_err();
            Ended { conversation, has_failed }
        }));
    }

    async fn take(&mut self, ended: Ended) {
        let lane = self.lanes.entry(ended.conversation.clone()).or_default();
        lane.outstanding -= 1;
        lane.has_failed |= ended.has_failed;
        if lane.has_failed && lane.outstanding == 0 {
            self.session.resume(&ended.conversation).await;
            *lane = Lane { reset: lane.reset + 1, ..Lane::default() };
        }
    }
}
