//! Sender order: a lane commits in the order sent, or fails from the first that it does not commit.
//!
//! Only what an attempt itself did counts. Where an id was sent more than once, what stands may be the work of another
//! attempt, sent later or on another lane; then an attempt counts if it was acknowledged as new, or failed for certain.

use super::evidence::{acknowledgement, attempt, standing};
use super::{Checker, Findings, Guarantee, described};
use crate::model::{Append, Model};

/// See the module.
pub struct Lane;

impl Checker for Lane {
    fn name(&self) -> &'static str {
        "sender-order"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G5]
    }

    fn rule(&self) -> &'static str {
        "Between two resets of a lane its appends stand in the order sent, and none behind one that does not stand."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let in_lane = model.appends.iter().filter_map(|append| {
            let lane = append.lane.as_ref()?;
            Some(((lane.session, append.conversation, lane.reset), lane.position, append))
        });
        let mut appends: Vec<_> = in_lane.collect();
        findings.examined += appends.len() as u64;
        appends.sort_by_key(|(lane, position, _)| (*lane, *position));
        for lane in appends.chunk_by(|a, b| a.0 == b.0) {
            check_lane(model, lane.iter().map(|(.., append)| *append), findings);
        }
    }
}

/// What an attempt did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Did {
    /// Its messages stand from this seq to that.
    Commit(u64, u64),
    /// Nothing, so far.
    Nothing,
    /// It cannot be told.
    Unclear,
}

fn did(model: &Model, append: &Append) -> Did {
    if append.certainly_failed() {
        return Did::Nothing;
    }
    let sent = model.sent_in(append);
    let (Some(first), Some(last)) = (sent.first(), sent.last()) else { return Did::Unclear };
    let is_alone = model
        .attempts(first.key)
        .iter()
        .map(|attempt| model.append_of(attempt))
        .all(|other| std::ptr::eq(other, append) || other.certainly_failed());
    if let Some(appended) = append.ending.ok() {
        return match appended.duplicate && !is_alone {
            true => Did::Unclear,
            false => Did::Commit(appended.first_seq, appended.last_seq),
        };
    }
    match (model.seq_of(first.key), model.seq_of(last.key)) {
        _ if !is_alone => Did::Unclear,
        (Some(first), Some(last)) => Did::Commit(first, last),
        (None, None) => Did::Nothing,
        _ => Did::Unclear,
    }
}

/// Whether an attempt that shows nowhere is certainly not below `seq`: a replica that was read in full is past that.
fn is_missed(model: &Model, append: &Append, seq: u64) -> bool {
    let bounds = model.final_read(append.conversation).bounds();
    append.certainly_failed() || bounds.is_some_and(|(_, tail)| seq < tail)
}

fn check_lane<'a>(model: &Model, lane: impl Iterator<Item = &'a Append>, findings: &mut Findings) {
    let mut failed: Option<&Append> = None;
    let mut highest: Option<(u64, &Append)> = None;
    for append in lane {
        match did(model, append) {
            Did::Unclear => {}
            Did::Nothing => failed = failed.or(Some(append)),
            Did::Commit(first, last) => {
                if let Some(before) = failed.filter(|before| is_missed(model, before, first)) {
                    let what = "stands behind one of its lane that does not";
                    report(model, before, append, what, findings);
                } else if let Some((_, before)) = highest.filter(|(seq, _)| *seq >= first) {
                    let what = "stands before one that its lane sent earlier";
                    report(model, before, append, what, findings);
                }
                if highest.is_none_or(|(seq, _)| seq < last) {
                    highest = Some((last, append));
                }
            }
        }
    }
}

fn report(model: &Model, before: &Append, append: &Append, what: &str, findings: &mut Findings) {
    findings.violation(Guarantee::G5, || {
        let key = |append: &Append| model.sent_in(append)[0].key;
        let evidence = [before, append].into_iter().flat_map(|append| {
            let shown = model.seq_of(key(append));
            let shown = shown.and_then(|seq| standing(model, append.conversation, seq));
            [Some(attempt(model, append, key(append))), Some(acknowledgement(append)), shown]
        });
        let lane = append.lane.as_ref().map_or(String::new(), |lane| {
            format!(" (session {}, reset {}, position {})", lane.session, lane.reset, lane.position)
        });
        described(format!("{}{lane} {what}", model.describe(key(append))), evidence.flatten())
    });
}
