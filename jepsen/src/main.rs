//! The command line of the fault suite.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate_jepsen::cli::main()
}
