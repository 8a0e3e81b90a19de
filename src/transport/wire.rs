//! Between the wire's types and ours and openraft's. What does not decode is refused with a reason, never guessed.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};

use super::proto;
use crate::consensus::SnapshotRow;
use crate::consensus::network::{Appending, Route};
use crate::consensus::parking::Footing;
use crate::consensus::raft_types::{
    RaftEntry, RaftLogId, RaftVote, TypeConfig, from_raft_entry, from_raft_log_id, from_raft_vote,
    to_raft_entry, to_raft_log_id, to_raft_vote,
};
use crate::storage::records::{EntryRecord, GroupRow, LogId, Record, VoteRecord, entry_key};
use crate::storage::{Table, keys};
use crate::types::{ClusterId, GroupId, Incarnation, LogIndex, NodeId, ReplicaId, Term};

/// What a peer sent does not make sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed peer message: {0}")]
pub struct Malformed(pub String);

fn beyond_all() -> Malformed {
    Malformed("an index or a term is beyond all logs".to_owned())
}

fn missing(field: &str) -> Malformed {
    Malformed(format!("{field} is missing"))
}

/// A replica's id.
pub fn replica_to_wire(id: ReplicaId) -> proto::ReplicaId {
    proto::ReplicaId { node: id.node.0, incarnation: id.incarnation.0 }
}

/// A replica's id, which has to be there.
pub fn replica_from_wire(id: Option<&proto::ReplicaId>) -> Result<ReplicaId, Malformed> {
    let id = id.ok_or_else(|| missing("replica"))?;
    Ok(ReplicaId { node: NodeId(id.node), incarnation: Incarnation(id.incarnation) })
}

/// A cluster's id: 16 bytes.
pub fn cluster_to_wire(cluster: ClusterId) -> Bytes {
    Bytes::copy_from_slice(&cluster.0.to_be_bytes())
}

/// A cluster's id; none if it is not 16 bytes.
pub fn cluster_from_wire(bytes: &[u8]) -> Option<ClusterId> {
    Some(ClusterId(u128::from_be_bytes(bytes.try_into().ok()?)))
}

/// Which replica speaks to which.
pub fn route_to_wire(route: Route) -> proto::Route {
    proto::Route {
        group: route.group.0,
        from: Some(replica_to_wire(route.from)),
        to: Some(replica_to_wire(route.to)),
    }
}

/// Which replica speaks to which; both have to be named.
pub fn route_from_wire(route: Option<&proto::Route>) -> Result<Route, Malformed> {
    let route = route.ok_or_else(|| missing("route"))?;
    Ok(Route {
        group: GroupId(route.group),
        from: replica_from_wire(route.from.as_ref())?,
        to: replica_from_wire(route.to.as_ref())?,
    })
}

/// A position in a log.
pub fn log_id_to_wire(id: &RaftLogId) -> proto::LogId {
    let id = from_raft_log_id(id);
    proto::LogId { term: id.term.0, leader: Some(replica_to_wire(id.leader)), index: id.index.0 }
}

/// A position in a log, of which none is beyond all logs.
pub fn log_id_from_wire(id: &proto::LogId) -> Result<RaftLogId, Malformed> {
    let id = LogId {
        term: Term(id.term),
        leader: replica_from_wire(id.leader.as_ref())?,
        index: LogIndex(id.index),
    };
    if id.is_beyond_all_logs() { Err(beyond_all()) } else { Ok(to_raft_log_id(&id)) }
}

fn optional_log_id(id: Option<&proto::LogId>) -> Result<Option<RaftLogId>, Malformed> {
    id.map(log_id_from_wire).transpose()
}

/// A vote.
pub fn vote_to_wire(vote: &RaftVote) -> proto::Vote {
    let vote = from_raft_vote(vote);
    proto::Vote {
        term: vote.term.0,
        candidate: Some(replica_to_wire(vote.candidate)),
        committed: vote.committed,
    }
}

/// A vote, which has to be there, of a term that another one can follow: a replica never gives a vote up for an earlier.
pub fn vote_from_wire(vote: Option<&proto::Vote>) -> Result<RaftVote, Malformed> {
    let vote = vote.ok_or_else(|| missing("vote"))?;
    if Term(vote.term).is_beyond_all_terms() {
        return Err(beyond_all());
    }
    Ok(to_raft_vote(&VoteRecord {
        term: Term(vote.term),
        candidate: replica_from_wire(vote.candidate.as_ref())?,
        committed: vote.committed,
    }))
}

/// An append request; the route goes with the first of a stream.
pub fn append_to_wire(
    group: GroupId,
    route: Option<Route>,
    request: &Appending,
) -> proto::AppendRequest {
    let Appending { raft: request, needed_from, acknowledged_before } = request;
    let entries = request.entries.iter().map(|entry| entry_to_wire(group, entry));
    proto::AppendRequest {
        route: route.map(route_to_wire),
        vote: Some(vote_to_wire(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_to_wire),
        entries: entries.collect(),
        commit: request.leader_commit.as_ref().map(log_id_to_wire),
        needed_from: needed_from.0,
        acknowledged_before: acknowledged_before.0,
    }
}

/// The vote of a leader, which a quorum has granted: entries of a candidate are none.
pub fn leader_vote_from_wire(vote: Option<&proto::Vote>) -> Result<RaftVote, Malformed> {
    match vote_from_wire(vote)? {
        vote if vote.committed => Ok(vote),
        vote => Err(Malformed(format!("{vote} is no leader's"))),
    }
}

/// An append request, every entry's checksum verified.
pub fn append_from_wire(
    group: GroupId,
    request: &proto::AppendRequest,
) -> Result<Appending, Malformed> {
    let prev_log_id = optional_log_id(request.prev.as_ref())?;
    let first = prev_log_id.map_or(0, |prev| prev.index + 1);
    let entries = request.entries.iter().enumerate().map(|(nth, entry)| {
        let index = first.checked_add(nth as u64).ok_or_else(beyond_all)?;
        entry_from_wire(group, LogIndex(index), entry)
    });
    let raft = AppendEntriesRequest {
        vote: leader_vote_from_wire(request.vote.as_ref())?,
        prev_log_id,
        entries: entries.collect::<Result<_, _>>()?,
        leader_commit: optional_log_id(request.commit.as_ref())?,
    };
    Ok(Appending {
        raft,
        needed_from: LogIndex(request.needed_from),
        acknowledged_before: LogIndex(request.acknowledged_before),
    })
}

fn entry_to_wire(group: GroupId, entry: &RaftEntry) -> Bytes {
    let record = from_raft_entry(entry);
    let key = entry_key(group, &record);
    Bytes::from(record.encode(&key))
}

/// The record's checksum covers its key, so an entry that stands at another index is refused too.
fn entry_from_wire(group: GroupId, index: LogIndex, bytes: &Bytes) -> Result<RaftEntry, Malformed> {
    if index.is_beyond_all_logs() {
        return Err(beyond_all());
    }
    let key = keys::raft_log(group, index);
    let record = EntryRecord::decode(&key, bytes).map_err(|error| Malformed(error.to_string()))?;
    if record.log_id.index != index {
        return Err(Malformed(format!("entry {} stands at {index}", record.log_id.index)));
    }
    if record.log_id.is_beyond_all_logs() {
        return Err(beyond_all());
    }
    Ok(to_raft_entry(record))
}

/// The response to an append request.
pub fn result_to_wire(result: &StreamAppendResult<TypeConfig>) -> proto::AppendResponse {
    use proto::append_response::Result as Wire;
    let result = match result {
        Ok(last) => Wire::Accepted(proto::Accepted { last: last.as_ref().map(log_id_to_wire) }),
        Err(StreamAppendError::Conflict(id)) => Wire::Conflict(log_id_to_wire(id)),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote(vote_to_wire(vote)),
    };
    proto::AppendResponse { result: Some(result) }
}

/// The response to an append request; the outer error is the peer's refusal of the stream.
pub fn result_from_wire(
    response: &proto::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
    use proto::append_response::Result as Wire;
    match response.result.as_ref().ok_or_else(|| missing("result"))? {
        Wire::Accepted(accepted) => Ok(Ok(optional_log_id(accepted.last.as_ref())?)),
        Wire::Conflict(id) => Ok(Err(StreamAppendError::Conflict(log_id_from_wire(id)?))),
        Wire::HigherVote(vote) => {
            Ok(Err(StreamAppendError::HigherVote(vote_from_wire(Some(vote))?)))
        }
        Wire::Failed(reason) => Err(Malformed(format!("refused by the peer: {reason}"))),
    }
}

/// A group that rests, or could.
pub fn at_rest_to_wire(route: Route, footing: &Footing) -> proto::AtRest {
    proto::AtRest {
        route: Some(route_to_wire(route)),
        vote: Some(vote_to_wire(&footing.vote)),
        last: Some(log_id_to_wire(&footing.last)),
    }
}

/// A group that rests, or could; on what has to be said.
pub fn at_rest_from_wire(group: &proto::AtRest) -> Result<(Route, Footing), Malformed> {
    let last = log_id_from_wire(group.last.as_ref().ok_or_else(|| missing("last"))?)?;
    let vote = vote_from_wire(group.vote.as_ref())?;
    Ok((route_from_wire(group.route.as_ref())?, Footing { vote, last }))
}

/// A request for a vote.
pub fn vote_request_to_wire(request: &VoteRequest<TypeConfig>) -> proto::VoteRequest {
    proto::VoteRequest {
        vote: Some(vote_to_wire(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id_to_wire),
        leadership_transfer: request.leadership_transfer,
    }
}

/// A request for a vote.
pub fn vote_request_from_wire(
    request: &proto::VoteRequest,
) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let vote = vote_from_wire(request.vote.as_ref())?;
    let mut decoded = VoteRequest::new(vote, optional_log_id(request.last.as_ref())?);
    decoded.leadership_transfer = request.leadership_transfer;
    Ok(decoded)
}

/// The answer to a request for a vote.
pub fn vote_reply_to_wire(response: &VoteResponse<TypeConfig>) -> proto::VoteReply {
    proto::VoteReply {
        vote: Some(vote_to_wire(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id_to_wire),
    }
}

/// The answer to a request for a vote.
pub fn vote_reply_from_wire(
    reply: &proto::VoteReply,
) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let vote = vote_from_wire(reply.vote.as_ref())?;
    Ok(VoteResponse::new(vote, optional_log_id(reply.last.as_ref())?, reply.granted))
}

/// A handing over of leadership.
pub fn transfer_to_wire(request: &TransferLeaderRequest<TypeConfig>) -> proto::TransferRequest {
    proto::TransferRequest {
        from_leader: Some(vote_to_wire(request.from_leader())),
        to: Some(replica_to_wire(*request.to_node_id())),
        last: request.last_log_id().map(log_id_to_wire),
    }
}

/// A handing over of leadership; whose it was and whose it is to be have to be named.
pub fn transfer_from_wire(
    request: &proto::TransferRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, Malformed> {
    Ok(TransferLeaderRequest::new(
        vote_from_wire(request.from_leader.as_ref())?,
        replica_from_wire(request.to.as_ref())?,
        optional_log_id(request.last.as_ref())?,
    ))
}

/// The row of a group whose snapshot begins, encoded as stored.
pub fn group_row_from_wire(group: GroupId, encoded: &[u8]) -> Result<GroupRow, Malformed> {
    let row = GroupRow::decode(&keys::group(group), encoded);
    let row = row.map_err(|error| Malformed(error.to_string()))?;
    let mut ids = row.applied.iter().chain(&row.membership.log_id);
    match ids.any(|id| id.is_beyond_all_logs()) {
        true => Err(beyond_all()),
        false => Ok(row),
    }
}

/// A part of a snapshot.
pub fn rows_to_wire(part: Vec<SnapshotRow>) -> proto::SnapshotRows {
    let rows = part.into_iter().map(|(table, key, value)| proto::SnapshotRow {
        table: u32::from(table as u8),
        key,
        value,
    });
    let rows: Vec<_> = rows.collect();
    proto::SnapshotRows { crc32c: rows_checksum(&rows), rows }
}

/// A part of a snapshot, its checksum verified.
pub fn rows_from_wire(part: proto::SnapshotRows) -> Result<Vec<SnapshotRow>, Malformed> {
    if rows_checksum(&part.rows) != part.crc32c {
        return Err(Malformed("the rows of a snapshot were damaged on the way".to_owned()));
    }
    let decode = |row: proto::SnapshotRow| {
        let table = u8::try_from(row.table).ok().and_then(Table::from_tag);
        let table = table.ok_or_else(|| Malformed(format!("there is no table {}", row.table)))?;
        Ok((table, row.key, row.value))
    };
    part.rows.into_iter().map(decode).collect()
}

/// What `SnapshotRows::crc32c` has to be: the CRC-32C over tags, keys and values in order.
pub fn rows_checksum(rows: &[proto::SnapshotRow]) -> u32 {
    rows.iter().fold(0, |crc, row| {
        let crc = crc32c::crc32c_append(crc, &row.table.to_be_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(crc, &row.key), &row.value)
    })
}
