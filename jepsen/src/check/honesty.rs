//! Errors tell the truth: what certainly did not take effect is never found.
//!
//! A retry with the same id may have taken effect where an earlier attempt did not; so a message counts against the
//! errors only while every attempt made before it was seen had failed for certain.

use super::evidence::{attempt, sighting, told};
use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::history::{Nanos, OutcomeState};
use crate::model::{Append, Ending, Key, Model};

/// See the module.
pub struct Honesty;

impl Checker for Honesty {
    fn name(&self) -> &'static str {
        "error-honesty"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G8]
    }

    fn rule(&self) -> &'static str {
        "A message is not found if every attempt made so far ended with an error that says it has not taken effect."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let failed = model.appends.iter().filter(|append| append.certainly_failed());
        findings.look_at(Guarantee::G8, failed.count() as u64);
        for (id, record, sightings) in model.records() {
            // What the same id sent with another payload cannot be what is seen here.
            check(model, record.key, Some(record.hash), sightings.first.at, findings, || {
                sighting(model, id)
            });
        }
        for query in &model.outcomes {
            if let Ending::Ok((OutcomeState::Committed, _)) = query.ending {
                let at = query.span.answered;
                check(model, query.key, None, at, findings, || told(model, query));
            }
        }
    }
}

fn check(
    model: &Model,
    key: Key,
    hash: Option<u64>,
    seen_at: Nanos,
    findings: &mut Findings,
    shown: impl FnOnce() -> Evidence,
) {
    let attempts = model.attempts(key).iter();
    let attempts = attempts.filter(|at| hash.is_none_or(|hash| model.sent_by(at).hash == hash));
    let appends = attempts.map(|attempt| model.append_of(attempt));
    let mut appends = appends.filter(|append| append.span.call.at <= seen_at).peekable();
    if appends.peek().is_none() || !appends.clone().all(Append::certainly_failed) {
        return;
    }
    findings.violation(Guarantee::G8, || {
        let what = format!("{} failed for certain, and is found", model.describe(key));
        let evidence = appends.take(3).flat_map(|append| {
            let failed = match &append.ending {
                Ending::Failed(refused) | Ending::Unknown(refused) => model.name(refused.reason),
                Ending::Ok(_) | Ending::Open => "",
            };
            let shows = format!("{failed}, and says that it has not taken effect");
            [attempt(model, append, key), Evidence::new(append.span.end(), shows)]
        });
        described(what, evidence.chain([shown()]).collect::<Vec<_>>())
    });
}
