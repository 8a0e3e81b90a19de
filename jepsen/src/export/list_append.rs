//! `list-append.edn`, one map a line, as Elle takes it: an append of a batch is a transaction of appends to one list, a
//! linearizable read of a whole conversation reads the list. Other reads say nothing that Elle would understand.

use std::collections::HashSet;
use std::io::{self, Write};

use super::edn::{string, vector};
use super::{Entry, Operation, Type, entries, in_order};
use crate::history::Consistency;
use crate::model::{Append, Key, Model, Read};

/// Writes the history.
pub fn write(model: &Model, out: &mut dyn Write) -> io::Result<()> {
    // Elle wants each value appended once: what was retried is the first attempt that may have done it.
    let mut written: HashSet<Key> = HashSet::new();
    let mut all = Vec::new();
    for (at, append) in
        model.appends.iter().enumerate().filter(|(_, one)| may_be_the_one(model, one))
    {
        if model.sent_in(append).iter().all(|sent| written.insert(sent.key)) {
            all.extend(entries(&append.span, Type::of(&append.ending), Operation::Append(at)));
        }
    }
    for (at, read) in model.reads.iter().enumerate().filter(|(_, read)| is_whole(read)) {
        all.extend(entries(&read.span, Type::of(&read.ending), Operation::Read(at)));
    }
    for (entry, index) in in_order(all).iter().zip(0_u64..) {
        let Entry { at, what, process, operation, .. } = entry;
        let (word, value) = (what.word(), value(model, *operation, *what));
        writeln!(
            out,
            "{{:index {index}, :time {at}, :type {word}, :process {process}, :f :txn, :value {value}}}"
        )?;
    }
    Ok(())
}

/// Whether the messages of this attempt can be its doing: no other attempt can have sent them, or it can have, too.
fn may_be_the_one(model: &Model, append: &Append) -> bool {
    let Some(first) = model.sent_in(append).first() else { return false };
    let mut attempts = model.attempts(first.key).iter().map(|attempt| model.append_of(attempt));
    !append.certainly_failed() || attempts.all(Append::certainly_failed)
}

fn is_whole(read: &Read) -> bool {
    let is_linearizable = read.consistency == Consistency::Linearizable && read.from_seq <= 1;
    let whole = |count: usize, tail: u64| count as u64 + 1 == tail;
    is_linearizable && read.ending.ok().is_some_and(|a| whole(a.seen.len(), a.tail))
}

fn value(model: &Model, operation: Operation, what: Type) -> String {
    match operation {
        Operation::Append(at) => {
            let append = &model.appends[at];
            let key = string(model.name(append.conversation));
            let sent = model.sent_in(append).iter();
            vector(sent.map(|sent| format!("[:append {key} {}]", sent.key)))
        }
        Operation::Read(at) => {
            let read = &model.reads[at];
            let key = string(model.name(read.conversation));
            let answer = read.ending.ok().filter(|_| what == Type::Ok);
            let list = answer.map_or("nil".to_owned(), |answer| {
                let seen = model.seen[answer.seen.clone()].iter();
                vector(seen.map(|id| model.record(*id).key.to_string()))
            });
            format!("[[:r {key} {list}]]")
        }
        Operation::Delivery(..) => unreachable!("no deliveries are put in this form"),
    }
}
