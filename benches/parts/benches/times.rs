//! Time of the parts whose instructions `counts.rs` counts. Noisy where others work on the machine: compare medians of
//! runs beside each other.

#![allow(missing_docs, reason = "what criterion generates")]

use criterion::{Criterion, criterion_group, criterion_main};
use quorate_parts::PARTS;

fn parts(criterion: &mut Criterion) {
    for part in PARTS {
        let work = (part.ready)();
        criterion.bench_function(part.name, |bench| bench.iter(&work));
    }
}

criterion_group!(times, parts);
criterion_main!(times);
