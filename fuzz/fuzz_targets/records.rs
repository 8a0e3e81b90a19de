//! Fuzzes `cases::records`.
#![no_main]

quorate_fuzz::fuzz!(records);
