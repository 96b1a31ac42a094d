//! The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients
//! may have sent a request already. Closing the listener resets them, and under load accepting "until there
//! are no more" never ends. So: keep out new SYNs, empty the queue, then close.
//! rule: nothing-lost-in-accept-queue
//!
//! A client whose SYN is dropped sends it again after a second and then reaches our successor, or is refused:
//! either way nothing of its request was lost. Beyond loopback, a handshake that is half done at this very
//! moment can still meet a closed listener.

use std::io::{self, Write};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::sleep;

/// How many connections can have been waiting: as many as tokio asks the kernel for.
const LONGEST_QUEUE: usize = 1024;

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
    /// whether new ones were really kept out. rule: new-connections-refused, port-free-after-exit
    fn empty_accept_queue(self) -> (usize, bool) {
        let filtered = match drop_new_syns(&self.tcp) {
            Ok(()) => true,
            Err(error) => {
                let _ = writeln!(
                    io::stderr(),
                    "no filter on the listener, a connect storm may lose requests: {error}"
                );
                false
            }
        };
        // Not by tokio: its accept is pending also where the runtime has not heard yet of a connection that
        // waits, or wants another task to run first. Only the kernel's own answer says that the queue is
        // empty.
        let mut emptied = 0;
        let outcome = self.tcp.into_std().and_then(|listener| {
            // Without the filter new ones may come as fast as they are taken.
            while filtered || emptied < LONGEST_QUEUE {
                match listener.accept() {
                    Ok((stream, _)) => {
                        emptied += 1;
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

/// Attaches a classic BPF program: a segment with SYN and without ACK is dropped, all others pass. The
/// program sees the TCP header; its byte 13 holds the flags (RFC 9293, 3.1). Kernels of 2026 want CAP_NET_ADMIN for it,
/// older ones nothing.
#[cfg(target_os = "linux")]
fn drop_new_syns(listener: &TcpListener) -> io::Result<()> {
    use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
    use socket2::{SockFilter, SockRef};

    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let step = |code: u32, otherwise, k| SockFilter::new(code as u16, 0, otherwise, k);
    SockRef::from(listener).attach_filter(&[
        step(BPF_LD | BPF_B | BPF_ABS, 0, 13),
        step(BPF_ALU | BPF_AND | BPF_K, 0, SYN | ACK),
        step(BPF_JMP | BPF_JEQ | BPF_K, 1, SYN),
        step(BPF_RET | BPF_K, 0, 0),        // drop
        step(BPF_RET | BPF_K, 0, u32::MAX), // pass, whole
    ])
}

#[cfg(not(target_os = "linux"))]
fn drop_new_syns(_: &TcpListener) -> io::Result<()> {
    Err(io::Error::other("this operating system has no SO_ATTACH_FILTER"))
}
