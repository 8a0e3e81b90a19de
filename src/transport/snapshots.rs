//! A replica's state on its way to another: rows in bounded parts, each with a checksum, on a connection of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::MESSAGE_BYTES_MAX;
use super::proto::{self, peer_client::PeerClient, snapshot_frame::Step};
use super::wire::{
    group_row_from_wire, leader_vote_from_wire, route_from_wire, route_to_wire, rows_from_wire,
    rows_to_wire, vote_from_wire, vote_to_wire,
};
use crate::consensus::network::Route;
use crate::consensus::raft_types::{
    RaftLogId, RaftSnapshotMeta, RaftVote, to_raft_log_id, to_stored_membership,
};
use crate::consensus::{
    Group, Replicas, SnapshotData, SnapshotReader, SnapshotRow, SnapshotSource,
};
use crate::storage::install::SnapshotSink;
use crate::storage::records::Record;
use crate::storage::{StorageError, keys};

/// A transfer that makes no progress for this long is given up. The receiver's install counts as progress until
/// `INSTALL_TIMEOUT`.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);
/// How long one waits for a place while others are taken in. The sender asks again.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a transfer failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SendError {
    /// The receiver refused or was lost.
    #[error("{0}")]
    Receiver(Status),
    /// The state could not be read.
    #[error("the state could not be read")]
    Storage(#[from] StorageError),
    /// Nothing moved for too long.
    #[error("the transfer stalled")]
    Stalled,
}

/// Sends the present state of a replica and returns the receiver's vote.
pub async fn send(
    channel: Channel,
    hello: proto::Hello,
    route: Route,
    vote: RaftVote,
    source: SnapshotSource,
) -> Result<RaftVote, SendError> {
    let reader = source.open()?;
    let row = reader.row();
    tracing::info!(group = %route.group, to = %route.to, applied = ?row.applied, "sending a snapshot");
    let open = proto::SnapshotOpen {
        hello: Some(hello),
        route: Some(route_to_wire(route)),
        vote: Some(vote_to_wire(&vote)),
        group_row: Bytes::from(row.encode(&keys::group(route.group))),
    };
    let progress = Arc::new(AtomicU64::new(0));
    let frames = frames(open, source, reader, progress.clone());
    let mut client = PeerClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
    tokio::select! {
        reply = client.send_snapshot(frames) => {
            let reply = reply.map_err(SendError::Receiver)?.into_inner();
            let vote = vote_from_wire(reply.vote.as_ref());
            vote.map_err(|error| SendError::Receiver(Status::internal(error.to_string())))
        }
        () = stalled(&progress) => Err(SendError::Stalled),
    }
}

/// The transfer's end is marked by the highest progress there is.
const ALL_SENT: u64 = u64::MAX;

async fn stalled(progress: &AtomicU64) {
    loop {
        let before = progress.load(Ordering::Acquire);
        let patience = if before == ALL_SENT { INSTALL_TIMEOUT } else { STALL_TIMEOUT };
        tokio::time::sleep(patience).await;
        if progress.load(Ordering::Acquire) == before {
            return;
        }
    }
}

enum Stage {
    Open(proto::SnapshotOpen),
    Rows(u64),
    Done,
}

fn frames(
    open: proto::SnapshotOpen,
    source: SnapshotSource,
    reader: SnapshotReader,
    progress: Arc<AtomicU64>,
) -> impl Stream<Item = proto::SnapshotFrame> {
    let start = (Stage::Open(open), Some(reader));
    futures::stream::unfold(start, move |(stage, reader)| {
        let (source, progress) = (source.clone(), progress.clone());
        async move {
            let (step, next, reader) = match stage {
                Stage::Open(open) => (Step::Open(open), Stage::Rows(0), reader),
                Stage::Done => return None,
                Stage::Rows(sent) => {
                    // An abandoned or failed read ends the stream without an end frame: the receiver refuses it.
                    let (reader, part) = next_part(&source, reader?).await?;
                    let part = match part {
                        Ok(part) => part,
                        Err(error) => {
                            tracing::error!(%error, "a snapshot could not be read");
                            return None;
                        }
                    };
                    if part.is_empty() {
                        progress.store(ALL_SENT, Ordering::Release);
                        let end = Step::End(proto::SnapshotEnd { rows: sent });
                        (end, Stage::Done, Some(reader))
                    } else {
                        let sent = sent + part.len() as u64;
                        progress.store(sent, Ordering::Release);
                        (Step::Rows(rows_to_wire(part)), Stage::Rows(sent), Some(reader))
                    }
                }
            };
            Some((proto::SnapshotFrame { step: Some(step) }, (next, reader)))
        }
    })
}

type Part = Result<Vec<SnapshotRow>, StorageError>;

async fn next_part(
    source: &SnapshotSource,
    mut reader: SnapshotReader,
) -> Option<(SnapshotReader, Part)> {
    let (sender, receiver) = oneshot::channel();
    source.offload(Box::new(move || {
        let part = reader.next_part();
        drop(sender.send((reader, part)));
    }));
    receiver.await.ok()
}

/// The first frame of a transfer.
pub async fn opening(
    inbound: &mut Streaming<proto::SnapshotFrame>,
) -> Result<proto::SnapshotOpen, Status> {
    match next_step(inbound).await? {
        Some(Step::Open(open)) => Ok(open),
        _ => Err(Status::invalid_argument("the first frame of a snapshot opens it")),
    }
}

/// What a transfer brings next; none at its end, or for what is not known here. A sender that brings nothing is given
/// up: nothing else limits how long a transfer takes.
async fn next_step(inbound: &mut Streaming<proto::SnapshotFrame>) -> Result<Option<Step>, Status> {
    let frame = timeout(STALL_TIMEOUT, inbound.message()).await;
    let frame = frame.map_err(|_| Status::deadline_exceeded("the transfer stalled"))??;
    Ok(frame.and_then(|frame| frame.step))
}

/// Takes the rows of a transfer and installs them through Raft. A newer transfer to the same replica ends this one, so
/// that a leader which has died in the middle holds up nobody.
pub async fn receive(
    group: &Arc<Group>,
    replicas: &Replicas,
    open: &proto::SnapshotOpen,
    mut inbound: Streaming<proto::SnapshotFrame>,
) -> Result<proto::SnapshotReply, Status> {
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let route = route_from_wire(open.route.as_ref()).map_err(|error| invalid(&error))?;
    let vote = leader_vote_from_wire(open.vote.as_ref()).map_err(|error| invalid(&error))?;
    let row = group_row_from_wire(route.group, &open.group_row);
    let row = row.map_err(|error| invalid(&error))?;
    let last = row.applied.as_ref().map(to_raft_log_id);
    if last.is_some_and(|last| last.leader_id > vote.leader_id) {
        return Err(invalid(&format!("the snapshot is newer than {vote}, who sends it")));
    }
    ensure_room(group)?;
    if let Some(newer) = group.newer_vote(&vote) {
        return Ok(proto::SnapshotReply { vote: Some(vote_to_wire(&newer)) });
    }
    let transfer = replicas.next_transfer();
    let mut superseded = std::pin::pin!(group.take_in(transfer));
    // Each may need as much room again as its group has, until it is there: one after the other they need less at a time.
    let _place = tokio::select! {
        place = timeout(PLACE_TIMEOUT, replicas.snapshot_places().acquire()) => place
            .map_err(|_| Status::unavailable("other snapshots are being taken in"))?
            .expect("it is never closed"),
        () = &mut superseded => return Err(superseded_by_newer()),
    };
    let engine = replicas.state_engine().clone();
    let mut sink = group
        .offload(move || SnapshotSink::begin(engine, route.group, transfer))
        .await
        .map_err(storage)?;
    let mut received = 0;
    loop {
        let step = tokio::select! {
            step = next_step(&mut inbound) => step?,
            () = &mut superseded => return Err(superseded_by_newer()),
        };
        match step {
            Some(Step::Rows(rows)) => {
                // Of each part: several transfers that had room for their beginnings may fill the disk together.
                ensure_room(group)?;
                received += rows.rows.len() as u64;
                let rows = rows_from_wire(rows);
                let rows = rows.map_err(|error| Status::data_loss(error.to_string()))?;
                sink = group.offload(move || add(sink, rows)).await.map_err(storage)?;
            }
            Some(Step::End(end)) if end.rows == received => break,
            _ => return Err(Status::data_loss("the snapshot ended before its end")),
        }
    }
    let meta = RaftSnapshotMeta {
        last_log_id: last,
        last_membership: to_stored_membership(&row.membership),
    };
    let staged = group.offload(move || sink.finish(row)).await.map_err(storage)?;
    ensure_no_contradiction(group, last).await?;
    let snapshot = openraft::Snapshot { meta, snapshot: SnapshotData::Received(Box::new(staged)) };
    let response = group.raft().install_full_snapshot(vote, snapshot).await;
    let response = response.map_err(|fatal| Status::unavailable(fatal.to_string()))?;
    group.parking().wake();
    tracing::info!(group = %route.group, from = %route.from, rows = received, "installed a snapshot");
    Ok(proto::SnapshotReply { vote: Some(vote_to_wire(&response.vote)) })
}

/// A snapshot holds all that was committed before its last entry. openraft asserts that of one that comes from outside.
async fn ensure_no_contradiction(group: &Group, last: Option<RaftLogId>) -> Result<(), Status> {
    let contradicts = group.raft().with_raft_state(move |state| {
        let committed = state.local_committed().copied();
        last > committed && last.map(|id| id.index) <= committed.map(|id| id.index)
    });
    match contradicts.await {
        Ok(false) => Ok(()),
        Ok(true) => Err(Status::data_loss("the snapshot contradicts what is committed here")),
        Err(fatal) => Err(Status::unavailable(fatal.to_string())),
    }
}

fn superseded_by_newer() -> Status {
    Status::aborted("a newer transfer has begun")
}

fn ensure_room(group: &Group) -> Result<(), Status> {
    let takes = group.admission().takes_entries();
    takes.then_some(()).ok_or_else(|| Status::unavailable("the disk is nearly full"))
}

fn storage(error: StorageError) -> Status {
    Status::unavailable(error.to_string())
}

fn add(mut sink: SnapshotSink, rows: Vec<SnapshotRow>) -> Result<SnapshotSink, StorageError> {
    for (table, key, value) in rows {
        sink.add(table, &key, &value)?;
    }
    Ok(sink)
}
