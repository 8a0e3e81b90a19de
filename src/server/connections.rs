//! How many connections each port may have. A connection takes a file descriptor, and a database that gets none for its
//! next file stops the node, so that its files, and the other nodes, come first.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Metrics;
use crate::types::limits;

/// Connections that each port may have at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionsMax {
    /// Of clients.
    pub client: usize,
    /// From other nodes.
    pub peer: usize,
    /// Of those who probe and measure.
    pub http: usize,
}

/// The process may open too few files for a node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may have {files_max} files open, and a node needs at least {files_min}: raise the hard limit (`ulimit \
     -Hn`, `LimitNOFILE=` of a systemd unit, `ulimits` of a container)"
)]
pub struct TooFewFiles {
    /// How many it may open.
    pub files_max: u64,
    /// From how many on a node starts.
    pub files_min: u64,
}

impl ConnectionsMax {
    /// As many as a node ever has.
    pub const MOST: ConnectionsMax = ConnectionsMax {
        client: limits::CLIENT_CONNECTIONS_MAX,
        peer: limits::PEER_CONNECTIONS_IN_MAX,
        http: limits::HTTP_CONNECTIONS_MAX,
    };

    /// What a process can have that may open `files_max` files, sockets included, and whose databases hold up to
    /// `database_files_max` of them open. Clients get what nobody else needs.
    ///
    /// # Errors
    /// Nothing is left for clients.
    pub fn within(files_max: u64, database_files_max: u64) -> Result<Self, TooFewFiles> {
        let most = ConnectionsMax::MOST;
        let of_peers = most.peer + limits::PEER_CONNECTIONS_OUT_MAX;
        let others = (limits::OTHER_FILES_MAX + of_peers + most.http) as u64;
        let needed = database_files_max + others;
        let left = files_max.saturating_sub(needed);
        if left == 0 {
            return Err(TooFewFiles { files_max, files_min: needed + 1 });
        }
        let client = usize::try_from(left).unwrap_or(usize::MAX).min(most.client);
        Ok(ConnectionsMax { client, ..most })
    }
}

/// Raises the number of files that this process may open as far as it may. Returns it; `u64::MAX` if there is no limit.
#[cfg(feature = "rocksdb")]
pub fn raise_files_max() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: found.maximum, maximum: found.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => found.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            found.current
        }
    };
    current.unwrap_or(u64::MAX)
}

/// Places for the connections of one port.
#[derive(Clone)]
pub struct Places {
    port: &'static str,
    free: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Places {
    /// So many, all of them free, on the port of this name.
    pub fn new(port: &'static str, connections_max: usize, metrics: Arc<Metrics>) -> Self {
        Places { port, free: Arc::new(Semaphore::new(connections_max)), metrics }
    }

    /// The port's name.
    pub fn port(&self) -> &'static str {
        self.port
    }

    /// A place, until it is dropped. None if all are taken, which is counted.
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.free.clone().try_acquire_owned().ok();
        if place.is_none() {
            self.metrics.connection_refused(self.port);
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_nobody_else_needs() {
        let TooFewFiles { files_min, .. } = ConnectionsMax::within(1_024, 1_024).unwrap_err();
        assert!(files_min < 4_096, "a limit that is often met: {files_min}");
        assert!(ConnectionsMax::within(files_min - 1, 1_024).is_err());
        for more in [0, 10, 500] {
            let found = ConnectionsMax::within(files_min + more, 1_024).unwrap();
            let client = more as usize + 1;
            assert_eq!(found, ConnectionsMax { client, ..ConnectionsMax::MOST });
        }
        assert_eq!(ConnectionsMax::within(u64::MAX, 1_024), Ok(ConnectionsMax::MOST));
    }

    #[test]
    fn a_place_that_is_given_back_is_given_again() {
        let metrics = Arc::new(Metrics::new());
        let places = Places::new("client", 1, metrics.clone());
        let first = places.take();
        assert!(first.is_some() && places.take().is_none());
        let refused = "quorate_connections_refused_total{port=\"client\"} 1";
        assert!(metrics.encode().contains(refused));
        drop(first);
        assert!(places.take().is_some());
    }
}
