//! What a node's clock and disk show, as another node asks for it.

use std::time::Duration;

use tokio::time::timeout;

use super::peers::{PeerError, Peers};
use super::proto::{self, pulse_reply::Disk};
use crate::consensus::{ClockSkew, Sighting};
use crate::storage::DiskMark;
use crate::types::{Clock, NodeId, Timestamp};

/// A node that takes longer tells nothing useful about its clock.
const PULSE_TIMEOUT: Duration = Duration::from_millis(900);

pub(super) fn pulse_to_wire(now: Timestamp, disk: DiskMark) -> proto::PulseReply {
    let disk = match disk {
        DiskMark::Ok => Disk::Ok,
        DiskMark::Soft => Disk::Soft,
        DiskMark::Hard => Disk::Hard,
    };
    proto::PulseReply { now_us: now.0, disk: disk.into() }
}

fn disk_from_wire(reply: &proto::PulseReply) -> Option<DiskMark> {
    match reply.disk() {
        Disk::Unspecified => None,
        Disk::Ok => Some(DiskMark::Ok),
        Disk::Soft => Some(DiskMark::Soft),
        Disk::Hard => Some(DiskMark::Hard),
    }
}

impl Peers {
    /// Asks a node what its clock and disk show; measured against `clock`. Cancel safe.
    ///
    /// # Errors
    /// The node is not known, refused, or did not answer within less than a second.
    pub async fn pulse(&self, node: NodeId, clock: &dyn Clock) -> Result<Sighting, PeerError> {
        let mut client = self.client(node)?;
        let request = proto::PulseRequest { hello: Some(self.introduction().hello(node)) };
        let (sent, began_us) = (clock.now(), clock.elapsed_us());
        let reply = timeout(PULSE_TIMEOUT, client.pulse(request))
            .await
            .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time")))
            .map_err(|status| PeerError::Failed { node, status })?
            .into_inner();
        let round_trip_us = clock.elapsed_us().saturating_sub(began_us);
        let disk = disk_from_wire(&reply).ok_or_else(|| {
            let status = tonic::Status::internal("an answer without the disk's mark");
            PeerError::Failed { node, status }
        })?;
        let clock = ClockSkew::measured(sent, Timestamp(reply.now_us), round_trip_us);
        Ok(Sighting { clock, disk })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_the_way_and_none_is_not_guessed() {
        for mark in [DiskMark::Ok, DiskMark::Soft, DiskMark::Hard] {
            assert_eq!(disk_from_wire(&pulse_to_wire(Timestamp(1), mark)), Some(mark));
        }
        assert_eq!(disk_from_wire(&proto::PulseReply::default()), None);
        let unknown = proto::PulseReply { disk: 99, ..proto::PulseReply::default() };
        assert_eq!(disk_from_wire(&unknown), None);
    }
}
