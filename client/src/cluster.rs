//! Operating the cluster.

use tonic::{Response, Streaming};

use crate::error::Effect;
use crate::router::Destination;
use crate::{Client, Error, channels, proto};

/// The progress of a replacement. Made by [`Client::replace`].
pub struct Replacement {
    stream: Streaming<proto::ReplaceResponse>,
}

impl Replacement {
    /// The next step; `None` when the replacement is complete. Cancel safe.
    ///
    /// # Errors
    ///
    /// As the server says. The same call again takes the work up where it stopped.
    pub async fn next(&mut self) -> Result<Option<proto::ReplaceResponse>, Error> {
        self.stream.message().await.map_err(|status| Error::from_status(&status, Effect::Possible))
    }
}

impl Client {
    /// Makes a cluster of nodes that belong to none. Idempotent.
    ///
    /// # Errors
    ///
    /// `FAILED_PRECONDITION` if one of the nodes belongs to another cluster.
    pub async fn init(&self, request: proto::InitRequest) -> Result<proto::InitResponse, Error> {
        self.call(Destination::AnyNode, Effect::Possible, async |attempt| {
            let mut cluster = channels::cluster(attempt.channel.clone());
            cluster.init(attempt.request(request.clone())).await.map(Response::into_inner)
        })
        .await
    }

    /// The cluster as one node knows it, with what every node said when it was asked just now.
    ///
    /// # Errors
    ///
    /// As the server says.
    pub async fn describe_cluster(&self) -> Result<proto::DescribeClusterResponse, Error> {
        self.call(Destination::AnyNode, Effect::None, async |attempt| {
            let mut cluster = channels::cluster(attempt.channel.clone());
            let request = attempt.request(proto::DescribeClusterRequest {});
            cluster.describe_cluster(request).await.map(Response::into_inner)
        })
        .await
    }

    /// Makes the replicas of a wiped or damaged node anew. Dropping the progress leaves work that the same call
    /// takes up again.
    ///
    /// # Errors
    ///
    /// As the server says, while no node accepts the call.
    pub async fn replace(&self, request: proto::ReplaceRequest) -> Result<Replacement, Error> {
        let stream = self
            .call(Destination::AnyNode, Effect::Possible, async |attempt| {
                // Without a deadline for the server: a replacement takes as long as its data.
                let mut cluster = channels::cluster(attempt.channel.clone());
                cluster.replace(request.clone()).await.map(Response::into_inner)
            })
            .await?;
        Ok(Replacement { stream })
    }
}
