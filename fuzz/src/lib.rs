//! Runs the cases of `tests/decoders` guided by coverage, and bounds the memory that an input may take.

mod memory;

#[path = "../../tests/decoders/cases/mod.rs"]
pub mod cases;
#[path = "../../tests/decoders/ground/mod.rs"]
mod ground;

use std::path::Path;

use cases::Case;
pub use libfuzzer_sys::fuzz_target;

/// A program that fuzzes one case.
#[macro_export]
macro_rules! fuzz {
    ($case:ident) => {
        $crate::fuzz_target!(
            init: $crate::sow(&$crate::cases::$case::CASE),
            |input: &[u8]| $crate::run(&$crate::cases::$case::CASE, input)
        );
    };
}

/// Puts a case's seeds into the folders that libFuzzer was told to read, before it does.
pub fn sow(case: &Case) {
    let folders = std::env::args_os().skip(1).filter(|argument| Path::new(argument).is_dir());
    for folder in folders {
        for (number, seed) in (case.seeds)().iter().enumerate() {
            std::fs::write(Path::new(&folder).join(format!("seed-{number}")), seed)
                .expect("a corpus can be written");
        }
    }
}

/// Checks one input.
pub fn run(case: &Case, input: &[u8]) {
    let taken = memory::most_while(|| (case.check)(input));
    let most = memory::allowed(input.len());
    assert!(taken <= most, "{taken} bytes for an input of {}: at most {most}", input.len());
}
