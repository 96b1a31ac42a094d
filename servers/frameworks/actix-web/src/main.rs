//! Actix Web, which handles signals itself: SIGTERM is a graceful shutdown with a deadline of `shutdown_timeout`
//! (30 s by default), SIGINT and SIGQUIT end it at once.
//!
//! <https://actix.rs/docs/server/#graceful-shutdown>
//! <https://docs.rs/actix-web/latest/actix_web/struct.HttpServer.html#method.shutdown_timeout>

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use actix_web::middleware::DefaultHeaders;
use actix_web::web::{self, Bytes, Query};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, http::header};
use serde_json::json;
use tokio::time::sleep;

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let instance = format!("{:016x}", std::process::id());
    let identity = instance.clone();
    let app = move || {
        App::new()
            .wrap(DefaultHeaders::new().add(("X-Instance-Id", identity.as_str())))
            .route("/", web::get().to(async || HttpResponse::Ok().json(json!({"server": "actix-web"}))))
            .route("/health", web::get().to(health))
            .route("/health/live", web::get().to(health))
            .route("/health/ready", web::get().to(health))
            .route("/slow", web::get().to(slow))
            .route("/echo", web::post().to(echo))
            .route("/bytes", web::get().to(bytes))
            .route("/stream", web::get().to(stream))
            .route("/events", web::get().to(events))
    };
    let timeout: f64 = env("DRAIN_TIMEOUT", "30").parse().expect("DRAIN_TIMEOUT: seconds");
    let port: u16 = env("PORT", "8080").parse().expect("PORT: 0-65535");
    let server = HttpServer::new(app).shutdown_timeout(timeout as u64).bind((env("HOST", "127.0.0.1"), port))?;
    let port = server.addrs()[0].port();
    println!("{}", json!({"event": "listening", "port": port, "pid": std::process::id(), "instance": instance}));
    server.run().await
}

async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

async fn slow(query: Query<HashMap<String, String>>) -> HttpResponse {
    let delay = number(&query, "delay", 1.0);
    sleep(Duration::from_secs_f64(delay)).await;
    HttpResponse::Ok().json(json!({"slept": delay}))
}

async fn echo(request: HttpRequest, body: Bytes) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    if let Some(kind) = request.headers().get(header::CONTENT_TYPE) {
        response.insert_header((header::CONTENT_TYPE, kind.clone()));
    }
    response.body(body)
}

async fn bytes(query: Query<HashMap<String, String>>) -> HttpResponse {
    let size = number(&query, "size", 1024.0) as usize;
    HttpResponse::Ok().content_type("application/octet-stream").body(vec![0; size])
}

async fn stream(query: Query<HashMap<String, String>>) -> HttpResponse {
    let chunks = number(&query, "chunks", 10.0) as usize;
    let interval = Duration::from_secs_f64(number(&query, "interval", 0.1));
    let body = async_stream::stream! {
        for chunk in 0..chunks {
            if chunk > 0 {
                sleep(interval).await;
            }
            yield Ok::<_, Infallible>(Bytes::from(format!("chunk {chunk}\n")));
        }
    };
    HttpResponse::Ok().content_type("text/plain").streaming(Box::pin(body))
}

async fn events() -> HttpResponse {
    let body = async_stream::stream! {
        for event in 0_u64.. {
            yield Ok::<_, Infallible>(Bytes::from(format!("data: {event}\n\n")));
            sleep(Duration::from_secs(1)).await;
        }
    };
    HttpResponse::Ok().content_type("text/event-stream").streaming(Box::pin(body))
}

fn number(query: &HashMap<String, String>, name: &str, fallback: f64) -> f64 {
    query.get(name).and_then(|value| value.parse().ok()).unwrap_or(fallback)
}

fn env(name: &str, fallback: &str) -> String {
    std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| fallback.to_owned())
}
