//! Fuzzes `cases::chat`.
#![no_main]

quorate_fuzz::fuzz!(chat);
