//! Where calls of the `Cluster` service enter.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use quorate_client::proto::{
    DescribeClusterRequest, DescribeClusterResponse, InitRequest, InitResponse, ReplaceRequest,
    ReplaceResponse, WatchTopologyRequest, WatchTopologyResponse,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::{Request, Response, Status, async_trait};

use super::ClusterApi;
use crate::service::authorize::{Operation, Resource};
use crate::service::call::Call;
use crate::service::errors::CallError;
use crate::service::servers::cluster_server::Cluster;

/// Progress reports that wait for the caller; past it the work waits too.
const PROGRESS_QUEUE_MAX: usize = 16;

/// Between two topologies to one caller: all groups of a node may change leaders within a moment.
const TOPOLOGY_INTERVAL: Duration = Duration::from_millis(50);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ClusterApi {
    fn enter<T>(&self, operation: Operation, request: &Request<T>) -> Result<(), CallError> {
        let call = Call::new(operation, request.metadata());
        call.authorize(self.authorizer.as_ref(), Resource::Cluster)
    }
}

/// The service as tonic wants it: shared, because a replacement goes on after its handler has returned.
pub struct ClusterService(pub Arc<ClusterApi>);

#[async_trait]
impl Cluster for ClusterService {
    type WatchTopologyStream = Responses<WatchTopologyResponse>;
    type ReplaceStream = Responses<ReplaceResponse>;

    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        self.0.enter(Operation::Init, &request)?;
        let response = self.0.init(request.into_inner()).await.map_err(CallError::from)?;
        Ok(Response::new(response))
    }

    async fn describe_cluster(
        &self,
        request: Request<DescribeClusterRequest>,
    ) -> Result<Response<DescribeClusterResponse>, Status> {
        self.0.enter(Operation::DescribeCluster, &request)?;
        let response = self.0.describe().await.map_err(CallError::from)?;
        Ok(Response::new(response))
    }

    async fn watch_topology(
        &self,
        request: Request<WatchTopologyRequest>,
    ) -> Result<Response<Self::WatchTopologyStream>, Status> {
        self.0.enter(Operation::WatchTopology, &request)?;
        let api = self.0.clone();
        let topology = api.replicas.topology();
        let leaders = WatchStream::from_changes(api.replicas.leaders());
        let changes = stream::select(WatchStream::new(topology.clone()).map(drop), leaders);
        let changes = tokio_stream::StreamExt::throttle(changes, TOPOLOGY_INTERVAL);
        let stopping = api.stopping.clone().cancelled_owned();
        let responses = changes.take_until(stopping).map(move |()| {
            let newest = topology.borrow().clone();
            let topology = newest.map(|topology| api.topology_to_proto(&topology));
            Ok(WatchTopologyResponse { topology })
        });
        let end = async { Err(Status::from(CallError::shutting_down())) };
        Ok(Response::new(Box::pin(responses.chain(stream::once(end)))))
    }

    async fn replace(
        &self,
        request: Request<ReplaceRequest>,
    ) -> Result<Response<Self::ReplaceStream>, Status> {
        self.0.enter(Operation::Replace, &request)?;
        let request = request.into_inner();
        let api = self.0.clone();
        let (sender, progress) = mpsc::channel(PROGRESS_QUEUE_MAX);
        // The last item is the error, if there was one, after all that was told; the work ends when the caller goes.
        let (failed, error) = oneshot::channel();
        let work = stream::once(async move {
            if let Err(error) = api.replace(request, sender).await {
                let _ = failed.send(Status::from(CallError::from(error)));
            }
        });
        let work = work.filter_map(|()| std::future::ready(None));
        let told = stream::select(ReceiverStream::new(progress).map(Ok), work);
        let end = stream::once(error).filter_map(|error| std::future::ready(error.ok().map(Err)));
        Ok(Response::new(Box::pin(told.chain(end))))
    }
}
