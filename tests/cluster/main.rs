//! Clusters of the real binary: killed, restarted, wiped, cut off from each other. CONTRIBUTING.md says how long they
//! take and how the long forms are run.

mod delivery;
mod harness;
mod isolation;
mod kills;
mod links;
mod parked;
mod real_chat;
mod refusals;
mod replicas;
mod succession;
