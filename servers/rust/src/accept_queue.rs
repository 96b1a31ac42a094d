//! The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients may
//! have sent a request already, and closing the listener resets them. Others are half-way through their
//! handshake: off loopback that takes a round trip, and they will be there when the listener is gone. Under load
//! accepting "until there are no more" never ends. So: keep out new SYNs, wait for the handshakes that have
//! begun, empty the queue, close.
//!
//! A client whose SYN is dropped sends it again after a second and then reaches our successor, or is refused:
//! either way nothing of its request was lost. Not kept out are clients that send with a TTL of 255, and
//! handshakes by SYN cookie: these can still be reset. Where a lame-duck is longer than the withdrawal nobody
//! comes any more, and none of this is needed. Not for a socket that another process listens on, too: that one
//! stays open, and so does its queue.

use std::ffi::c_int;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::fstat;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, recv, send};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use crate::log::log_error;

/// The kernel cuts it down to the longest queue that it allows.
pub const BACKLOG: u32 = 65535;
const MAX_TTL: c_int = 255;
/// For those that are half done when the listener is to close.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// After an error that may pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Clients with a TTL of 255 might go on for ever.
const MOST_EMPTIED: usize = 2 * BACKLOG as usize;
/// The listener will not work again.
const PERMANENT: [c_int; 4] = [libc::EBADF, libc::EINVAL, libc::ENOTSOCK, libc::EOPNOTSUPP];
/// Bytes that the kernel sends in one part.
const MOST_AT_ONCE: usize = 32768;

// Of linux/netlink.h, linux/sock_diag.h and linux/tcp.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IPPROTO_TCP: u8 = 6;
const SYN_RECV: u8 = 3;
const LISTEN: u8 = 10;

/// What became of the accept queue.
#[derive(Default)]
pub struct Emptied {
    pub emptied: usize,    // connections taken
    pub minimum_ttl: bool, // whether the socket was given one
    pub half_open: usize,  // handshakes that were given up on
    pub lost: usize,       // connections that could not be taken
    pub error: Option<String>,
}

/// Hands over connections until its accept queue is to be emptied.
pub struct Listener<H> {
    tcp: TcpListener,
    table: SocketTable,
    hand_over: H,
}

impl<H: Fn(TcpStream)> Listener<H> {
    pub fn new(tcp: TcpListener, hand_over: H) -> Self {
        let table = SocketTable::new(&tcp);
        Self { tcp, table, hand_over }
    }

    /// Accepts until it is told to close; then the queue is empty and the listener closed. An error says that the
    /// listener works no more.
    pub async fn accept(self, mut close: oneshot::Receiver<()>) -> Result<Emptied, io::Error> {
        loop {
            tokio::select! {
                biased;
                _ = &mut close => return Ok(self.empty_accept_queue().await),
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, _)) => (self.hand_over)(stream),
                    Err(error) if has_left(&error) => {}
                    Err(error) if is_permanent(&error) => return Err(error),
                    Err(error) => {
                        log_error(&format!("cannot accept: {error}"));
                        sleep(ACCEPT_PAUSE).await; // out of descriptors or memory: what waits in the queue is safe
                    }
                },
            }
        }
    }

    /// Keeps out new connections, takes those that wait and those that are half-way through their handshake, and
    /// closes the listener.
    /// rule: nothing-lost-in-accept-queue, new-connections-refused, port-free-after-exit
    async fn empty_accept_queue(mut self) -> Emptied {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let mut emptied = Emptied::default();
        match set_minimum_ttl(&self.tcp, MAX_TTL) {
            Ok(()) => emptied.minimum_ttl = true,
            Err(error) => log_error(&format!("new connections get in, a connect storm may lose requests: {error}")),
        }
        self.accept_all(&mut emptied, deadline).await;
        while self.half_open(&mut emptied) > 0 && Instant::now() < deadline && emptied.error.is_none() {
            // The kernel tells when one has ended.
            if let Ok(Ok((stream, _))) = timeout_at(deadline, self.tcp.accept()).await {
                self.take(stream, &mut emptied);
            }
            self.accept_all(&mut emptied, deadline).await;
        }
        // Once more, after the look: a handshake that ended in between is in the queue by now.
        self.accept_all(&mut emptied, deadline).await;
        drop(self.tcp);
        emptied.check_gone(&mut self.table);
        emptied
    }

    fn half_open(&mut self, emptied: &mut Emptied) -> usize {
        match self.table.look() {
            Ok(()) => emptied.half_open = self.table.half_open,
            Err(error) => log_error(&format!("handshakes that are half done may be lost: {error}")),
        }
        emptied.half_open
    }

    /// Accepts until the kernel says that the queue is empty. Not by tokio: its accept is pending also where the
    /// runtime has not heard yet of a connection that waits, or wants another task to run first.
    async fn accept_all(&mut self, emptied: &mut Emptied, deadline: Instant) {
        while emptied.error.is_none() {
            // Where new ones get in, not beyond the deadline.
            let goes_on = emptied.minimum_ttl || Instant::now() < deadline;
            if !goes_on || emptied.emptied >= MOST_EMPTIED {
                let _ = self.table.look();
                emptied.lose(self.table.waiting, "others kept coming");
                return;
            }
            let accepted = SockRef::from(&self.tcp).accept().and_then(|(socket, _)| {
                socket.set_nonblocking(true)?;
                TcpStream::from_std(socket.into())
            });
            match accepted {
                Ok(stream) => self.take(stream, emptied),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if has_left(&error) => {}
                Err(error) if is_permanent(&error) || Instant::now() >= deadline => {
                    let _ = self.table.look();
                    emptied.lose(self.table.waiting, &error.to_string());
                    return;
                }
                Err(_) => sleep(ACCEPT_PAUSE).await, // those that wait are safe as long as the listener is open
            }
        }
    }

    fn take(&self, stream: TcpStream, emptied: &mut Emptied) {
        emptied.emptied += 1;
        if emptied.minimum_ttl {
            // Inherited, if the handshake ended meanwhile; TCP repeats what was dropped.
            let _ = set_minimum_ttl(&stream, 0);
        }
        (self.hand_over)(stream);
    }
}

impl Emptied {
    /// Notices another process that listens on the same socket.
    fn check_gone(&mut self, table: &mut SocketTable) {
        if table.look().is_ok() && table.listening && self.error.is_none() {
            self.fail(format!(
                "another process listens on the same socket, and the minimum TTL of {MAX_TTL} now keeps out its \
                 clients: leave a shared socket alone, it needs none of this"
            ));
        }
    }

    /// Counts those that still wait, and cannot be taken.
    fn lose(&mut self, waiting: usize, reason: &str) {
        self.lost = waiting.max(1);
        self.fail(format!("{} connections in the accept queue are lost: {reason}", self.lost));
    }

    fn fail(&mut self, reason: String) {
        log_error(&reason);
        self.error = Some(reason);
    }
}

/// The client is gone before it was accepted.
fn has_left(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};

    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn is_permanent(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| PERMANENT.contains(&number))
}

/// What the kernel tells of the port of a listener, asked as ss asks (sock_diag(7)). /proc/net/tcp says the same, but
/// takes far longer to read on a machine with much memory. The netlink socket stays open, because there may be no
/// descriptor left when it is needed.
struct SocketTable {
    half_open: usize, // handshakes that have begun and not ended
    waiting: usize,   // connections in the accept queue
    listening: bool,  // whether the socket is there, in whatever process
    families: Vec<AddressFamily>,
    port: u16,
    inode: u32,
    netlink: Option<Arc<OwnedFd>>,
}

impl SocketTable {
    fn new(tcp: &TcpListener) -> Self {
        let address = tcp.local_addr().ok();
        let families = match address {
            Some(SocketAddr::V6(_)) => vec![AddressFamily::INET, AddressFamily::INET6], // which may take IPv4, too
            _ => vec![AddressFamily::INET],
        };
        Self {
            half_open: 0,
            waiting: 0,
            listening: false,
            families,
            port: address.map_or(0, |address| address.port()),
            inode: fstat(tcp).map_or(0, |socket| socket.st_ino as u32),
            netlink: netlink().map(Arc::new).ok(),
        }
    }

    fn look(&mut self) -> io::Result<()> {
        let netlink =
            self.netlink.clone().ok_or_else(|| io::Error::other("the kernel tells nothing of its sockets"))?;
        (self.half_open, self.waiting, self.listening) = (0, 0, false);
        let states: u32 = 1 << SYN_RECV | 1 << LISTEN;
        for family in self.families.clone() {
            let mut query = Vec::with_capacity(72);
            query.extend(72_u32.to_ne_bytes());
            query.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
            query.extend(REQUEST_DUMP.to_ne_bytes());
            query.extend([0, 0, 0, 0, 0, 0, 0, 0, family.as_raw() as u8, IPPROTO_TCP, 0, 0]);
            query.extend(states.to_ne_bytes());
            query.extend(self.port.to_be_bytes());
            query.resize(72, 0);
            send(&netlink, &query, SendFlags::empty())?;
            let mut messages = vec![0; MOST_AT_ONCE];
            let mut more = true;
            while more {
                let (length, _) = recv(&netlink, &mut messages[..], RecvFlags::empty())?;
                more = self.read(&messages[..length])?;
            }
        }
        Ok(())
    }

    /// Reads what came at once, and returns whether there is more to come.
    fn read(&mut self, mut messages: &[u8]) -> io::Result<bool> {
        while !messages.is_empty() {
            match u16::from_ne_bytes([messages[4], messages[5]]) {
                NLMSG_DONE => return Ok(false),
                NLMSG_ERROR => {
                    return Err(unknown(io::Error::from_raw_os_error(-(number(messages, 16) as i32))));
                }
                _ => {}
            }
            let (state, waiting, inode) = (messages[17], number(messages, 72), number(messages, 84));
            if state == SYN_RECV {
                self.half_open += 1;
            } else if inode == self.inode {
                (self.waiting, self.listening) = (waiting as usize, true);
            }
            messages = &messages[number(messages, 0) as usize..];
        }
        Ok(true)
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn unknown(reason: impl Display) -> io::Error {
    io::Error::other(format!("the kernel tells nothing of its sockets: {reason}"))
}

#[cfg(target_os = "linux")]
fn netlink() -> io::Result<OwnedFd> {
    use rustix::net::{SocketFlags, SocketType, netlink, socket_with};

    let protocol = Some(netlink::SOCK_DIAG);
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?)
}

#[cfg(not(target_os = "linux"))]
fn netlink() -> io::Result<OwnedFd> {
    Err(unknown("netlink is Linux's"))
}

/// Has the kernel drop segments whose TTL is less (RFC 5082), for which no privilege is needed. 255 keeps out
/// whoever sends with 64 or 128, as systems do, but not a client on the same link that sends with 255.
#[cfg(target_os = "linux")]
fn set_minimum_ttl(socket: &impl AsFd, ttl: c_int) -> io::Result<()> {
    use libc::{IP_MINTTL, IPPROTO_IP, IPPROTO_IPV6, IPV6_MINHOPCOUNT};
    use socket2::Domain;

    set_option(socket, IPPROTO_IP, IP_MINTTL, ttl)?;
    if SockRef::from(socket).domain()? == Domain::IPV6 {
        set_option(socket, IPPROTO_IPV6, IPV6_MINHOPCOUNT, ttl)?; // as well, because it may take IPv4, too
    }
    Ok(())
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate has a safe function for these options")]
fn set_option(socket: &impl AsFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let descriptor = socket.as_fd().as_raw_fd();
    let size = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel reads no more than `size` bytes at `value`.
    match unsafe { libc::setsockopt(descriptor, level, option, (&raw const value).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn set_minimum_ttl(_: &impl AsFd, _: c_int) -> io::Result<()> {
    Err(io::Error::other("IP_MINTTL is known to do this on Linux only"))
}
