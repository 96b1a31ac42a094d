//! What is in flight: by the server's metrics, or by the kernel's word; and the load that sees to it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::run::{LOOK, PATIENCE, Run};
use super::stop::{Stop, unconfirmed};
use super::target::Target;
use crate::catalog::Feature;
use crate::client::{Ask, Load, back_to_back, connect_storm};
use crate::process;
use crate::timeline::{Event, Param, RequestId, Role};

/// How long a load may take to get going that a rate limiter slows.
const LIMITED_WITHIN: Duration = Duration::from_secs(8);
/// So many looks in a row show that a connection is gone, and not merely on its way.
const GONE: u32 = 100;

impl Run<'_> {
    /// Waits until the server counts no request in flight: one whose response has just arrived may still be counted.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn quiet(&self, target: &Target) -> Result<(), Stop> {
        match target.admin.is_none() || self.metrics_say(target, |in_flight| in_flight == 0).await? {
            true => Ok(()),
            false => {
                Err(unconfirmed("no request is in flight", format!("not by the server's metrics within {PATIENCE:?}")))
            }
        }
    }

    /// Waits until the server has accepted at least so many of these connections, and has read whatever was sent
    /// on those of them that are open.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn read(&self, target: &Target, client_ports: &[u16], at_least: usize) -> Result<(), Stop> {
        let deadline = Instant::now() + PATIENCE;
        let mut gone = 0;
        loop {
            let sides = process::server_sides(target.process().place(), target.address.port())
                .map_err(|error| Stop::Io("reading the kernel's table of sockets", error))?;
            let open = sides.iter().filter(|side| client_ports.contains(&side.client_port));
            let read: Vec<bool> = open.map(|side| side.accepted && side.unread == 0).collect();
            if read.len() >= at_least && read.iter().all(|read| *read) {
                return Ok(());
            }
            let what = || format!("{at_least} requests are read");
            if Instant::now() > deadline {
                return Err(unconfirmed(&what(), format!("not by the kernel's word within {PATIENCE:?}")));
            }
            gone = if read.len() < at_least { gone + 1 } else { 0 };
            if gone > GONE {
                return Err(unconfirmed(&what(), "the server has ended the connection"));
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until the server's count of requests in flight is as wanted; `false` where it does not get there.
    ///
    /// # Errors
    /// When the server has no metrics.
    pub async fn metrics_say(&self, target: &Target, wanted: impl Fn(u64) -> bool) -> Result<bool, Stop> {
        let deadline = Instant::now() + PATIENCE;
        let mut admin = target.connect_admin(Role::Metrics).await?;
        loop {
            let answer = admin.ask(Ask::get("/metrics", Role::Metrics)).await;
            let text = String::from_utf8_lossy(&answer.body);
            let value = text.lines().find_map(|line| line.strip_prefix("http_requests_in_flight "));
            let Some(in_flight) = value.and_then(|value| value.trim().parse().ok()) else {
                return Err(unconfirmed(
                    "metrics tell the requests in flight",
                    format!("GET /metrics: {} without the gauge", answer.outcome),
                ));
            };
            let met = wanted(in_flight);
            if met || Instant::now() > deadline {
                self.recorder.record(Event::InFlight { process: target.id(), requests: in_flight });
                return Ok(met);
            }
            sleep(LOOK).await;
        }
    }

    /// Clients that ask the target back to back, or, where `one_each`, on a new connection each time; no faster than
    /// a rate limiter lets them.
    ///
    /// # Errors
    /// Where a rate limiter lets too few through.
    pub fn load(&self, target: &Target, ask: &Ask, one_each: bool) -> Result<Load, Stop> {
        let clients = self.param(Param::Clients) as usize;
        let pause = match self.subject.rate() {
            Some(rate) if rate < clients as f64 / LIMITED_WITHIN.as_secs_f64() => {
                let why = format!("a rate limiter answers 429 long before {clients} clients have asked a few times");
                return Err(unconfirmed("the server can be put under load", why));
            }
            Some(rate) => Duration::from_secs_f64(clients as f64 / rate),
            None => Duration::ZERO,
        };
        // A server may close after each response without saying so.
        let start = if one_each || !self.has(Feature::KeepAlive) { connect_storm } else { back_to_back };
        Ok(start(&self.client, target.address, ask, clients, pause))
    }

    /// Answers after which a load has got going: `each` for each client, or one where a rate limiter slows it.
    pub fn warm_answers(&self, each: u64) -> u64 {
        let each = if self.subject.rate().is_some() { 1 } else { each };
        each * self.param(Param::Clients) as u64
    }

    /// Records, and returns, which of the requests under way the server has read whole, by the kernel's word, and
    /// nothing of whose answer has come.
    ///
    /// # Errors
    /// Where the kernel's table cannot be read.
    pub fn note_read(&self, target: &Target) -> Result<Vec<RequestId>, Stop> {
        let before = self.client.under_way(target.address);
        let sides = process::server_sides(target.process().place(), target.address.port())
            .map_err(|error| Stop::Io("reading the kernel's table of sockets", error))?;
        // An answer may have come that this side has not read yet.
        let waiting = process::clients_waiting(target.process().place(), target.address.port())
            .map_err(|error| Stop::Io("reading the kernel's table of sockets", error))?;
        // Still the same request after the look: so the look was at this one.
        let after = self.client.under_way(target.address);
        let read = sides.iter().filter(|side| side.accepted && side.unread == 0 && waiting.contains(&side.client_port));
        let requests: Vec<RequestId> = read
            .filter_map(|side| before.get(&side.client_port).filter(|id| after.get(&side.client_port) == Some(id)))
            .cloned()
            .collect();
        self.recorder.record(Event::Read { requests: requests.clone() });
        Ok(requests)
    }
}
