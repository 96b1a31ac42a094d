//! What the service does. Of the shutdown it knows the phase, and that endless streams end.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use http_body::{Frame, SizeHint};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::lifecycle::Lifecycle;
use crate::{env, seconds};

/// hyper takes any one piece at once, whether or not the client reads: a large one would not count as in flight.
const PIECE: usize = 1 << 16;
const MAX_BYTES: f64 = 67_108_864.0; // of a response
const OCTETS: &str = "application/octet-stream";

type Numbers = Query<HashMap<String, f64>>;

pub struct Service {
    pub lifecycle: Lifecycle,
    pub instance: String,
    pub in_flight: AtomicUsize,
    limit: usize,
    body_timeout: Duration,
}

impl Service {
    pub fn new(lifecycle: Lifecycle) -> Self {
        let limit = env("MAX_IN_FLIGHT").map_or(100, |limit| limit.parse().expect("MAX_IN_FLIGHT: a number"));
        let instance = format!("{:016x}", std::process::id());
        Self { lifecycle, instance, in_flight: AtomicUsize::new(0), limit, body_timeout: seconds("BODY_TIMEOUT", 30.0) }
    }

    fn phase(&self) -> Json<Value> {
        Json(json!({"phase": self.lifecycle.phase().name()}))
    }
}

pub fn traffic(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/", get(async || Json(json!({"server": "axum"}))))
        .route("/slow", get(slow))
        .route("/echo", post(echo))
        .route("/bytes", get(bytes))
        .route("/stream", get(stream))
        .route("/events", get(events))
        .layer(middleware::from_fn_with_state(Arc::clone(service), shed))
        .merge(health())
        .layer(middleware::from_fn_with_state(Arc::clone(service), count))
        .with_state(Arc::clone(service))
}

pub fn admin(service: &Arc<Service>) -> Router {
    let metrics = async |State(service): State<Arc<Service>>| {
        format!("http_requests_in_flight {}\n", service.in_flight.load(Ordering::SeqCst))
    };
    let prestop = async |State(service): State<Arc<Service>>| {
        service.lifecycle.begin_lame_duck("prestop").await;
        service.phase()
    };
    health().route("/metrics", get(metrics)).route("/prestop", any(prestop)).with_state(Arc::clone(service))
}

fn health() -> Router<Arc<Service>> {
    let live = async |State(service): State<Arc<Service>>| service.phase();
    let ready = async |State(service): State<Arc<Service>>| {
        let status = if service.lifecycle.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, service.phase())
    };
    Router::new().route("/health/live", get(live)).route("/health", get(ready)).route("/health/ready", get(ready))
}

/// Counts requests in flight, and says "Connection: close" where the service is stopping by now.
async fn count(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    service.in_flight.fetch_add(1, Ordering::SeqCst);
    let in_flight = InFlight(Arc::clone(&service));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert("x-instance-id", service.instance.parse().expect("hexadecimal digits"));
    if service.lifecycle.stopping() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| Body::new(Sending { body, _in_flight: in_flight }))
}

async fn shed(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    if service.in_flight.load(Ordering::SeqCst) > service.limit {
        let error = Json(json!({"error": "too many requests"}));
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")], error).into_response();
    }
    next.run(request).await
}

/// A request, from its head to the last of its response, or until its client has left.
struct InFlight(Arc<Service>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The body of a response.
struct Sending {
    body: Body,
    _in_flight: InFlight,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn slow(Query(query): Numbers) -> Json<Value> {
    let delay = number(&query, "delay", 1.0, 600.0);
    sleep(Duration::from_secs_f64(delay)).await;
    Json(json!({"slept": delay}))
}

async fn echo(State(service): State<Arc<Service>>, headers: HeaderMap, body: Body) -> Response {
    match timeout(service.body_timeout, to_bytes(body, 1 << 20)).await {
        Ok(Ok(body)) => {
            let kind = headers.get(header::CONTENT_TYPE).map(|kind| [(header::CONTENT_TYPE, kind.clone())]);
            (kind, body).into_response()
        }
        Ok(Err(_)) => StatusCode::BAD_REQUEST.into_response(),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, [(header::CONNECTION, "close")]).into_response(),
    }
}

async fn bytes(Query(query): Numbers) -> Response {
    let size = number(&query, "size", 1024.0, MAX_BYTES) as usize;
    let body = async_stream::stream! {
        for sent in (0..size).step_by(PIECE) {
            yield Ok::<_, Infallible>(vec![0; PIECE.min(size - sent)]);
        }
    };
    let headers = [(header::CONTENT_LENGTH, size.to_string()), (header::CONTENT_TYPE, OCTETS.to_owned())];
    (headers, Body::from_stream(body)).into_response()
}

async fn stream(Query(query): Numbers) -> Response {
    let chunks = number(&query, "chunks", 10.0, 10_000.0) as usize;
    let interval = Duration::from_secs_f64(number(&query, "interval", 0.1, 60.0));
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

async fn events(State(service): State<Arc<Service>>) -> Response {
    let body = async_stream::stream! {
        for event in 0_u64.. {
            yield Ok::<_, Infallible>(format!("data: {event}\n\n"));
            if timeout(Duration::from_secs(1), service.lifecycle.listener_closed()).await.is_ok() {
                break;
            }
        }
    };
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(body)).into_response()
}

/// What the client asks for, within bounds.
fn number(query: &HashMap<String, f64>, name: &str, fallback: f64, most: f64) -> f64 {
    query.get(name).copied().filter(|value| *value >= 0.0).map_or(fallback, |value| value.min(most))
}
