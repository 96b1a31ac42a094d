//! The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients
//! may have sent a request already. Closing the listener resets them, and under load accepting "until there
//! are no more" never ends. So: keep out new SYNs, empty the queue, then close.
//!
//! A client whose SYN is dropped sends it again after a second and then reaches our successor, or is refused:
//! either way nothing of its request was lost. Beyond loopback, a handshake that is half done at this very
//! moment can still meet a closed listener.

use std::ffi::c_int;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::sleep;

pub const BACKLOG: u32 = 1024;
const MAX_TTL: c_int = 255;

/// Hands over connections until its accept queue is to be emptied.
pub struct Listener<H> {
    tcp: TcpListener,
    hand_over: H,
}

impl<H: Fn(TcpStream)> Listener<H> {
    pub fn new(tcp: TcpListener, hand_over: H) -> Self {
        Self { tcp, hand_over }
    }

    /// Accepts until it is told to close; then the queue is empty and the listener closed.
    pub async fn accept(self, mut close: oneshot::Receiver<()>) -> (usize, bool) {
        loop {
            tokio::select! {
                biased;
                _ = &mut close => return self.empty_accept_queue(),
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, _)) => (self.hand_over)(stream),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {} // it left
                    Err(error) => {
                        // Out of descriptors, say: trying again at once would only burn the CPU.
                        let _ = writeln!(io::stderr(), "accept: {error}");
                        sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }

    /// Keeps out new connections, takes those that wait, and closes the listener: how many were taken, and
    /// whether new ones were really kept out.
    /// rule: nothing-lost-in-accept-queue, new-connections-refused, port-free-after-exit
    fn empty_accept_queue(self) -> (usize, bool) {
        let filtered = match set_minimum_ttl(&self.tcp, MAX_TTL) {
            Ok(()) => true,
            Err(error) => {
                let _ = writeln!(
                    io::stderr(),
                    "new connections get in, a connect storm may lose requests: {error}"
                );
                false
            }
        };
        // Not by tokio: its accept is pending also where the runtime has not heard yet of a connection that
        // waits, or wants another task to run first. Only the kernel's own answer says that the queue is
        // empty.
        let mut emptied = 0;
        let outcome = self.tcp.into_std().and_then(|listener| {
            // Those that waited, and as many again that were half-way through their handshake. Where new ones
            // get in this might go on for ever.
            while emptied < 2 * BACKLOG as usize {
                match listener.accept() {
                    Ok((stream, _)) => {
                        emptied += 1;
                        if filtered {
                            // Inherited, if the handshake ended meanwhile; TCP repeats what was dropped.
                            set_minimum_ttl(&stream, 0)?;
                        }
                        stream.set_nonblocking(true)?;
                        (self.hand_over)(TcpStream::from_std(stream)?);
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {} // it left
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        if let Err(error) = outcome {
            let _ = writeln!(io::stderr(), "the accept queue could not be emptied: {error}");
        }
        (emptied, filtered)
    }
}

/// Has the kernel drop segments whose TTL is less (RFC 5082), for which no privilege is needed. 255 keeps out
/// whoever sends with 64 or 128, as systems do, but not a client on the same link that sends with 255.
#[cfg(target_os = "linux")]
fn set_minimum_ttl(socket: &impl AsFd, ttl: c_int) -> io::Result<()> {
    use libc::{IP_MINTTL, IPPROTO_IP, IPPROTO_IPV6, IPV6_MINHOPCOUNT};
    use socket2::{Domain, SockRef};

    set_option(socket, IPPROTO_IP, IP_MINTTL, ttl)?;
    if SockRef::from(socket).domain()? == Domain::IPV6 {
        set_option(socket, IPPROTO_IPV6, IPV6_MINHOPCOUNT, ttl)?; // as well, because it may take IPv4, too
    }
    Ok(())
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate has a safe function for these options")]
fn set_option(socket: &impl AsFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    use std::os::fd::AsRawFd;

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
