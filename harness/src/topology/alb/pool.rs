//! Connections of a node to its targets: how they are opened, why they end, and which of them are idle.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::group::Group;
use super::wire::{Traffic, Wire};
use crate::model::target_group::{CONNECT_TIMEOUT, Fault, NodeId, TargetId};

/// Idle connections to one target that a node keeps; AWS documents no number.
const IDLE_PER_TARGET: usize = 64;

/// A connection to a target, apart from HTTP.
pub struct Link {
    /// Where it leads.
    pub address: SocketAddr,
    /// What has moved on it.
    pub traffic: Arc<Traffic>,
    ended: CancellationToken,
    why: OnceLock<Fault>,
}

impl Link {
    /// Ends the connection, and keeps the first reason for it.
    pub fn end(&self, why: Fault) {
        let _ = self.why.set(why);
        self.ended.cancel();
    }

    /// Ends the connection where nobody asks for a reason: the client has gone.
    pub fn abandon(&self) {
        self.ended.cancel();
    }

    /// Whether the connection was ended from here.
    pub fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Why there is no answer.
    pub fn fault(&self, error: &hyper::Error) -> Fault {
        match self.why.get() {
            Some(why) => *why,
            None if error.is_parse() => Fault::Malformed,
            None => Fault::Closed,
        }
    }
}

/// A connection on which a request can be sent.
pub struct Ready {
    /// Its target.
    pub target: TargetId,
    /// Where requests go in.
    pub sender: SendRequest<Incoming>,
    /// What is beneath.
    pub link: Arc<Link>,
}

struct Idle {
    ready: Ready,
    last_used: Duration,
}

/// Connections of one node that wait for a request.
pub struct Pool {
    node: NodeId,
    group: Arc<Group>,
    idle: Mutex<BTreeMap<TargetId, Vec<Idle>>>,
}

impl Pool {
    /// An empty pool.
    pub fn new(node: NodeId, group: Arc<Group>) -> Self {
        Self { node, group, idle: Mutex::new(BTreeMap::new()) }
    }

    /// The connection that was used last and may be used again. Those that have ended are let go on the way.
    pub fn take(&self, target: TargetId, address: SocketAddr) -> Option<Ready> {
        loop {
            let Idle { ready, last_used } = self.lock().get_mut(&target)?.pop()?;
            let open = !ready.sender.is_closed() && ready.link.address == address;
            if open && self.group.may_reuse(self.node, target, last_used) {
                return Some(ready);
            }
        }
    }

    /// Keeps a connection once the request on it is over on both sides, unless there are enough.
    pub async fn put(self: Arc<Self>, mut ready: Ready) {
        if ready.sender.ready().await.is_err() {
            return;
        }
        let mut idle = self.lock();
        let of_target = idle.entry(ready.target).or_default();
        of_target.retain(|kept| !kept.ready.sender.is_closed());
        if of_target.len() < IDLE_PER_TARGET {
            of_target.push(Idle { ready, last_used: self.group.now() });
        }
    }

    /// Opens a connection, which lives in a task of its own until anybody ends it or nothing moves on it any more.
    pub async fn connect(&self, target: TargetId, address: SocketAddr) -> Result<Ready, Fault> {
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return Err(Fault::NotConnected),
            Err(_) => return Err(Fault::ConnectTimedOut),
        };
        let wire = Wire::new(stream);
        let link =
            Arc::new(Link { address, traffic: wire.traffic(), ended: CancellationToken::new(), why: OnceLock::new() });
        let opened = self.group.opened(self.node, target, link.clone());
        let (sender, connection) = handshake(TokioIo::new(wire)).await.map_err(|_| Fault::NotConnected)?;
        let (idle_timeout, held) = (self.group.settings.idle_timeout, link.clone());
        self.group.spawn(async move {
            let _opened = opened;
            tokio::select! {
                _ = connection => {}
                () = held.ended.cancelled() => {}
                () = held.traffic.silent(idle_timeout) => held.end(Fault::Silent),
            }
        });
        Ok(Ready { target, sender, link })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TargetId, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
