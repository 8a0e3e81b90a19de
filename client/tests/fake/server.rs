use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use quorate_client::proto::cluster_server::{Cluster, ClusterServer};
use quorate_client::proto::delivery::{CaughtUp, Gap, Heartbeat, Kind, Messages};
use quorate_client::proto::message_log_server::{MessageLog, MessageLogServer};
use quorate_client::proto::session_response::Result as Answer;
use quorate_client::proto::start::At;
use quorate_client::proto::subscribe_request::Change;
use quorate_client::proto::subscribe_response::{Ended, Kind as Subscribed};
use quorate_client::{limits, proto};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use super::{Mischief, Node};

/// Messages of one delivery.
const CHUNK: usize = 3;

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub struct Service(Arc<Node>);

pub fn services(node: Arc<Node>) -> (MessageLogServer<Service>, ClusterServer<Service>) {
    let log = MessageLogServer::new(Service(node.clone()));
    (log.max_decoding_message_size(limits::REQUEST_BYTES_MAX), ClusterServer::new(Service(node)))
}

fn status(failure: proto::Failure) -> Status {
    let mut metadata = failure.metadata;
    metadata.insert("retryable".to_owned(), failure.retryable.to_string());
    let effect = failure.may_have_taken_effect.to_string();
    metadata.insert("may_have_taken_effect".to_owned(), effect);
    let mut details = ErrorDetails::with_error_info(failure.reason, "quorate", metadata);
    if failure.retry_delay_ms > 0 {
        details.set_retry_info(Some(Duration::from_millis(failure.retry_delay_ms)));
    }
    Status::with_error_details(Code::from_i32(failure.code), failure.message, details)
}

impl Node {
    /// One append with its mischief.
    async fn take_append(
        &self,
        request: &proto::AppendRequest,
    ) -> Result<proto::AppendResponse, proto::Failure> {
        self.arrived.lock().unwrap().push(request.clone());
        match self.next_mischief() {
            Mischief::CommitThenCut => {
                self.log.append(request);
                self.proxy.cut();
                std::future::pending().await
            }
            Mischief::Cut => {
                self.proxy.cut();
                std::future::pending().await
            }
            Mischief::CommitThenStall => {
                self.log.append(request);
                std::future::pending().await
            }
            Mischief::Stall => std::future::pending().await,
            Mischief::Fail(failure) => Err(failure),
            _ => Ok(self.log.append(request)),
        }
    }
}

#[tonic::async_trait]
impl MessageLog for Service {
    async fn append(
        &self,
        request: Request<proto::AppendRequest>,
    ) -> Result<Response<proto::AppendResponse>, Status> {
        let appended = self.0.take_append(&request.into_inner()).await;
        appended.map(Response::new).map_err(status)
    }

    type AppendSessionStream = Out<proto::SessionResponse>;

    async fn append_session(
        &self,
        request: Request<Streaming<proto::SessionRequest>>,
    ) -> Result<Response<Self::AppendSessionStream>, Status> {
        let node = self.0.clone();
        let mut requests = request.into_inner();
        let (out, responses) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut broken = HashSet::new();
            while let Some(request) = requests.next().await {
                let request = match request {
                    Ok(request) => request,
                    // As the real one ends it: after such a request nothing can be told apart any more.
                    Err(read) if read.code() == Code::OutOfRange => {
                        let refused = status(super::refused("LIMIT_EXCEEDED"));
                        return drop(out.send(Err(refused)).await);
                    }
                    Err(_) => return,
                };
                let append = request.append.unwrap();
                let lane = append.conversation.clone();
                if request.reset_lane {
                    broken.remove(&lane);
                }
                let result = match broken.contains(&lane) {
                    true => Err(proto::Failure {
                        reason: "LANE_BROKEN".to_owned(),
                        retryable: true,
                        ..proto::Failure::default()
                    }),
                    false => node.take_append(&append).await,
                };
                let result = match result {
                    Ok(response) => Answer::Appended(response),
                    Err(failure) => {
                        broken.insert(lane);
                        Answer::Failed(failure)
                    }
                };
                let request_id = request.request_id;
                let response = proto::SessionResponse { request_id, result: Some(result) };
                if out.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    type ReadStream = Out<proto::ReadResponse>;

    async fn read(
        &self,
        request: Request<proto::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let mut messages = self.0.log.from(&request.conversation, 1);
        let tail = messages.len() as u64 + 1;
        if let Some(At::Seq(seq)) = request.start.and_then(|s| s.at) {
            messages.retain(|m| m.seq >= seq);
        }
        if request.direction() == proto::Direction::Backward {
            messages.reverse();
        }
        messages.truncate(request.limit as usize);
        let mut broken_off = None;
        match self.0.next_mischief() {
            Mischief::Fail(failure) => return Err(status(failure)),
            Mischief::BreakOff(failure) => broken_off = Some(Err(status(failure))),
            Mischief::Skip => drop(messages.remove(1)),
            Mischief::Damage => messages[0].payload_crc32c ^= 1,
            _ => {}
        }
        let first = proto::ReadResponse { first_seq: 1, tail, ..Default::default() };
        let parts = messages
            .chunks(CHUNK)
            .map(|part| proto::ReadResponse { messages: part.to_vec(), ..first.clone() });
        let mut parts: Vec<_> = std::iter::once(first.clone()).chain(parts).map(Ok).collect();
        if let Some(failure) = broken_off {
            parts.splice(1.., [failure]);
        }
        Ok(Response::new(Box::pin(futures::stream::iter(parts))))
    }

    type FollowStream = Out<proto::FollowResponse>;

    async fn follow(
        &self,
        request: Request<proto::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let request = request.into_inner();
        let interval = Duration::from_millis(u64::from(request.heartbeat_ms.max(100)));
        let (out, responses) = mpsc::channel(4);
        let node = self.0.clone();
        tokio::spawn(async move {
            let mut feed = Feed::new(node);
            for start in request.conversations {
                feed.add(start.conversation, start.start, u64::MAX);
            }
            feed.run(futures::stream::pending::<Change>(), interval, out).await;
        });
        let followed = ReceiverStream::new(responses).map(|item| match item {
            Subscribed::Delivery(delivery) => {
                Ok(proto::FollowResponse { delivery: Some(delivery) })
            }
            Subscribed::Ended(_) => unreachable!("nothing is removed"),
        });
        Ok(Response::new(Box::pin(followed)))
    }

    type SubscribeStream = Out<proto::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<Streaming<proto::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (out, responses) = mpsc::channel(4);
        let feed = Feed::new(self.0.clone());
        let changes = request
            .into_inner()
            .filter_map(async |change| change.ok()?.change)
            .chain(futures::stream::pending());
        tokio::spawn(feed.run(Box::pin(changes), Duration::from_millis(100), out));
        let subscribed = ReceiverStream::new(responses)
            .map(|kind| Ok(proto::SubscribeResponse { kind: Some(kind) }));
        Ok(Response::new(Box::pin(subscribed)))
    }

    async fn batch_read(
        &self,
        _: Request<proto::BatchReadRequest>,
    ) -> Result<Response<proto::BatchReadResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn get_outcome(
        &self,
        _: Request<proto::GetOutcomeRequest>,
    ) -> Result<Response<proto::GetOutcomeResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn describe(
        &self,
        _: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn list(
        &self,
        _: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
}

/// Delivers conversations, with mischief at each delivery.
struct Feed {
    node: Arc<Node>,
    conversations: HashMap<String, Position>,
}

struct Position {
    next: u64,
    caught_up: bool,
    credit: i64,
}

impl Feed {
    fn new(node: Arc<Node>) -> Self {
        Feed { node, conversations: HashMap::new() }
    }

    fn add(&mut self, conversation: String, start: Option<proto::Start>, credit: u64) {
        let tail = self.node.log.from(&conversation, 1).len() as u64 + 1;
        let next = match start.and_then(|start| start.at) {
            Some(At::Seq(seq)) => seq,
            Some(At::Last(count)) => tail.saturating_sub(count).max(1),
            _ => 1,
        };
        let credit = i64::try_from(credit).unwrap_or(i64::MAX);
        let position = Position { next, caught_up: false, credit };
        assert!(self.conversations.insert(conversation, position).is_none(), "added twice");
    }

    async fn run(
        mut self,
        mut changes: impl Stream<Item = Change> + Unpin,
        interval: Duration,
        out: mpsc::Sender<Subscribed>,
    ) {
        let mut commits = self.node.log.commits();
        loop {
            commits.mark_unchanged();
            let names: Vec<String> = self.conversations.keys().cloned().collect();
            for name in names {
                while let Some(items) = self.due(&name).await {
                    for item in items {
                        if out.send(item).await.is_err() {
                            return;
                        }
                    }
                }
            }
            tokio::select! {
                _ = commits.changed() => {}
                Some(change) = changes.next() => {
                    if let Some(ended) = self.change(change) && out.send(ended).await.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep(interval) => {
                    let heartbeat = Kind::Heartbeat(Heartbeat { node_id: self.node.id });
                    if out.send(delivery(heartbeat)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn change(&mut self, change: Change) -> Option<Subscribed> {
        self.node.changes.lock().unwrap().push(change.clone());
        match change {
            Change::Add(add) => match self.node.next_mischief() {
                Mischief::Fail(failure) => {
                    let conversation = add.conversation;
                    return Some(Subscribed::Ended(Ended { conversation, failed: Some(failure) }));
                }
                _ => self.add(add.conversation, add.start, add.credit_bytes),
            },
            Change::Remove(remove) => {
                self.conversations.remove(&remove.conversation)?;
                let conversation = remove.conversation;
                return Some(Subscribed::Ended(Ended { conversation, failed: None }));
            }
            Change::Credit(credit) => {
                if let Some(position) = self.conversations.get_mut(&credit.conversation) {
                    position.credit += i64::try_from(credit.credit_bytes).unwrap();
                }
            }
        }
        None
    }

    /// What is to be delivered of a conversation now.
    async fn due(&mut self, name: &str) -> Option<Vec<Subscribed>> {
        let position = self.conversations.get_mut(name)?;
        let mut messages = self.node.log.from(name, position.next);
        let conversation = name.to_owned();
        if let Some(first) = messages.first().filter(|first| first.seq > position.next) {
            let (from_seq, to_seq) = (position.next, first.seq);
            position.next = to_seq;
            return Some(vec![delivery(Kind::Gap(Gap { conversation, from_seq, to_seq }))]);
        }
        if messages.is_empty() && !position.caught_up {
            position.caught_up = true;
            let next_seq = position.next;
            return Some(vec![delivery(Kind::CaughtUp(CaughtUp { conversation, next_seq }))]);
        }
        if messages.is_empty() || position.credit <= 0 {
            return None;
        }
        messages.truncate(CHUNK);
        match self.node.next_mischief() {
            Mischief::Cut => self.node.proxy.cut(),
            Mischief::Stall => std::future::pending().await,
            Mischief::Repeat if position.next > 2 => {
                messages = self.node.log.from(name, position.next - 2);
                messages.truncate(CHUNK);
            }
            Mischief::Skip => drop(messages.remove(0)),
            Mischief::Damage => messages[0].payload_crc32c ^= 1,
            _ => {}
        }
        let bytes: usize = messages.iter().map(|m| m.payload.len()).sum();
        position.credit -= i64::try_from(bytes).unwrap();
        position.next = messages.last().map_or(position.next, |last| last.seq + 1);
        Some(vec![delivery(Kind::Messages(Messages { conversation, messages }))])
    }
}

fn delivery(kind: Kind) -> Subscribed {
    Subscribed::Delivery(proto::Delivery { kind: Some(kind) })
}

#[tonic::async_trait]
impl Cluster for Service {
    type WatchTopologyStream = Out<proto::WatchTopologyResponse>;

    async fn watch_topology(
        &self,
        _: Request<proto::WatchTopologyRequest>,
    ) -> Result<Response<Self::WatchTopologyStream>, Status> {
        let topologies = WatchStream::new(self.0.topology.subscribe());
        let respond = |topology: proto::Topology| {
            let topology = (!topology.nodes.is_empty()).then_some(topology);
            Ok(proto::WatchTopologyResponse { topology })
        };
        Ok(Response::new(Box::pin(topologies.map(respond))))
    }

    async fn describe_cluster(
        &self,
        _: Request<proto::DescribeClusterRequest>,
    ) -> Result<Response<proto::DescribeClusterResponse>, Status> {
        let topology = Some(self.0.topology.borrow().clone());
        let node_id = self.0.id;
        Ok(Response::new(proto::DescribeClusterResponse { topology, node_id, nodes: vec![] }))
    }

    async fn init(
        &self,
        _: Request<proto::InitRequest>,
    ) -> Result<Response<proto::InitResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    type ReplaceStream = Out<proto::ReplaceResponse>;

    async fn replace(
        &self,
        _: Request<proto::ReplaceRequest>,
    ) -> Result<Response<Self::ReplaceStream>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
}
