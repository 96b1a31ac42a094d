//! A link with delay between the client and the server. On loopback a handshake takes no time, so nobody is ever
//! half-way through one when a listener closes; over a link somebody always is.
//!
//! Two network namespaces hold one TUN device each, and what comes out of the one device goes into the other after
//! half a round trip. Nothing of it has a name: with the last descriptor and the last process in it, all of it is
//! gone, however the harness ends.

mod place;

#[cfg(target_os = "linux")]
mod forwarder;
#[cfg(target_os = "linux")]
mod namespace;

pub use place::Place;

use std::net::IpAddr;
use std::time::Duration;

/// What would help whoever cannot have a link.
pub const WAY_OUT: &str =
    "run as root, in a container with `--cap-add SYS_ADMIN --cap-add NET_ADMIN --device /dev/net/tun`";

/// This machine lets us make no link.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct NoLink {
    step: &'static str,
    source: std::io::Error,
}

/// Two places with a delay between them. Dropping it takes the link down.
pub struct Link {
    /// Where the client is.
    pub client: Place,
    /// Where the server is.
    pub server: Place,
    /// The address of the server's end.
    pub server_address: IpAddr,
    #[cfg(target_os = "linux")]
    forwarder: forwarder::Forwarder,
}

impl Link {
    /// Makes two namespaces and joins them.
    ///
    /// # Errors
    /// Says what this process may not do, or what this machine lacks.
    #[cfg(target_os = "linux")]
    pub fn new(round_trip: Duration) -> Result<Self, NoLink> {
        let (client, client_end) = namespace::make(namespace::CLIENT)?;
        let (server, server_end) = namespace::make(namespace::SERVER)?;
        let forwarder = forwarder::Forwarder::start([client_end, server_end], round_trip / 2)
            .map_err(|source| NoLink { step: "starting the forwarder", source })?;
        Ok(Self { client, server, server_address: namespace::SERVER.into(), forwarder })
    }

    /// Elsewhere there is none.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(target_os = "linux"))]
    pub fn new(_: Duration) -> Result<Self, NoLink> {
        Err(NoLink { step: "network namespaces", source: std::io::ErrorKind::Unsupported.into() })
    }

    /// How long it has held a packet beyond what it should, at most.
    #[cfg(target_os = "linux")]
    pub fn latest(&self) -> Duration {
        self.forwarder.latest()
    }

    /// As above.
    #[cfg(not(target_os = "linux"))]
    pub fn latest(&self) -> Duration {
        Duration::ZERO
    }
}
