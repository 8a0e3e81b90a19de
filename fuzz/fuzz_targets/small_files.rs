//! Fuzzes `cases::small_files`.
#![no_main]

quorate_fuzz::fuzz!(small_files);
