//! One order: at a seq stands one message, for every reader of every replica, and in every acknowledgement.

use super::evidence::{acknowledgement, sighting};
use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::model::{Append, Model, Record, RecordId};

/// See the module.
pub struct Order;

impl Checker for Order {
    fn name(&self) -> &'static str {
        "one-order"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G2]
    }

    fn rule(&self) -> &'static str {
        "Reads, deliveries and acknowledgements agree on message, commit time and digest at each seq; what was seen \
         once is there at the end."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let at = |id: &RecordId| {
            let record = model.record(*id);
            (model.conversation_of(record.key), record.seq)
        };
        let mut ids: Vec<RecordId> = model.records().map(|(id, ..)| id).collect();
        ids.sort_by_cached_key(|id| (at(id), *id));
        for same in ids.chunk_by(|a, b| at(a) == at(b)) {
            findings.look_at(Guarantee::G2, 1);
            let first = model.record(same[0]);
            if let Some(other) = same[1..].iter().find(|id| differ(first, model.record(**id))) {
                findings.violation(Guarantee::G2, || {
                    let (conversation, seq) = at(other);
                    let what = format!("seq {seq} of {} is two things", model.name(conversation));
                    described(what, [sighting(model, same[0]), sighting(model, *other)])
                });
            }
            check_still_there(model, same[0], findings);
        }
        for append in &model.appends {
            check_acknowledgement(model, append, findings);
        }
    }
}

/// The payload is not compared: that it is what was sent is another checker's.
fn differ(a: &Record, b: &Record) -> bool {
    let digests = a.digest.zip(b.digest);
    a.key != b.key
        || a.commit_time_us != b.commit_time_us
        || digests.is_some_and(|(one, other)| one != other)
}

fn check_still_there(model: &Model, id: RecordId, findings: &mut Findings) {
    let (record, sightings) = (model.record(id), model.sightings(id));
    let conversation = model.conversation_of(record.key);
    let binding = model.final_read(conversation).binding(sightings.first.at);
    if let Some(end) = binding.filter(|end| end.tail <= record.seq) {
        findings.violation(Guarantee::G2, || {
            let name = model.name(conversation);
            let what = format!(
                "seq {} of {name} was seen, and the tail at the end is {}",
                record.seq, end.tail
            );
            described(what, [sighting(model, id)])
        });
    }
}

fn check_acknowledgement(model: &Model, append: &Append, findings: &mut Findings) {
    let Some(appended) = append.ending.ok() else { return };
    findings.look_at(Guarantee::G2, 1);
    let stands_other = |(sent, seq): &(crate::model::Sent, u64)| {
        model.place(append.conversation, *seq).is_some_and(|place| place.key != sent.key)
    };
    let other = model.acknowledged(append).find(stands_other);
    if let Some((sent, seq)) = other {
        findings.violation(Guarantee::G2, || {
            let place = model.place(append.conversation, seq).expect("it was found before");
            let what = format!(
                "{} was acknowledged at seq {seq}, where {} stands",
                model.describe(sent.key),
                model.describe(place.key)
            );
            let shown = place.record.map(|id| sighting(model, id));
            let acknowledged = model.attempts(place.key).iter().map(|at| model.append_of(at));
            let acknowledged = acknowledged.filter(|other| other.ending.ok().is_some()).take(1);
            let others = shown.into_iter().chain(acknowledged.map(acknowledgement));
            described(what, others.chain([acknowledgement(append)]))
        });
        return;
    }
    let last = model.place(append.conversation, appended.last_seq).and_then(|place| place.record);
    let digests = last.and_then(|id| Some((id, model.record(id).digest?, appended.digest?)));
    if let Some((id, shown, told)) = digests.filter(|(_, shown, told)| shown != told) {
        findings.violation(Guarantee::G2, || {
            let what = format!(
                "the digest acknowledged up to seq {} of {} is not the one that is read",
                appended.last_seq,
                model.name(append.conversation)
            );
            let digits = |digest: [u8; 32]| hex::encode(&digest[..8]);
            let shows = format!("acknowledged digest {}…, read {}…", digits(told), digits(shown));
            described(what, [Evidence::new(append.span.end(), shows), sighting(model, id)])
        });
    }
}
