//! Integrity: a payload is read as it was sent.

use super::evidence::{attempt, sighting};
use super::{Checker, Findings, Guarantee, described};
use crate::model::Model;

/// See the module.
pub struct Integrity;

impl Checker for Integrity {
    fn name(&self) -> &'static str {
        "integrity"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G11]
    }

    fn rule(&self) -> &'static str {
        "The payload of every message seen has a hash that an attempt with its id sent."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        for (id, record, _) in model.records() {
            findings.look_at(Guarantee::G11, 1);
            let attempts = model.attempts(record.key);
            let sent = attempts.iter().any(|at| model.sent_by(at).hash == record.hash);
            if sent || attempts.is_empty() {
                continue;
            }
            findings.violation(Guarantee::G11, || {
                let what = format!("{} has a payload that nobody sent", model.describe(record.key));
                let attempts = attempts.iter().take(3);
                let attempts = attempts.map(|at| attempt(model, model.append_of(at), record.key));
                described(what, std::iter::once(sighting(model, id)).chain(attempts))
            });
        }
    }
}
