//! A probe: one request on a connection of its own, of whoever wants to know whether an instance is well.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1::handshake;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// A complete answer with this status.
    Answered(u16),
    /// No connection, or no complete answer.
    Failed,
    /// Neither in time.
    TimedOut,
}

/// Asks for a path, in the name of this program.
pub async fn probe(address: SocketAddr, path: &str, user_agent: &str, within: Duration) -> Probed {
    match tokio::time::timeout(within, ask(address, path, user_agent)).await {
        Ok(Some(status)) => Probed::Answered(status),
        Ok(None) => Probed::Failed,
        Err(_) => Probed::TimedOut,
    }
}

/// The status of a complete answer.
async fn ask(address: SocketAddr, path: &str, user_agent: &str) -> Option<u16> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, user_agent)
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
