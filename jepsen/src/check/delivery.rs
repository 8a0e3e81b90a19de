//! Delivery: every committed message from the start on, in seq order, once, and nothing else.

use std::collections::HashMap;

use super::evidence::sighting;
use super::floor::Floor;
use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::history::Nanos;
use crate::model::{Delivered, Delivery, Ending, Follow, Mark, Model, Name, RecordId};

/// What was acknowledged this long before the run ended a stream, well into the healed phase, has been delivered.
pub const DELIVERED_WITHIN: Nanos = 10_000_000_000;

/// See the module.
pub struct DeliveryOrder;

impl Checker for DeliveryOrder {
    fn name(&self) -> &'static str {
        "delivery"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G6]
    }

    fn rule(&self) -> &'static str {
        "Each stream yields every seq from its start once and in order, and only what stands at the end; it is caught \
         up once it has what was acknowledged before it began, and has everything when the healed run ends it."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        if model.follows.is_empty() {
            return;
        }
        let floor = Floor::of(model);
        let mut trimmed: HashMap<Name, u64> = HashMap::new();
        for read in &model.reads {
            let first_seq = read.ending.ok().map_or(1, |answer| answer.first_seq);
            let known = trimmed.entry(read.conversation).or_insert(1);
            *known = (*known).max(first_seq);
        }
        for follow in &model.follows {
            check_follow(&Eyes { model, floor: &floor, trimmed: &trimmed, follow }, findings);
        }
    }
}

/// What a stream is judged by.
struct Eyes<'a> {
    model: &'a Model,
    floor: &'a Floor,
    /// The highest first seq that a read showed.
    trimmed: &'a HashMap<Name, u64>,
    follow: &'a Follow,
}

/// How far one conversation of a stream has come.
struct Progress {
    next: u64,
    /// The last delivery, or the call.
    last: Mark,
    /// One violation is told; what follows from it is not.
    is_broken: bool,
}

fn check_follow(eyes: &Eyes<'_>, findings: &mut Findings) {
    let call = eyes.follow.span.call;
    let begin = |next: u64| Progress { next: next.max(1), last: call, is_broken: false };
    let mut streams: HashMap<Name, Progress> =
        eyes.follow.from.iter().map(|(name, seq)| (*name, begin(*seq))).collect();
    for delivery in &eyes.follow.deliveries {
        let count = match &delivery.what {
            Delivered::Messages(seen) => seen.len() as u64,
            Delivered::CaughtUp(_) | Delivered::Gap(_) | Delivered::AddedAgain(_) => 1,
        };
        findings.look_at(Guarantee::G6, count);
        let Some(progress) = streams.get_mut(&delivery.conversation) else {
            let what = "was not followed".to_owned();
            report(eyes, delivery.conversation, what, [marked(delivery, "delivered")], findings);
            continue;
        };
        if progress.is_broken {
            continue;
        }
        if let Some(what) = take(eyes, delivery, progress) {
            progress.is_broken = true;
            let before = Evidence::new(progress.last, "the last thing before on this stream");
            let now = marked(delivery, "delivered");
            report(eyes, delivery.conversation, what, [before, now], findings);
        }
        check_committed(eyes, delivery, findings);
        progress.last = delivery.mark;
    }
    if let Ending::Ok(()) = eyes.follow.ending {
        check_complete(eyes, &streams, findings);
    }
}

fn marked(delivery: &Delivery, shows: &str) -> Evidence {
    Evidence::new(delivery.mark, shows)
}

/// Moves on by one delivery, or says what is wrong with it.
fn take(eyes: &Eyes<'_>, delivery: &Delivery, progress: &mut Progress) -> Option<String> {
    match &delivery.what {
        Delivered::Messages(seen) => {
            for id in &eyes.model.seen[seen.clone()] {
                let (seq, next) = (eyes.model.record(*id).seq, progress.next);
                if seq != next {
                    return Some(format!("seq {seq} came where {next} should"));
                }
                progress.next += 1;
            }
            None
        }
        Delivered::CaughtUp(next) if *next != progress.next => {
            Some(format!("caught up at seq {next}, and {} comes next", progress.next))
        }
        Delivered::CaughtUp(next) => {
            let before = eyes.floor.before(delivery.conversation, eyes.follow.span.call.at);
            let missing = before.filter(|step| step.tail > *next)?;
            Some(format!(
                "caught up at seq {next}, and everything below {} stood when it began (line {})",
                missing.tail, missing.shown.line
            ))
        }
        Delivered::AddedAgain(from) => (*from != progress.next)
            .then(|| format!("taken up again from seq {from}, and {} comes next", progress.next)),
        Delivered::Gap(gone) => {
            let trimmed = eyes.trimmed.get(&delivery.conversation).copied().unwrap_or(1);
            let is_right = gone.start == progress.next && gone.start < gone.end;
            progress.next = gone.end;
            match is_right && gone.end <= trimmed {
                true => None,
                false => Some(format!("a gap of seqs {gone:?}, and nothing was trimmed there")),
            }
        }
    }
}

/// What was delivered is what stands at the end.
fn check_committed(eyes: &Eyes<'_>, delivery: &Delivery, findings: &mut Findings) {
    let Delivered::Messages(seen) = &delivery.what else { return };
    let model = eyes.model;
    let finals = model.final_read(delivery.conversation);
    let bounds = finals.bounds();
    let is_final = |id: &RecordId| {
        let record = model.record(*id);
        match model.place(delivery.conversation, record.seq) {
            Some(place) if place.source == crate::model::Source::Final => place.key == record.key,
            // Not read at the end: uncommitted if a read that must have it ends before it.
            _ => {
                let binding = finals.binding(delivery.mark.at);
                let is_within =
                    bounds.is_some_and(|(first, tail)| (first..tail).contains(&record.seq));
                !is_within && binding.is_none_or(|end| record.seq < end.first_seq)
            }
        }
    };
    if let Some(id) = model.seen[seen.clone()].iter().find(|id| !is_final(id)) {
        let what =
            format!("seq {} was delivered, and is not what was committed", model.record(*id).seq);
        let shown = super::evidence::standing(model, delivery.conversation, model.record(*id).seq);
        let evidence = [Some(marked(delivery, "delivered")), Some(sighting(model, *id)), shown];
        report(eyes, delivery.conversation, what, evidence.into_iter().flatten(), findings);
    }
}

fn check_complete(eyes: &Eyes<'_>, streams: &HashMap<Name, Progress>, findings: &mut Findings) {
    let ended = eyes.follow.span.answered;
    let Some(healed) = eyes.model.run.healed_at else { return };
    let call = eyes.follow.span.call;
    // A young stream had no time to come to its end, nor had any early in the healed phase.
    let is_old = ended >= healed.max(call.at).saturating_add(DELIVERED_WITHIN);
    // One that asks an excused node need not come to it at all.
    if !is_old || eyes.model.run.excused.iter().any(|(node, _)| *node == call.node) {
        return;
    }
    let due = ended - DELIVERED_WITHIN;
    let mut names: Vec<_> = streams.iter().collect();
    names.sort_unstable_by_key(|(name, _)| **name);
    for (name, progress) in names {
        let step = eyes.floor.before(*name, due).filter(|step| step.tail > progress.next);
        let Some(step) = step.filter(|_| !progress.is_broken) else { continue };
        let what = format!("ended before seq {}, and the tail was {}", progress.next, step.tail);
        let evidence = [
            Evidence::new(step.shown, format!("shows that the tail is {}", step.tail)),
            Evidence::new(progress.last, "the last thing on this stream"),
            Evidence::new(eyes.follow.span.end(), "the stream is ended"),
        ];
        report(eyes, *name, what, evidence, findings);
    }
}

fn report(
    eyes: &Eyes<'_>,
    conversation: Name,
    what: String,
    evidence: impl IntoIterator<Item = Evidence>,
    findings: &mut Findings,
) {
    findings.violation(Guarantee::G6, || {
        let kind = if eyes.follow.is_subscription { "subscription" } else { "follow" };
        let call = Evidence::new(eyes.follow.span.call, "the stream begins");
        let name = eyes.model.name(conversation);
        let evidence = std::iter::once(call).chain(evidence);
        described(format!("a {kind}, of {name}: {what}"), evidence)
    });
}
