//! When does a listener close? Asked of the kernel's table of sockets, not guessed from connect attempts: those
//! would be part of the load, and a dropped SYN says nothing for a second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// Interval at which the table is read, for all servers at once.
const LOOK: Duration = Duration::from_millis(2);

static WAITING: Mutex<Option<BTreeMap<u16, Vec<oneshot::Sender<()>>>>> = Mutex::new(None);

/// Resolves when no socket listens on this port any more. One thread reads the table for everybody, and only
/// while somebody waits.
pub async fn closed(port: u16) {
    let (sender, receiver) = oneshot::channel();
    {
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = waiting.is_none();
        waiting.get_or_insert_default().entry(port).or_default().push(sender);
        if idle {
            std::thread::spawn(watch);
        }
    }
    if receiver.await.is_err() {
        // The table cannot be read: nobody knows, so nobody is told.
        std::future::pending::<()>().await;
    }
}

fn watch() {
    loop {
        let Ok(open) = table::listening() else {
            *WAITING.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return;
        };
        {
            let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
            let ports = waiting.get_or_insert_default();
            let gone: Vec<u16> = ports.keys().copied().filter(|port| !open.contains(port)).collect();
            for port in gone {
                for sender in ports.remove(&port).unwrap_or_default() {
                    let _ = sender.send(());
                }
            }
            ports.retain(|_, senders| {
                senders.retain(|sender| !sender.is_closed());
                !senders.is_empty()
            });
            if ports.is_empty() {
                *waiting = None;
                return;
            }
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(target_os = "linux")]
mod table {
    //! sock_diag(7): the kernel filters by state, so that thousands of closed connections cost nothing.

    use super::BTreeSet;
    use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use netlink_packet_sock_diag::SockDiagMessage;
    use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
    use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
    use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

    pub fn listening() -> std::io::Result<BTreeSet<u16>> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut ports = BTreeSet::new();
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            dump(&socket, family, socket_id, &mut ports)?;
        }
        Ok(ports)
    }

    fn dump(socket: &Socket, family: u8, socket_id: SocketId, ports: &mut BTreeSet<u16>) -> std::io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::LISTEN,
            socket_id,
        };
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
                        ports.insert(response.header.socket_id.source_port);
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
    use super::BTreeSet;

    pub fn listening() -> std::io::Result<BTreeSet<u16>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_is_seen_to_close() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let gone = tokio::spawn(closed(port));
        assert!(table::listening().unwrap().contains(&port));
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(!gone.is_finished(), "it is still open");
        drop(listener);
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("seen to close").unwrap();
    }
}
