//! The server that people write first: it serves, and knows nothing of being stopped.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::sleep;

type Body = Either<Full<Bytes>, Channel<Bytes>>;

static INSTANCE: LazyLock<String> = LazyLock::new(|| format!("{:016x}", RandomState::new().hash_one(0)));

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let host = env::var("HOST").unwrap_or("127.0.0.1".into());
    let port = env::var("PORT").unwrap_or("8080".into()).parse()?;
    let listener = TcpListener::bind((host, port)).await?;
    let (port, pid) = (listener.local_addr()?.port(), std::process::id());
    println!(r#"{{"event":"listening","port":{port},"pid":{pid},"instance":"{}"}}"#, *INSTANCE);

    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let served =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(handle)).await;
            if let Err(error) = served {
                eprintln!("error serving connection: {error}");
            }
        });
    }
}

async fn handle(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => send(json!({ "server": "rust" })),
        (&Method::GET, "/health" | "/health/live" | "/health/ready") => send(json!({ "status": "ok" })),
        (&Method::GET, "/slow") => slow(&request).await,
        (&Method::POST, "/echo") => echo(request).await,
        (&Method::GET, "/bytes") => {
            typed("application/octet-stream", vec![0; parameter(&request, "size", 1024)].into())
        }
        (&Method::GET, "/stream") => stream(&request),
        (&Method::GET, "/events") => events(),
        _ => {
            let mut response = send(json!({ "error": "no such path" }));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    };
    let instance = HeaderValue::from_static(&INSTANCE);
    response.headers_mut().insert("x-instance-id", instance);
    Ok(response)
}

async fn slow(request: &Request<Incoming>) -> Response<Body> {
    let delay = parameter(request, "delay", 1.0);
    sleep(Duration::from_secs_f64(delay)).await;
    send(json!({ "slept": delay }))
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    match request.into_body().collect().await {
        Ok(body) => {
            let mut response = Response::new(Either::Left(body.to_bytes().into()));
            response.headers_mut().extend(content_type.map(|value| (CONTENT_TYPE, value)));
            response
        }
        Err(error) => {
            let mut response = send(json!({ "error": error.to_string() }));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    }
}

fn stream(request: &Request<Incoming>) -> Response<Body> {
    let chunks = parameter(request, "chunks", 10);
    let interval = Duration::from_secs_f64(parameter(request, "interval", 0.1));
    chunked("text/plain", "chunk", chunks, interval, "\n")
}

fn events() -> Response<Body> {
    chunked("text/event-stream", "data:", u64::MAX, Duration::from_secs(1), "\n\n")
}

fn chunked(
    content_type: &'static str,
    prefix: &'static str,
    chunks: u64,
    interval: Duration,
    end: &'static str,
) -> Response<Body> {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        for number in 0..chunks {
            if number > 0 {
                sleep(interval).await;
            }
            if sender.send_data(format!("{prefix} {number}{end}").into()).await.is_err() {
                return;
            }
        }
    });
    typed_body(content_type, Either::Right(body))
}

fn send(value: impl Display) -> Response<Body> {
    typed("application/json", format!("{value}\n").into())
}

fn typed(content_type: &'static str, body: Bytes) -> Response<Body> {
    typed_body(content_type, Either::Left(body.into()))
}

fn typed_body(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn parameter<T: FromStr>(request: &Request<Incoming>, name: &str, fallback: T) -> T {
    let mut pairs =
        request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|pair| pair.0 == name).and_then(|pair| pair.1.parse().ok()).unwrap_or(fallback)
}
