//! Where calls enter: each handler reads the metadata, opens the span and hands over to the file of its family.

use std::future::Future;
use std::pin::Pin;

use futures::Stream;
use quorate_client::proto::{
    AppendRequest, AppendResponse, BatchReadRequest, BatchReadResponse, DescribeRequest,
    DescribeResponse, FollowRequest, GetOutcomeRequest, GetOutcomeResponse, ListRequest,
    ListResponse, ReadRequest, ReadResponse, SessionRequest, SessionResponse, SubscribeRequest,
};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};
use tracing::Instrument;

use super::authorize::Operation;
use super::call::{Call, REQUEST_ID};
use super::delivery::{Followed, Subscribed};
use super::errors::CallError;
use super::servers::message_log_server::MessageLog;
use super::{Api, append, batch_read, follow, list, outcome, read, session, subscribe};

/// Responses of a stream.
pub(super) type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Api {
    /// Runs one call in its span and turns what comes of it into a response.
    async fn answer<T>(
        &self,
        call: &Call,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<Response<T>, Status> {
        let _under_way = self.under_way.token();
        let began = Instant::now();
        let result = match call.forwarded && self.stopping.is_cancelled() {
            false => work.instrument(call.span()).await,
            true => Err(CallError::shutting_down()),
        };
        let code = result.as_ref().map_or_else(CallError::code, |_| Code::Ok);
        self.observer.answered(call.operation, code, began.elapsed());
        call.log_answer(result.as_ref().err(), began.elapsed());
        match result {
            Ok(message) => {
                let mut response = Response::new(message);
                if call.named {
                    name_request(call, response.metadata_mut());
                }
                Ok(response)
            }
            Err(error) => {
                let mut status = Status::from(error);
                name_request(call, status.metadata_mut());
                Err(status)
            }
        }
    }
}

/// Tells the caller under which id the request is in the logs.
fn name_request(call: &Call, metadata: &mut MetadataMap) {
    if let Ok(id) = call.request_id().parse() {
        metadata.insert(REQUEST_ID, id);
    }
}

#[async_trait]
impl MessageLog for Api {
    type AppendSessionStream = Responses<SessionResponse>;
    type ReadStream = Responses<ReadResponse>;
    type FollowStream = Responses<Followed>;
    type SubscribeStream = Responses<Subscribed>;

    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        let call = Call::new(Operation::Append, request.metadata());
        self.answer(&call, append::append(self, &call, request.into_inner())).await
    }

    async fn append_session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::AppendSessionStream>, Status> {
        let call = Call::new(Operation::AppendSession, request.metadata());
        self.answer(&call, session::open(self, &call, request.into_inner())).await
    }

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let call = Call::new(Operation::Read, request.metadata());
        self.answer(&call, read::read(self, &call, request.into_inner())).await
    }

    async fn batch_read(
        &self,
        request: Request<BatchReadRequest>,
    ) -> Result<Response<BatchReadResponse>, Status> {
        let call = Call::new(Operation::BatchRead, request.metadata());
        self.answer(&call, batch_read::batch_read(self, &call, request.into_inner())).await
    }

    async fn follow(
        &self,
        request: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let call = Call::new(Operation::Follow, request.metadata());
        self.answer(&call, follow::follow(self, &call, request.into_inner())).await
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let call = Call::new(Operation::Subscribe, request.metadata());
        self.answer(&call, subscribe::subscribe(self, &call, request.into_inner())).await
    }

    async fn get_outcome(
        &self,
        request: Request<GetOutcomeRequest>,
    ) -> Result<Response<GetOutcomeResponse>, Status> {
        let call = Call::new(Operation::GetOutcome, request.metadata());
        self.answer(&call, outcome::get_outcome(self, &call, request.into_inner())).await
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let call = Call::new(Operation::Describe, request.metadata());
        self.answer(&call, read::describe(self, &call, request.into_inner())).await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let call = Call::new(Operation::List, request.metadata());
        self.answer(&call, list::list(self, &call, request.into_inner())).await
    }
}
