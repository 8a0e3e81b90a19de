//! Fuzzes `cases::peer_calls`.
#![no_main]

quorate_fuzz::fuzz!(peer_calls);
