//! Sender order: a lane commits in the order sent, or fails from the first that it does not commit.
//!
//! Only what an attempt itself did counts. Where an id was sent more than once, what stands may be the work of another
//! attempt, sent later or on another lane; then an attempt counts if it was acknowledged as new, or failed for certain.
//!
//! What is sent again after a reset keeps its order too: where each attempt of a message that may have taken effect stood
//! in a lane of one session right behind the same other message, that one stands before it.

use std::collections::BTreeMap;

use super::evidence::{acknowledgement, attempt, standing};
use super::{Checker, Findings, Guarantee, described};
use crate::model::{Append, Key, Model, Name};

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
        "Between two resets of a lane its appends stand in the order sent, and none behind one that does not stand; nor \
         do appends that are sent again in that order."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let in_lane = model.appends.iter().filter_map(|append| {
            let lane = append.lane.as_ref()?;
            Some(((lane.session, append.conversation, lane.reset), lane.position, append))
        });
        let mut appends: Vec<_> = in_lane.collect();
        findings.look_at(Guarantee::G5, appends.len() as u64);
        appends.sort_by_key(|(lane, position, _)| (*lane, *position));
        for lane in appends.chunk_by(|a, b| a.0 == b.0) {
            check_lane(model, lane.iter().map(|(.., append)| *append), findings);
        }
        check_repeats(model, &appends, findings);
    }
}

/// An append with its lane and its place there.
type Placed<'a> = ((u64, Name, u64), u64, &'a Append);

/// What stands right before a message in each of its attempts.
struct Before<'a> {
    session: u64,
    before: &'a Append,
    append: &'a Append,
    /// Another message, or none, stood before some attempt of it.
    differs: bool,
}

fn check_repeats(model: &Model, appends: &[Placed<'_>], findings: &mut Findings) {
    let only = |append: &Append| match model.sent_in(append) {
        [one] => Some(one.key),
        _ => None,
    };
    let mut all: BTreeMap<Key, Before<'_>> = BTreeMap::new();
    let mut previous: Option<&Placed<'_>> = None;
    for placed in appends {
        let (lane, position, append) = placed;
        let before = previous.filter(|(same, at, _)| same == lane && at + 1 == *position);
        previous = Some(placed);
        let Some(key) = only(append).filter(|_| !append.certainly_failed()) else { continue };
        let (session, before) = (lane.0, before.map(|(.., before)| *before));
        let known = all.entry(key).or_insert_with(|| {
            let before = before.unwrap_or(append);
            Before { session, before, append, differs: false }
        });
        let same = before.is_some_and(|before| only(before) == only(known.before));
        known.differs |= !same || known.session != session;
    }
    // Whether it was sent in lanes of this session alone, and by itself each time.
    let is_within = |key: Key, session: u64| {
        model.attempts(key).iter().map(|attempt| model.append_of(attempt)).all(|append| {
            let is_there = append.lane.as_ref().is_some_and(|lane| lane.session == session);
            append.certainly_failed() || (is_there && only(append) == Some(key))
        })
    };
    for (key, Before { session, before, append, .. }) in all.iter().filter(|(_, b)| !b.differs) {
        let Some((seq, first)) = model.seq_of(*key).zip(only(before)) else { continue };
        if !is_within(*key, *session) || !is_within(first, *session) {
            continue;
        }
        let stands = model.seq_of(first);
        let is_missing = stands.is_none() && is_past(model, append.conversation, seq);
        if is_missing || stands.is_some_and(|stands| stands > seq) {
            report(
                model,
                before,
                append,
                "was sent right behind another each time, and stands before it",
                findings,
            );
        }
    }
}

/// Whether a replica that was read in full is past this seq.
fn is_past(model: &Model, conversation: Name, seq: u64) -> bool {
    model.final_read(conversation).bounds().is_some_and(|(_, tail)| seq < tail)
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
    append.certainly_failed() || is_past(model, append.conversation, seq)
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
