//! Fuzzes `cases::requests`.
#![no_main]

quorate_fuzz::fuzz!(requests);
