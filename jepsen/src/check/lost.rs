//! Lost writes: acknowledged, and not there at the end.

use std::collections::BTreeSet;

use super::evidence::{acknowledgement, standing};
use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::model::{Append, Key, Model, Sent, Source};

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
        for append in model.appends.iter().filter(|append| append.ending.ok().is_some()) {
            findings.look_at(Guarantee::G1, 1);
            check_append(model, append, findings);
        }
    }
}

/// How many messages were acknowledged, once or more often, and are not there at the end.
pub fn messages_lost(model: &Model) -> u64 {
    let lost = model.appends.iter().flat_map(|append| missing(model, append));
    lost.map(|(sent, _)| sent.key).collect::<BTreeSet<Key>>().len() as u64
}

/// What an append was acknowledged and is not there at the end, with the seq that it was acknowledged at.
fn missing<'a>(model: &'a Model, append: &'a Append) -> impl Iterator<Item = (Sent, u64)> + 'a {
    let finals = model.final_read(append.conversation);
    let shown = |key, seq| {
        model
            .place(append.conversation, seq)
            .is_some_and(|place| place.source == Source::Final && place.key == key)
    };
    model.acknowledged(append).filter(move |(sent, seq)| {
        // Whoever stands elsewhere at the end is not lost: another checker says that it moved.
        let stands =
            shown(sent.key, *seq) || model.seq_of(sent.key).is_some_and(|seq| shown(sent.key, seq));
        let binding = finals.binding(append.span.answered);
        let misses = binding.is_some_and(|replica| replica.first_seq <= *seq)
            || finals.bounds().is_some_and(|(first, tail)| (first..tail).contains(seq));
        !stands && misses
    })
}

/// A message is missed once for each batch, not once for each message.
fn check_append(model: &Model, append: &Append, findings: &mut Findings) {
    let finals = model.final_read(append.conversation);
    let Some((sent, seq)) = missing(model, append).next() else { return };
    findings.violation(Guarantee::G1, || {
        let tails = finals
            .replicas
            .iter()
            .map(|replica| format!("node {} has tail {}", replica.node, replica.tail));
        let tails = tails.collect::<Vec<_>>().join(", ");
        let what =
            format!("{} was acknowledged at seq {seq} and is lost", model.describe(sent.key));
        let mut evidence = vec![acknowledgement(append)];
        evidence.extend(standing(model, append.conversation, seq));
        let last =
            model.reads.iter().rfind(|r| r.is_final && r.conversation == append.conversation);
        evidence.extend(last.map(|r| Evidence::new(r.span.end(), format!("at the end {tails}"))));
        described(what, evidence)
    });
}
