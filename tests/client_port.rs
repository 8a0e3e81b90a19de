//! What the client port offers beside our own client: health, reflection and grpc-web.

use std::path::PathBuf;

use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use quorate::cli::{LocalCluster, LocalClusterOptions};
use quorate::server::SystemClock;
use quorate::types::Clock;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::{AppendRequest, NewMessage, ReadRequest};
use tonic::Code;
use tonic::transport::{Channel, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_web::GrpcWebClientLayer;
use tower::ServiceBuilder;

async fn one_node() -> LocalCluster {
    let options = LocalClusterOptions {
        nodes: 1,
        groups: 1,
        quiet: true,
        program: Some(PathBuf::from(env!("CARGO_BIN_EXE_quorate"))),
        ..LocalClusterOptions::default()
    };
    LocalCluster::start(options).await.unwrap()
}

async fn check_health(channel: Channel) {
    let mut health = HealthClient::new(channel);
    for service in ["", "quorate.v1.MessageLog", "quorate.v1.Cluster"] {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await;
        let status = answer.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "nobody".to_owned() }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}

async fn check_reflection(channel: Channel) {
    let ask =
        |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("quorate.v1.MessageLog".to_owned())),
    ];
    let mut reflection = ServerReflectionClient::new(channel);
    let answers = reflection.server_reflection_info(tokio_stream::iter(requests)).await;
    let mut answers = answers.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("the services are listed");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["quorate.v1.MessageLog", "quorate.v1.Cluster", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let described = answers.message().await.unwrap().unwrap().message_response;
    assert!(matches!(described, Some(MessageResponse::FileDescriptorResponse(_))), "{described:?}");
}

/// As a browser does: HTTP/1.1, with the trailers in the body.
async fn check_grpc_web(origin: Uri) {
    let http = Client::builder(TokioExecutor::new()).build_http();
    let service = ServiceBuilder::new().layer(GrpcWebClientLayer::new()).service(http);
    let mut log = MessageLogClient::with_origin(service, origin);
    let message = NewMessage {
        client_msg_id: "m1".to_owned(),
        issued_at_us: SystemClock.now().0,
        payload: "from a browser".into(),
        ..NewMessage::default()
    };
    let append = AppendRequest {
        conversation: "web/room".to_owned(),
        sender: "ann".to_owned(),
        messages: vec![message],
        ..AppendRequest::default()
    };
    let appended = log.append(append.clone()).await.unwrap().into_inner();
    assert_eq!(appended.first_seq, 1);
    let read = ReadRequest { conversation: "web/room".to_owned(), ..ReadRequest::default() };
    let mut pages = log.read(read).await.unwrap().into_inner();
    let page = pages.message().await.unwrap().unwrap();
    assert_eq!(page.messages[0].payload, "from a browser");
    assert!(pages.message().await.unwrap().is_none());
    let wrong = log.append(AppendRequest { conversation: String::new(), ..append }).await;
    assert_eq!(wrong.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_reflection_and_grpc_web_are_on() {
    let cluster = one_node().await;
    let origin: Uri = format!("http://{}", cluster.endpoints()[0]).parse().unwrap();
    let channel = Channel::builder(origin.clone()).connect().await.unwrap();
    check_health(channel.clone()).await;
    check_reflection(channel).await;
    check_grpc_web(origin).await;
    cluster.stop().await.unwrap();
}
