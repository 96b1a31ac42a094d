//! Who listens where: the sockets of a tree of processes, and whoever holds a port.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Tree;
use super::sockets;
use super::tree::{see, socket_inodes};
use crate::link::Place;
use crate::timeline::Seen;

impl Tree {
    /// Where these processes listen, in the order of ports.
    pub fn listening(&self) -> Vec<SocketAddr> {
        let inodes: BTreeSet<u32> = self.pids.iter().flat_map(|pid| socket_inodes(*pid)).collect();
        let all = sockets::listening(&self.place).unwrap_or_default();
        let own: BTreeSet<(u16, SocketAddr)> =
            all.into_iter().filter(|(_, inode)| inodes.contains(inode)).map(|(at, _)| (at.port(), at)).collect();
        own.into_iter().map(|(_, address)| address).collect()
    }

    /// The paths of the Unix sockets that these processes listen on.
    pub fn unix_listeners(&self) -> Vec<String> {
        let inodes: BTreeSet<u32> = self.pids.iter().flat_map(|pid| socket_inodes(*pid)).collect();
        let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
        table.lines().skip(1).filter_map(|line| unix_listener(line, &inodes)).collect()
    }
}

/// A line of proc(5), /proc/net/unix: Num RefCount Protocol Flags Type St Inode Path. The flag 0x10000 is a listener's.
fn unix_listener(line: &str, inodes: &BTreeSet<u32>) -> Option<String> {
    let mut fields = line.split_whitespace().skip(3);
    let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(2)?.parse().ok()?;
    let path = fields.next().unwrap_or("without a name");
    (flags & 0x10000 != 0 && inodes.contains(&inode)).then(|| path.to_owned())
}

/// Whoever listens on this port and is none of `but`.
pub fn holders(place: &Place, port: u16, but: &BTreeSet<i32>) -> Vec<Seen> {
    let all = sockets::listening(place).unwrap_or_default();
    let mut inodes: BTreeSet<u32> =
        all.into_iter().filter(|(at, _)| at.port() == port).map(|(_, inode)| inode).collect();
    if inodes.is_empty() {
        return Vec::new();
    }
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found = Vec::new();
    // Whoever forks shares a listener: that is one holder, unless it is one of `but`.
    let (ours, others): (Vec<i32>, Vec<i32>) = pids.partition(|pid| but.contains(pid));
    for inode in ours.into_iter().flat_map(socket_inodes) {
        inodes.remove(&inode);
    }
    for pid in others {
        let held: Vec<u32> = socket_inodes(pid).filter(|inode| inodes.contains(inode)).collect();
        if !held.is_empty() {
            inodes.retain(|inode| !held.contains(inode));
            found.push(see(pid));
        }
    }
    if !inodes.is_empty() {
        found.push(Seen { pid: None, command: String::new() });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_a_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = std::process::id() as i32;
        let found = holders(&Place::HERE, port, &BTreeSet::new());
        assert!(found.iter().any(|holder| holder.pid == Some(own as u32)), "{found:?}");
        assert_eq!(holders(&Place::HERE, port, &BTreeSet::from([own])), []);
    }

    #[test]
    fn a_listening_unix_socket_is_told_from_a_connected_one() {
        let inodes = BTreeSet::from([77]);
        let line = |flags: &str| format!("0000: 00000002 00000000 {flags} 0001 01 77 /run/app.sock");
        assert_eq!(unix_listener(&line("00010000"), &inodes), Some("/run/app.sock".to_owned()));
        assert_eq!(unix_listener(&line("00000000"), &inodes), None);
        assert_eq!(unix_listener(&line("00010000"), &BTreeSet::new()), None);
    }
}
