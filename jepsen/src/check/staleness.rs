//! Reads that name a bound honour it.

use super::evidence::read as shown;
use super::floor::Floor;
use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::history::{Consistency, Nanos};
use crate::model::{Model, Read, ReadAnswer};

const MS: Nanos = 1_000_000;

/// See the module.
pub struct Staleness;

impl Checker for Staleness {
    fn name(&self) -> &'static str {
        "staleness"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G10]
    }

    fn rule(&self) -> &'static str {
        "AT_LEAST reads are past their seq; MAX_STALENESS reads say an age within their bound, and hold what was \
         acknowledged longer before their call than that age."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let floor = Floor::of(model);
        for read in &model.reads {
            let Some(answer) = read.ending.ok() else { continue };
            let broken = match read.consistency {
                Consistency::AtLeast(seq) => not_reached(seq, answer),
                Consistency::MaxStalenessMs(bound) => too_stale(&floor, read, answer, bound),
                Consistency::Linearizable | Consistency::Local => continue,
            };
            findings.look_at(Guarantee::G10, 1);
            if let Some((what, other)) = broken {
                findings.violation(Guarantee::G10, || {
                    let what = format!("a read of {}: {what}", model.name(read.conversation));
                    described(what, other.into_iter().chain([shown(model, read)]))
                });
            }
        }
    }
}

type Broken = Option<(String, Option<Evidence>)>;

fn not_reached(seq: u64, answer: &ReadAnswer) -> Broken {
    let is_past = answer.tail > seq;
    (!is_past).then(|| (format!("tail {}, and seq {seq} was asked for", answer.tail), None))
}

fn too_stale(floor: &Floor, read: &Read, answer: &ReadAnswer, bound_ms: u64) -> Broken {
    let Some(age_ms) = answer.position.age_ms else {
        return Some(("an answer within a bound says no age".to_owned(), None));
    };
    if age_ms > bound_ms {
        return Some((format!("age {age_ms} ms, and the bound was {bound_ms} ms"), None));
    }
    // The confirmation began no longer than the age before the answer was made, and that came after the call. The age
    // is rounded up; one more millisecond is for the clocks of driver and node.
    let since = read.span.call.at.checked_sub((age_ms + 1).saturating_mul(MS))?;
    let missing = floor.before(read.conversation, since).filter(|step| step.tail > answer.tail)?;
    let what = format!(
        "tail {} at age {age_ms} ms, and the tail was {} before",
        answer.tail, missing.tail
    );
    let shows = format!("shows that the tail is {}", missing.tail);
    Some((what, Some(Evidence::new(missing.shown, shows))))
}
