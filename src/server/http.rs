//! The HTTP port: metrics and health, for machines.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use super::Metrics;
use super::incoming::Incoming;

/// The content type that Prometheus asks for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const INDEX: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Quorate</title>\
    <body style=\"font-family: sans-serif; max-width: 40em; margin: 3em auto\">\
    <h1>Quorate</h1><p>A node of a replicated message log for conversations.</p><ul>\
    <li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>\
    <li><a href=\"/livez\">/livez</a>: the process runs</li>\
    <li><a href=\"/readyz\">/readyz</a>: the node serves, or why it does not</li></ul>";

/// How a node is, one sentence for each thing.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// What keeps it from serving; empty when it is ready.
    pub obstacles: Vec<String>,
    /// What is wrong and keeps it from nothing yet.
    pub remarks: Vec<String>,
}

/// Whether a node can serve.
pub trait Readiness: Send + Sync {
    /// Called for each probe: answers from memory, without waiting.
    fn condition(&self) -> Condition;
}

impl<F: Fn() -> Condition + Send + Sync> Readiness for F {
    fn condition(&self) -> Condition {
        self()
    }
}

#[derive(Clone)]
struct Probes {
    metrics: Arc<Metrics>,
    readiness: Arc<dyn Readiness>,
}

/// Answers until `shutdown`, then finishes what it is answering. Who does not send a request's head within half a
/// minute, the first or the next, is cut off.
///
/// # Errors
/// The port fails.
pub async fn serve(
    incoming: Incoming,
    metrics: Arc<Metrics>,
    readiness: Arc<dyn Readiness>,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let router = Router::new()
        .route("/", get(|| async { Html(INDEX) }))
        .route("/metrics", get(scrape))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Probes { metrics, readiness });
    // Pages, but the server of the other ports: `axum::serve` waits for a head for ever.
    let server = Server::builder().accept_http1(true).add_routes(Routes::from(router));
    server.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await
}

async fn scrape(State(probes): State<Probes>) -> Response {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], probes.metrics.encode()).into_response()
}

async fn ready(State(probes): State<Probes>) -> Response {
    let Condition { obstacles, remarks } = probes.readiness.condition();
    let (status, verdict) = match obstacles.is_empty() {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    };
    let mut text = String::from(verdict);
    for line in obstacles.iter().chain(&remarks) {
        writeln!(text, "- {line}").expect("writing to a String cannot fail");
    }
    (status, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;
    use crate::server::connections::Places;
    use crate::server::greeting::Protocol;
    use crate::server::incoming::incoming;
    use crate::server::listening::called::{Callers, called};

    /// Of simulated time: nothing waits as long.
    const LONG: Duration = Duration::from_secs(3_600);

    /// A port that nobody else comes to.
    fn port(metrics: &Arc<Metrics>) -> (Callers, Incoming) {
        let (callers, listener) = called();
        let places = Places::new("http", 2, metrics.clone());
        (callers, incoming(Box::new(listener), None, Protocol::Http1, places))
    }

    async fn get(callers: &Callers, path: &str) -> String {
        let mut stream = callers.call().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn probes_tell_a_running_process_from_a_serving_node() {
        let metrics = Arc::new(Metrics::new());
        let (callers, incoming) = port(&metrics);
        let is_ready = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&is_ready);
        let readiness = move || {
            let obstacles = match shared.load(Ordering::Relaxed) {
                true => Vec::new(),
                false => vec!["the node belongs to no cluster".to_owned()],
            };
            Condition { obstacles, remarks: vec!["node 3 refused this node".to_owned()] }
        };
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(incoming, metrics, Arc::new(readiness), shutdown.clone()));

        assert!(get(&callers, "/livez").await.starts_with("HTTP/1.1 200 "));
        let refusal = get(&callers, "/readyz").await;
        assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
        assert!(
            refusal.ends_with(
                "not ready\n- the node belongs to no cluster\n- node 3 refused this node\n"
            ),
            "{refusal}"
        );
        is_ready.store(true, Ordering::Relaxed);
        let page = get(&callers, "/readyz").await;
        assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
        assert!(page.ends_with("ok\n- node 3 refused this node\n"), "{page}");
        let page = get(&callers, "/metrics").await;
        assert!(page.contains(OPEN_METRICS) && page.contains("quorate_build_info"), "{page}");
        assert!(get(&callers, "/").await.contains("/readyz"));
        assert!(get(&callers, "/nothing").await.starts_with("HTTP/1.1 404 "));

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_half_a_request_or_no_other_is_cut_off() {
        let metrics = Arc::new(Metrics::new());
        let (callers, incoming) = port(&metrics);
        let shutdown = CancellationToken::new();
        let server =
            tokio::spawn(serve(incoming, metrics, Arc::new(Condition::default), shutdown.clone()));
        for said in ["GET /livez HTTP/1.1\r\nHost: te", "GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"]
        {
            let mut stream = callers.call().await;
            stream.write_all(said.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let ended = timeout(LONG, stream.read_to_string(&mut answer)).await;
            ended.expect("it is cut off").unwrap();
            assert_eq!(answer.starts_with("HTTP/1.1 200 "), said.ends_with("\r\n\r\n"), "{answer}");
        }
        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
