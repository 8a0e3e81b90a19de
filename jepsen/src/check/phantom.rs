//! Phantoms: seen, and never sent, or seen before it was.

use super::evidence::{attempt, sighting};
use super::{Checker, Findings, Guarantee, described};
use crate::model::Model;

/// See the module.
pub struct Phantom;

impl Checker for Phantom {
    fn name(&self) -> &'static str {
        "phantom"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G2]
    }

    fn rule(&self) -> &'static str {
        "Every message seen was sent to that conversation, by that sender, with that id, before it was seen."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        for (id, record, sightings) in model.records() {
            findings.look_at(Guarantee::G2, 1);
            let attempts = model.attempts(record.key);
            let first = attempts.iter().map(|attempt| model.append_of(attempt));
            let first = first.min_by_key(|append| append.span.call.at);
            let what = match first {
                None => "never sent",
                Some(append) if append.span.call.at > sightings.first.at => {
                    "seen before it was sent"
                }
                Some(_) => continue,
            };
            findings.violation(Guarantee::G2, || {
                let sent = first.map(|append| attempt(model, append, record.key));
                let what = format!("{} was {what}", model.describe(record.key));
                described(what, std::iter::once(sighting(model, id)).chain(sent))
            });
        }
    }
}
