//! What the script comes to: each group's log after each operation.

use crate::script::{Op, SCRIPT};

/// One group's log. Index and term of each entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogModel {
    pub vote: Option<u64>,
    pub purged: Option<(u64, u64)>,
    pub entries: Vec<(u64, u64)>,
}

/// Every operation with its number and that of its batch.
pub fn operations() -> impl Iterator<Item = (usize, usize, Op)> {
    let batches = SCRIPT.iter().enumerate();
    let each = batches.flat_map(|(batch, ops)| ops.iter().map(move |op| (batch, *op)));
    each.enumerate().map(|(number, (batch, op))| (number, batch, op))
}

impl LogModel {
    /// A group's log before the operation of this number.
    pub fn before(group: u64, number: usize) -> LogModel {
        let mut model = LogModel::default();
        for (_, _, op) in operations().take(number) {
            if op.log_of() == Some(group) {
                model.change(op);
            }
        }
        model
    }

    fn change(&mut self, op: Op) {
        match op {
            Op::Vote(_, term) => self.vote = Some(term),
            Op::Append(_, upto, term) => {
                self.entries.extend((self.next_index()..=upto).map(|index| (index, term)));
            }
            Op::Truncate(_, after) => self.entries.retain(|(index, _)| *index <= after),
            Op::Purge(_, upto) => {
                self.purged = Some((upto, self.term_at(upto)));
                self.entries.retain(|(index, _)| *index > upto);
            }
            Op::RemoveLog(_) => *self = LogModel::default(),
            Op::Make(_) | Op::Apply(..) | Op::Flush | Op::Install(..) | Op::RemoveState(_) => {}
        }
    }

    pub fn last(&self) -> Option<(u64, u64)> {
        self.entries.last().copied().or(self.purged)
    }

    pub fn next_index(&self) -> u64 {
        self.last().map_or(0, |(index, _)| index + 1)
    }

    /// Of an entry that is not there, as behind an install, it is that of the vote.
    pub fn term_at(&self, at: u64) -> u64 {
        let found = self.entries.iter().find(|(index, _)| *index == at);
        found.map(|(_, term)| *term).or(self.vote).expect("there is a vote before anything else")
    }
}

/// The logs that a group may have once operations were reported done and others may have been under way: any state
/// between, in the order of the operations.
pub fn possible_logs(group: u64, done: &[usize]) -> Vec<LogModel> {
    let under_way = batch_under_way(done);
    let mut model = LogModel::default();
    let mut possible = vec![model.clone()];
    for (number, batch, op) in operations().take_while(|(_, batch, _)| *batch <= under_way) {
        debug_assert!(batch <= under_way);
        if op.log_of() != Some(group) {
            continue;
        }
        model.change(op);
        if done.contains(&number) {
            possible.clear();
        }
        possible.push(model.clone());
    }
    possible
}

/// The first batch that was not done as a whole; each before it was.
pub fn batch_under_way(done: &[usize]) -> usize {
    let open = operations().find(|(number, ..)| !done.contains(number));
    open.map_or(SCRIPT.len() - 1, |(_, batch, _)| batch)
}

/// The applied indexes that a group's row may have after a crash. None stands for no row, or for none applied.
pub struct PossibleState {
    /// What a flush or install that was reported done has made durable.
    pub durable: Option<u64>,
    /// As much as has been applied at all.
    pub applied: Option<u64>,
    /// Whether the group may be made, and may be gone.
    pub may_stand: bool,
    pub may_be_gone: bool,
}

pub fn possible_state(group: u64, done: &[usize]) -> PossibleState {
    let under_way = batch_under_way(done);
    let mut state =
        PossibleState { durable: None, applied: None, may_stand: false, may_be_gone: true };
    for (number, _, op) in operations().take_while(|(_, batch, _)| *batch <= under_way) {
        let is_done = done.contains(&number);
        match op {
            Op::Make(of) if of == group => {
                (state.may_stand, state.may_be_gone) = (true, state.may_be_gone && !is_done);
            }
            Op::RemoveState(of) if of == group => {
                (state.durable, state.applied) = (None, state.applied.filter(|_| !is_done));
                (state.may_stand, state.may_be_gone) = (!is_done, true);
            }
            Op::Apply(of, upto) if of == group => state.applied = Some(upto),
            Op::Install(of, upto) if of == group => {
                state.applied = Some(upto);
                state.durable = if is_done { Some(upto) } else { state.durable };
            }
            Op::Flush if is_done => state.durable = state.applied,
            _ => {}
        }
    }
    state
}
