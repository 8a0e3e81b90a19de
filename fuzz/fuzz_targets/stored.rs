//! Fuzzes `cases::stored`.
#![no_main]

quorate_fuzz::fuzz!(stored);
