//! Bad input and trouble, over the wire against real processes: what is refused, what is said, and that nothing
//! changes. One file for each kind of trouble.

mod authorize;
mod damage;
mod disk;
mod harness;
mod identity;
mod invalid;
mod overload;
mod quorum;
mod refusals;
mod strangers;
mod wire;
