//! What a scenario works with: one run of it against one subject.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::discover::takes_signal;
use super::stop::{Stop, unconfirmed};
use super::subject::{Manner, Subject};
use super::target::{Found, Stopping, Target};
use crate::catalog::{Feature, Topology};
use crate::client::{Ask, Client, Connection, Outcome, Pending};
use crate::link::{Link, Place};
use crate::process::{self, Launch, Listening, Spawned, StartError};
use crate::recorder::Recorder;
use crate::timeline::{Event, Param, ProcessId, Role, Slot};
use crate::topology::Front;

/// How long a precondition is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at metrics, or at the kernel's table.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// How much longer than its idle connections may hold it a server is waited for that is known not to end: more than the
/// slack of rules.
const HOPELESS: Duration = Duration::from_secs(4);
/// So often another port is tried, where somebody has taken the one that was free.
const OTHER_PORTS: u32 = 3;
/// So many requests are sent until one is in flight for certain.
const ATTEMPTS: u32 = 3;

fn free_port() -> Result<u16, Stop> {
    process::free_port().map_err(|error| Stop::Io("looking for a free port", error))
}

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
    /// What stands between the client and what is under test.
    pub topology: Topology,
    link: Option<Link>,
    pub(super) processes: ProcessId,
    /// What stands before a single process, until the run is over.
    pub(super) front: Option<Front>,
    /// Variables that the topology has for what is started.
    pub(super) environment: BTreeMap<String, String>,
    /// The place in a fleet of what is started next.
    pub(super) slot: Option<Slot>,
    /// The port that a server which has to be told one is given.
    port: Option<u16>,
    /// How often that was another one, because somebody else had it.
    moved: u32,
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
            topology: Topology::direct(),
            link: None,
            processes: 0,
            front: None,
            environment: BTreeMap::new(),
            slot: None,
            port: match &subject.manner {
                Manner::Contract => None,
                Manner::Stranger(stranger) => Some(stranger.port),
            },
            moved: 0,
        })
    }

    /// The same run, behind this topology.
    pub fn behind(self, topology: &Topology) -> Self {
        Self { topology: topology.clone(), ..self }
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

    /// The port that the subject was told to listen on, where it has to be told.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Starts the subject and makes sure that it is the one that answers. Where somebody else has taken its port
    /// meanwhile, it is started again on another one.
    ///
    /// # Errors
    /// When it does not start, or somebody else answers.
    pub async fn start(&mut self) -> Result<Target, Stop> {
        if !self.topology.is_direct() {
            return self.start_behind().await;
        }
        loop {
            match self.start_once().await {
                Err(stop) if self.moves(&stop)? => {}
                started => return started,
            }
        }
    }

    async fn start_once(&mut self) -> Result<Target, Stop> {
        if let Some(port) = self.port {
            self.port_is_free(port).await?;
        }
        self.start_with(&[]).await
    }

    /// As [`Self::start`], on a port that the kernel gives to no client: a successor can be given the same one.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_before_successor(&mut self) -> Result<Target, Stop> {
        if matches!(self.subject.manner, Manner::Stranger(_)) {
            return self.start().await;
        }
        let mut others = 0;
        loop {
            let port = free_port()?;
            match self.start_with(&[("PORT", &port.to_string())]).await {
                Err(stop) if stop.is_taken() && others < OTHER_PORTS => {}
                started => return started,
            }
            self.recorder.record(Event::PortTaken { process: self.processes, port });
            others += 1;
        }
    }

    /// Chooses another port where somebody else has taken this one; `false` where that is not why it did not start, or
    /// the subject does not take another.
    ///
    /// # Errors
    /// When the system has none.
    pub fn moves(&mut self, stop: &Stop) -> Result<bool, Stop> {
        let may = stop.is_taken() && self.moved < OTHER_PORTS && self.subject.takes_port();
        let Some(port) = self.port.filter(|_| may) else { return Ok(false) };
        self.recorder.record(Event::PortTaken { process: self.processes, port });
        self.port = Some(free_port()?);
        self.moved += 1;
        Ok(true)
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
                let port = self.port.unwrap_or(stranger.port);
                let address = self.meet(&process, port, stranger).await?;
                takes_signal(&process, address, stranger).await;
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
            instance: listening.instance.clone(),
        });
        let admin = listening.admin_port.map(|port| SocketAddr::from((self.server_ip(), port)));
        let granted =
            [Param::ShutdownDelay, Param::DrainTimeout].into_iter().filter_map(|param| self.params.get(&param));
        let longest = Duration::from_secs_f64(granted.sum::<f64>()) + Duration::from_secs(5);
        let longest = match &self.subject.manner {
            Manner::Stranger(stranger) if !stranger.ends => longest.min(self.duration(Param::IdleLinger) + HOPELESS),
            _ => longest,
        };
        let stop = Stopping {
            to: self.subject.addressee(),
            longest,
            patience: self.subject.patience().cloned(),
            ask: self.subject.ask(Role::AfterExit),
        };
        let at = Found { address, admin, instance: listening.instance, listeners };
        Ok(Target::new(at, process, &self.recorder, &self.client, stop))
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
        launch.slot = self.slot;
        if let Some(link) = &self.link {
            launch.place = link.server.clone();
        }
        if matches!(self.subject.manner, Manner::Contract) {
            launch.env.extend(self.environment.clone());
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
        if let Some(port) = self.port {
            let port = port.to_string();
            launch.command.iter_mut().for_each(|part| *part = part.replace("{port}", &port));
            launch.env.insert("PORT".to_owned(), port);
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
        // Whether a balancer keeps it is the balancer's affair.
        if !self.has(Feature::KeepAlive) || self.front.is_some() {
            return Ok(connection);
        }
        let answer = connection.ask(self.subject.ask(Role::Warmup)).await;
        match answer.outcome {
            Outcome::Answered => Ok(connection),
            _ => Err(unconfirmed("a connection answers", answer.outcome.to_string())),
        }
    }

    /// Opens so many connections and, where they can be used again, lets each answer once: some side by side, because
    /// what answers slowly takes its time for each.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn used_connections(&self, target: &Target, role: Role, count: usize) -> Result<Vec<Connection>, Stop> {
        /// No more than fit into a short accept queue.
        const SIDE_BY_SIDE: usize = 20;
        let each = (0..count).map(|_| self.used_connection(target, role));
        futures_util::stream::iter(each).buffer_unordered(SIDE_BY_SIDE).try_collect().await
    }

    /// Puts a request in flight on a connection that has answered before. On a busy machine it may be answered before
    /// that is made sure: then another one follows.
    ///
    /// # Errors
    /// When it is not in flight.
    pub async fn in_flight(&self, target: &Target, ask: Ask) -> Result<Pending, Stop> {
        for _ in 0..ATTEMPTS {
            let connection = self.used_connection(target, Role::Warmup).await?;
            let pending = connection.begin(ask.clone()).await;
            let port = [pending.client_port];
            tokio::select! {
                settled = self.settle(target, &port, 1) => {
                    if pending.is_open() {
                        settled?;
                        self.confirmed("a request is in flight");
                        return Ok(pending);
                    }
                }
                () = pending.ended() => {}
            }
        }
        Err(unconfirmed("a request is in flight", format!("{ATTEMPTS} have ended at once")))
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
        if self.front.is_none() {
            self.read(target, client_ports, at_least).await?;
        } else if target.admin.is_none() {
            return Err(unconfirmed(&what, "behind a balancer only the metrics of a server tell, and it has none"));
        }
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
            if connection.ask(ask).await.status.is_some_and(|status| self.subject.is_unready(status)) {
                self.confirmed("the server says that it is not ready");
                return;
            }
            sleep(LOOK).await;
        }
    }
}
