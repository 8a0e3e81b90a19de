//! What holds of every replica's state at every entry, as a function: tests run it after each step, and
//! `quorate check` on the data of a stopped node. Everything is recomputed from the stored bytes.
//!
//! Memory is bounded: tables are streamed in key order and what was found is listed up to a number.

mod dedup;
mod history;

use std::collections::{BTreeMap, BTreeSet};

use blake3::Hasher;

use super::Topology;
use super::digest::Digest;
use super::rows::row_of_view;
use crate::storage::records::{ConversationHead, GroupRow, LogId, NameRow, Record};
use crate::storage::{Direction, KeyRange, StorageError, Table, View, keys};
use crate::types::{ConversationId, ConversationName, GroupId, HashRange, NodeId, Timestamp};

/// Violations that a report lists; further ones are only counted.
pub const VIOLATIONS_LISTED_MAX: usize = 100;
/// How many rows lie between two calls of the progress function.
pub const PROGRESS_EVERY_ROWS: u64 = 1_024;

const GROUP_CONTEXT: &str = "quorate v1 group comparison";

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How much there was.
    pub counts: Counts,
    /// The groups, in order of id.
    pub groups: Vec<GroupFinding>,
    /// The first violations found, at most [`VIOLATIONS_LISTED_MAX`].
    pub violations: Vec<Violation>,
    /// How many there were in all.
    pub violations_total: u64,
}

impl Report {
    /// Whether every invariant holds.
    pub fn is_clean(&self) -> bool {
        self.violations_total == 0
    }
}

/// Rows seen, those that violate something included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Heads.
    pub conversations: u64,
    /// Messages.
    pub messages: u64,
    /// Payload and header bytes of the messages.
    pub message_bytes: u64,
    /// Dedup rows, expired ones included.
    pub dedup_rows: u64,
    /// Names.
    pub names: u64,
}

/// One group's replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFinding {
    /// Which group.
    pub group: GroupId,
    /// What it holds.
    pub range: Option<HashRange>,
    /// The last entry applied. Replicas compare only at the same one.
    pub applied: Option<LogId>,
    /// Appends issued before it are too old.
    pub dedup_floor: Timestamp,
    /// How many conversations it has.
    pub conversations: u64,
    /// A hash over id, generation, first seq, tail and recomputed digest of every conversation of the group, in
    /// order of id: two replicas that applied the same entries have the same.
    pub digest: Digest,
}

/// Something that should never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where.
    pub place: String,
    /// What.
    pub what: String,
}

/// Checks everything in a state database. `progress` is called with the number of rows seen so far, now and then
/// and at the end. Where the view has no group with a range, conversations count as held by one group without a
/// dedup floor. What cannot be read is a violation too; the rest is checked nevertheless.
pub fn check(view: &dyn View, progress: &mut dyn FnMut(u64)) -> Report {
    let mut findings = Findings { report: Report::default(), rows: 0, progress };
    let mut groups = Groups::read(view, &mut findings);
    history::check(view, &mut groups, &mut findings);
    dedup::check(view, &groups, &mut findings);
    check_names(view, &groups, &mut findings);
    check_topology(view, &mut findings);
    (findings.progress)(findings.rows);
    findings.report.groups = groups.into_findings();
    findings.report
}

/// Collects what is found.
struct Findings<'a> {
    report: Report,
    rows: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Findings<'_> {
    fn row_seen(&mut self) {
        self.rows += 1;
        if self.rows.is_multiple_of(PROGRESS_EVERY_ROWS) {
            (self.progress)(self.rows);
        }
    }

    fn violation(&mut self, place: impl FnOnce() -> String, what: impl Into<String>) {
        self.report.violations_total += 1;
        if self.report.violations.len() < VIOLATIONS_LISTED_MAX {
            self.report.violations.push(Violation { place: place(), what: what.into() });
        }
    }

    fn unreadable(&mut self, table: Table, error: &StorageError) {
        self.violation(|| table.name().to_owned(), error.to_string());
    }

    /// What was read, or nothing and a violation.
    fn readable<T>(&mut self, table: Table, read: Result<T, StorageError>) -> Option<T> {
        read.inspect_err(|error| self.unreadable(table, error)).ok()
    }
}

/// The groups of the view, and what is being gathered about each.
struct Groups {
    by_id: BTreeMap<GroupId, GroupFinding>,
    hashers: BTreeMap<GroupId, Hasher>,
    /// Start of each range, with its group.
    by_start: BTreeMap<u64, GroupId>,
}

/// Who holds a conversation.
#[derive(Clone, Copy)]
enum Holder {
    /// This group.
    Group(GroupId),
    /// No group of this view has a range at all.
    Unknown,
    /// The view has groups, and none of them.
    Nobody,
}

impl Groups {
    fn read(view: &dyn View, findings: &mut Findings<'_>) -> Groups {
        let mut groups =
            Groups { by_id: BTreeMap::new(), hashers: BTreeMap::new(), by_start: BTreeMap::new() };
        for row in view.scan(Table::Groups, EVERYTHING, Direction::Forward) {
            findings.row_seen();
            let decoded = row.and_then(|(key, value)| Ok((GroupRow::decode(&key, &value)?, key)));
            let Some((row, key)) = findings.readable(Table::Groups, decoded) else { continue };
            match <[u8; 8]>::try_from(key.as_ref()) {
                Ok(id) => groups.add(GroupId(u64::from_be_bytes(id)), &row, findings),
                Err(_) => findings.violation(|| "groups".to_owned(), "a key has not 8 bytes"),
            }
        }
        groups
    }

    fn add(&mut self, id: GroupId, row: &GroupRow, findings: &mut Findings<'_>) {
        let place = || format!("group {id}");
        if row.installing.is_some() {
            let what = "a snapshot was being brought in; opening the node completes that";
            findings.violation(place, what);
        }
        if let Some(range) = row.range {
            if range.end.is_some_and(|end| end <= range.start) {
                findings.violation(place, format!("its range {range} is empty"));
            }
            for other in self.by_id.values() {
                if other.range.is_some_and(|theirs| theirs.overlaps(&range)) {
                    findings.violation(place, format!("shares {range} with group {}", other.group));
                }
            }
            self.by_start.insert(range.start.0, id);
        }
        self.hashers.insert(id, Hasher::new_derive_key(GROUP_CONTEXT));
        let finding = GroupFinding {
            group: id,
            range: row.range,
            applied: row.applied,
            dedup_floor: row.dedup_floor,
            conversations: 0,
            digest: [0; 32],
        };
        self.by_id.insert(id, finding);
    }

    fn holder(&self, conversation: ConversationId) -> Holder {
        if self.by_start.is_empty() {
            return Holder::Unknown;
        }
        let placement = conversation.placement();
        let below = self.by_start.range(..=placement.0).next_back();
        let group = below.and_then(|(_, id)| self.by_id.get(id));
        match group.filter(|group| group.range.is_some_and(|range| range.contains(placement))) {
            Some(group) => Holder::Group(group.group),
            None => Holder::Nobody,
        }
    }

    fn dedup_floor(&self, conversation: ConversationId) -> Timestamp {
        match self.holder(conversation) {
            Holder::Group(id) => self.by_id[&id].dedup_floor,
            Holder::Unknown | Holder::Nobody => Timestamp(0),
        }
    }

    /// Takes a conversation into the comparison of its group.
    fn include(&mut self, id: ConversationId, head: &ConversationHead, recomputed: &Digest) {
        let Holder::Group(group) = self.holder(id) else { return };
        if let (Some(finding), Some(hasher)) =
            (self.by_id.get_mut(&group), self.hashers.get_mut(&group))
        {
            finding.conversations += 1;
            hasher.update(&id.0);
            hasher.update(&head.generation.to_be_bytes());
            hasher.update(&head.first_seq.0.to_be_bytes());
            hasher.update(&head.tail.0.to_be_bytes());
            hasher.update(recomputed);
        }
    }

    fn into_findings(self) -> Vec<GroupFinding> {
        let digests = self.hashers.into_values().map(|hasher| *hasher.finalize().as_bytes());
        let groups = self.by_id.into_values().zip(digests);
        groups.map(|(group, digest)| GroupFinding { digest, ..group }).collect()
    }
}

/// Every name leads to a head of that name, unless it is left over from a group that is no longer here.
fn check_names(view: &dyn View, groups: &Groups, findings: &mut Findings<'_>) {
    for row in view.scan(Table::Names, EVERYTHING, Direction::Forward) {
        findings.row_seen();
        findings.report.counts.names += 1;
        let decoded = row.and_then(|(key, value)| Ok((NameRow::decode(&key, &value)?, key)));
        let Some((NameRow(id), key)) = findings.readable(Table::Names, decoded) else { continue };
        let place = || format!("names, {}", String::from_utf8_lossy(&key));
        let Ok(name) = String::from_utf8(key.to_vec()).map(ConversationName) else {
            findings.violation(place, "the name is not UTF-8");
            continue;
        };
        if name.id() != id {
            findings.violation(place, format!("leads to {id:?}, which is not its hash"));
        }
        if matches!(groups.holder(id), Holder::Nobody) {
            continue;
        }
        let head = row_of_view::<ConversationHead>(view, &keys::conversation(id));
        match findings.readable(Table::Conversations, head) {
            Some(Some(head)) if head.name == name => {}
            Some(_) => findings.violation(place, "there is no conversation of that name"),
            None => {}
        }
    }
}

/// A topology can be read, and places every replica of a group on a node that it knows, one on each.
fn check_topology(view: &dyn View, findings: &mut Findings<'_>) {
    for row in view.scan(Table::Topology, EVERYTHING, Direction::Forward) {
        findings.row_seen();
        let decoded = row.and_then(|(key, value)| Topology::decode(&key, &value));
        let Some(topology) = findings.readable(Table::Topology, decoded) else { continue };
        let nodes: BTreeSet<NodeId> = topology.nodes.iter().map(|node| node.id).collect();
        for group in &topology.groups {
            let place = || format!("topology, group {}", group.id);
            let mut holders = BTreeSet::new();
            for replica in &group.replicas {
                if !nodes.contains(&replica.node) {
                    let what =
                        format!("node {} is to hold a replica and is not known", replica.node);
                    findings.violation(place, what);
                }
                if !holders.insert(replica.node) {
                    findings
                        .violation(place, format!("node {} is to hold two replicas", replica.node));
                }
            }
        }
    }
}

const EVERYTHING: KeyRange = KeyRange { start: Vec::new(), end: None };
