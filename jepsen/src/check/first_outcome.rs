//! A retry returns the first outcome, and another content under the same id is refused.

use super::atomic::is_one_batch;
use super::evidence::{acknowledgement, attempt, standing};
use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::model::{Append, Attempt, Ending, Key, Model, Sent};
use crate::nemesis;

/// See the module.
pub struct FirstOutcome;

impl Checker for FirstOutcome {
    fn name(&self) -> &'static str {
        "first-outcome"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G4]
    }

    fn rule(&self) -> &'static str {
        "All acknowledgements of one id name one seq, commit time and content, at most one is not called a duplicate, \
         and reads show the same; none is refused for another content that nobody sent, as burnt where it stands, or \
         for its age, though it was issued during the run and no clock was changed."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        for key in model.keys() {
            let attempts = model.attempts(key);
            let acknowledged = attempts.iter().filter(|a| model.append_of(a).ending.ok().is_some());
            let mut acknowledged: Vec<&Attempt> = acknowledged.collect();
            acknowledged.sort_unstable_by_key(|a| model.append_of(a).span.answered);
            findings.look_at(Guarantee::G4, acknowledged.len() as u64);
            check_against_each_other(model, key, &acknowledged, findings);
            if let Some(first) = acknowledged.first() {
                check_against_reads(model, key, first, findings);
            }
        }
        let is_of_clock =
            |name: &String| nemesis::all().any(|n| n.name == name && n.family == "clock");
        let clocks_are_right = !model.run.nemeses.iter().any(is_of_clock);
        for append in &model.appends {
            check_refusal(model, append, clocks_are_right, findings);
        }
    }
}

/// A message that is refused for good, with no ground.
fn check_refusal(model: &Model, append: &Append, clocks_are_right: bool, findings: &mut Findings) {
    let (refused, is_certain) = match append.ending {
        Ending::Failed(refused) => (refused, true),
        Ending::Unknown(refused) => (refused, false),
        Ending::Ok(_) | Ending::Open => return,
    };
    let sent = model.sent_in(append);
    let is_fresh = clocks_are_right && append.issued_in_run;
    let what = match model.name(refused.reason) {
        // What became of an earlier attempt would not be known, so that this leaves the outcome open.
        "TOO_OLD" if is_fresh => "was issued during the run, and is refused as too old",
        "ISSUED_IN_FUTURE" if is_fresh => {
            "was issued before its call, and is refused as of the future"
        }
        _ if !is_certain => return,
        "ID_CONFLICT"
            if is_one_batch(model, append)
                && sent.iter().all(|one| has_one_content(model, *one)) =>
        {
            "is refused for another content or batch, which nobody sent"
        }
        "ID_BURNT" if sent.len() == 1 && model.seq_of(sent[0].key).is_some() => {
            "is refused as burnt, and stands"
        }
        _ => return,
    };
    findings.violation(Guarantee::G4, || {
        let key = sent[0].key;
        let stands = model.seq_of(key).and_then(|at| standing(model, append.conversation, at));
        let refusal = Evidence::new(append.span.end(), model.name(refused.reason));
        let evidence = [attempt(model, append, key), refusal].into_iter().chain(stands);
        described(format!("{} {what}", model.describe(key)), evidence)
    });
}

fn has_one_content(model: &Model, sent: Sent) -> bool {
    model.attempts(sent.key).iter().all(|attempt| model.sent_by(attempt).hash == sent.hash)
}

/// What an acknowledgement says of one message. Its commit time is that of the last of the batch.
fn says(model: &Model, attempt: &Attempt) -> (u64, Option<u64>, Sent) {
    let append = model.append_of(attempt);
    let appended = append.ending.ok().expect("only acknowledged attempts are compared");
    let is_last = attempt.nth as usize + 1 == model.sent_in(append).len();
    let seq = appended.first_seq.saturating_add(attempt.nth.into());
    (seq, is_last.then_some(appended.commit_time_us), model.sent_by(attempt))
}

fn check_against_each_other(
    model: &Model,
    key: Key,
    acknowledged: &[&Attempt],
    findings: &mut Findings,
) {
    let Some((first, others)) = acknowledged.split_first() else { return };
    let (seq, time, sent) = says(model, first);
    let is_new = |append: &Append| append.ending.ok().is_some_and(|ok| !ok.duplicate);
    let first_append = model.append_of(first);
    // Not always the first that is answered: a retry may overtake it.
    let mut new = Some(first_append).filter(|append| is_new(append));
    for other in others {
        let (other_seq, other_time, other_sent) = says(model, other);
        let append = model.append_of(other);
        let what = if other_sent.hash != sent.hash {
            "was acknowledged with two contents"
        } else if other_seq != seq {
            "was acknowledged at two seqs"
        } else if time.zip(other_time).is_some_and(|(time, other)| time != other) {
            "was acknowledged with two commit times"
        } else if new.is_some() && is_new(append) {
            "was acknowledged as new twice"
        } else if is_new(append) && append.span.call.at > first_append.span.answered {
            "was acknowledged as new after it had been acknowledged"
        } else {
            new = new.or(Some(append).filter(|append| is_new(append)));
            continue;
        };
        findings.violation(Guarantee::G4, || {
            let first = new.filter(|_| is_new(append)).unwrap_or(first_append);
            let evidence = [first, append]
                .map(|append| [attempt(model, append, key), acknowledgement(append)]);
            described(format!("{} {what}", model.describe(key)), evidence.into_iter().flatten())
        });
        return;
    }
}

fn check_against_reads(model: &Model, key: Key, first: &Attempt, findings: &mut Findings) {
    let (seq, time, sent) = says(model, first);
    let stands_at = model.seq_of(key);
    let record = stands_at.and_then(|at| model.place(model.conversation_of(key), at));
    let record = record.filter(|place| place.key == key).and_then(|place| place.record);
    let Some((id, record)) = record.map(|id| (id, model.record(id))) else { return };
    let was_sent = |hash| model.attempts(key).iter().any(|at| model.sent_by(at).hash == hash);
    let what = if record.seq != seq {
        "stands at another seq than the one acknowledged"
    } else if time.is_some_and(|time| time != record.commit_time_us) {
        "has another commit time than the one acknowledged"
    } else if record.hash != sent.hash && was_sent(record.hash) {
        "has another content than the one acknowledged"
    } else {
        return;
    };
    findings.violation(Guarantee::G4, || {
        let append = model.append_of(first);
        let evidence = [
            attempt(model, append, key),
            acknowledgement(append),
            super::evidence::sighting(model, id),
        ];
        described(format!("{} {what}", model.describe(key)), evidence)
    });
}
