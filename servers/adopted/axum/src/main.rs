//! axum, stopped by lifecycle.rs: that of ../../rust, as it is.

#[path = "../../../rust/src/lifecycle.rs"]
mod lifecycle;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Router, routing::get};
use serde_json::{Map, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::sleep;

use lifecycle::{Lifecycle, Signals, Steps, Value};

struct Service {
    lifecycle: Lifecycle,
    in_flight: AtomicUsize,
    instance: HeaderValue,
}

#[tokio::main]
async fn main() {
    let signals = Signals::listen().expect("signals");
    let instance = format!("{:016x}", std::process::id());
    let service = Arc::new(Service {
        lifecycle: Lifecycle::new(log_event, || seconds("SHUTDOWN_DELAY", "0")),
        in_flight: AtomicUsize::new(0),
        instance: instance.parse().expect("hexadecimal digits"),
    });
    let app = Router::new()
        .route("/", get(|| async { "axum\n" }))
        .route("/health/live", get(|| async { "alive\n" }))
        .route("/health/ready", get(ready))
        .route("/slow", get(slow))
        .layer(middleware::from_fn_with_state(Arc::clone(&service), count))
        .with_state(Arc::clone(&service));

    let address = (env("HOST", "127.0.0.1"), env("PORT", "8080").parse::<u16>().expect("PORT"));
    let listener = TcpListener::bind(address).await.expect("HOST and PORT: an address");
    let port = listener.local_addr().expect("a bound socket").port();
    let (close, closing) = oneshot::channel::<()>();
    let failing = Arc::clone(&service);
    let serving = tokio::spawn(async move {
        let closing = async { drop(closing.await) };
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(closing).await {
            failing.lifecycle.fail(&error.to_string());
        }
    });
    service.lifecycle.ready();
    let pid = std::process::id();
    log_event("listening", &[("port", port.into()), ("pid", pid.into()), ("instance", instance.as_str().into())]);

    let cutting = Arc::clone(&service);
    let steps = Steps {
        drain_timeout: Box::new(|| seconds("DRAIN_TIMEOUT", "30")),
        // axum then drops its listener and tells every connection to end: idle ones do so at once.
        close_listener: Box::pin(async move { close.send(()).map_err(|()| "axum has ended before".to_owned()) }),
        drained: Box::pin(async move { drop(serving.await) }),
        cut_in_flight: Box::new(move || cutting.in_flight.load(Ordering::SeqCst)), // the exit cuts them
        release: Vec::new(), // a database pool would be closed here
        reload: Rc::new(|| {}),
    };
    std::process::exit(service.lifecycle.run(signals, steps).await);
}

/// Counts requests in flight, and says "Connection: close" where the service is stopping by now.
async fn count(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    service.in_flight.fetch_add(1, Ordering::SeqCst);
    let mut response = next.run(request).await;
    service.in_flight.fetch_sub(1, Ordering::SeqCst);
    response.headers_mut().insert("x-instance-id", service.instance.clone());
    if service.lifecycle.stopping() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn ready(State(service): State<Arc<Service>>) -> StatusCode {
    if service.lifecycle.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn slow(Query(query): Query<HashMap<String, f64>>) -> &'static str {
    sleep(Duration::from_secs_f64(query.get("delay").copied().unwrap_or(1.0).clamp(0.0, 300.0))).await;
    "slept\n"
}

fn log_event(event: &str, fields: &[(&str, Value)]) {
    let mut line = Map::from_iter([("event".to_owned(), json!(event))]);
    for (name, value) in fields {
        line.insert((*name).to_owned(), value.to_string().parse().unwrap_or_default());
    }
    println!("{}", serde_json::Value::Object(line));
}

fn seconds(variable: &str, fallback: &str) -> Duration {
    Duration::from_secs_f64(env(variable, fallback).parse().expect("decimal seconds"))
}

fn env(name: &str, fallback: &str) -> String {
    std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| fallback.to_owned())
}
