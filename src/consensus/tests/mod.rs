//! Replicas without a network: what crashes leave on disk, what a leader refuses, what confirms a read, who is taken out
//! of a group, who is handed it, who stands where a leader is dead, whom a backlog keeps waiting, and what damage and
//! failing reads do.

mod damaged;
mod fit_to_lead;
mod fixture;
mod handover;
mod install_crashes;
mod links;
mod make_crashes;
mod make_given_up;
mod mortal;
mod overloaded;
mod parked;
mod purging;
mod read_rounds;
mod removal;
mod scripted;
mod serving;
mod snapshot_hold;
mod succession;
mod turns;
mod unreadable;
