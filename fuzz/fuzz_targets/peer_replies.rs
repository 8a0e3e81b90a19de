//! Fuzzes `cases::peer_replies`.
#![no_main]

quorate_fuzz::fuzz!(peer_replies);
