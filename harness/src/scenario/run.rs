//! What a scenario works with: one run of it against one subject.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::stopped::{Stop, unconfirmed};
use super::subject::{Manner, Subject};
use super::target::{Stopping, Target};
use crate::catalog::Feature;
use crate::client::{Ask, Client, Connection, Load, Outcome, Pending, back_to_back, connect_storm};
use crate::link::{Link, Place};
use crate::process::{self, Launch, Listening, Spawned, StartError};
use crate::recorder::Recorder;
use crate::timeline::{Event, Param, ProcessId, RequestId, Role};

/// How long a precondition is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a load may take to get going that a rate limiter slows.
const LIMITED_WITHIN: Duration = Duration::from_secs(8);
/// Pause between two looks at metrics, or at the kernel's table.
const LOOK: Duration = Duration::from_millis(10);
/// So many looks in a row show that a connection is gone, and not merely on its way.
const GONE: u32 = 100;

/// One run of one scenario against one subject.
pub struct Run<'s> {
    /// Where everything is recorded.
    pub recorder: Recorder,
    /// The client.
    pub client: Client,
    /// What is under test.
    pub subject: &'s Subject,
    /// Parameters of the scenario.
    pub params: BTreeMap<Param, f64>,
    /// A folder of its own, removed afterwards.
    pub folder: tempfile::TempDir,
    link: Option<Link>,
    processes: ProcessId,
}

impl<'s> Run<'s> {
    /// Prepares a run.
    ///
    /// # Errors
    /// When no temporary folder can be made.
    pub fn new(recorder: Recorder, subject: &'s Subject, params: BTreeMap<Param, f64>) -> std::io::Result<Self> {
        Ok(Self {
            client: Client::new(recorder.clone()),
            recorder,
            subject,
            params,
            folder: tempfile::tempdir_in(process::guardian::run_folder())?,
            link: None,
            processes: 0,
        })
    }

    /// A parameter of the scenario.
    ///
    /// # Panics
    /// Where its table lacks it.
    pub fn param(&self, param: Param) -> f64 {
        let value = self.params.get(&param);
        *value.unwrap_or_else(|| panic!("the scenario asks for `{}`, which its table lacks", param.slug()))
    }

    /// A parameter that is a duration.
    ///
    /// # Panics
    /// As [`Self::param`].
    pub fn duration(&self, param: Param) -> Duration {
        Duration::from_secs_f64(self.param(param))
    }

    /// Whether the subject can do this.
    pub fn has(&self, feature: Feature) -> bool {
        self.subject.has(feature)
    }

    /// The signal that stops the subject.
    pub fn stop_signal(&self) -> Signal {
        self.subject.stop_signal()
    }

    /// Notes that a precondition holds.
    pub fn confirmed(&self, what: &str) {
        self.recorder.record(Event::Confirmed { what: what.to_owned() });
    }

    /// Puts the client, and whatever is started from now on, at the two ends of a link with this delay.
    ///
    /// # Errors
    /// The run is skipped where no link can be made.
    pub async fn over_link(&mut self, round_trip: Duration) -> Result<(), Stop> {
        let made = tokio::task::spawn_blocking(move || Link::new(round_trip)).await;
        let link = made.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        self.client = self.client.at(&link.client);
        self.link = Some(link);
        Ok(())
    }

    /// Makes sure that the link has delayed everything, and nothing for much longer than it should.
    ///
    /// # Errors
    /// When it was `slack` late, or more.
    pub fn link_in_time(&self, slack: Duration) -> Result<(), Stop> {
        match self.link.as_ref().map(Link::latest) {
            Some(late) if late >= slack => Err(unconfirmed("the link is in time", format!("it was {late:.1?} late"))),
            _ => Ok(()),
        }
    }

    /// Where the server is, seen over the link, where there is one.
    pub(super) fn over(&self) -> Option<IpAddr> {
        self.link.as_ref().map(|link| link.server_address)
    }

    /// Where the server runs.
    pub(super) fn place(&self) -> Place {
        self.link.as_ref().map_or(Place::HERE, |link| link.server.clone())
    }

    /// The address at which the client finds the server.
    fn server_ip(&self) -> IpAddr {
        self.over().unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// Starts the subject and makes sure that it is the one that answers.
    ///
    /// # Errors
    /// When it does not start, or somebody else answers.
    pub async fn start(&mut self) -> Result<Target, Stop> {
        if let Manner::Stranger(stranger) = &self.subject.manner {
            self.port_is_free(stranger.port).await?;
        }
        self.start_with(&[]).await
    }

    /// As [`Self::start`], with variables on top of the scenario's.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(&mut self, more: &[(&str, &str)]) -> Result<Target, Stop> {
        let mut process = self.spawn(more)?;
        let subject = self.subject;
        let (address, listening) = match &subject.manner {
            Manner::Contract => {
                let listening = process.listening().await?;
                let address = SocketAddr::from((self.server_ip(), listening.port));
                self.greet(address, listening.instance.as_deref()).await?;
                (address, listening)
            }
            Manner::Stranger(stranger) => {
                let address = self.meet(&process, stranger).await?;
                (address, Listening { port: address.port(), admin_port: None, instance: None })
            }
        };
        self.target(process, address, listening)
    }

    /// A process that was found to answer at an address.
    ///
    /// # Errors
    /// When somebody else listens there as well.
    pub fn target(&self, process: Spawned, address: SocketAddr, listening: Listening) -> Result<Target, Stop> {
        let listeners = process.tree().listeners(address);
        if matches!(self.subject.manner, Manner::Stranger(_))
            && let Some(other) = listeners.strangers.first()
        {
            return Err(Stop::SharedPort { port: listening.port, others: process::see(*other) });
        }
        self.recorder.record(Event::Listening {
            process: process.id,
            port: listening.port,
            admin_port: listening.admin_port,
            instance: listening.instance,
        });
        let admin = listening.admin_port.map(|port| SocketAddr::from((self.server_ip(), port)));
        let granted =
            [Param::ShutdownDelay, Param::DrainTimeout].into_iter().filter_map(|param| self.params.get(&param));
        let longest = Duration::from_secs_f64(granted.sum::<f64>()) + Duration::from_secs(5);
        let stop = Stopping { to: self.subject.addressee(), longest, ask: self.subject.ask(Role::AfterExit) };
        Ok(Target::new(address, admin, process, &self.recorder, &self.client, listeners, stop))
    }

    /// Starts a successor on this port; `None` where it ends or waits instead of listening, or a child of its
    /// predecessor still answers there, which the timeline tells.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_successor(&mut self, port: &str) -> Result<Option<Target>, Stop> {
        match self.start_with(&[("PORT", port)]).await {
            Ok(target) => Ok(Some(target)),
            Err(
                Stop::Start(StartError::Exited { .. } | StartError::Silent { .. } | StartError::NeverListened { .. })
                | Stop::Elsewhere { .. }
                | Stop::Impostor { .. }
                | Stop::SharedPort { .. },
            ) => Ok(None),
            Err(stop) => Err(stop),
        }
    }

    /// Starts the process without waiting for anything.
    ///
    /// # Errors
    /// When the program cannot be executed.
    pub fn spawn(&mut self, more: &[(&str, &str)]) -> Result<Spawned, Stop> {
        self.processes += 1;
        let mut launch: Launch = self.subject.launch.clone();
        if let Some(link) = &self.link {
            launch.place = link.server.clone();
        }
        if matches!(self.subject.manner, Manner::Contract) {
            launch.env.insert("PORT".to_owned(), "0".to_owned());
            launch.env.insert("ADMIN_PORT".to_owned(), "0".to_owned());
            if self.link.is_some() {
                launch.env.insert("HOST".to_owned(), self.server_ip().to_string());
                launch.env.insert("ADMIN_HOST".to_owned(), self.server_ip().to_string());
            }
            let variables =
                self.params.iter().filter_map(|(param, value)| Some((param.variable()?, value.to_string())));
            launch.env.extend(variables);
            launch.env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        }
        Ok(process::start(&launch, self.processes, &self.recorder)?)
    }

    async fn greet(&self, address: SocketAddr, instance: Option<&str>) -> Result<(), Stop> {
        let connecting = self.client.connect(address, Role::Warmup).await;
        let mut connection = connecting
            .map_err(|why| unconfirmed("the server answers", format!("connecting to {address}: {}", why.words())))?;
        let answer = connection.ask(self.subject.ask(Role::Warmup).patience(PATIENCE)).await;
        if answer.outcome != Outcome::Answered || answer.status != Some(200) {
            let status = answer.status.map_or(String::new(), |status| format!(" with status {status}"));
            return Err(unconfirmed("the server answers", format!("{}{status}", answer.outcome)));
        }
        match instance {
            Some(expected) if answer.instance.as_deref() != Some(expected) => Err(Stop::Impostor {
                expected: expected.to_owned(),
                found: answer.instance.unwrap_or_else(|| "somebody without an instance id".to_owned()),
            }),
            _ => Ok(()),
        }
    }

    /// Opens a connection and, where it can be used again, lets it answer once.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn used_connection(&self, target: &Target, role: Role) -> Result<Connection, Stop> {
        let mut connection = target.connect(role).await?;
        if !self.has(Feature::KeepAlive) {
            return Ok(connection);
        }
        let answer = connection.ask(self.subject.ask(Role::Warmup)).await;
        match answer.outcome {
            Outcome::Answered => Ok(connection),
            _ => Err(unconfirmed("a connection answers", answer.outcome.to_string())),
        }
    }

    /// Puts a request in flight on a connection that has answered before.
    ///
    /// # Errors
    /// When it is not in flight.
    pub async fn in_flight(&self, target: &Target, ask: Ask) -> Result<Pending, Stop> {
        let connection = self.used_connection(target, Role::Warmup).await?;
        let pending = connection.begin(ask).await;
        self.settle(target, &[pending.client_port], 1).await?;
        if pending.is_open() {
            self.confirmed("a request is in flight");
            Ok(pending)
        } else {
            Err(unconfirmed("a request is in flight", "it ended at once"))
        }
    }

    /// Puts a request in flight whose response has begun.
    ///
    /// # Errors
    /// When it has not.
    pub async fn responding(&self, target: &Target, ask: Ask) -> Result<Pending, Stop> {
        let pending = self.in_flight(target, ask).await?;
        self.begun(&pending).await?;
        Ok(pending)
    }

    /// Waits until the response has begun.
    ///
    /// # Errors
    /// When it does not.
    pub async fn begun(&self, pending: &Pending) -> Result<(), Stop> {
        match pending.answering(PATIENCE).await {
            true => Ok(()),
            false => Err(unconfirmed("a response has begun", format!("no head within {PATIENCE:?}"))),
        }
    }

    /// Waits until the server works on at least so many of the requests on these connections: by the kernel's word
    /// that it has read them all, and then by its own metrics, if it has any. These alone do not tell: they may
    /// still count requests that were answered a moment ago.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn settle(&self, target: &Target, client_ports: &[u16], at_least: usize) -> Result<(), Stop> {
        let what = format!("{at_least} requests in flight");
        self.read(target, client_ports, at_least).await?;
        if target.admin.is_some() && !self.metrics_say(target, |in_flight| in_flight >= at_least as u64).await? {
            return Err(unconfirmed(&what, format!("not by the server's metrics within {PATIENCE:?}")));
        }
        Ok(())
    }

    /// Asks, on a connection of its own each time, until readiness fails. Where it does not, or nobody listens any
    /// more, rules will say so.
    pub async fn not_ready(&self, target: &Target, until: Instant) {
        while Instant::now() < until {
            let Ok(mut connection) = target.try_connect(Role::Ready).await else { return };
            let ask = self.subject.ask_ready().patience(until - Instant::now());
            if connection.ask(ask).await.status == Some(503) {
                self.confirmed("the server says that it is not ready");
                return;
            }
            sleep(LOOK).await;
        }
    }

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
        let before = self.client.under_way();
        let sides = process::server_sides(target.process().place(), target.address.port())
            .map_err(|error| Stop::Io("reading the kernel's table of sockets", error))?;
        // An answer may have come that this side has not read yet.
        let waiting = process::clients_waiting(target.process().place(), target.address.port())
            .map_err(|error| Stop::Io("reading the kernel's table of sockets", error))?;
        // Still the same request after the look: so the look was at this one.
        let after = self.client.under_way();
        let read = sides.iter().filter(|side| side.accepted && side.unread == 0 && waiting.contains(&side.client_port));
        let requests: Vec<RequestId> = read
            .filter_map(|side| before.get(&side.client_port).filter(|id| after.get(&side.client_port) == Some(id)))
            .cloned()
            .collect();
        self.recorder.record(Event::Read { requests: requests.clone() });
        Ok(requests)
    }
}
