//! One health check, on a connection of its own.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1::handshake;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::model::target_group::{Outcome, Settings};

/// By which servers [tell the checks from the rest](https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html).
const USER_AGENT_OF_CHECKS: &str = "ELB-HealthChecker/2.0";

/// Checks a target once, and says what came of it.
pub async fn check(address: SocketAddr, settings: &Settings) -> Outcome {
    match tokio::time::timeout(settings.timeout, ask(address, &settings.path)).await {
        Ok(Some(status)) => Outcome::Answered(status),
        Ok(None) => Outcome::Failed,
        Err(_) => Outcome::TimedOut,
    }
}

/// The status of a complete answer.
async fn ask(address: SocketAddr, path: &str) -> Option<u16> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, USER_AGENT_OF_CHECKS)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let answer = async {
        let mut response = sender.send_request(request).await.ok()?;
        while let Some(frame) = response.body_mut().frame().await {
            frame.ok()?;
        }
        Some(response.status().as_u16())
    };
    // The connection has to be driven, and may end before the last piece of the answer has been looked at.
    tokio::pin!(answer);
    tokio::select! {
        status = &mut answer => status,
        _ = connection => answer.await,
    }
}
