//! `history.edn`, one map a line, as `jepsen.tests.kafka` takes it: appends are sends, reads and deliveries polls.
//!
//! A send is `[:send k v]`, and once acknowledged `[:send k [offset v]]`; a poll gives `{k [[offset v] ...]}`. A read
//! begins where it likes, and a stream where it was told to: an `:assign` stands before it.

use std::io::{self, Write};

use super::edn::{string, vector};
use super::{Entry, Operation, Type, entries, in_order};
use crate::model::{Append, Delivered, Delivery, Model, Name, RecordId};

/// Writes the history.
pub fn write(model: &Model, out: &mut dyn Write) -> io::Result<()> {
    let mut all = Vec::new();
    for (at, append) in model.appends.iter().enumerate() {
        all.extend(entries(&append.span, Type::of(&append.ending), Operation::Append(at)));
    }
    for (at, read) in model.reads.iter().enumerate() {
        all.extend(entries(&read.span, Type::of(&read.ending), Operation::Read(at)));
    }
    for (at, follow) in model.follows.iter().enumerate() {
        for (nth, delivery) in follow.deliveries.iter().enumerate() {
            if let Delivered::Messages(_) = delivery.what {
                let entry = |what| Entry {
                    at: delivery.mark.at,
                    line: delivery.mark.line,
                    what,
                    process: follow.span.call.process,
                    operation: Operation::Delivery(at, nth),
                };
                all.extend([entry(Type::Invoke), entry(Type::Ok)]);
            }
        }
    }
    let mut index = 0;
    for entry in in_order(all) {
        for (what, f, value) in maps(model, &entry) {
            let Entry { at, process, .. } = &entry;
            let word = what.word();
            writeln!(
                out,
                "{{:index {index}, :time {at}, :type {word}, :process {process}, :f {f}, :value {value}}}"
            )?;
            index += 1;
        }
    }
    Ok(())
}

/// What an entry is in this form: `:type`, `:f` and `:value`.
fn maps(model: &Model, entry: &Entry) -> Vec<(Type, &'static str, String)> {
    let is_answer = entry.what == Type::Ok;
    match entry.operation {
        Operation::Append(at) => {
            vec![(entry.what, ":send", sends(model, &model.appends[at], is_answer))]
        }
        Operation::Read(at) => {
            let read = &model.reads[at];
            let seen = read.ending.ok().filter(|_| is_answer).map(|answer| answer.seen.clone());
            let polled = poll(model, read.conversation, seen.map(|seen| &model.seen[seen]));
            let mut maps = vec![(entry.what, ":poll", polled)];
            if entry.what == Type::Invoke {
                maps.splice(0..0, assign(model, [read.conversation]));
            }
            maps
        }
        Operation::Delivery(at, nth) => {
            let follow = &model.follows[at];
            let delivery = &follow.deliveries[nth];
            let Delivered::Messages(seen) = &delivery.what else { return Vec::new() };
            let seen = is_answer.then(|| &model.seen[seen.clone()]);
            let mut maps = vec![(entry.what, ":poll", poll(model, delivery.conversation, seen))];
            let messages = |delivery: &Delivery| matches!(delivery.what, Delivered::Messages(_));
            let first = follow.deliveries.iter().position(messages);
            if entry.what == Type::Invoke && first == Some(nth) {
                maps.splice(0..0, assign(model, follow.from.iter().map(|(name, _)| *name)));
            }
            maps
        }
    }
}

/// Begins anew on these conversations, wherever that is.
fn assign(
    model: &Model,
    names: impl IntoIterator<Item = Name>,
) -> [(Type, &'static str, String); 2] {
    let value = vector(names.into_iter().map(|name| string(model.name(name))));
    [(Type::Invoke, ":assign", value.clone()), (Type::Ok, ":assign", value)]
}

fn sends(model: &Model, append: &Append, is_answer: bool) -> String {
    let key = string(model.name(append.conversation));
    let first = append.ending.ok().filter(|_| is_answer).map(|appended| appended.first_seq);
    vector(model.sent_in(append).iter().zip(0..).map(|(sent, nth)| match first {
        Some(first) => format!("[:send {key} [{} {}]]", first.saturating_add(nth), sent.key),
        None => format!("[:send {key} {}]", sent.key),
    }))
}

fn poll(model: &Model, conversation: Name, seen: Option<&[RecordId]>) -> String {
    let Some(seen) = seen else { return "[[:poll]]".to_owned() };
    let messages = seen.iter().map(|id| {
        let record = model.record(*id);
        format!("[{} {}]", record.seq, record.key)
    });
    format!("[[:poll {{{} {}}}]]", string(model.name(conversation)), vector(messages))
}
