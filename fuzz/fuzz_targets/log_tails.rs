//! Fuzzes `cases::log_tails`.
#![no_main]

quorate_fuzz::fuzz!(log_tails);
