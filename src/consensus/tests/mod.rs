//! Replicas that crash: what is on disk after each step of what removes or replaces a state.

mod fixture;
mod install_crashes;
mod make_crashes;
mod mortal;
