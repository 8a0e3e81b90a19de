//! Fuzzes `cases::calls`.
#![no_main]

quorate_fuzz::fuzz!(calls);
