//! Replicas without a network: what crashes leave on disk, and what a leader refuses.

mod fit_to_lead;
mod fixture;
mod install_crashes;
mod make_crashes;
mod mortal;
mod overloaded;
