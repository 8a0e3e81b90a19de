//! How long a call on the peer port may take until it is answered, or its stream of responses has begun.

use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;
use tonic::Status;
use tonic::service::Routes;

use crate::transport::SEND_SNAPSHOT_PATH;

/// Ends each call that takes longer than `limit`, for one with a request that never arrives whole: DEADLINE_EXCEEDED.
/// Not the transfer of a snapshot, which is answered only once everything is installed, and which the receiver gives
/// up when nothing more comes.
pub fn limit_calls(routes: Routes, limit: Duration) -> Routes {
    let limited = move |request: Request, next: Next| async move {
        if request.uri().path() == SEND_SNAPSHOT_PATH {
            return next.run(request).await;
        }
        timeout(limit, next.run(request)).await.unwrap_or_else(|_| too_slow())
    };
    Routes::from(routes.into_axum_router().layer(from_fn(limited)))
}

fn too_slow() -> Response {
    let status = Status::deadline_exceeded("the call took too long, or did not arrive whole");
    status.into_http::<tonic::body::Body>().map(axum::body::Body::new).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use futures::future::BoxFuture;
    use futures::{Stream, StreamExt, stream};
    use tokio::time::{Instant, sleep};
    use tokio_util::sync::CancellationToken;
    use tonic::Code;

    use super::*;
    use crate::consensus::network::Route;
    use crate::consensus::solitary::{Disks, NODE, Process};
    use crate::storage::records::{GroupRow, LogId, Record};
    use crate::storage::{DiskMark, keys};
    use crate::transport::proto::change_membership_request::Step as Change;
    use crate::transport::proto::peer_client::PeerClient;
    use crate::transport::proto::peer_server::PeerServer as PeerService;
    use crate::transport::proto::snapshot_frame::Step;
    use crate::transport::proto::{self, SnapshotFrame};
    use crate::transport::wire::{replica_to_wire, route_to_wire, rows_to_wire};
    use crate::transport::{Adoption, Introduction, NodeOperations, OperationError, PeerServer};
    use crate::types::{
        ClusterId, GroupId, Incarnation, LogIndex, NodeId, ReplicaId, Term, Timestamp, limits,
    };

    const GROUP: GroupId = GroupId(1);
    const SENDER: ReplicaId = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
    const RECEIVER: ReplicaId = ReplicaId { node: NODE, incarnation: Incarnation(1) };
    const LIMIT: Duration = Duration::from_secs(180);
    /// Between two frames of a slow transfer.
    const PAUSE: Duration = Duration::from_secs(20);
    /// Of simulated time: nothing waits as long.
    const LONG: Duration = Duration::from_secs(3_600);

    /// A node that is asked for nothing here.
    struct Unasked;

    impl NodeOperations for Unasked {
        fn adopt(&self, _: Adoption) -> BoxFuture<'_, Result<proto::AdoptReply, OperationError>> {
            unreachable!()
        }

        fn ensure_replica(
            &self,
            _: GroupId,
            _: ReplicaId,
        ) -> BoxFuture<'_, Result<(), OperationError>> {
            unreachable!()
        }

        fn change_topology(&self, _: Bytes) -> BoxFuture<'_, Result<String, OperationError>> {
            unreachable!()
        }

        fn topology(&self) -> BoxFuture<'_, Result<Bytes, OperationError>> {
            unreachable!()
        }

        fn change_membership(
            &self,
            _: GroupId,
            _: Change,
            _: ReplicaId,
        ) -> BoxFuture<'_, Result<(), OperationError>> {
            unreachable!()
        }

        fn status(&self) -> Bytes {
            unreachable!()
        }

        fn pulse(&self) -> (Timestamp, DiskMark) {
            unreachable!()
        }
    }

    fn introduction(node: NodeId) -> Introduction {
        Introduction::new(node, Some(ClusterId(7)))
    }

    /// The peer port of a node with a blank replica.
    async fn port() -> (Process, PeerClient<Routes>) {
        let process = Disks::default().start().await;
        process.replicas.make(GROUP, RECEIVER).await.unwrap();
        let own = Arc::new(introduction(NODE));
        let (replicas, never) = (process.replicas.clone(), CancellationToken::new());
        let server = PeerServer::new(own, replicas, Arc::new(Unasked), never);
        let routes = limit_calls(Routes::new(PeerService::new(server)), LIMIT);
        (process, PeerClient::new(routes))
    }

    fn opening() -> Step {
        opening_of(GROUP)
    }

    fn opening_of(group: GroupId) -> Step {
        let log_id = LogId { term: Term(1), leader: SENDER, index: LogIndex(5) };
        let row = GroupRow { applied: Some(log_id), ..GroupRow::blank(SENDER) };
        let candidate = Some(replica_to_wire(SENDER));
        Step::Open(proto::SnapshotOpen {
            hello: Some(introduction(SENDER.node).hello(NODE)),
            route: Some(route_to_wire(Route { group, from: SENDER, to: RECEIVER })),
            vote: Some(proto::Vote { term: 1, candidate, committed: true }),
            group_row: Bytes::from(row.encode(&keys::group(group))),
        })
    }

    /// Frames with a pause before each.
    fn slowly(steps: Vec<Step>) -> impl Stream<Item = SnapshotFrame> {
        stream::iter(steps).then(|step| async {
            sleep(PAUSE).await;
            SnapshotFrame { step: Some(step) }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_transfer_may_take_longer_than_a_call() {
        let (process, mut client) = port().await;
        let rows = || Step::Rows(rows_to_wire(Vec::new()));
        let mut steps = vec![opening()];
        steps.extend((0..2 * LIMIT.as_secs() / PAUSE.as_secs()).map(|_| rows()));
        steps.push(Step::End(proto::SnapshotEnd { rows: 0 }));
        let group = process.replicas.get(GROUP).unwrap();
        let began = Instant::now();
        let half_way = async {
            sleep(LIMIT).await;
            group.status().receives_snapshot
        };
        let (reply, received) = tokio::join!(client.send_snapshot(slowly(steps)), half_way);
        assert_eq!(reply.unwrap().into_inner().vote.unwrap().term, 1);
        assert!(began.elapsed() > 2 * LIMIT);
        assert!(received && !group.status().receives_snapshot, "and its status says so");
        assert_eq!(group.applied_index(), LogIndex(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_falls_silent_is_given_up() {
        let (_process, mut client) = port().await;
        for said in [vec![], vec![opening()]] {
            let frames = slowly(said).chain(stream::pending());
            let ended = timeout(LONG, client.send_snapshot(frames)).await.expect("it ends");
            assert_eq!(ended.unwrap_err().code(), Code::DeadlineExceeded);
        }
    }

    /// What was staged is removed, so that there is room again.
    #[tokio::test(start_paused = true)]
    async fn a_transfer_ends_when_the_disk_is_nearly_full() {
        let (process, mut client) = port().await;
        let group = process.replicas.get(GROUP).unwrap();
        let rows = || Step::Rows(rows_to_wire(Vec::new()));
        let end = Step::End(proto::SnapshotEnd { rows: 0 });
        let steps = || vec![opening(), rows(), rows(), end.clone()];
        let full = group.clone();
        let fills = slowly(steps()).enumerate().map(move |(sent, frame)| {
            if sent == 2 {
                full.admission().set_disk(DiskMark::Hard);
            }
            frame
        });
        let refused = client.send_snapshot(fills).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
        assert!(process.storage.state.staged().unwrap().is_empty());
        group.admission().set_disk(DiskMark::Ok);
        client.send_snapshot(slowly(steps())).await.unwrap();
        assert_eq!(group.applied_index(), LogIndex(5));
    }

    /// Each may need as much room again as its group has: side by side all need it at once (G9, G12).
    #[tokio::test(start_paused = true)]
    async fn no_more_snapshots_are_taken_in_at_a_time_than_have_places() {
        let (process, client) = port().await;
        let groups: Vec<GroupId> =
            (1..=limits::SNAPSHOTS_AT_ONCE as u64 + 1).map(GroupId).collect();
        for group in &groups[1..] {
            process.replicas.make(*group, RECEIVER).await.unwrap();
        }
        let send = |group, then: Vec<Step>, stays: bool| {
            let mut client = client.clone();
            let frames = slowly([vec![opening_of(group)], then].concat());
            let rest = if stays {
                stream::pending().left_stream()
            } else {
                stream::empty().right_stream()
            };
            tokio::spawn(async move { client.send_snapshot(frames.chain(rest)).await })
        };
        let (last, others) = groups.split_last().unwrap();
        let under_way: Vec<_> = others.iter().map(|group| send(*group, vec![], true)).collect();
        let staged = || process.storage.state.staged().unwrap().len();
        while staged() < others.len() {
            sleep(Duration::from_millis(100)).await;
        }
        let refused = send(*last, vec![], true).await.unwrap();
        assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
        assert_eq!(staged(), others.len());

        under_way[0].abort();
        let end = vec![Step::End(proto::SnapshotEnd { rows: 0 })];
        send(*last, end, false).await.unwrap().expect("there is a place again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_does_not_arrive_whole_ends() {
        let (_process, mut client) = port().await;
        let silent = timeout(LONG, client.append(stream::pending())).await.expect("it ends");
        assert_eq!(silent.unwrap_err().code(), Code::DeadlineExceeded);
    }
}
