//! Duplicates: one message at two seqs, by its id or by its content.

use super::evidence::sighting;
use super::{Checker, Findings, Guarantee, described};
use crate::model::{Model, RecordId};

/// See the module.
pub struct Duplicate;

impl Checker for Duplicate {
    fn name(&self) -> &'static str {
        "duplicate"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G4]
    }

    fn rule(&self) -> &'static str {
        "No id, and no content that was sent under one id, stands at two seqs of a conversation."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let mut ids: Vec<RecordId> = model.records().map(|(id, ..)| id).collect();
        findings.look_at(Guarantee::G4, ids.len() as u64);
        let by_key = |id: &RecordId| model.record(*id).key;
        ids.sort_by_cached_key(|id| (by_key(id), model.record(*id).seq));
        for same in ids.chunk_by(|a, b| by_key(a) == by_key(b)) {
            report(model, same, "stands at two seqs", findings);
        }
        let by_content = |id: &RecordId| {
            let record = model.record(*id);
            (model.conversation_of(record.key), record.hash)
        };
        ids.sort_by_cached_key(|id| (by_content(id), model.record(*id).seq));
        for same in ids.chunk_by(|a, b| by_content(a) == by_content(b)) {
            let one_id = same.iter().all(|id| by_key(id) == by_key(&same[0]));
            let all_sent = same.iter().all(|id| {
                let record = model.record(*id);
                let mut attempts = model.attempts(record.key).iter();
                attempts.any(|attempt| model.sent_by(attempt).hash == record.hash)
            });
            // Of one id it has been said already; what was sent under two ids may well stand twice.
            if !one_id && !all_sent {
                report(model, same, "stands at another seq under another id", findings);
            }
        }
    }
}

fn report(model: &Model, same: &[RecordId], what: &str, findings: &mut Findings) {
    let (first, last) = (same[0], same[same.len() - 1]);
    if model.record(first).seq == model.record(last).seq {
        return;
    }
    findings.violation(Guarantee::G4, || {
        let what = format!("{} {what}", model.describe(model.record(first).key));
        described(what, [sighting(model, first), sighting(model, last)])
    });
}
