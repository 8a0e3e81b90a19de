//! The receiving side of the multiplexed append streams of one connection. The demultiplexer never waits for a
//! group: a stream whose queue is full is refused, and its sender opens it again.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Streaming;

use super::proto::{self, AppendFrame, AppendFrames, append_frame::Step};
use super::wire::{Malformed, append_from_wire, result_to_wire, route_from_wire};
use crate::consensus::network::Appending;
use crate::consensus::{Group, Replicas};
use crate::types::GroupId;

/// Requests of one stream that wait for their group. Above the sender's window.
const STREAM_QUEUE_MAX: usize = 128;

/// One connection's streams.
pub struct AppendServer {
    replicas: Arc<Replicas>,
    responses: mpsc::Sender<AppendFrame>,
    streams: HashMap<u64, OpenStream>,
}

struct OpenStream {
    group: Arc<Group>,
    requests: mpsc::Sender<Appending>,
    /// Ends with the stream, which may be long before a replica whose disk hangs has answered.
    _stop: DropGuard,
}

/// Why a stream ends here.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("no such replica here")]
    NoReplica,
    #[error("the disk is nearly full")]
    DiskFull,
    #[error("too many requests wait")]
    QueueFull,
}

impl AppendServer {
    /// The streams of a connection that was greeted.
    pub fn new(replicas: Arc<Replicas>, responses: mpsc::Sender<AppendFrame>) -> Self {
        AppendServer { replicas, responses, streams: HashMap::new() }
    }

    /// Takes frames until the connection ends.
    pub async fn run(mut self, mut inbound: Streaming<AppendFrames>) {
        while let Ok(Some(message)) = inbound.message().await {
            for frame in message.frames {
                if !self.take(frame) {
                    return; // The peer does not read its responses: the connection ends.
                }
            }
        }
    }

    /// False if the connection has to end.
    fn take(&mut self, frame: AppendFrame) -> bool {
        match frame.step {
            Some(Step::Request(request)) => match self.request(frame.stream, &request) {
                Ok(()) => true,
                Err(refusal) => {
                    self.streams.remove(&frame.stream);
                    tracing::debug!(stream = frame.stream, %refusal, "an append stream is refused");
                    let failed = proto::append_response::Result::Failed(refusal.to_string());
                    let response = proto::AppendResponse { result: Some(failed) };
                    self.responses.try_send(respond(frame.stream, response)).is_ok()
                }
            },
            Some(Step::Close(_)) => {
                self.streams.remove(&frame.stream);
                true
            }
            Some(Step::Response(_)) | None => true,
        }
    }

    fn request(&mut self, id: u64, request: &proto::AppendRequest) -> Result<(), Refusal> {
        if !self.streams.contains_key(&id) {
            // What follows a refused request of a stream is dropped: only the first has a route.
            let Some(route) = request.route.as_ref() else { return Ok(()) };
            let route = route_from_wire(Some(route))?;
            let group = self.replicas.get(route.group).ok_or(Refusal::NoReplica)?;
            if group.replica() != route.to {
                return Err(Refusal::NoReplica);
            }
            let opened = self.open(id, group);
            self.streams.insert(id, opened);
        }
        let Some(stream) = self.streams.get(&id) else { return Ok(()) };
        if !request.entries.is_empty() && !stream.group.admission().takes_entries() {
            return Err(Refusal::DiskFull);
        }
        let group: GroupId = stream.group.id();
        let request = append_from_wire(group, request)?;
        stream.requests.try_send(request).map_err(|_| Refusal::QueueFull)
    }

    /// Hands a stream to its group and its responses to the connection.
    fn open(&self, id: u64, group: Arc<Group>) -> OpenStream {
        let (requests, receiver) = mpsc::channel(STREAM_QUEUE_MAX);
        let responses = self.responses.clone();
        let results = group.stream_append(ReceiverStream::new(receiver));
        let stop = CancellationToken::new();
        let responding = async move {
            let mut results = std::pin::pin!(results);
            while let Some(result) = results.next().await {
                let response = match result {
                    Ok(result) => result_to_wire(&result),
                    Err(fatal) => proto::AppendResponse {
                        result: Some(proto::append_response::Result::Failed(fatal.to_string())),
                    },
                };
                if responses.send(respond(id, response)).await.is_err() {
                    return;
                }
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(responding));
        OpenStream { group, requests, _stop: stop.drop_guard() }
    }
}

fn respond(stream: u64, response: proto::AppendResponse) -> AppendFrame {
    AppendFrame { stream, step: Some(Step::Response(response)) }
}
