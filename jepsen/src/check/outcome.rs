//! Outcome queries tell the truth, and what they settled stays so.

use super::evidence::{acknowledgement, sighting, told};
use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::history::{Nanos, OutcomeState};
use crate::model::{Ending, Model, Outcome};

/// See the module.
pub struct OutcomeTruth;

impl Checker for OutcomeTruth {
    fn name(&self) -> &'static str {
        "outcome"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G8]
    }

    fn rule(&self) -> &'static str {
        "Committed at n stands at n; burnt never stands and stays burnt; settled is final; what is acknowledged is \
         never again not committed."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let answered = model.outcomes.iter().filter(|query| query.ending.ok().is_some());
        let mut queries: Vec<&Outcome> = answered.collect();
        findings.look_at(Guarantee::G8, queries.len() as u64);
        queries.sort_by_key(|query| (query.key, query.span.answered));
        let known = Known::of(model);
        for same in queries.chunk_by(|a, b| a.key == b.key) {
            let is_burnt = |q: &&&Outcome| matches!(q.ending.ok(), Some((OutcomeState::Burnt, _)));
            let burnt = same.iter().find(is_burnt).copied();
            for query in same {
                check_query(model, &known, burnt, query, findings);
            }
        }
        check_refusals(model, findings);
    }
}

/// What shows that a message was committed, and when.
struct Known {
    /// By message, the earliest.
    shown: Vec<Option<(Nanos, Shown)>>,
}

#[derive(Clone, Copy)]
enum Shown {
    Acknowledged(usize),
    Seen(u32),
    Told(usize),
}

impl Known {
    fn of(model: &Model) -> Self {
        let mut shown: Vec<Option<(Nanos, Shown)>> = vec![None; model.keys().len()];
        let mut note = |key: u32, at: Nanos, what: Shown| {
            let entry = &mut shown[key as usize];
            if entry.is_none_or(|(earliest, _)| at < earliest) {
                *entry = Some((at, what));
            }
        };
        for (append, index) in model.appends.iter().zip(0..) {
            for (sent, _) in model.acknowledged(append) {
                note(sent.key, append.span.answered, Shown::Acknowledged(index));
            }
        }
        for (id, record, sightings) in model.records() {
            note(record.key, sightings.first.at, Shown::Seen(id));
        }
        for (query, index) in model.outcomes.iter().zip(0..) {
            if let Ending::Ok((OutcomeState::Committed, _)) = query.ending {
                note(query.key, query.span.answered, Shown::Told(index));
            }
        }
        Self { shown }
    }
}

fn check_query(
    model: &Model,
    known: &Known,
    burnt: Option<&Outcome>,
    query: &Outcome,
    findings: &mut Findings,
) {
    let Some((state, seq)) = query.ending.ok().copied() else { return };
    let (what, other) = match state {
        OutcomeState::Committed => match misplaced(model, query, seq) {
            Some((what, other)) => (what, other),
            None => return,
        },
        OutcomeState::NotCommitted if query.settle => ("was settled without an end", None),
        OutcomeState::NotCommitted | OutcomeState::Burnt => {
            let shown = known.shown[query.key as usize];
            let called = query.span.call.at;
            let is_burnt = state == OutcomeState::Burnt;
            match (shown, burnt) {
                (Some((_, shown)), _) if is_burnt => {
                    ("is burnt, and was committed", Some(evidence(model, shown)))
                }
                (Some((at, shown)), _) if at < called => {
                    let what = "was called not committed, and had been committed";
                    (what, Some(evidence(model, shown)))
                }
                (_, Some(burnt)) if !is_burnt && burnt.span.answered < called => {
                    ("was called not committed, and had been burnt", Some(told(model, burnt)))
                }
                _ => return,
            }
        }
    };
    findings.violation(Guarantee::G8, || {
        let what = format!("{} {what}", model.describe(query.key));
        described(what, std::iter::once(told(model, query)).chain(other))
    });
}

/// What contradicts that a message stands at this seq.
fn misplaced(model: &Model, query: &Outcome, seq: u64) -> Option<(&'static str, Option<Evidence>)> {
    let conversation = model.conversation_of(query.key);
    let place = model.place(conversation, seq);
    let shown = || super::evidence::standing(model, conversation, seq);
    if place.is_some_and(|place| place.key != query.key) {
        return Some(("was told to stand where another stands", shown()));
    }
    if model.seq_of(query.key) != Some(seq) {
        return Some(("was told to stand elsewhere than it stands", shown()));
    }
    let end = model.final_read(conversation).binding(query.span.answered)?;
    (end.tail <= seq).then_some(("was told to be committed, and is not there at the end", None))
}

fn evidence(model: &Model, shown: Shown) -> Evidence {
    match shown {
        Shown::Acknowledged(at) => acknowledgement(&model.appends[at]),
        Shown::Seen(id) => sighting(model, id),
        Shown::Told(at) => told(model, &model.outcomes[at]),
    }
}

/// An id is refused as burnt only if somebody asked for that.
fn check_refusals(model: &Model, findings: &mut Findings) {
    let burning = model.outcomes.iter().filter(|query| query.settle).map(|query| query.key);
    let burning: std::collections::HashSet<u32> = burning.collect();
    for append in &model.appends {
        let (Ending::Failed(refused) | Ending::Unknown(refused)) = append.ending else { continue };
        let sent = model.sent_in(append);
        let is_burnt = model.name(refused.reason) == "ID_BURNT";
        if is_burnt && !sent.iter().any(|sent| burning.contains(&sent.key)) {
            findings.violation(Guarantee::G8, || {
                let what = format!(
                    "{} was refused as burnt, and nobody settled it",
                    model.describe(sent[0].key)
                );
                described(what, [Evidence::new(append.span.end(), "refused with ID_BURNT")])
            });
        }
    }
}
