//! Appends offered in an open loop, as cheaply as can be: on sessions with the nodes that lead, without the client
//! library, so that nothing is tried again and nobody waits.
//!
//! Each lane of a session has one append at a time, so that one that is refused takes no other with it. What is due
//! while all lanes have one is not sent, and counted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::session_response::Result as Answered;
use quorate_client::proto::{
    AppendRequest, Kind, NewMessage, SessionRequest, SessionResponse, Topology,
};
use quorate_client::{Client, reason};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use super::message::{Messages, Names, Stamp};
use super::offered::Offered;
use crate::server::SystemClock;
use crate::types::Clock;
use crate::types::limits::PROPOSALS_WAITING_MAX;

/// Between two looks at what is due: long enough for messages to share frames.
const PACE: Duration = Duration::from_millis(4);
/// Sessions with each leader at most, unless it is said how many.
const SESSIONS_MAX: usize = 64;
/// Bits of a request id that name the lane.
const LANE_BITS: u32 = 16;

/// Who is offered to, and what.
pub(super) struct Flood {
    messages: Messages,
    leaders: Vec<Leader>,
    /// Appends that each group was heard to accept.
    groups: Vec<AtomicU64>,
    timeout: Duration,
    epoch: Instant,
    next_message: AtomicU64,
}

/// A node that leads, with a connection for each session.
struct Leader {
    connections: Vec<Channel>,
    /// Its conversations, with the places of their groups.
    conversations: Vec<(u64, usize)>,
}

/// How a session goes on.
struct Driver {
    flood: Arc<Flood>,
    lanes: Vec<Lane>,
    /// Those without an append.
    free: VecDeque<usize>,
    requests: mpsc::Sender<SessionRequest>,
    turn: u64,
    seen: Offered,
}

/// One conversation of a session, with what it has in flight.
struct Lane {
    conversation: u64,
    group: usize,
    is_broken: bool,
    number: u64,
    began: Instant,
    /// What its group had accepted when it began.
    accepted_before: u64,
}

impl Flood {
    /// Connects `sessions` with each leader, by default enough for half as many appends again as it may take.
    pub(super) async fn connect(
        messages: Messages,
        client: &Client,
        endpoints: &[String],
        sessions: Option<u32>,
        timeout: Duration,
    ) -> anyhow::Result<Flood> {
        let topology = client.describe_cluster().await?.topology.context("no topology")?;
        let led = led(messages.names(), client, &topology)?;
        let mut leaders = Vec::new();
        for (node, conversations) in led {
            let groups = topology.groups.iter().filter(|it| it.leader_node_id == node).count();
            let enough = (groups * PROPOSALS_WAITING_MAX * 3 / 2).div_ceil(conversations.len());
            let sessions = sessions.map_or(enough.min(SESSIONS_MAX), |sessions| sessions as usize);
            let address = endpoints.get(node as usize - 1).context("an unknown node leads")?;
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
            let mut connections = Vec::new();
            for _ in 0..sessions {
                connections.push(endpoint.connect().await?);
            }
            leaders.push(Leader { connections, conversations });
        }
        let groups = topology.groups.iter().map(|_| AtomicU64::new(0)).collect();
        let (epoch, next_message) = (Instant::now(), AtomicU64::new(0));
        Ok(Flood { messages, leaders, groups, timeout, epoch, next_message })
    }

    pub(super) fn names(&self) -> &Names {
        self.messages.names()
    }

    /// Groups that it offers to.
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Offers so many appends a second, and waits for all answers.
    pub(super) async fn run(
        self: &Arc<Self>,
        rate: f64,
        duration: Duration,
    ) -> anyhow::Result<Offered> {
        let mut sessions = Vec::new();
        for leader in &self.leaders {
            for connection in &leader.connections {
                sessions.push(self.open(leader, connection.clone()).await?);
            }
        }
        let rate = rate / sessions.len() as f64;
        let (mut drivers, from) = (JoinSet::new(), Instant::now());
        for (driver, answers) in sessions {
            drivers.spawn(driver.run(answers, rate, from, duration));
        }
        let mut offered = Offered::new()?;
        while let Some(ended) = drivers.join_next().await {
            offered.add(ended.context("a session has failed")??)?;
        }
        Ok(offered)
    }

    async fn open(
        self: &Arc<Self>,
        leader: &Leader,
        connection: Channel,
    ) -> anyhow::Result<(Driver, Streaming<SessionResponse>)> {
        // Never full: no more is in flight than there are lanes.
        let (requests, receiver) = mpsc::channel(leader.conversations.len());
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.set_timeout(self.timeout);
        let answers = MessageLogClient::new(connection).append_session(request).await?;
        let lane = |(conversation, group): &(u64, usize)| Lane {
            conversation: *conversation,
            group: *group,
            is_broken: false,
            number: 0,
            began: self.epoch,
            accepted_before: 0,
        };
        let lanes: Vec<Lane> = leader.conversations.iter().map(lane).collect();
        let driver = Driver {
            flood: self.clone(),
            free: (0..lanes.len()).collect(),
            lanes,
            requests,
            turn: 0,
            seen: Offered::new()?,
        };
        Ok((driver, answers.into_inner()))
    }
}

impl Driver {
    async fn run(
        mut self,
        answers: Streaming<SessionResponse>,
        rate: f64,
        from: Instant,
        duration: Duration,
    ) -> anyhow::Result<Offered> {
        // Each append has its answer by then, if only that its time is up.
        let deadline = from + duration + 2 * self.flood.timeout;
        let answered = timeout_at(deadline, self.offer(answers, rate, from, duration)).await;
        answered.context("appends have no answer")??;
        Ok(self.seen)
    }

    async fn offer(
        &mut self,
        mut answers: Streaming<SessionResponse>,
        rate: f64,
        from: Instant,
        duration: Duration,
    ) -> anyhow::Result<()> {
        let mut ticks = interval_at(from, PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_over = false;
        while !is_over || self.free.len() < self.lanes.len() {
            tokio::select! {
                now = ticks.tick(), if !is_over => {
                    let now = now.max(Instant::now());
                    is_over = now >= from + duration;
                    let due = (now - from).min(duration).as_secs_f64() * rate;
                    self.send(due as u64)?;
                }
                answer = answers.message() => {
                    self.take(answer?.context("a session has ended")?, !is_over)?;
                }
            }
        }
        Ok(())
    }

    /// Sends what is due by now and not sent yet, as far as there are lanes.
    fn send(&mut self, due: u64) -> anyhow::Result<()> {
        let missing = due - std::mem::replace(&mut self.seen.due, due);
        let places = self.free.len().min(missing as usize);
        self.seen.sent += places as u64;
        for _ in 0..places {
            let place = self.free.pop_front().expect("so many are free");
            self.turn += 1;
            let lane = &mut self.lanes[place];
            let flood = &self.flood;
            lane.began = Instant::now();
            lane.number = flood.next_message.fetch_add(1, Ordering::Relaxed);
            lane.accepted_before = flood.groups[lane.group].load(Ordering::Relaxed);
            let request_id = self.turn << LANE_BITS | place as u64;
            let request = SessionRequest {
                request_id,
                append: Some(flood.append(lane)),
                reset_lane: std::mem::take(&mut lane.is_broken),
            };
            self.requests.try_send(request).context("a session takes nothing more")?;
        }
        Ok(())
    }

    fn take(&mut self, answer: SessionResponse, in_time: bool) -> anyhow::Result<()> {
        let place = (answer.request_id & ((1 << LANE_BITS) - 1)) as usize;
        let lane = self.lanes.get_mut(place).context("an answer to no request")?;
        match answer.result.context("an answer without a result")? {
            Answered::Appended(appended) => {
                let group = &self.flood.groups[lane.group];
                let ahead = group.fetch_add(1, Ordering::Relaxed) - lane.accepted_before;
                self.seen.accepted(lane.began.elapsed(), ahead, in_time);
                self.seen.acknowledged.push((lane.conversation, appended.last_seq, lane.number));
            }
            Answered::Failed(failure) => {
                lane.is_broken = true;
                anyhow::ensure!(failure.reason != reason::LANE_BROKEN, "a lane had two appends");
                self.seen.refused(lane.began.elapsed(), failure);
            }
        }
        self.free.push_back(place);
        Ok(())
    }
}

impl Flood {
    fn append(&self, lane: &Lane) -> AppendRequest {
        let began_us = (lane.began - self.epoch).as_micros() as u64;
        let stamp = Stamp { began_us, number: lane.number };
        let message = NewMessage {
            client_msg_id: lane.number.to_string(),
            issued_at_us: SystemClock.now().0,
            kind: Kind::Content.into(),
            payload: self.messages.payload(stamp),
            ..NewMessage::default()
        };
        AppendRequest {
            conversation: self.names().get(lane.conversation),
            sender: "producer".to_owned(),
            messages: vec![message],
            expected_tail: None,
        }
    }
}

/// The conversations of each node that leads some, with the places of their groups in the topology.
fn led(
    names: &Names,
    client: &Client,
    topology: &Topology,
) -> anyhow::Result<BTreeMap<u64, Vec<(u64, usize)>>> {
    let mut led: BTreeMap<u64, Vec<(u64, usize)>> = BTreeMap::new();
    for (number, name) in (0..).zip(names.all()) {
        let id = client.group_of(&name).context("a conversation of no group")?;
        let group = topology.groups.iter().position(|group| group.group_id == id);
        let group = group.context("an unknown group")?;
        let leader = topology.groups[group].leader_node_id;
        anyhow::ensure!(leader != 0, "not every group has a leader");
        led.entry(leader).or_default().push((number, group));
    }
    Ok(led)
}
