//! Fuzzes `cases::peers`.
#![no_main]

quorate_fuzz::fuzz!(peers);
