//! Fuzzes `cases::config`.
#![no_main]

quorate_fuzz::fuzz!(config);
