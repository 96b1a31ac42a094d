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
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

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

/// Hands over connections until its accept queue is to be emptied.
pub struct Listener<H> {
    tcp: TcpListener,
    table: SocketTable,
    hand_over: H,
}

/// What became of the accept queue.
#[derive(Default)]
pub struct Emptied {
    pub emptied: usize,    // connections taken
    pub minimum_ttl: bool, // whether the socket was given one
    pub half_open: usize,  // handshakes that were given up on
    pub lost: usize,       // connections that could not be taken
    pub error: Option<String>,
    table: Option<SocketTable>,
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
            Err(error) => {
                log_error(&format!("new connections get in, a connect storm may lose requests: {error}"))
            }
        }
        self.accept_all(&mut emptied, deadline).await;
        while self.has_half_open(&mut emptied) && Instant::now() < deadline && emptied.error.is_none() {
            // The kernel tells when one has ended.
            if let Ok(Ok((stream, _))) = timeout_at(deadline, self.tcp.accept()).await {
                self.take(stream, &mut emptied);
            }
            self.accept_all(&mut emptied, deadline).await;
        }
        // Once more, after the look: a handshake that ended in between is in the queue by now.
        self.accept_all(&mut emptied, deadline).await;
        emptied.table = Some(self.table);
        emptied
    }

    fn has_half_open(&mut self, emptied: &mut Emptied) -> bool {
        match self.table.look() {
            Ok(()) => emptied.half_open = self.table.half_open,
            Err(error) => log_error(&format!("handshakes that are half done may be lost: {error}")),
        }
        emptied.half_open > 0
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
    /// An error where another process listens on the same socket. Asked later, because the table may be long.
    pub fn check_gone(&mut self) -> Result<(), String> {
        if let Some(table) = &mut self.table
            && table.look().is_ok()
            && table.listening
        {
            return Err(format!(
                "another process listens on the same socket, and its minimum TTL of {MAX_TTL} now keeps out its \
                 clients: leave a shared socket alone, it needs none of this"
            ));
        }
        Ok(())
    }

    /// Counts those that still wait, and cannot be taken.
    fn lose(&mut self, waiting: usize, reason: &str) {
        self.lost = waiting.max(1);
        let reason = format!("{} connections in the accept queue are lost: {reason}", self.lost);
        log_error(&reason);
        self.error = Some(reason);
    }
}

/// The client is gone before it was accepted.
fn has_left(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};

    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// The listener will not work again.
fn is_permanent(error: &io::Error) -> bool {
    let permanent = [libc::EBADF, libc::EINVAL, libc::ENOTSOCK, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|number| permanent.contains(&number))
}

/// What the kernel lists for the port of a listener, from /proc/net/tcp and tcp6: a socket for IPv6 may take
/// IPv4, too (proc_pid_net(5)). The files stay open, because there may be no descriptor left when they are needed.
struct SocketTable {
    half_open: usize, // handshakes that have begun and not ended
    waiting: usize,   // connections in the accept queue
    listening: bool,  // whether the socket is there, in whatever process
    suffix: String,
    inode: String,
    files: Vec<File>,
}

impl SocketTable {
    fn new(tcp: &TcpListener) -> Self {
        let port = tcp.local_addr().map_or(0, |address| address.port());
        let inode = fs::metadata(format!("/proc/self/fd/{}", tcp.as_fd().as_raw_fd()))
            .map_or(0, |socket| socket.ino());
        let paths = ["/proc/net/tcp", "/proc/net/tcp6"]; // the latter is missing where IPv6 is off
        Self {
            half_open: 0,
            waiting: 0,
            listening: false,
            suffix: format!(":{port:04X}"),
            inode: inode.to_string(),
            files: paths.iter().flat_map(File::open).collect(),
        }
    }

    fn look(&mut self) -> io::Result<()> {
        const LISTEN: &str = "0A";
        const HALF_OPEN: &str = "03";
        if self.files.is_empty() {
            return Err(io::Error::other("the kernel has no table of them"));
        }
        (self.half_open, self.waiting, self.listening) = (0, 0, false);
        for file in &mut self.files {
            let mut text = String::new();
            file.rewind()?;
            file.read_to_string(&mut text)?;
            for line in text.lines() {
                let column: Vec<&str> = line.split_ascii_whitespace().collect();
                let [_, local, _, state, queues, _, _, _, _, inode, ..] = column[..] else { continue };
                if !local.ends_with(&self.suffix) {
                    continue;
                }
                if state == HALF_OPEN {
                    self.half_open += 1;
                } else if state == LISTEN && inode == self.inode {
                    let queue = queues.split(':').next_back().unwrap_or_default();
                    self.listening = true;
                    self.waiting = usize::from_str_radix(queue, 16).unwrap_or(0);
                }
            }
        }
        Ok(())
    }
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
