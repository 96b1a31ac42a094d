//! Finding a server that announces nothing: where it listens, and from when on it answers as it does in peace.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::run::Run;
use super::stop::{Stop, starved, unconfirmed};
use super::subject::Stranger;
use crate::client::Outcome;
use crate::process::{self, Disposition, Spawned, StartError};
use crate::timeline::{NotOpened, Role};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Pause between two questions to a server that is still warming up.
const AGAIN: Duration = Duration::from_millis(100);
/// Longest wait for one answer of a server that is warming up, beyond what its answers take.
const ONE: Duration = Duration::from_secs(3);
/// What a process that was killed may take to leave its port.
const LEAVES: Duration = Duration::from_secs(3);

/// Waits until these processes listen on a port, and returns the addresses at which they do.
///
/// # Errors
/// When they do not in time, end, or go on in the background.
pub async fn listening_on(
    process: &Spawned,
    port: u16,
    within: Duration,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, Stop> {
    loop {
        let found = process.tree().listening();
        let wanted: Vec<SocketAddr> = found.iter().copied().filter(|at| at.port() == port).collect();
        if !wanted.is_empty() {
            sleep(5 * LOOK).await; // a daemon's parent ends right after its child listens
            return match process.exit() {
                Some(_) => Err(StartError::Daemonised.into()),
                None => Ok(wanted),
            };
        }
        if let Some(exit) = process.exit() {
            sleep(10 * LOOK).await; // its last words may still be in the pipe, and its child not listening yet
            if !process.tree().listening().is_empty() {
                return Err(StartError::Daemonised.into());
            }
            return Err(StartError::Exited { exit, output: process.last_lines() }.into());
        }
        if Instant::now() > deadline {
            if !found.is_empty() {
                return Err(Stop::Elsewhere { port, within, found });
            }
            let unix = process.tree().unix_listeners();
            if let Some(path) = unix.first() {
                return Err(Stop::NotTested(format!("it listens on the Unix socket {path}: not tested yet")));
            }
            return Err(StartError::NeverListened { within, output: process.last_lines() }.into());
        }
        sleep(LOOK).await;
    }
}

/// Where a client of this machine reaches a server that listens at these addresses, the likeliest first.
pub fn reachable(listening: &[SocketAddr]) -> Vec<SocketAddr> {
    let ways = listening.iter().flat_map(|at| match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, at.port()))],
        // Where it takes IPv4 as well, the table does not say so.
        IpAddr::V6(ip) if ip.is_unspecified() => {
            vec![(Ipv4Addr::LOCALHOST, at.port()).into(), (Ipv6Addr::LOCALHOST, at.port()).into()]
        }
        _ => vec![*at],
    });
    let likely = |at: SocketAddr| (!at.ip().is_loopback(), at);
    let ways: BTreeSet<_> = ways.map(likely).collect();
    ways.into_iter().map(|(_, at)| at).collect()
}

/// Waits until whoever listens takes the signal, where it is known that it will: a signal that comes before hits the start,
/// which is another scenario's concern. Where it does not come to that, rules will say so.
pub(super) async fn takes_signal(process: &Spawned, address: SocketAddr, stranger: &Stranger) {
    let deadline = Instant::now() + ONE;
    let takes = |pid: &i32| Disposition::of(*pid, stranger.stop) == Some(Disposition::Taken);
    while stranger.takes_signal && Instant::now() < deadline {
        if process.tree().listeners(address).own.iter().any(takes) {
            return;
        }
        sleep(LOOK).await;
    }
}

impl Run<'_> {
    /// Makes sure that nobody listens on the port that the subject is to have: a server left over from an earlier
    /// run would answer in its place.
    ///
    /// # Errors
    /// Names whoever does.
    pub async fn port_is_free(&self, port: u16) -> Result<(), Stop> {
        let deadline = Instant::now() + LEAVES;
        loop {
            let place = self.place();
            let holders = process::holders(&place, port, &BTreeSet::new());
            match holders.into_iter().next() {
                None => return Ok(()),
                Some(holder) if Instant::now() > deadline => return Err(Stop::Taken { port, holder }),
                Some(_) => sleep(AGAIN).await,
            }
        }
    }

    /// Waits until a stranger listens where it was found to, and answers as it did then.
    pub(super) async fn meet(&self, process: &Spawned, port: u16, stranger: &Stranger) -> Result<SocketAddr, Stop> {
        let deadline = Instant::now() + stranger.start_within;
        let listening = listening_on(process, port, stranger.start_within, deadline).await?;
        let ways = match self.over() {
            Some(ip) => vec![SocketAddr::from((ip, port))],
            None => reachable(&listening),
        };
        let due = stranger.quick.normal.and_then(|normal| normal.due.status);
        let patience = ONE + stranger.quick.normal.map_or(Duration::ZERO, |normal| 3 * normal.takes);
        loop {
            let mut came = "nothing".to_owned();
            for way in &ways {
                let mut connection = match self.client.connect(*way, Role::Warmup).await {
                    Ok(connection) => connection,
                    Err(NotOpened::Refused) if self.over().is_some() => {
                        return Err(Stop::Skipped(
                            "the server listens where no link leads: have it listen on all addresses (0.0.0.0)"
                                .to_owned(),
                        ));
                    }
                    Err(NotOpened::Other) if self.client.starved() => return Err(starved()),
                    Err(why) => {
                        came = format!("connecting to {way}: {}", why.words());
                        continue;
                    }
                };
                let answer = connection.ask(stranger.ask(&stranger.quick, Role::Warmup).patience(patience)).await;
                match (answer.outcome, answer.status) {
                    // A limiter may remember us from the run before.
                    (Outcome::Answered, status) if due.is_none() || status == due || status == Some(429) => {
                        return Ok(*way);
                    }
                    (Outcome::Answered, Some(status)) => came = format!("it was answered {status}"),
                    (outcome, _) => came = outcome.to_string(),
                }
            }
            if Instant::now() > deadline || process.exit().is_some() {
                let path = &stranger.quick.path;
                return Err(unconfirmed("the server answers", format!("GET {path}: {came}")));
            }
            sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_takes_the_likeliest_way() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(reachable(&[at("0.0.0.0:80")]), [at("127.0.0.1:80")]);
        assert_eq!(reachable(&[at("[::]:80")]), [at("127.0.0.1:80"), at("[::1]:80")]);
        assert_eq!(reachable(&[at("[::1]:80")]), [at("[::1]:80")]);
        assert_eq!(reachable(&[at("10.0.0.7:80"), at("[::1]:80")]), [at("[::1]:80"), at("10.0.0.7:80")]);
        assert_eq!(reachable(&[at("[::]:80"), at("0.0.0.0:80")]), [at("127.0.0.1:80"), at("[::1]:80")]);
    }
}
