//! Lost writes: acknowledged, and not there at the end.

use std::collections::BTreeSet;

use super::evidence::{acknowledgement, standing};
use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::model::{Append, Key, Model, Source};

/// See the module.
pub struct Lost;

impl Checker for Lost {
    fn name(&self) -> &'static str {
        "lost-write"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G1]
    }

    fn rule(&self) -> &'static str {
        "Every acknowledged message is in the linearizable read at the end, and on each replica that is past its seq."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        for append in &model.appends {
            check_append(model, append, findings);
        }
    }
}

/// Messages that were acknowledged, once or more often, and were not found at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfound {
    /// They are not where they had to be.
    pub lost: u64,
    /// No read at the end had to show them.
    pub not_looked_for: u64,
}

/// Counts them.
pub fn unfound(model: &Model) -> Unfound {
    let (mut lost, mut not_looked_for) = (BTreeSet::<Key>::new(), BTreeSet::<Key>::new());
    for append in &model.appends {
        for (key, _, fate) in fates(model, append) {
            match fate {
                Fate::Found => continue,
                Fate::Lost => lost.insert(key),
                Fate::NotLookedFor => not_looked_for.insert(key),
            };
        }
    }
    let not_looked_for = not_looked_for.difference(&lost).count() as u64;
    Unfound { lost: lost.len() as u64, not_looked_for }
}

/// What became of an acknowledged message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is there at the end, or was trimmed.
    Found,
    /// A read at the end had to show it, and does not.
    Lost,
    /// It was not seen at the end, where nobody read all that is there.
    NotLookedFor,
}

/// What became of each message of an append that was acknowledged, with the seq that it was acknowledged at.
fn fates<'a>(model: &'a Model, append: &'a Append) -> impl Iterator<Item = (Key, u64, Fate)> + 'a {
    let finals = model.final_read(append.conversation);
    let shown = |key, seq| {
        model
            .place(append.conversation, seq)
            .is_some_and(|place| place.source == Source::Final && place.key == key)
    };
    model.acknowledged(append).map(move |(sent, seq)| {
        // Whoever stands elsewhere at the end is not lost: another checker says that it moved.
        let stands =
            shown(sent.key, seq) || model.seq_of(sent.key).is_some_and(|seq| shown(sent.key, seq));
        let binding = finals.binding(append.span.answered);
        let misses = binding.is_some_and(|replica| replica.first_seq <= seq)
            || finals.bounds().is_some_and(|(first, tail)| (first..tail).contains(&seq));
        let fate = match (stands, misses) {
            (true, _) => Fate::Found,
            (false, true) => Fate::Lost,
            (false, false) if binding.is_some() => Fate::Found,
            (false, false) => Fate::NotLookedFor,
        };
        (sent.key, seq, fate)
    })
}

/// A message is missed once for each batch, not once for each message.
fn check_append(model: &Model, append: &Append, findings: &mut Findings) {
    let finals = model.final_read(append.conversation);
    let is_looked_for = fates(model, append).any(|(.., fate)| fate != Fate::NotLookedFor);
    findings.look_at(Guarantee::G1, u64::from(is_looked_for));
    let lost = fates(model, append).find(|(.., fate)| *fate == Fate::Lost);
    let Some((key, seq, _)) = lost else { return };
    findings.violation(Guarantee::G1, || {
        let tails = finals
            .replicas
            .iter()
            .map(|replica| format!("node {} has tail {}", replica.node, replica.tail));
        let tails = tails.collect::<Vec<_>>().join(", ");
        let what = format!("{} was acknowledged at seq {seq} and is lost", model.describe(key));
        let mut evidence = vec![acknowledgement(append)];
        evidence.extend(standing(model, append.conversation, seq));
        let last =
            model.reads.iter().rfind(|r| r.is_final && r.conversation == append.conversation);
        evidence.extend(last.map(|r| Evidence::new(r.span.end(), format!("at the end {tails}"))));
        described(what, evidence)
    });
}
