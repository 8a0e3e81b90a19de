//! Tells another node which groups are parked. A node that does not know the call parks nothing, so that nothing is parked
//! with it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::peers::{PeerError, Peers};
use super::proto;
use super::wire::at_rest_to_wire;
use crate::consensus::network::Route;
use crate::consensus::parking::Footing;
use crate::types::{GroupId, NodeId};

impl Peers {
    /// Tells a node on what groups rest that this node leads. Returns those whose replica there does not. Cancel safe.
    ///
    /// # Errors
    /// The node is not known, refused, or did not answer within `limit`.
    pub(super) async fn tell_parked(
        &self,
        node: NodeId,
        groups: &[(Route, Footing)],
        limit: Duration,
    ) -> Result<BTreeSet<GroupId>, PeerError> {
        let mut client = self.client(node)?;
        let hello = Some(self.introduction().hello(node));
        let groups =
            groups.iter().map(|(route, footing)| at_rest_to_wire(*route, footing)).collect();
        let reply = timeout(limit, client.park(proto::ParkRequest { hello, groups }))
            .await
            .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time")))
            .map_err(|status| PeerError::Failed { node, status })?;
        Ok(reply.into_inner().refused.into_iter().map(GroupId).collect())
    }
}
