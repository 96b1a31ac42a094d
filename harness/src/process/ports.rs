//! Ports for servers that have to be told one.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

/// The lowest port that is given out: below it there may be services that start later.
const LOWEST: u16 = 10_000;
/// The kernel's own range, from which it gives ports to clients; and to whoever listens on port 0.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The last one that was given out: the same is not given out again until all others have been.
static LAST: Mutex<Option<u16>> = Mutex::new(None);

/// A port on which nobody listens at this moment, and which the kernel gives to no client: on a busy machine one of
/// these would soon have it.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> std::io::Result<u16> {
    let ephemeral = std::fs::read_to_string(EPHEMERAL).ok().and_then(|text| range(&text)).unwrap_or((u16::MAX, 0));
    let candidates: Vec<u16> = (LOWEST..=u16::MAX).filter(|port| !(ephemeral.0..=ephemeral.1).contains(port)).collect();
    let mut last = LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Another harness begins elsewhere.
    let start = match *last {
        Some(last) => candidates.partition_point(|port| *port <= last),
        None => std::process::id() as usize * 101 % candidates.len().max(1),
    };
    let in_turn = candidates[start..].iter().chain(&candidates[..start]);
    for port in in_turn.copied() {
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            *last = Some(port);
            return Ok(port);
        }
    }
    Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port())
}

/// Whether a server says in these lines that its port is taken, in the words of the usual runtimes.
pub fn says_taken(lines: &[String]) -> bool {
    const WORDS: [&str; 4] = ["eaddrinuse", "address already in use", "address in use", "connection in use"];
    lines.iter().map(|line| line.to_lowercase()).any(|line| WORDS.iter().any(|words| line.contains(words)))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.trim().split_once(char::is_whitespace)?;
    Some((low.parse().ok()?, high.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_of_the_range_of_clients_or_given_out_twice() {
        let ports = [(); 3].map(|()| free_port().unwrap());
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2], "{ports:?}");
        if let Some((low, high)) = std::fs::read_to_string(EPHEMERAL).ok().and_then(|text| range(&text)) {
            assert!(ports.iter().all(|port| !(low..=high).contains(port)), "{ports:?} of {low} to {high}");
        }
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_given_out() {
        let taken = free_port().unwrap();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        *LAST.lock().unwrap() = Some(taken - 1);
        assert_ne!(free_port().unwrap(), taken);
    }

    #[test]
    fn what_servers_say_of_a_taken_port() {
        for line in [
            "OSError: [Errno 98] Address already in use",
            "Error: listen EADDRINUSE: address already in use :::8080",
            "listen tcp :8080: bind: address already in use",
            "[ERROR] Connection in use: ('127.0.0.1', 8000)",
            "Error: Os { code: 98, kind: AddrInUse, message: \"Address in use\" }",
        ] {
            assert!(says_taken(&[String::new(), line.to_owned()]), "{line}");
        }
        assert!(!says_taken(&["permission denied".to_owned()]));
    }
}
