//! Appending a batch: guarantees G2 (one order), G4 (exactly once) and G5 (sender order).
//!
//! The order of the checks is part of the contract: idempotency is decided before everything that a first attempt
//! may have changed (the tail, the lane), so that a retry is told the first outcome.

use std::collections::HashSet;

use super::dedup::{Content, accept_again, standing};
use super::digest;
use super::{
    AppendRef, AppendRefusal, Appended, Applied, ApplyError, GroupState, IdKey, NewMessageRef,
    Outcome,
};
use crate::seams::planted;
use crate::storage::records::{
    ConversationHead, DedupOutcome, DedupRow, Kind, MessageRecord, MessageRef, NameRow,
};
use crate::storage::{Overlay, StorageError, keys};
use crate::types::limits::ISSUED_AT_AHEAD_US_MAX;
use crate::types::{ConversationId, ConversationName, Seq, Timestamp};

/// Appends all messages of the request or none.
pub(super) fn append(
    overlay: &mut Overlay<'_>,
    group: &GroupState,
    stamped_at: Timestamp,
    request: &AppendRef<'_>,
) -> Result<Applied, ApplyError> {
    match attempt(overlay, group, stamped_at, request) {
        Ok(applied) => Ok(applied),
        Err(Stop::Refused(refusal)) => Ok(Applied::without_growth(Outcome::AppendRefused(refusal))),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// The latest `issued_at` that is let in at a time, and so of all that can be on its way then.
pub fn latest_issued_at(stamped_at: Timestamp) -> Timestamp {
    stamped_at.plus_us(ISSUED_AT_AHEAD_US_MAX)
}

/// Refuses what was issued further ahead of the leader's clock than clocks may differ. What `row` shows to have been
/// let in is not refused later: the next leader's clock may be behind (G4).
pub(super) fn check_not_ahead(
    stamped_at: Timestamp,
    client_msg_id: &str,
    issued_at: Timestamp,
    row: Option<&DedupRow>,
) -> Result<(), AppendRefusal> {
    let latest = latest_issued_at(stamped_at);
    if issued_at > latest && row.is_none_or(|row| row.issued_at < issued_at) {
        let client_msg_id = client_msg_id.to_owned();
        return Err(AppendRefusal::FromTheFuture { client_msg_id, issued_at, latest });
    }
    Ok(())
}

/// Why an attempt ends without a change.
enum Stop {
    Refused(AppendRefusal),
    Failed(ApplyError),
}

impl From<AppendRefusal> for Stop {
    fn from(refusal: AppendRefusal) -> Self {
        Stop::Refused(refusal)
    }
}

impl From<ApplyError> for Stop {
    fn from(error: ApplyError) -> Self {
        Stop::Failed(error)
    }
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        Stop::Failed(error.into())
    }
}

fn attempt(
    overlay: &mut Overlay<'_>,
    group: &GroupState,
    stamped_at: Timestamp,
    request: &AppendRef<'_>,
) -> Result<Applied, Stop> {
    let conversation = request.conversation.id();
    if !group.holds(conversation) {
        return Err(AppendRefusal::WrongGroup { epoch: group.epoch }.into());
    }
    let stored = overlay.head(conversation)?;
    if stored.is_some_and(|head| head.name.as_str() != request.conversation.as_str()) {
        return Err(AppendRefusal::NameCollision.into());
    }
    let is_new = stored.is_none();
    let blank = || ConversationHead::blank(request.conversation.as_str().to_owned());
    let head = stored.cloned().unwrap_or_else(blank);
    check_ids(&request.messages)?;
    check_not_too_old(group, &request.messages)?;
    let rows = standing_rows(overlay, group, conversation, request)?;
    for (message, row) in request.messages.iter().zip(&rows) {
        check_not_ahead(stamped_at, message.client_msg_id, message.issued_at, row.as_ref())?;
    }
    let in_turn = predecessor_accepted(overlay, group, conversation, request)?;
    if let Some(appended) = first_outcome(overlay, &head, request, rows, in_turn)? {
        return Ok(Applied::without_growth(Outcome::Appended(appended)));
    }
    if !in_turn {
        return Err(AppendRefusal::PredecessorMissing.into());
    }
    if request.expected_tail.is_some_and(|expected| expected != head.tail) {
        return Err(AppendRefusal::WrongTail { actual: head.tail }.into());
    }
    check_targets(&head, &request.messages)?;
    if is_new {
        overlay.put_row(keys::name(&request.conversation), &NameRow(conversation));
    }
    let (appended, tail) = write(overlay, conversation, head, stamped_at, request);
    Ok(Applied { outcome: Outcome::Appended(appended), tail_moved: Some((conversation, tail)) })
}

impl ConversationHead {
    /// The head of a conversation that has had no message.
    fn blank(name: String) -> ConversationHead {
        let name = ConversationName(name);
        let genesis = digest::genesis(&name, 0);
        ConversationHead {
            name,
            generation: 0,
            first_seq: Seq::FIRST,
            tail: Seq::FIRST,
            bytes: 0,
            last_commit_time: Timestamp(0),
            digest: genesis,
            base_digest: genesis,
            unread_total: 0,
        }
    }
}

/// No id twice. An empty batch, which nothing lets in, is refused as well: there is no seq to answer with.
fn check_ids(messages: &[NewMessageRef<'_>]) -> Result<(), AppendRefusal> {
    if messages.is_empty() {
        return Err(AppendRefusal::Conflict { seqs: Vec::new() });
    }
    if messages.len() == 1 {
        return Ok(());
    }
    let mut seen = HashSet::with_capacity(messages.len());
    match messages.iter().map(|message| message.client_msg_id).find(|id| !seen.insert(*id)) {
        Some(twice) => Err(AppendRefusal::Repeated { client_msg_id: twice.to_owned() }),
        None => Ok(()),
    }
}

fn check_not_too_old(
    group: &GroupState,
    messages: &[NewMessageRef<'_>],
) -> Result<(), AppendRefusal> {
    let floor = group.dedup_floor;
    match messages.iter().find(|message| message.issued_at < floor) {
        Some(old) => {
            let client_msg_id = old.client_msg_id.to_owned();
            Err(AppendRefusal::TooOld { client_msg_id, floor })
        }
        None => Ok(()),
    }
}

/// What stands under the ids of the batch, in its order.
fn standing_rows(
    overlay: &Overlay<'_>,
    group: &GroupState,
    conversation: ConversationId,
    request: &AppendRef<'_>,
) -> Result<Vec<Option<DedupRow>>, StorageError> {
    if planted::dedup_off() {
        return Ok(vec![None; request.messages.len()]);
    }
    let ids = request.messages.iter().map(|message| message.client_msg_id);
    ids.map(|id| standing(overlay, group, conversation, request.sender, id)).collect()
}

/// The outcome of an earlier attempt, if this is a repeat of one; refuses what is neither wholly new nor wholly a
/// repeat. A repeat is told the first outcome wherever it comes, but its lane goes on behind it only if it was its turn.
fn first_outcome(
    overlay: &mut Overlay<'_>,
    head: &ConversationHead,
    request: &AppendRef<'_>,
    rows: Vec<Option<DedupRow>>,
    in_turn: bool,
) -> Result<Option<Appended>, Stop> {
    let found = found_places(&request.messages, &rows)?;
    let (Some(first), Some(last)) = (found.first(), found.last()) else {
        return Ok(None);
    };
    let contiguous = found.windows(2).all(|pair| pair[0].seq.next() == pair[1].seq);
    if found.len() < rows.len() || !contiguous || !found.iter().all(|place| place.same_content) {
        let seqs = found.iter().map(|place| place.seq).collect();
        return Err(AppendRefusal::Conflict { seqs }.into());
    }
    let digest = digest_up_to(overlay, head, last.seq)?;
    let appended = Appended {
        first_seq: first.seq,
        last_seq: last.seq,
        commit_time: last.commit_time,
        digest,
        duplicate: true,
    };
    let attempt = request.lane.as_ref().filter(|_| in_turn).map(|place| place.attempt);
    for (message, row) in request.messages.iter().zip(rows.into_iter().flatten()) {
        let key = keys::dedup(head.name.id(), request.sender, message.client_msg_id);
        accept_again(overlay, key, row, message.issued_at, attempt);
    }
    Ok(Some(appended))
}

/// Where an id of the batch stands.
struct Place {
    seq: Seq,
    commit_time: Timestamp,
    same_content: bool,
}

/// The places of the ids that stand, in the order of the batch. A redacted message counts as the same: its content
/// can no longer be compared.
fn found_places(
    messages: &[NewMessageRef<'_>],
    rows: &[Option<DedupRow>],
) -> Result<Vec<Place>, AppendRefusal> {
    let mut found = Vec::new();
    for (message, row) in messages.iter().zip(rows) {
        match row.as_ref().map(|row| &row.outcome) {
            Some(DedupOutcome::Burnt) => {
                let client_msg_id = message.client_msg_id.to_owned();
                return Err(AppendRefusal::Burnt { client_msg_id });
            }
            Some(DedupOutcome::Committed { seq, commit_time, content, .. }) => {
                let is_that_of = |kept: &_| Content::from(message).is_that_of(kept);
                let same_content = content.as_ref().is_none_or(is_that_of);
                found.push(Place { seq: *seq, commit_time: *commit_time, same_content });
            }
            None => {}
        }
    }
    Ok(found)
}

/// The digest up to a message that was committed. Once the message was trimmed its digest is known only if it stands
/// at the trim point; otherwise 32 zero bytes say that it is not known any more.
fn digest_up_to(
    overlay: &Overlay<'_>,
    head: &ConversationHead,
    seq: Seq,
) -> Result<digest::Digest, ApplyError> {
    if seq.next() == head.first_seq {
        return Ok(head.base_digest);
    }
    if seq < head.first_seq {
        return Ok([0; 32]);
    }
    let key = keys::message(head.name.id(), seq);
    let record: Option<MessageRecord> = overlay.row(&key)?;
    record.map(|record| record.digest).ok_or_else(|| ApplyError::Contradiction {
        what: format!("seq {seq} of {} has a dedup row and no message", head.name),
    })
}

/// Whether the attempt that has to come before this one in its lane has been accepted.
fn predecessor_accepted(
    overlay: &Overlay<'_>,
    group: &GroupState,
    conversation: ConversationId,
    request: &AppendRef<'_>,
) -> Result<bool, StorageError> {
    let Some(before) = request.lane.as_ref().and_then(|place| place.predecessor.as_ref()) else {
        return Ok(true);
    };
    let IdKey { sender, client_msg_id } = &before.last;
    let row = standing(overlay, group, conversation, sender, client_msg_id)?;
    Ok(row.is_some_and(|row| match row.outcome {
        DedupOutcome::Committed { attempt, .. } => attempt == Some(before.attempt),
        DedupOutcome::Burnt => false,
    }))
}

/// A replacement names a message that could be read before this append; content and notices name none. Redactions
/// are not appended: erasing the message is the other half of one.
fn check_targets(
    head: &ConversationHead,
    messages: &[NewMessageRef<'_>],
) -> Result<(), AppendRefusal> {
    let fits = |message: &NewMessageRef<'_>| match (message.kind, message.target_seq) {
        (Kind::Content | Kind::System, target) => target.is_none(),
        (Kind::Replacement, Some(target)) => head.first_seq <= target && target < head.tail,
        (Kind::Replacement, None) | (Kind::Redaction, _) => false,
    };
    if messages.iter().all(fits) {
        Ok(())
    } else {
        Err(AppendRefusal::BadTarget { tail: head.tail })
    }
}

/// Writes messages, dedup rows and the head. Returns the outcome and the new tail.
fn write(
    overlay: &mut Overlay<'_>,
    conversation: ConversationId,
    mut head: ConversationHead,
    stamped_at: Timestamp,
    request: &AppendRef<'_>,
) -> (Appended, Seq) {
    let first_seq = head.tail;
    let mut last_seq = first_seq;
    head.last_commit_time = head.last_commit_time.max(stamped_at);
    for message in &request.messages {
        let payload = digest::payload_commitment(&message.salt, message.payload);
        let record = next_record(&head, conversation, request.sender, message, &payload);
        last_seq = record.seq;
        head.tail = record.seq.next();
        head.bytes += record.content_bytes() as u64;
        head.unread_total = record.unread_ordinal;
        head.digest = record.digest;
        let outcome = DedupOutcome::Committed {
            seq: record.seq,
            commit_time: record.commit_time,
            content: Some(Content::from(message).identity(message.salt, &payload)),
            attempt: request.lane.as_ref().map(|place| place.attempt),
        };
        let row = DedupRow { issued_at: message.issued_at, outcome };
        let id = keys::dedup(conversation, request.sender, message.client_msg_id);
        overlay.put_row(id, &row);
        overlay.put_row(keys::message(conversation, record.seq), &record);
    }
    let appended = Appended {
        first_seq,
        last_seq,
        commit_time: head.last_commit_time,
        digest: head.digest,
        duplicate: false,
    };
    let tail = head.tail;
    overlay.put_head(conversation, head);
    (appended, tail)
}

/// The record that `message`, with this commitment to its payload, gets behind `head`, whose commit time is already that
/// of the batch.
fn next_record<'a>(
    head: &ConversationHead,
    conversation: ConversationId,
    sender: &'a str,
    message: &NewMessageRef<'a>,
    payload: &digest::Digest,
) -> MessageRef<'a> {
    let mut record = MessageRecord {
        seq: head.tail,
        kind: message.kind,
        sender,
        client_msg_id: message.client_msg_id,
        issued_at: message.issued_at,
        commit_time: head.last_commit_time,
        content_type: message.content_type,
        headers: message.headers.clone(),
        payload: message.payload,
        payload_crc32c: message.payload_crc32c,
        target_seq: message.target_seq,
        traceparent: message.traceparent,
        unread_ordinal: head.unread_total + u64::from(message.kind == Kind::Content),
        salt: message.salt,
        digest: [0; 32],
    };
    record.digest =
        digest::leaf_over(payload, &head.digest, conversation, head.generation, &record);
    record
}
