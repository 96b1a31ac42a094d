//! An AWS Application Load Balancer on loopback: a plain proxy around [`TargetGroup`](crate::model::target_group).
//!
//! The model decides which target gets a request, when it is checked, and when its connections are cut. Here is what
//! it cannot have: listeners, connections, a clock. What is played and what is not stands in `docs/alb-model.md`.

mod answer;
mod check;
mod fields;
mod front;
mod group;
mod node;
mod pool;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use crate::model::target_group::{Input, NodeId, Observer, Reason, Settings, State, TargetId};
use group::{Group, Members};
use node::Node;

pub(super) use front::AlbFront;

/// A load balancer of several nodes. Dropping it stops everything: tasks, listeners and connections, without waiting
/// for what is under way.
pub struct Alb {
    group: Arc<Group>,
    addresses: Vec<SocketAddr>,
    _stop: DropGuard,
}

/// A target is in another state now, or in the same for another reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Who sees it so.
    pub observer: Observer,
    /// The target.
    pub target: TargetId,
    /// Its state.
    pub state: State,
    /// Why, where AWS gives a reason.
    pub reason: Option<Reason>,
}

/// A target cannot be registered yet: one that was registered by address has to be `unused` first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("target {} is draining, and was registered by address: register it when it is unused", target.0)]
pub struct Refused {
    /// The target.
    pub target: TargetId,
}

impl Alb {
    /// Starts a balancer without targets, with a node for each lag: the time that news needs between the API and that
    /// node. The settings are taken as they are, because scenarios scale them.
    ///
    /// `told` hears each change of state as it happens and in order. It must be quick, and must not call the balancer.
    ///
    /// # Errors
    /// No listener could be had, or there are no lags. To be called within a runtime of tokio.
    pub async fn start(
        settings: Settings,
        lags: &[Duration],
        told: impl Fn(Seen) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        if lags.is_empty() {
            let error = "a balancer without nodes answers nobody: give one lag for each node";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, error));
        }
        let mut listeners = Vec::new();
        for _ in lags {
            listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        }
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        let group = Arc::new(Group::new(settings, lags, Box::new(told)));
        group.spawn(Group::drive(group.clone()));
        for (number, listener) in listeners.into_iter().enumerate() {
            group.spawn(Node::run(NodeId(number), listener, group.clone()));
        }
        let stop = group.stop.clone().drop_guard();
        Ok(Self { group, addresses, _stop: stop })
    }

    /// Where the nodes listen, in the order of their lags: what the name of a real balancer resolves to.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// Registers a target that listens there. Nothing happens where it is registered already.
    ///
    /// # Errors
    /// It was registered by address, and is draining.
    pub fn register(&self, target: TargetId, address: SocketAddr) -> Result<(), Refused> {
        self.group.register(target, address)
    }

    /// Deregisters a target. Nothing happens where it is not registered.
    pub fn deregister(&self, target: TargetId) {
        self.group.apply(Input::Deregister(target));
    }

    /// Waits until the API says that the target is healthy; `false` where it does not within this time.
    pub async fn healthy(&self, target: TargetId, within: Duration) -> bool {
        self.group.reached(within, |members| members.state(Observer::Api, target) == State::Healthy).await
    }

    /// Waits until a deregistered target has nothing open any more on any node that has heard of it, or until the
    /// deregistration delay is over; `false` where neither happens within this time. An idle connection is open.
    pub async fn drained(&self, target: TargetId, within: Duration) -> bool {
        let nodes = self.addresses.len();
        let over = |members: &Members| members.state(Observer::Api, target) == State::Unused;
        self.group.reached(within, |members| over(members) || members.completed(target) == nodes).await
    }

    /// What an observer makes of a target now; `Unused` where it has never heard of it.
    pub fn state(&self, observer: Observer, target: TargetId) -> State {
        self.group.state(observer, target)
    }
}
