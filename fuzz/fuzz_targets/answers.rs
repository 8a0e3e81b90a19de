//! Fuzzes `cases::answers`.
#![no_main]

quorate_fuzz::fuzz!(answers);
