//! Floor 3: openraft behind one handle for each group. Its names stay here and in `transport`.

mod group;
mod replicas;
mod tails;

pub use group::{Barrier, Group, GroupStatus, ProposeError, ReadError};
pub use replicas::{Replicas, Route};
pub use tails::{TailWatch, Tails};
