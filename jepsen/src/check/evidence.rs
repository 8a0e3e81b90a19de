//! The usual sentences of evidence.

use super::Evidence;
use crate::history::Nanos;
use crate::model::{Append, Key, Model, Outcome, Read, RecordId};

/// For people, who look for a time in a plot.
pub fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

/// An acknowledgement.
pub fn acknowledgement(append: &Append) -> Evidence {
    let shows = match append.ending.ok() {
        Some(appended) => format!(
            "acknowledged as seqs {} to {}, commit time {}{}",
            appended.first_seq,
            appended.last_seq,
            appended.commit_time_us,
            if appended.duplicate { ", a duplicate" } else { "" }
        ),
        None => "not acknowledged".to_owned(),
    };
    Evidence::new(append.span.end(), shows)
}

/// An attempt to append a message.
pub fn attempt(model: &Model, append: &Append, key: Key) -> Evidence {
    let hash = model.sent_in(append).iter().find(|sent| sent.key == key).map(|sent| sent.hash);
    let hash = hash.map_or(String::new(), |hash| format!(" with payload {hash:016x}"));
    Evidence::new(append.span.call, format!("sends {}{hash}", model.describe(key)))
}

/// The first sighting of a record.
pub fn sighting(model: &Model, id: RecordId) -> Evidence {
    let record = model.record(id);
    let digest = record.digest.map_or(String::new(), |digest| {
        let digits = hex::encode(&digest[..8]);
        format!(", digest {digits}…")
    });
    let shows = format!(
        "seq {} shows {}, payload {:016x}, commit time {}{digest}",
        record.seq,
        model.describe(record.key),
        record.hash,
        record.commit_time_us
    );
    Evidence::new(model.sightings(id).first, shows)
}

/// What stands at a seq, where it was seen.
pub fn standing(model: &Model, conversation: u32, seq: u64) -> Option<Evidence> {
    model.place(conversation, seq)?.record.map(|id| sighting(model, id))
}

/// A read's answer.
pub fn read(model: &Model, read: &Read) -> Evidence {
    let shows = match read.ending.ok() {
        Some(answer) => format!(
            "{:?} read of {} from seq {} called at {:.6} s: tail {}, {} messages, node {}, index {}",
            read.consistency,
            model.name(read.conversation),
            read.from_seq,
            seconds(read.span.call.at),
            answer.tail,
            answer.seen.len(),
            answer.position.node,
            answer.position.applied_index
        ),
        None => format!("read of {} failed", model.name(read.conversation)),
    };
    Evidence::new(read.span.end(), shows)
}

/// An outcome query's answer.
pub fn told(model: &Model, query: &Outcome) -> Evidence {
    let answer = match query.ending.ok() {
        Some((state, seq)) => format!("{state:?} at {seq}"),
        None => "no answer".to_owned(),
    };
    let settle = if query.settle { "settling " } else { "" };
    let shows = format!(
        "{settle}query on {} called at {:.6} s: {answer}",
        model.describe(query.key),
        seconds(query.span.call.at)
    );
    Evidence::new(query.span.end(), shows)
}
