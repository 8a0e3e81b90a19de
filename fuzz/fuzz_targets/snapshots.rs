//! Fuzzes `cases::snapshots`.
#![no_main]

quorate_fuzz::fuzz!(snapshots);
