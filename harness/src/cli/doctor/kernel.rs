//! What the kernel lets this process do, and what it would let one without privileges do.

use crate::link::Link;

/// Whether a minimum TTL keeps new connections out of a listener: what a server does while it empties its accept
/// queue.
pub fn keep_out_new_connections() -> Result<String, String> {
    also_unprivileged("keeps out new connections", try_minimum_ttl)
}

/// Whether the table of sockets tells what a server has accepted, and when its listener closes.
pub fn read_socket_table() -> Result<String, String> {
    also_unprivileged("may be read", try_table)
}

/// Whether two network namespaces can be joined by a link with delay.
pub fn make_link() -> Result<String, String> {
    Link::new(std::time::Duration::ZERO).map(|_| "can be made".to_owned()).map_err(|why| why.to_string())
}

#[cfg(target_os = "linux")]
fn try_minimum_ttl() -> Result<(), String> {
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(50);
    let listen = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        Ok::<_, std::io::Error>((listener.local_addr()?, listener))
    };
    let (address, listener) = listen().map_err(|error| format!("no listener on loopback: {error}"))?;
    set_minimum_ttl(&listener).map_err(|error| format!("IP_MINTTL: {error}"))?;
    match std::net::TcpStream::connect_timeout(&address, PATIENCE) {
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Ok(()),
        Err(error) => Err(format!("IP_MINTTL: a connection is not dropped but refused: {error}")),
        Ok(_) => Err("IP_MINTTL: has no effect".to_owned()),
    }
}

/// Nothing that comes over loopback has a TTL of 255.
#[cfg(target_os = "linux")]
fn set_minimum_ttl(listener: &std::net::TcpListener) -> std::io::Result<()> {
    use nix::libc::{IP_MINTTL, IPPROTO_IP, c_int, setsockopt, socklen_t};
    use std::os::fd::AsRawFd;
    let ttl: c_int = 255;
    let size = size_of::<c_int>() as socklen_t;
    // SAFETY: the descriptor is open, and the kernel reads no more than `size` bytes at `ttl`.
    match unsafe { setsockopt(listener.as_raw_fd(), IPPROTO_IP, IP_MINTTL, (&raw const ttl).cast(), size) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(target_os = "linux")]
fn try_table() -> Result<(), String> {
    let connect = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let client = std::net::TcpStream::connect(listener.local_addr()?)?;
        Ok::<_, std::io::Error>((listener.local_addr()?.port(), client.local_addr()?.port(), (listener, client)))
    };
    let (port, client_port, _open) = connect().map_err(|error| format!("no connection over loopback: {error}"))?;
    let sides = crate::process::server_sides(&crate::link::Place::HERE, port)
        .map_err(|error| format!("sock_diag(7): {error}"))?;
    match sides.iter().find(|side| side.client_port == client_port) {
        Some(_) => Ok(()),
        None => Err("sock_diag(7): the table does not show a connection that is open".to_owned()),
    }
}

#[cfg(not(target_os = "linux"))]
fn try_minimum_ttl() -> Result<(), String> {
    Err(format!("IP_MINTTL is known to do this on Linux only, not on {}", std::env::consts::OS))
}

#[cfg(not(target_os = "linux"))]
fn try_table() -> Result<(), String> {
    Err(format!("{} has no sock_diag(7)", std::env::consts::OS))
}

/// Tries something as who we are, since servers are started as that. Root's success says nothing about others.
fn also_unprivileged(what: &str, try_it: fn() -> Result<(), String>) -> Result<String, String> {
    try_it()?;
    if !nix::unistd::geteuid().is_root() {
        return Ok(what.to_owned());
    }
    Ok(match unprivileged(try_it) {
        Ok(()) => format!("{what}, also without root"),
        Err(why) => format!("{what} by root; without root: {why}"),
    })
}

fn unprivileged(try_it: fn() -> Result<(), String>) -> Result<(), String> {
    let tried = std::thread::spawn(move || {
        give_up_root().map_err(|error| format!("not tried, because root could not be given up: {error}"))?;
        try_it()
    });
    tried.join().unwrap_or_else(|_| Err("not tried".to_owned()))
}

/// The calling thread is nobody from now on. The C library's setresuid(2) would change every thread.
#[cfg(target_os = "linux")]
fn give_up_root() -> std::io::Result<()> {
    const NOBODY: nix::libc::uid_t = 65534;
    // SAFETY: the call takes three numbers and touches no memory of ours.
    match unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn give_up_root() -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_tries_gives_up_root() {
        let before = nix::unistd::geteuid();
        let is_root = || if nix::unistd::geteuid().is_root() { Err("root".to_owned()) } else { Ok(()) };
        if before.is_root() {
            assert_eq!(unprivileged(is_root), Ok(()));
        }
        assert_eq!(nix::unistd::geteuid(), before);
    }

    #[test]
    fn a_refusal_is_handed_on() {
        assert_eq!(also_unprivileged("may be", || Err("no".to_owned())), Err("no".to_owned()));
    }

    #[test]
    fn the_table_of_this_machine_shows_a_connection() {
        assert_eq!(try_table(), Ok(()));
    }

    #[test]
    fn whoever_we_are_a_minimum_ttl_keeps_out_new_connections() {
        assert_eq!(try_minimum_ttl(), Ok(()));
        assert_eq!(unprivileged(try_minimum_ttl).err().filter(|why| why.starts_with("IP_MINTTL")), None);
    }
}
