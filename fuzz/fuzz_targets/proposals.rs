//! Fuzzes `cases::proposals`.
#![no_main]

quorate_fuzz::fuzz!(proposals);
