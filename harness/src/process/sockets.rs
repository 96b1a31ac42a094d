//! The kernel's table of sockets: when a listener closes, what a server has accepted and read, which ports a
//! process listens on. Asked of the kernel, not guessed: connect attempts would be part of the load, and a
//! dropped SYN says nothing for a second.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::link::Place;

/// Interval at which the table is read, for all servers of a place at once.
const LOOK: Duration = Duration::from_millis(2);

/// Who waits for which port, by the number of the place. Where nobody waits there is no entry, and no thread.
static WAITING: Mutex<BTreeMap<u64, BTreeMap<u16, Vec<Waiter>>>> = Mutex::new(BTreeMap::new());

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
/// thread for each place reads the table for everybody, and only while somebody waits; it makes the call itself,
/// because a task may have to wait for its turn. Where the table cannot be read, nobody knows, and nobody is told.
pub fn watch_listener(place: &Place, port: u16, closed: impl FnOnce(Option<Instant>) + Send + 'static) -> Watch {
    let wanted = Arc::new(());
    let waiter = Waiter { since: Instant::now(), wanted: Arc::downgrade(&wanted), closed: Box::new(closed) };
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    let idle = !waiting.contains_key(&place.number());
    waiting.entry(place.number()).or_default().entry(port).or_default().push(waiter);
    if idle {
        let place = place.clone();
        std::thread::spawn(move || watch(&place));
    }
    Watch { _wanted: wanted }
}

fn watch(place: &Place) {
    let mut seen = None;
    let entered = place.enter();
    loop {
        let look = Instant::now();
        let (Ok(()), Ok(rows)) = (&entered, table::rows(table::LISTEN)) else {
            WAITING.lock().unwrap_or_else(PoisonError::into_inner).remove(&place.number());
            return;
        };
        let open: BTreeSet<u16> = rows.iter().map(|row| row.local_port).collect();
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        let ports = waiting.entry(place.number()).or_default();
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
            waiting.remove(&place.number());
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
pub fn server_sides(place: &Place, port: u16) -> std::io::Result<Vec<ServerSide>> {
    let rows = place.within(|| table::rows(table::ESTABLISHED))?;
    let sides = rows.into_iter().filter(|row| row.local_port == port);
    Ok(sides
        .map(|row| ServerSide { client_port: row.peer_port, accepted: row.inode != 0, unread: row.unread })
        .collect())
}

/// The clients of this port to whom nothing has come that they have not read: their ports.
///
/// # Errors
/// Where the kernel's table cannot be read.
pub fn clients_waiting(place: &Place, port: u16) -> std::io::Result<BTreeSet<u16>> {
    let rows = place.within(|| table::rows(table::ESTABLISHED))?;
    Ok(rows.into_iter().filter(|row| row.peer_port == port && row.unread == 0).map(|row| row.local_port).collect())
}

/// How many handshakes for this port are half done: answered, and not confirmed by the client yet.
///
/// # Errors
/// Where the kernel's table cannot be read.
pub fn half_open(place: &Place, port: u16) -> std::io::Result<usize> {
    let rows = place.within(|| table::rows(table::HALF_OPEN))?;
    Ok(rows.into_iter().filter(|row| row.local_port == port).count())
}

/// The socket that listens on this port.
///
/// # Errors
/// Where the kernel's table cannot be read, or nobody listens.
pub fn listener_inode(place: &Place, port: u16) -> std::io::Result<u32> {
    let rows = place.within(|| table::rows(table::LISTEN))?;
    let found = rows.iter().find(|row| row.local_port == port).map(|row| row.inode);
    found.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "nobody listens there"))
}

/// All sockets that can be reached at this address and listen: with SO_REUSEPORT there are several.
///
/// # Errors
/// Where the kernel's table cannot be read.
pub fn listener_inodes(place: &Place, address: SocketAddr) -> std::io::Result<BTreeSet<u32>> {
    let rows = place.within(|| table::rows(table::LISTEN))?;
    let ip = address.ip().to_canonical();
    let reached = |row: &Row| row.local_ip.is_unspecified() || row.local_ip.to_canonical() == ip;
    Ok(rows.into_iter().filter(|row| row.local_port == address.port() && reached(row)).map(|row| row.inode).collect())
}

/// Every listener of a place, with its inode.
///
/// # Errors
/// Where the kernel's table cannot be read.
pub fn listening(place: &Place) -> std::io::Result<Vec<(SocketAddr, u32)>> {
    let rows = place.within(|| table::rows(table::LISTEN))?;
    Ok(rows.into_iter().map(|row| (SocketAddr::new(row.local_ip, row.local_port), row.inode)).collect())
}

/// One socket.
struct Row {
    local_ip: IpAddr,
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
    pub const HALF_OPEN: StateFlags = StateFlags::SYN_RECV;

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
                            local_ip: header.socket_id.source_address,
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
    pub const HALF_OPEN: () = ();

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
        let unwanted = watch_listener(&Place::HERE, port, |_| panic!("nobody waits any more"));
        let watched = watch_listener(&Place::HERE, port, move |seen| told.send(seen).unwrap());
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
        let side = || server_sides(&Place::HERE, port).unwrap()[0];
        let client_port = client.local_addr().unwrap().port();
        assert_eq!(side(), ServerSide { client_port, accepted: false, unread: 5 });
        let (mut server, _) = listener.accept().unwrap();
        assert_eq!(side(), ServerSide { client_port, accepted: true, unread: 5 });
        server.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(side(), ServerSide { client_port, accepted: true, unread: 0 });
    }
}
