//! Every conversation's head agrees with its messages, and those with each other.

use std::iter::Peekable;

use bytes::Bytes;

use super::{EVERYTHING, Findings, Groups, Holder};
use crate::log::dedup::{Content, in_force};
use crate::log::digest::{self, Digest};
use crate::log::queries::verified;
use crate::log::rows::row_of_view;
use crate::storage::records::{
    ConversationHead, DedupOutcome, DedupRow, Kind, MessageRecord, NameRow, Record,
};
use crate::storage::{Direction, Rows, StorageError, Table, View, keys};
use crate::types::{ConversationId, Seq, Timestamp};

/// Walks heads and messages side by side: both tables are in the order of conversation ids.
pub(super) fn check(view: &dyn View, groups: &mut Groups, findings: &mut Findings<'_>) {
    let mut messages = view.scan(Table::Messages, EVERYTHING, Direction::Forward).peekable();
    for row in view.scan(Table::Conversations, EVERYTHING, Direction::Forward) {
        findings.row_seen();
        findings.report.counts.conversations += 1;
        let Some((key, value)) = findings.readable(Table::Conversations, row) else { continue };
        let Ok(id) = <[u8; 16]>::try_from(key.as_ref()).map(ConversationId) else {
            findings.violation(|| "conversations".to_owned(), "a key has not 16 bytes");
            continue;
        };
        pass_orphans(&mut messages, Some(id), findings);
        let decoded = ConversationHead::decode(&key, &value);
        let Some(head) = findings.readable(Table::Conversations, decoded) else {
            pass_messages_of(&mut messages, id, findings, |_, _, _| ());
            continue;
        };
        let mut conversation = Conversation::new(view, id, &head, groups.dedup_floor(id));
        pass_messages_of(&mut messages, id, findings, |key, value, findings| {
            conversation.message(key, value, findings);
        });
        let recomputed = conversation.finish(findings);
        check_place(view, groups, id, &head, findings);
        groups.include(id, &head, &recomputed);
    }
    pass_orphans(&mut messages, None, findings);
}

type Messages<'a> = Peekable<Rows<'a>>;

/// Hands on every message that stands under `id`.
fn pass_messages_of(
    messages: &mut Messages<'_>,
    id: ConversationId,
    findings: &mut Findings<'_>,
    mut each: impl FnMut(&Bytes, &Bytes, &mut Findings<'_>),
) {
    let belongs = |row: &Result<(Bytes, Bytes), StorageError>| match row {
        Ok((key, _)) => key.starts_with(&id.0),
        Err(_) => true,
    };
    while let Some(row) = messages.next_if(belongs) {
        findings.row_seen();
        findings.report.counts.messages += 1;
        if let Some((key, value)) = findings.readable(Table::Messages, row) {
            each(&key, &value, findings);
        }
    }
}

/// Reports messages that stand before the conversation `next` and so have no head.
fn pass_orphans(
    messages: &mut Messages<'_>,
    next: Option<ConversationId>,
    findings: &mut Findings<'_>,
) {
    let orphaned = |row: &Result<(Bytes, Bytes), StorageError>| match (row, next) {
        (Ok((key, _)), Some(next)) => key.as_ref() < next.0.as_slice(),
        (Ok(_), None) | (Err(_), _) => true,
    };
    while let Some(row) = messages.next_if(orphaned) {
        findings.row_seen();
        findings.report.counts.messages += 1;
        if let Some((key, _)) = findings.readable(Table::Messages, row) {
            let place = || format!("messages, key {}", hex::encode(&key));
            findings.violation(place, "the conversation has no head");
        }
    }
}

/// The conversation is in a group of this view, its id is the hash of its name, and its name leads to it.
fn check_place(
    view: &dyn View,
    groups: &Groups,
    id: ConversationId,
    head: &ConversationHead,
    findings: &mut Findings<'_>,
) {
    let place = || format!("conversation {}", head.name);
    if head.name.id() != id {
        findings.violation(place, format!("stands under {id:?}, which is not its hash"));
    }
    if matches!(groups.holder(id), Holder::Nobody) {
        findings.violation(place, "lies in the range of no group on this node");
    }
    let name = row_of_view::<NameRow>(view, &keys::name(&head.name));
    match findings.readable(Table::Names, name) {
        Some(Some(NameRow(named))) if named == id => {}
        Some(_) => findings.violation(place, "its name does not lead to it"),
        None => {}
    }
}

/// One conversation while its messages go by.
struct Conversation<'a> {
    view: &'a dyn View,
    id: ConversationId,
    head: &'a ConversationHead,
    floor: Timestamp,
    next_seq: Seq,
    /// The digest so far; unknown behind a message that could not be read.
    digest: Option<Digest>,
    /// The unread ordinal so far; unknown before the first message after a trim and behind an unreadable one.
    unread: Option<u64>,
    commit_time: Timestamp,
    bytes: u64,
    /// Whether every message so far could be read.
    whole: bool,
}

impl<'a> Conversation<'a> {
    fn new(
        view: &'a dyn View,
        id: ConversationId,
        head: &'a ConversationHead,
        floor: Timestamp,
    ) -> Self {
        let untrimmed = head.first_seq == Seq::FIRST;
        Conversation {
            view,
            id,
            head,
            floor,
            next_seq: head.first_seq,
            digest: Some(head.base_digest),
            unread: untrimmed.then_some(0),
            commit_time: Timestamp(0),
            bytes: 0,
            whole: true,
        }
    }

    fn message(&mut self, key: &[u8], value: &Bytes, findings: &mut Findings<'_>) {
        let Some(seq) = key.get(16..).and_then(|seq| <[u8; 8]>::try_from(seq).ok()) else {
            findings.violation(|| self.place(), "a message's key has not 24 bytes");
            return;
        };
        let seq = Seq(u64::from_be_bytes(seq));
        if seq != self.next_seq {
            let what = format!("seq {} was to follow and {seq} does", self.next_seq);
            findings.violation(|| self.place(), what);
            self.lose_track();
        }
        self.next_seq = Seq(seq.0.saturating_add(1));
        let record = verified(self.id, seq, key, value);
        match findings.readable(Table::Messages, record) {
            Some(record) => {
                findings.report.counts.message_bytes += record.content_bytes() as u64;
                self.follow(&record, findings);
                self.check_dedup(&record, findings);
            }
            None => self.lose_track(),
        }
    }

    /// Compares a message with what those before it make of it.
    fn follow(&mut self, record: &MessageRecord, findings: &mut Findings<'_>) {
        let seq = record.seq;
        if let Some(before) = &self.digest {
            let computed = digest::leaf(before, self.id, self.head.generation, record);
            if computed != record.digest {
                let what = format!("the digest of seq {seq} is not that of its history");
                findings.violation(|| self.place(), what);
            }
        }
        self.digest = Some(record.digest);
        let counts = u64::from(record.kind == Kind::Content);
        let ordinal = Some(record.unread_ordinal);
        if self.unread.is_some_and(|unread| unread.checked_add(counts) != ordinal) {
            let what = format!("the unread ordinal of seq {seq} is {}", record.unread_ordinal);
            findings.violation(|| self.place(), what);
        }
        self.unread = ordinal;
        if record.commit_time < self.commit_time {
            findings.violation(|| self.place(), format!("commit time goes back at seq {seq}"));
        }
        self.commit_time = record.commit_time;
        self.bytes += record.content_bytes() as u64;
    }

    /// The id of each message that could still be repeated leads to it.
    fn check_dedup(&self, record: &MessageRecord, findings: &mut Findings<'_>) {
        if record.issued_at < self.floor {
            return;
        }
        let key = keys::dedup(self.id, &record.sender, &record.client_msg_id);
        let row = row_of_view::<DedupRow>(self.view, &key);
        let Some(row) = findings.readable(Table::Dedup, row) else { return };
        let row = row.filter(|row| in_force(row, self.floor));
        let leads_here = row.is_some_and(|row| match row.outcome {
            DedupOutcome::Committed { seq, commit_time, content, .. } => {
                seq == record.seq
                    && commit_time == record.commit_time
                    && row.issued_at >= record.issued_at
                    && content.is_none_or(|kept| {
                        kept.salt == record.salt && Content::from(record).is_that_of(&kept)
                    })
            }
            DedupOutcome::Burnt => false,
        });
        if !leads_here {
            let what = format!("the id of seq {} does not lead to it", record.seq);
            findings.violation(|| self.place(), what);
        }
    }

    /// Compares the head with all messages. Returns the digest that they lead to.
    fn finish(self, findings: &mut Findings<'_>) -> Digest {
        let head = self.head;
        let mut differs = |what: &str, differs: bool| {
            if differs {
                findings.violation(|| self.place(), format!("{what} of the head is another"));
            }
        };
        let untrimmed = head.first_seq == Seq::FIRST;
        let genesis = digest::genesis(&head.name, head.generation);
        differs("the base digest", untrimmed && head.base_digest != genesis);
        differs("the tail", head.tail != self.next_seq);
        differs("the digest", self.digest.is_some_and(|digest| digest != head.digest));
        differs("the unread total", self.unread.is_some_and(|unread| unread != head.unread_total));
        differs("the number of bytes", self.whole && self.bytes != head.bytes);
        let any = self.next_seq > head.first_seq;
        differs(
            "the last commit time",
            any && self.whole && self.commit_time != head.last_commit_time,
        );
        self.digest.unwrap_or(head.digest)
    }

    fn lose_track(&mut self) {
        self.digest = None;
        self.unread = None;
        self.whole = false;
    }

    fn place(&self) -> String {
        format!("conversation {}", self.head.name)
    }
}
