//! Every id that stands leads to the message that it was given.

use bytes::Bytes;

use super::{EVERYTHING, Findings, Groups, Holder};
use crate::log::dedup::in_force;
use crate::log::rows::row_of_view;
use crate::storage::records::{ConversationHead, DedupOutcome, DedupRow, MessageRecord, Record};
use crate::storage::{Direction, Table, View, keys};
use crate::types::{ConversationId, Seq, Timestamp};

pub(super) fn check(view: &dyn View, groups: &Groups, findings: &mut Findings<'_>) {
    let mut bounds = Bounds { view, of: None };
    for row in view.scan(Table::Dedup, EVERYTHING, Direction::Forward) {
        findings.row_seen();
        findings.report.counts.dedup_rows += 1;
        let decoded = row.and_then(|(key, value)| Ok((DedupRow::decode(&key, &value)?, key)));
        let Some((row, key)) = findings.readable(Table::Dedup, decoded) else { continue };
        let Some(id) = Id::parse(&key) else {
            findings.violation(|| "dedup".to_owned(), "a key does not name an id");
            continue;
        };
        if matches!(groups.holder(id.conversation), Holder::Nobody) {
            findings.violation(|| id.place(), "lies in the range of no group on this node");
            continue;
        }
        if let DedupOutcome::Committed { seq, commit_time, .. } = row.outcome
            && in_force(&row, groups.dedup_floor(id.conversation))
        {
            let within = bounds.within(id.conversation, seq, findings);
            check_committed(view, &id, seq, commit_time, within, findings);
        }
    }
}

/// The parts of a key.
struct Id {
    conversation: ConversationId,
    sender: String,
    client_msg_id: String,
}

impl Id {
    fn parse(key: &Bytes) -> Option<Id> {
        let conversation = ConversationId(key.get(..16)?.try_into().ok()?);
        let sender_bytes = u16::from_be_bytes(key.get(16..18)?.try_into().ok()?);
        let (sender, client_msg_id) = key.get(18..)?.split_at_checked(sender_bytes.into())?;
        Some(Id {
            conversation,
            sender: String::from_utf8(sender.to_vec()).ok()?,
            client_msg_id: String::from_utf8(client_msg_id.to_vec()).ok()?,
        })
    }

    fn place(&self) -> String {
        format!("dedup, {:?} {} {}", self.conversation, self.sender, self.client_msg_id)
    }
}

/// Where a seq lies in its conversation.
#[derive(Clone, Copy)]
enum Within {
    /// Below the first seq: the message was trimmed.
    Trimmed,
    /// It can be read.
    Readable,
    /// Not below the tail, or there is no conversation.
    Beyond,
}

/// Bounds of the conversation seen last: rows come conversation by conversation.
struct Bounds<'a> {
    view: &'a dyn View,
    of: Option<(ConversationId, Seq, Seq)>,
}

impl Bounds<'_> {
    fn within(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
        findings: &mut Findings<'_>,
    ) -> Within {
        if self.of.is_none_or(|(known, ..)| known != conversation) {
            let key = keys::conversation(conversation);
            let head = row_of_view::<ConversationHead>(self.view, &key);
            let head = findings.readable(Table::Conversations, head).flatten();
            let (first_seq, tail) =
                head.map_or((Seq::FIRST, Seq::FIRST), |head| (head.first_seq, head.tail));
            self.of = Some((conversation, first_seq, tail));
        }
        match self.of {
            Some((_, first_seq, _)) if seq < first_seq => Within::Trimmed,
            Some((_, _, tail)) if seq < tail => Within::Readable,
            _ => Within::Beyond,
        }
    }
}

fn check_committed(
    view: &dyn View,
    id: &Id,
    seq: Seq,
    commit_time: Timestamp,
    within: Within,
    findings: &mut Findings<'_>,
) {
    match within {
        Within::Trimmed => {}
        Within::Beyond => {
            findings.violation(|| id.place(), format!("committed at {seq}, beyond the tail"));
        }
        Within::Readable => {
            let record = row_of_view::<MessageRecord>(view, &keys::message(id.conversation, seq));
            let Some(record) = findings.readable(Table::Messages, record) else { return };
            let fits = record.is_some_and(|record| {
                record.sender == id.sender
                    && record.client_msg_id == id.client_msg_id
                    && record.commit_time == commit_time
            });
            if !fits {
                let what = format!("committed at {seq}, where another message or none stands");
                findings.violation(|| id.place(), what);
            }
        }
    }
}
