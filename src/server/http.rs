//! The HTTP port: metrics and health, for machines.

use std::fmt::Write;
use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Metrics;

/// The content type that Prometheus asks for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const INDEX: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Quorate</title>\
    <body style=\"font-family: sans-serif; max-width: 40em; margin: 3em auto\">\
    <h1>Quorate</h1><p>A node of a replicated message log for conversations.</p><ul>\
    <li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>\
    <li><a href=\"/livez\">/livez</a>: the process runs</li>\
    <li><a href=\"/readyz\">/readyz</a>: the node serves, or why it does not</li></ul>";

/// Whether a node can serve.
pub trait Readiness: Send + Sync {
    /// What keeps it from serving, one sentence each; empty when it is ready. Called for each probe: answers from
    /// memory, without waiting.
    fn obstacles(&self) -> Vec<String>;
}

impl<F: Fn() -> Vec<String> + Send + Sync> Readiness for F {
    fn obstacles(&self) -> Vec<String> {
        self()
    }
}

#[derive(Clone)]
struct Probes {
    metrics: Arc<Metrics>,
    readiness: Arc<dyn Readiness>,
}

/// Answers on `listener` until `shutdown`, then finishes what it is answering.
pub fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    readiness: Arc<dyn Readiness>,
    shutdown: CancellationToken,
) -> impl Future<Output = std::io::Result<()>> + Send {
    let router = Router::new()
        .route("/", get(|| async { Html(INDEX) }))
        .route("/metrics", get(scrape))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Probes { metrics, readiness });
    let serving = axum::serve(listener, router);
    serving.with_graceful_shutdown(shutdown.cancelled_owned()).into_future()
}

async fn scrape(State(probes): State<Probes>) -> Response {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], probes.metrics.encode()).into_response()
}

async fn ready(State(probes): State<Probes>) -> Response {
    let obstacles = probes.readiness.obstacles();
    if obstacles.is_empty() {
        return "ok\n".into_response();
    }
    let mut text = String::from("not ready\n");
    for obstacle in obstacles {
        writeln!(text, "- {obstacle}").expect("writing to a String cannot fail");
    }
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn probes_tell_a_running_process_from_a_serving_node() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_ready = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&is_ready);
        let readiness = move || match shared.load(Ordering::Relaxed) {
            true => Vec::new(),
            false => vec!["the node belongs to no cluster".to_owned()],
        };
        let shutdown = CancellationToken::new();
        let metrics = Arc::new(Metrics::new());
        let server = tokio::spawn(serve(listener, metrics, Arc::new(readiness), shutdown.clone()));

        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200 "));
        let refusal = get(address, "/readyz").await;
        assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
        assert!(refusal.ends_with("not ready\n- the node belongs to no cluster\n"), "{refusal}");
        is_ready.store(true, Ordering::Relaxed);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
        let page = get(address, "/metrics").await;
        assert!(page.contains(OPEN_METRICS) && page.contains("quorate_build_info"), "{page}");
        assert!(get(address, "/").await.contains("/readyz"));
        assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404 "));

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
