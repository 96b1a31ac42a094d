//! A network namespace (network_namespaces(7)), or the network that everybody is in.

use std::io;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;

/// Which network sockets belong to: that of the harness, or one that a run has made for itself.
#[derive(Debug, Clone, Default)]
pub struct Network(Option<Arc<Namespace>>);

#[cfg(target_os = "linux")]
type Namespace = OwnedFd;
#[cfg(not(target_os = "linux"))]
type Namespace = std::convert::Infallible;

impl Network {
    /// Whether it is that of the harness.
    pub fn is_own(&self) -> bool {
        self.0.is_none()
    }

    /// Runs something in it: a socket belongs to the network in which it was made, whoever uses it afterwards.
    ///
    /// # Errors
    /// Where the network cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        if self.is_own() {
            return Ok(work());
        }
        // A thread enters for good: one of its own, then.
        let inside = || self.enter().map(|()| work());
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Moves the calling thread, or a child between fork and exec, into it.
    ///
    /// # Errors
    /// Where the system does not allow that.
    #[cfg(target_os = "linux")]
    pub fn enter(&self) -> io::Result<()> {
        use nix::sched::{CloneFlags, setns};
        match &self.0 {
            Some(namespace) => Ok(setns(namespace.as_ref(), CloneFlags::CLONE_NEWNET)?),
            None => Ok(()),
        }
    }

    /// See the other one: there is nowhere to go.
    ///
    /// # Errors
    /// None.
    #[cfg(not(target_os = "linux"))]
    pub fn enter(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(target_os = "linux")]
pub use linux::{Device, with_device};

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use nix::sched::{CloneFlags, unshare};
    use tun_rs::DeviceBuilder;

    use super::Network;

    /// The end of a wire.
    pub type Device = tun_rs::SyncDevice;

    /// A new network with one device in it.
    pub fn with_device(address: Ipv4Addr) -> io::Result<(Network, Device)> {
        let make = move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let namespace = File::open("/proc/thread-self/ns/net")?.into();
            let device = DeviceBuilder::new().name("link").ipv4(address, 30_u8, None).mtu(1500).build_sync()?;
            device.set_nonblocking(true)?;
            Ok((Network(Some(Arc::new(namespace))), device))
        };
        std::thread::spawn(make).join().unwrap_or_else(|_| Err(io::Error::other("no network could be made")))
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::io;
    use std::net::Ipv4Addr;

    use super::Network;

    /// There is none.
    pub enum Device {}

    pub fn with_device(_: Ipv4Addr) -> io::Result<(Network, Device)> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux has network namespaces"))
    }
}
#[cfg(not(target_os = "linux"))]
pub use elsewhere::{Device, with_device};
