//! Replicas without a network: what crashes leave on disk, what a leader refuses, and what confirms a read.

mod fit_to_lead;
mod fixture;
mod install_crashes;
mod make_crashes;
mod mortal;
mod overloaded;
mod purging;
mod read_rounds;
mod scripted;
mod snapshot_hold;
