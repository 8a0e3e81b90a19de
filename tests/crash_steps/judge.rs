//! Opens what a crash has left, and holds it against the script.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use quorate::log::invariants;
use quorate::storage::{
    Database, Direction, Engine, GroupLogState, GroupRecovery, KeyRange, MemoryDisk, Storage,
    Table, View, read_entries,
};
use quorate::types::{GroupId, LogIndex};

use crate::child;
use crate::model::{LogModel, possible_logs, possible_state};
use crate::script::GROUPS;
use crate::world::{apply_up_to, entry, log_id, stored_row, vote, write_blank_row};

/// Fails with what is wrong.
type Verdict = Result<(), String>;

/// Judges a data directory after these operations were reported done.
pub async fn judge(data: &Path, done: &[usize]) -> Verdict {
    let storage = child::open(data).await.map_err(|error| format!("it does not open: {error}"))?;
    let verdict = judge_open(&storage, done);
    storage.close().await.map_err(|error| error.to_string())?;
    verdict
}

fn judge_open(storage: &Storage, done: &[usize]) -> Verdict {
    let mut applied = BTreeMap::new();
    for group in 1..=GROUPS {
        judge_log(storage, group, &possible_logs(group, done))
            .map_err(|what| format!("log of group {group}: {what}"))?;
        let at = judge_row(storage.state.as_ref(), group, done)
            .map_err(|what| format!("state of group {group}: {what}"))?;
        applied.extend(at.map(|at| (group, at)));
    }
    if rows(storage.state.as_ref()) != expected_rows(&applied) {
        return Err(format!("the rows are not those of {applied:?}"));
    }
    let staged = storage.state.staged().map_err(|error| error.to_string())?;
    if !staged.is_empty() {
        return Err(format!("staging areas stay: {staged:?}"));
    }
    let report = invariants::check(storage.state.as_ref(), &mut |_| ());
    match report.is_clean() {
        true => Ok(()),
        false => Err(format!("{:?}", report.violations)),
    }
}

fn judge_log(storage: &Storage, group: u64, possible: &[LogModel]) -> Verdict {
    let found = match storage.groups.get(&GroupId(group)) {
        None => GroupLogState::default(),
        Some(GroupRecovery::Healthy(found)) => *found,
        Some(GroupRecovery::Damaged { reason }) => return Err(format!("damaged: {reason}")),
    };
    let id = |(index, term)| log_id(index, term);
    let fits = |model: &&LogModel| {
        found.vote == model.vote.map(vote)
            && found.purged == model.purged.map(id)
            && found.last == model.last().map(id)
    };
    let fitting: Vec<_> = possible.iter().filter(fits).collect();
    let everything = LogIndex(0)..LogIndex(u64::MAX);
    let entries = read_entries(storage.log.as_ref(), GroupId(group), everything, usize::MAX);
    let entries = entries.map_err(|error| error.to_string())?;
    let is_right = fitting.iter().any(|model| {
        let expected = model.entries.iter().map(|(index, term)| entry(group, *index, *term));
        expected.eq(entries.iter().cloned())
    });
    match is_right {
        true => Ok(()),
        false => Err(format!("found {found:?}, possible are {possible:?}")),
    }
}

/// The applied index, if the group stands and has applied anything.
fn judge_row(engine: &dyn Engine, group: u64, done: &[usize]) -> Result<Option<u64>, String> {
    let possible = possible_state(group, done);
    let Some(row) = stored_row(engine, group) else {
        return match possible.may_be_gone {
            true => Ok(None),
            false => Err("it is gone".to_owned()),
        };
    };
    if !possible.may_stand {
        return Err("it stands".to_owned());
    }
    if row.installing.is_some() {
        return Err("it is marked".to_owned());
    }
    let applied = row.applied.map(|applied| applied.index.0);
    if applied < possible.durable || applied > possible.applied {
        let (durable, most) = (possible.durable, possible.applied);
        return Err(format!("{applied:?} is applied, durable are {durable:?}, at most {most:?}"));
    }
    Ok(applied)
}

type Row = (Table, Bytes, Bytes);

/// All rows but those of groups, which were looked at.
fn rows(view: &dyn View) -> Vec<Row> {
    let mut found = Vec::new();
    for table in Table::STATE.iter().filter(|table| **table != Table::Groups) {
        let whole = KeyRange { start: Vec::new(), end: None };
        for row in view.scan(*table, whole, Direction::Forward) {
            let (key, value) = row.unwrap();
            found.push((*table, key, value));
        }
    }
    found
}

fn expected_rows(applied: &BTreeMap<u64, u64>) -> Vec<Row> {
    let engine = MemoryDisk::new(Database::State).open();
    for (group, upto) in applied {
        write_blank_row(&engine, *group).unwrap();
        apply_up_to(&engine, *group, *upto).unwrap();
    }
    rows(&engine)
}
