//! What the client library found unsound and would not mend: pages of reads, and what comes on streams.

use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::model::{Delivered, Ending, Model, Refused, Span};

/// An answer or delivery that cannot follow what came before it.
const PROTOCOL_VIOLATION: &str = "PROTOCOL_VIOLATION";
/// A payload that does not have its checksum.
const DAMAGED_PAYLOAD: &str = "DAMAGED_PAYLOAD";

/// See the module.
pub struct Protocol;

impl Checker for Protocol {
    fn name(&self) -> &'static str {
        "protocol"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G2, Guarantee::G6, Guarantee::G11]
    }

    fn rule(&self) -> &'static str {
        "No call or stream ends because what a node sent was out of order or damaged."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        for follow in &model.follows {
            look(model, follow.span, &follow.ending, Guarantee::G6, findings);
            // What comes past the library is looked at by nobody here.
            for delivery in follow.deliveries.iter().filter(|_| !follow.without_library) {
                findings.look_at(Guarantee::G6, 1);
                if let Delivered::Messages(seen) = &delivery.what {
                    findings.look_at(Guarantee::G11, seen.len() as u64);
                }
            }
        }
        for read in &model.reads {
            look(model, read.span, &read.ending, Guarantee::G2, findings);
            if let Some(answer) = read.ending.ok() {
                findings.look_at(Guarantee::G2, 1);
                findings.look_at(Guarantee::G11, answer.seen.len() as u64);
            }
        }
        for append in &model.appends {
            // Not counted: the library takes acknowledgements as they come, and mends what is out of order.
            look(model, append.span, &append.ending, Guarantee::G2, findings);
        }
    }
}

fn look<T>(
    model: &Model,
    span: Span,
    ending: &Ending<T>,
    guarantee: Guarantee,
    findings: &mut Findings,
) {
    let (Ending::Failed(Refused { reason, .. }) | Ending::Unknown(Refused { reason, .. })) = ending
    else {
        return;
    };
    let reason = model.name(*reason);
    let guarantee = match reason {
        PROTOCOL_VIOLATION => guarantee,
        DAMAGED_PAYLOAD => Guarantee::G11,
        _ => return,
    };
    findings.violation(guarantee, || {
        let what = format!("a client refused what a node sent it: {reason}");
        described(what, [Evidence::new(span.end(), "its message says what came and what was due")])
    });
}
