//! What is too much is refused so that it can be tried again, and nodes stay small meanwhile.

use super::{Checker, Evidence, Findings, Guarantee, described};
use crate::model::{Ending, Model, Refused, Span};

/// What a node says that has no room for more.
pub const OVERLOADED: &str = "OVERLOADED";
/// What it says where its disk has hardly any left.
pub const DISK_LOW: &str = "DISK_LOW";
/// No node of a run takes more memory than this, in bytes: caches of 16 MiB, two databases with memtables of 2 MiB, the
/// newest messages of what is followed, 64 MiB at most, and 32 MiB of appends that wait in each of a few groups, which are
/// there once more while they are encoded and sent; the rest is the program itself, and what its allocator has not given
/// back.
pub const MEMORY_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// See the module.
pub struct Overload;

impl Checker for Overload {
    fn name(&self) -> &'static str {
        "overload"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G12]
    }

    fn rule(&self) -> &'static str {
        "What a node refuses because it has too much work, or hardly any disk left, can be tried again, on \
         streams, too; and no node is seen to take more than 512 MiB."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        for append in &model.appends {
            look(model, append.span, &append.ending, findings);
        }
        for read in &model.reads {
            look(model, read.span, &read.ending, findings);
        }
        for query in &model.outcomes {
            look(model, query.span, &query.ending, findings);
        }
        for follow in &model.follows {
            look(model, follow.span, &follow.ending, findings);
        }
        for (node, bytes) in &model.run.memory_bytes_max {
            if *bytes > MEMORY_BYTES_MAX {
                let mib = bytes / 1024 / 1024;
                let what = format!("node {node} took {mib} MiB of memory");
                findings.violation(Guarantee::G12, || described(what, []));
            }
        }
    }
}

fn look<T>(model: &Model, span: Span, ending: &Ending<T>, findings: &mut Findings) {
    let (Ending::Failed(refused) | Ending::Unknown(refused)) = ending else { return };
    let Refused { reason, retryable, .. } = *refused;
    let reason = model.name(reason);
    if ![OVERLOADED, DISK_LOW].contains(&reason) {
        return;
    }
    findings.look_at(Guarantee::G12, 1);
    if !retryable {
        findings.violation(Guarantee::G12, || {
            let what = "a call was refused for load or disk, and is not to be tried again";
            described(what, [Evidence::new(span.end(), reason)])
        });
    }
}
