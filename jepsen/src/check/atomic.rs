//! A batch is appended whole or not at all, and nobody sees half of it.

use super::evidence::{attempt, read as shown};
use super::{Checker, Findings, Guarantee, described};
use crate::model::{Append, Model, Name};

/// See the module.
pub struct Atomic;

impl Checker for Atomic {
    fn name(&self) -> &'static str {
        "atomic-batch"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G3]
    }

    fn rule(&self) -> &'static str {
        "The messages of a batch stand next to each other, all or none, and no read ends between them."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let mut batches: Vec<Batch<'_>> = Vec::new();
        for append in &model.appends {
            if append.sent.len() > 1 && is_one_batch(model, append) {
                findings.look_at(Guarantee::G3, 1);
                batches.extend(check_batch(model, append, findings));
            }
        }
        batches.sort_unstable_by_key(|batch| (batch.conversation, batch.first));
        for read in &model.reads {
            let Some(answer) = read.ending.ok() else { continue };
            let place = (read.conversation, answer.tail);
            let after = batches.partition_point(|b| (b.conversation, b.first) < place);
            let Some(batch) = after.checked_sub(1).map(|at| &batches[at]) else { continue };
            if batch.conversation == read.conversation && answer.tail <= batch.last {
                findings.violation(Guarantee::G3, || {
                    let Batch { first, last, .. } = batch;
                    let what = format!(
                        "a read ends at tail {}, within seqs {first} to {last} of one batch",
                        answer.tail
                    );
                    let key = model.sent_in(batch.append)[0].key;
                    described(what, [attempt(model, batch.append, key), shown(model, read)])
                });
            }
        }
    }
}

/// A batch that stands.
struct Batch<'a> {
    conversation: Name,
    first: u64,
    last: u64,
    append: &'a Append,
}

/// Whether every attempt of each of its messages was of this very batch; else parts may have come by other ways.
pub fn is_one_batch(model: &Model, append: &Append) -> bool {
    let batch = model.sent_in(append);
    let ids = |append: &Append| model.sent_in(append).iter().map(|sent| sent.key);
    batch.iter().all(|sent| {
        let mut attempts = model.attempts(sent.key).iter();
        attempts.all(|attempt| ids(model.append_of(attempt)).eq(ids(append)))
    })
}

fn check_batch<'a>(
    model: &Model,
    append: &'a Append,
    findings: &mut Findings,
) -> Option<Batch<'a>> {
    let keys = model.sent_in(append).iter().map(|sent| sent.key);
    let seqs: Vec<Option<u64>> = keys.map(|key| model.seq_of(key)).collect();
    let (at, first) = seqs.iter().enumerate().find_map(|(at, seq)| Some((at, (*seq)?)))?;
    let start = first.checked_sub(at as u64);
    // What is not seen may lie where nobody looked; it is missing where the read at the end shows something else.
    let torn = |(nth, seq): (u64, &Option<u64>)| match (start, seq) {
        (Some(start), Some(seq)) => *seq != start + nth,
        (Some(start), None) => {
            let (_, tail) = model.final_read(append.conversation).bounds().unwrap_or((0, 0));
            start + nth < tail || seqs.iter().flatten().any(|seq| *seq < tail)
        }
        (None, _) => true,
    };
    if (0..).zip(&seqs).any(torn) {
        findings.violation(Guarantee::G3, || {
            let places =
                seqs.iter().map(|seq| seq.map_or("nowhere".to_owned(), |seq| seq.to_string()));
            let places = places.collect::<Vec<_>>().join(", ");
            let name = model.name(append.conversation);
            let what = format!("the messages of one batch to {name} stand at {places}");
            let key = model.sent_in(append)[at].key;
            let seen = super::evidence::standing(model, append.conversation, first);
            described(what, std::iter::once(attempt(model, append, key)).chain(seen))
        });
        return None;
    }
    let last = first + (seqs.len() - 1 - at) as u64;
    Some(Batch { conversation: append.conversation, first: start?, last, append })
}
