//! Tells another node which groups are parked. A node that does not know the call parks nothing, so that nothing is parked
//! with it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::peers::{PeerError, Peers};
use super::proto;
use super::wire::{
    Malformed, log_id_from_wire, log_id_to_wire, route_from_wire, route_to_wire, vote_from_wire,
    vote_to_wire,
};
use crate::consensus::network::Route;
use crate::consensus::parking::Footing;
use crate::types::{GroupId, NodeId};

fn at_rest_to_wire((route, footing): &(Route, Footing)) -> proto::AtRest {
    proto::AtRest {
        route: Some(route_to_wire(*route)),
        vote: Some(vote_to_wire(&footing.vote)),
        last: Some(log_id_to_wire(&footing.last)),
    }
}

pub(super) fn at_rest_from_wire(group: &proto::AtRest) -> Result<(Route, Footing), Malformed> {
    let last = group.last.as_ref().ok_or_else(|| Malformed("last is missing".to_owned()))?;
    let vote = vote_from_wire(group.vote.as_ref())?;
    Ok((route_from_wire(group.route.as_ref())?, Footing { vote, last: log_id_from_wire(last)? }))
}

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
        let groups = groups.iter().map(at_rest_to_wire).collect();
        let reply = timeout(limit, client.park(proto::ParkRequest { hello, groups }))
            .await
            .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time")))
            .map_err(|status| PeerError::Failed { node, status })?;
        Ok(reply.into_inner().refused.into_iter().map(GroupId).collect())
    }
}
