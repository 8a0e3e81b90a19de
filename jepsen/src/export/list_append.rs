//! `list-append.edn`, one map a line, as Elle takes it: an append of a batch is a transaction of appends to one list, a
//! linearizable read of a whole conversation, in as many pages as it took, reads the list. Other reads say nothing that
//! Elle would understand.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use super::edn::{string, vector};
use super::{Entry, Operation, Type, entries, in_order};
use crate::history::{Consistency, Process};
use crate::model::{Append, Key, Model, Name, ReadAnswer, Span};

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
    let reads = whole_reads(model);
    for (at, read) in reads.iter().enumerate() {
        all.extend(entries(&read.span, Type::Ok, Operation::Read(at)));
    }
    for (entry, index) in in_order(all).iter().zip(0_u64..) {
        let Entry { at, what, process, operation, .. } = entry;
        let (word, value) = (what.word(), value(model, &reads, *operation, *what));
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

/// A read of a whole conversation.
struct WholeRead<'m> {
    /// From the call of the first page to the answer of the last.
    span: Span,
    conversation: Name,
    pages: Vec<&'m ReadAnswer>,
    /// Where the next page begins.
    next: u64,
}

/// What is at a seq stays there, so that pages which one process read, each from where the last ended, are what one read
/// would have had when the last page was read.
fn whole_reads(model: &Model) -> Vec<WholeRead<'_>> {
    let mut begun: HashMap<Process, WholeRead<'_>> = HashMap::new();
    let mut whole = Vec::new();
    for read in model.reads.iter().filter(|read| read.consistency == Consistency::Linearizable) {
        let Some(page) = read.ending.ok() else { continue };
        let process = read.span.call.process;
        let earlier = begun.remove(&process).filter(|earlier| {
            earlier.conversation == read.conversation && earlier.next == read.from_seq
        });
        let mut now = match earlier {
            Some(earlier) => earlier,
            None if read.from_seq <= 1 => WholeRead {
                span: read.span,
                conversation: read.conversation,
                pages: Vec::new(),
                next: 1,
            },
            None => continue,
        };
        now.span = Span { call: now.span.call, ..read.span };
        now.next =
            model.seen[page.seen.clone()].last().map_or(now.next, |id| model.record(*id).seq + 1);
        now.pages.push(page);
        if now.next == page.tail {
            whole.push(now);
        } else {
            begun.insert(process, now);
        }
    }
    whole
}

fn value(model: &Model, reads: &[WholeRead<'_>], operation: Operation, what: Type) -> String {
    match operation {
        Operation::Append(at) => {
            let append = &model.appends[at];
            let key = string(model.name(append.conversation));
            let sent = model.sent_in(append).iter();
            vector(sent.map(|sent| format!("[:append {key} {}]", sent.key)))
        }
        Operation::Read(at) => {
            let read = &reads[at];
            let key = string(model.name(read.conversation));
            let list = match what {
                Type::Ok => {
                    let pages = read.pages.iter();
                    let seen = pages.flat_map(|page| &model.seen[page.seen.clone()]);
                    vector(seen.map(|id| model.record(*id).key.to_string()))
                }
                _ => "nil".to_owned(),
            };
            format!("[[:r {key} {list}]]")
        }
        Operation::Delivery(..) => unreachable!("no deliveries are put in this form"),
    }
}
