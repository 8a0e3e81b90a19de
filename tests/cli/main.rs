//! The command line as people and scripts use it, on clusters of the real binary.

mod bench;
mod check;
mod demo;
mod follow;
mod harness;
mod operate;
mod pipes;
mod send;
