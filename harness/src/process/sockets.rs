//! The kernel's table of sockets: when a listener closes, what a server has accepted and read, which ports a
//! process listens on. Asked of the kernel, not guessed: connect attempts would be part of the load, and a
//! dropped SYN says nothing for a second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::link::Network;

/// Interval at which the table is read, for all servers at once.
const LOOK: Duration = Duration::from_millis(2);

static WAITING: Mutex<Option<BTreeMap<u16, Vec<Waiter>>>> = Mutex::new(None);

/// Somebody who waits for a listener to close.
struct Waiter {
    since: Instant,
    wanted: Weak<()>,
    closed: Closed,
}

type Closed = Box<dyn FnOnce(Option<Instant>) + Send>;

/// A watch on a listener, which ends when this is dropped.
#[must_use]
pub struct Watch {
    _wanted: Arc<()>,
}

/// Calls `closed` when no socket listens on this port any more, with the last moment at which one was seen there. One
/// thread reads the table for everybody, and only while somebody waits; it makes the call itself, because a task may
/// have to wait for its turn. Where the table cannot be read, nobody knows, and nobody is told. A network of a run's own
/// has a table, and so a thread, of its own.
pub fn watch_listener(network: &Network, port: u16, closed: impl FnOnce(Option<Instant>) + Send + 'static) -> Watch {
    let wanted = Arc::new(());
    if !network.is_own() {
        let (network, waiting) = (network.clone(), Arc::downgrade(&wanted));
        std::thread::spawn(move || watch_alone(&network, port, &waiting, closed));
        return Watch { _wanted: wanted };
    }
    let waiter = Waiter { since: Instant::now(), wanted: Arc::downgrade(&wanted), closed: Box::new(closed) };
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    let idle = waiting.is_none();
    waiting.get_or_insert_default().entry(port).or_default().push(waiter);
    if idle {
        std::thread::spawn(watch);
    }
    Watch { _wanted: wanted }
}

fn watch() {
    let mut seen = None;
    loop {
        let look = Instant::now();
        let Ok(rows) = table::rows(table::LISTEN) else {
            *WAITING.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return;
        };
        let open: BTreeSet<u16> = rows.iter().map(|row| row.local_port).collect();
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        let ports = waiting.get_or_insert_default();
        // Who has come since the look is told by the next one.
        let told = |port: &u16, waiter: &mut Waiter| !open.contains(port) && waiter.since <= look;
        let gone: Vec<Waiter> =
            ports.iter_mut().flat_map(|(port, waiters)| waiters.extract_if(.., |waiter| told(port, waiter))).collect();
        ports.retain(|_, waiters| {
            waiters.retain(|waiter| waiter.wanted.strong_count() > 0);
            !waiters.is_empty()
        });
        let nobody = ports.is_empty();
        if nobody {
            *waiting = None;
        }
        drop(waiting);
        for waiter in gone.into_iter().filter(|waiter| waiter.wanted.strong_count() > 0) {
            (waiter.closed)(seen.filter(|seen| *seen >= waiter.since));
        }
        if nobody {
            return;
        }
        seen = Some(look);
        std::thread::sleep(LOOK);
    }
}

fn watch_alone(network: &Network, port: u16, wanted: &Weak<()>, closed: impl FnOnce(Option<Instant>)) {
    let mut seen = None;
    if network.enter().is_err() {
        return;
    }
    while wanted.strong_count() > 0 {
        let look = Instant::now();
        match table::rows(table::LISTEN) {
            Ok(rows) if rows.iter().any(|row| row.local_port == port) => seen = Some(look),
            Ok(_) => return closed(seen),
            Err(_) => return,
        }
        std::thread::sleep(LOOK);
    }
}

/// The server's side of one connection, as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSide {
    /// The client's port.
    pub client_port: u16,
    /// Whether the server has accepted it; until then no process owns it.
    pub accepted: bool,
    /// Bytes that have arrived and that the server has not read.
    pub unread: u32,
}

/// The server's side of every established connection to this port.
///
/// # Errors
/// Where the kernel's table cannot be read.
pub fn server_sides(network: &Network, port: u16) -> std::io::Result<Vec<ServerSide>> {
    let rows = network.run(|| table::rows(table::ESTABLISHED))??;
    let sides = rows.into_iter().filter(|row| row.local_port == port);
    Ok(sides
        .map(|row| ServerSide { client_port: row.peer_port, accepted: row.inode != 0, unread: row.unread })
        .collect())
}

/// How many handshakes with this port are half done: the kernel has answered and awaits the client's acknowledgement.
///
/// # Errors
/// Where the kernel's table cannot be read.
pub fn half_open(network: &Network, port: u16) -> std::io::Result<usize> {
    let rows = network.run(|| table::rows(table::SYN_RECV))??;
    Ok(rows.iter().filter(|row| row.local_port == port).count())
}

/// The socket that listens on this port.
///
/// # Errors
/// Where the kernel's table cannot be read, or nobody listens.
pub fn listener_inode(network: &Network, port: u16) -> std::io::Result<u32> {
    let rows = network.run(|| table::rows(table::LISTEN))??;
    let found = rows.iter().find(|row| row.local_port == port).map(|row| row.inode);
    found.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "nobody listens there"))
}

/// Ports that sockets with these inodes listen on.
///
/// # Errors
/// Where the kernel's table cannot be read.
pub fn listening_ports(inodes: &BTreeSet<u32>) -> std::io::Result<BTreeSet<u16>> {
    let rows = table::rows(table::LISTEN)?;
    Ok(rows.into_iter().filter(|row| inodes.contains(&row.inode)).map(|row| row.local_port).collect())
}

/// One socket.
struct Row {
    local_port: u16,
    peer_port: u16,
    inode: u32,
    unread: u32,
}

#[cfg(target_os = "linux")]
mod table {
    //! sock_diag(7): the kernel filters by state, so that thousands of closed connections cost nothing.

    use super::Row;
    use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use netlink_packet_sock_diag::SockDiagMessage;
    use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
    use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
    use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

    pub const LISTEN: StateFlags = StateFlags::LISTEN;
    pub const ESTABLISHED: StateFlags = StateFlags::ESTABLISHED;
    pub const SYN_RECV: StateFlags = StateFlags::SYN_RECV;

    pub fn rows(states: StateFlags) -> std::io::Result<Vec<Row>> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut rows = Vec::new();
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let extensions = ExtensionFlags::empty();
            let states = states.clone();
            let request = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id };
            dump(&socket, request, &mut rows)?;
        }
        Ok(rows)
    }

    fn dump(socket: &Socket, request: InetRequest, rows: &mut Vec<Row>) -> std::io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        socket.send(&bytes, 0)?;
        loop {
            let (answer, _) = socket.recv_from_full()?;
            let mut rest = answer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                    .map_err(|error| std::io::Error::other(error.to_string()))?;
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                        let header = response.header;
                        rows.push(Row {
                            local_port: header.socket_id.source_port,
                            peer_port: header.socket_id.destination_port,
                            inode: header.inode,
                            unread: header.recv_queue,
                        });
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
                let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
                rest = &rest[length.max(1)..];
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod table {
    use super::Row;

    pub const LISTEN: () = ();
    pub const ESTABLISHED: () = ();
    pub const SYN_RECV: () = ();

    pub fn rows((): ()) -> std::io::Result<Vec<Row>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_seen_to_close() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, gone) = std::sync::mpsc::channel();
        let own = Network::default();
        let unwanted = watch_listener(&own, port, |_| panic!("nobody waits any more"));
        let watched = watch_listener(&own, port, move |seen| told.send(seen).unwrap());
        drop(unwanted);
        assert!(table::rows(table::LISTEN).unwrap().iter().any(|row| row.local_port == port));
        assert!(gone.recv_timeout(Duration::from_millis(30)).is_err(), "it is still open");
        drop(listener);
        let closed = Instant::now();
        let seen = gone.recv_timeout(Duration::from_secs(10)).expect("seen to close").expect("seen open before");
        assert!(seen <= closed);
        drop(watched);
    }

    #[test]
    fn accepted_and_read_are_told_apart() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"hello").unwrap();
        let side = || server_sides(&Network::default(), port).unwrap()[0];
        let client_port = client.local_addr().unwrap().port();
        assert_eq!(side(), ServerSide { client_port, accepted: false, unread: 5 });
        let (mut server, _) = listener.accept().unwrap();
        assert_eq!(side(), ServerSide { client_port, accepted: true, unread: 5 });
        server.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(side(), ServerSide { client_port, accepted: true, unread: 0 });
    }
}
