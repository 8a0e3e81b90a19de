//! Seqs are dense: 1, 2, 3 … in every answer.

use super::evidence::{acknowledgement, read as shown};
use super::{Checker, Findings, Guarantee, described};
use crate::model::{Append, Model, Read, ReadAnswer};

/// What a limit of 0 means.
const LIMIT_DEFAULT: u64 = 1_000;

/// See the module.
pub struct Gap;

impl Checker for Gap {
    fn name(&self) -> &'static str {
        "gaps"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G2]
    }

    fn rule(&self) -> &'static str {
        "A read yields consecutive seqs from where it starts and below its tail, and to that if it is one of \
         the end; a batch has as many seqs as messages."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let trims = model.run.workloads.iter().any(|name| name.contains("trim"));
        for read in &model.reads {
            let Some(answer) = read.ending.ok() else { continue };
            findings.look_at(Guarantee::G2, 1);
            if let Some(what) = fault(model, read, answer, trims) {
                let name = model.name(read.conversation);
                findings.violation(Guarantee::G2, || {
                    described(format!("a read of {name}: {what}"), [shown(model, read)])
                });
            }
        }
        for append in &model.appends {
            check_batch(model, append, findings);
        }
    }
}

fn fault(model: &Model, read: &Read, answer: &ReadAnswer, trims: bool) -> Option<String> {
    let limit = if read.limit == 0 { LIMIT_DEFAULT } else { read.limit };
    let count = answer.seen.len() as u64;
    let start = read.from_seq.max(answer.first_seq).max(1);
    let seqs = model.seen[answer.seen.clone()].iter().map(|id| model.record(*id).seq);
    if let Some((seq, expected)) = seqs.zip(start..).find(|(seq, expected)| seq != expected) {
        return Some(format!("seq {seq} stands where {expected} should"));
    }
    if answer.first_seq != 1 && !trims {
        return Some(format!("it starts at seq {} and nothing was trimmed", answer.first_seq));
    }
    if count > limit {
        return Some(format!("{count} messages, and {limit} were asked for"));
    }
    if start.saturating_add(count) > answer.tail.max(start) {
        return Some(format!("seq {} is not below the tail {}", start + count - 1, answer.tail));
    }
    if count == 0 && start < answer.tail {
        return Some(format!("no message from seq {start}, below the tail {}", answer.tail));
    }
    if read.of_the_end && start.saturating_add(count) != answer.tail.max(start) {
        return Some(format!(
            "{count} messages from seq {start} are not the last below the tail {}",
            answer.tail
        ));
    }
    None
}

fn check_batch(model: &Model, append: &Append, findings: &mut Findings) {
    let Some(appended) = append.ending.ok() else { return };
    findings.look_at(Guarantee::G2, 1);
    let count = model.sent_in(append).len() as u64;
    let last_seq = appended.first_seq.saturating_add(count).saturating_sub(1);
    if appended.first_seq == 0 || appended.last_seq != last_seq {
        findings.violation(Guarantee::G2, || {
            let what = format!("a batch of {count} messages has other than {count} seqs from 1 on");
            described(what, [acknowledgement(append)])
        });
    }
}
