//! The `Cluster` service: making a cluster, describing it, and making a lost node's replicas anew.
//!
//! A group's committed membership is what is; the topology in the meta group is what is wanted. Every step can be
//! repeated, so that an operation that was cut off is finished by asking again.

mod describe;
#[cfg(test)]
pub mod fixture;
mod grpc;
mod init;
mod meta;
mod progress;
mod replace;
#[cfg(test)]
mod tests;
mod topology_to_proto;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use describe::{own_status, replica_statuses};
pub use grpc::ClusterService;
pub use init::{FIRST, META_VOTERS_MAX, has_lost_its_data};
pub use meta::{MetaError, MetaGroup, decode_change};

use super::authorize::Authorizer;
use crate::consensus::Replicas;
use crate::transport::{NodeOperations, OperationError, PeerError, Peers};

/// The service over a node's replicas and its peers.
pub struct ClusterApi {
    /// This node's replicas.
    pub replicas: Arc<Replicas>,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// What this node does when it is asked itself.
    pub operations: Arc<dyn NodeOperations>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Ends streams that would not end by themselves.
    pub stopping: CancellationToken,
}

/// Why a cluster operation did not get through.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClusterError {
    /// The request does not make sense.
    #[error("{message}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What it is over, if that is what is wrong.
        limit: Option<u64>,
        /// What is wrong with it.
        message: String,
    },
    /// It will not be done as things are.
    #[error("{0}")]
    Refused(String),
    /// It may be done if asked again.
    #[error("{0}")]
    Unavailable(String),
}

impl From<PeerError> for ClusterError {
    fn from(error: PeerError) -> Self {
        match &error {
            PeerError::Unknown { .. } => ClusterError::Unavailable(error.to_string()),
            PeerError::Failed { node, status } => {
                let message = format!("node {node}: {}", status.message());
                match status.code() {
                    tonic::Code::FailedPrecondition
                    | tonic::Code::InvalidArgument
                    | tonic::Code::PermissionDenied => ClusterError::Refused(message),
                    _ => ClusterError::Unavailable(message),
                }
            }
        }
    }
}

impl From<OperationError> for ClusterError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Refused(message) => ClusterError::Refused(message),
            OperationError::Unavailable(message) => ClusterError::Unavailable(message),
        }
    }
}

impl From<MetaError> for ClusterError {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::Refused(message) => ClusterError::Refused(message),
            MetaError::Unavailable(message) => ClusterError::Unavailable(message),
        }
    }
}
