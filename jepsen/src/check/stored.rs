//! What nodes had on their disks at the end is what they are to have: `quorate check` reads all of it.

use super::{Checker, Findings, Guarantee, described};
use crate::model::Model;

/// See the module.
pub struct Stored;

impl Checker for Stored {
    fn name(&self) -> &'static str {
        "stored-data"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G11]
    }

    fn rule(&self) -> &'static str {
        "On what each node has stored at the end every digest can be computed again, and every invariant holds. No node \
         runs on damaged data that it has to read before it serves."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        for (node, wrong) in &model.run.unnoticed {
            let what = format!("node {node} ran on damaged data and did not notice: {wrong}");
            findings.violation(Guarantee::G11, || described(what, []));
        }
        for (node, wrong) in &model.run.stored {
            findings.look_at(Guarantee::G11, 1);
            if let Some(wrong) = wrong {
                let what = format!("what node {node} has stored is wrong: {wrong}");
                findings.violation(Guarantee::G11, || described(what, []));
            }
        }
    }
}
