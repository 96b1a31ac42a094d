//! A link with delay: two networks of the run's own, joined by a wire that holds each packet for a while. On loopback a
//! handshake has no duration, and what is lost in the middle of one never shows.

mod forwarder;
mod network;

pub use network::Network;

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use forwarder::Forwarder;

/// The server's address, from 198.18.0.0/15, which is set aside for such tests (RFC 2544, C.2.2). It exists in the
/// networks of the run alone.
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The client's.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// Two networks, and the wire between them. Nothing of it has a name on this machine: it is gone when this is dropped and
/// the processes in it have ended, however the harness ends.
pub struct Link {
    /// Where the server is to run.
    pub server: Network,
    /// Where clients open their sockets.
    pub client: Network,
    /// What the server is to listen on.
    pub address: Ipv4Addr,
    _forwarder: Forwarder,
}

impl Link {
    /// Joins two new networks. A packet takes half of the round trip.
    ///
    /// # Errors
    /// Where the system has no such networks, or does not let this user make one.
    pub fn new(round_trip: Duration) -> io::Result<Self> {
        let (server, near) = network::with_device(SERVER)?;
        let (client, far) = network::with_device(CLIENT)?;
        let forwarder = Forwarder::start([near, far], round_trip / 2)?;
        Ok(Self { server, client, address: SERVER, _forwarder: forwarder })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;

    /// A link, or why this machine has none.
    fn link(round_trip: Duration) -> Option<Link> {
        Link::new(round_trip).inspect_err(|error| eprintln!("skipped, no link: {error}")).ok()
    }

    #[test]
    fn what_is_sent_arrives_in_order_and_not_too_early() {
        let round_trip = Duration::from_millis(20);
        let Some(link) = link(round_trip) else { return };
        let listener = link.server.run(|| TcpListener::bind((link.address, 0))).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let sent: Vec<u8> = (0..2_000_000_u32).map(|number| (number % 251) as u8).collect();
        let echo = std::thread::spawn(move || {
            let (mut server, _) = listener.accept().unwrap();
            std::io::copy(&mut server.try_clone().unwrap(), &mut server).unwrap();
        });
        let began = Instant::now();
        let mut client = link.client.run(|| TcpStream::connect(address)).unwrap().unwrap();
        assert!(began.elapsed() >= round_trip, "the handshake took {:?}", began.elapsed());
        let mut reader = client.try_clone().unwrap();
        let read = std::thread::spawn(move || {
            let mut received = Vec::new();
            reader.read_to_end(&mut received).unwrap();
            received
        });
        client.write_all(&sent).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(read.join().unwrap() == sent, "not what was sent");
        echo.join().unwrap();
    }

    #[test]
    fn nobody_outside_reaches_it() {
        let Some(link) = link(Duration::from_millis(1)) else { return };
        let listener = link.server.run(|| TcpListener::bind((link.address, 0))).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let from_here = TcpStream::connect_timeout(&address, Duration::from_millis(200));
        assert!(from_here.is_err(), "{address} is reached from outside");
    }
}
