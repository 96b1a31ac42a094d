//! axum, stopped as its documentation shows it: `with_graceful_shutdown` waits for every request, so a
//! `TimeoutLayer` keeps one that hangs from holding the process for ever.
//!
//! <https://docs.rs/axum/latest/axum/serve/struct.Serve.html#method.with_graceful_shutdown>
//! <https://github.com/tokio-rs/axum/tree/main/examples/graceful-shutdown>

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tower_http::timeout::TimeoutLayer;

#[tokio::main]
async fn main() {
    let instance = format!("{:016x}", std::process::id());
    let timeout = env("DRAIN_TIMEOUT", "30").parse().expect("DRAIN_TIMEOUT: seconds");
    let app = Router::new()
        .route("/", get(|| async { Json(json!({"server": "axum"})) }))
        .route("/health", get(health))
        .route("/health/live", get(health))
        .route("/health/ready", get(health))
        .route("/slow", get(slow))
        .route("/echo", post(echo))
        .route("/bytes", get(bytes))
        .route("/stream", get(stream))
        .route("/events", get(events))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs_f64(timeout)))
        .layer(middleware::from_fn_with_state(instance.clone(), identify));

    let port: u16 = env("PORT", "8080").parse().expect("PORT: 0-65535");
    let listener = TcpListener::bind((env("HOST", "127.0.0.1"), port)).await.expect("HOST and PORT: an address");
    let port = listener.local_addr().expect("a bound socket").port();
    println!("{}", json!({"event": "listening", "port": port, "pid": std::process::id(), "instance": instance}));

    axum::serve(listener, app).with_graceful_shutdown(shutdown_signal()).await.expect("serving");
}

async fn shutdown_signal() {
    let ctrl_c = async { tokio::signal::ctrl_c().await.expect("a handler for SIGINT") };
    let terminate = async { signal(SignalKind::terminate()).expect("a handler for SIGTERM").recv().await };
    tokio::select! {
        () = ctrl_c => {}
        _ = terminate => {}
    }
}

async fn identify(State(instance): State<String>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert("x-instance-id", instance.parse().expect("hexadecimal digits"));
    response
}

async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

async fn slow(Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let delay = number(&query, "delay", 1.0);
    sleep(Duration::from_secs_f64(delay)).await;
    Json(json!({"slept": delay}))
}

async fn echo(headers: HeaderMap, body: Bytes) -> Response {
    let mut response = body.into_response();
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    response
}

async fn bytes(Query(query): Query<HashMap<String, String>>) -> Vec<u8> {
    vec![0; number(&query, "size", 1024.0) as usize]
}

async fn stream(Query(query): Query<HashMap<String, String>>) -> Response {
    let chunks = number(&query, "chunks", 10.0) as usize;
    let interval = Duration::from_secs_f64(number(&query, "interval", 0.1));
    let body = async_stream::stream! {
        for chunk in 0..chunks {
            if chunk > 0 {
                sleep(interval).await;
            }
            yield Ok::<_, Infallible>(format!("chunk {chunk}\n"));
        }
    };
    ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(body)).into_response()
}

async fn events() -> Response {
    let body = async_stream::stream! {
        for event in 0_u64.. {
            yield Ok::<_, Infallible>(format!("data: {event}\n\n"));
            sleep(Duration::from_secs(1)).await;
        }
    };
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(body)).into_response()
}

fn number(query: &HashMap<String, String>, name: &str, fallback: f64) -> f64 {
    query.get(name).and_then(|value| value.parse().ok()).unwrap_or(fallback)
}

fn env(name: &str, fallback: &str) -> String {
    std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| fallback.to_owned())
}
