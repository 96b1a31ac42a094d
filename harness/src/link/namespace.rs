//! A network namespace with one device in it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{NoLink, Place};

/// Addresses of the two ends. RFC 2544 sets this network aside for tests of networks; it exists in the two
/// namespaces only.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// Where TUN devices come from. Looked for first: whoever opens it through tun-rs makes it where it is missing, and
/// it would stay.
const TUN: &str = "/dev/net/tun";
/// Both ends are in this network, and nobody else.
const PREFIX: u8 = 30;
/// Packets that the device holds while the forwarder is not looking.
const QUEUE: u32 = 10_000;

/// A network namespace without a name. It lives for as long as somebody holds it, or runs in it.
#[derive(Debug)]
pub struct Namespace {
    number: u64,
    file: File,
}

impl Namespace {
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }
}

/// Makes a namespace, and a device in it with this address.
///
/// # Errors
/// Says what could not be done.
pub fn make(address: Ipv4Addr) -> Result<(Place, SyncDevice), NoLink> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let failed = |step| move |source| NoLink { step, source };
    if !Path::new(TUN).exists() {
        return Err(failed(TUN)(io::ErrorKind::NotFound.into()));
    }
    // The thread that leaves the harness's own namespace never comes back: it ends.
    let made = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed("unshare(2), CLONE_NEWNET")(errno.into()))?;
        let file = File::open("/proc/thread-self/ns/net").map_err(failed("/proc/thread-self/ns/net"))?;
        loopback_up().map_err(failed("bringing up loopback"))?;
        let device = DeviceBuilder::new().name("link").ipv4(address, PREFIX, None).tx_queue_len(QUEUE).build_sync();
        let device = device.map_err(failed("making a TUN device"))?;
        device.set_nonblocking(true).map_err(failed("making a TUN device"))?;
        Ok((file, device))
    });
    let (file, device) = made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let namespace = Namespace { number: MADE.fetch_add(1, Ordering::Relaxed) + 1, file };
    Ok((Place::in_namespace(namespace), device))
}

/// In a new namespace loopback is down, and a server that listens on it, for its admin port or for itself, could not
/// start. netdevice(7).
fn loopback_up() -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: a structure of numbers and arrays, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes_with_nul()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the descriptor is open, and the kernel reads no more than the structure.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
