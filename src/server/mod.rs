//! Floor 6: configuration, the one wall clock, metrics, HTTP, shutdown, and the wiring of the floors below.

mod call_limit;
#[cfg(feature = "rocksdb")]
mod client_threads;
mod clock;
pub mod config;
mod connections;
mod dedup_floor;
mod disk;
mod greeting;
mod http;
mod incoming;
mod listening;
/// What the process writes to standard error.
pub mod logging;
mod metrics;
mod node;
mod observers;
mod operations;
mod placement;
mod pulse;
/// How a process ends.
pub mod shutdown;
mod succession;
mod wanted;

pub use clock::SystemClock;
pub use config::Config;
pub use connections::{ConnectionsMax, TooFewFiles};
pub use http::{Condition, Readiness};
pub use listening::{Accepted, Listen, ListenError, Listeners};
pub use metrics::{Metrics, Queue};
#[cfg(feature = "rocksdb")]
pub use node::run;
pub use node::{Ground, run_on};
pub use observers::Observers;
