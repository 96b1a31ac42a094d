//! What a scenario works with: a run, and the targets that it starts.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::catalog::{Feature, Server};
use crate::client::{Ask, Client, Connection, Pending, Raw};
use crate::process::{self, Exit, Launch, Spawned, StartError};
use crate::recorder::Recorder;
use crate::timeline::{Event, NotOpened, ProcessId, Role};

/// How long a precondition is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at a server's metrics.
const LOOK: Duration = Duration::from_millis(10);
/// What a server that reports no metrics gets to read a request that is written whole. Its connection has
/// answered before, and what is asked takes many times as long.
const SETTLE: Duration = Duration::from_millis(150);
/// Parameters that are variables of the contract.
const VARIABLES: [&str; 7] = [
    "shutdown_delay",
    "drain_timeout",
    "idle_linger",
    "max_in_flight",
    "header_timeout",
    "body_timeout",
    "keep_alive_timeout",
];

/// Why a scenario went no further.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// A precondition could not be established: there is no verdict.
    #[error("{what}: {why}")]
    Unconfirmed {
        /// The precondition.
        what: String,
        /// Why it does not hold.
        why: String,
    },
    /// The server did not start.
    #[error("the server {0}")]
    Start(#[from] StartError),
    /// Somebody else answers on the server's port.
    #[error(
        "the server says it is instance {expected}, but {found} answers on its port: is another one still running?"
    )]
    Stranger {
        /// Who was started.
        expected: String,
        /// Who answers.
        found: String,
    },
    /// The harness could not do its part.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
}

/// One run of one scenario against one server.
pub struct Run<'s> {
    /// Where everything is recorded.
    pub recorder: Recorder,
    /// The client.
    pub client: Client,
    /// Parameters of the scenario.
    pub params: BTreeMap<String, f64>,
    /// A folder of its own, removed afterwards.
    pub folder: tempfile::TempDir,
    server: &'s Server,
    processes: ProcessId,
}

/// A server that was started for a run. Dropping it kills its process group.
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its admin port is, if it has one.
    pub admin: Option<SocketAddr>,
    process: Spawned,
    recorder: Recorder,
    client: Client,
    listener: watch::Sender<bool>,
    watcher: Option<AbortOnDropHandle<()>>,
    longest: Duration,
}

impl<'s> Run<'s> {
    /// Prepares a run.
    ///
    /// # Errors
    /// When no temporary folder can be made.
    pub fn new(recorder: Recorder, server: &'s Server, params: BTreeMap<String, f64>) -> std::io::Result<Self> {
        Ok(Self {
            client: Client::new(recorder.clone()),
            recorder,
            params,
            folder: tempfile::tempdir_in(process::guardian::run_folder())?,
            server,
            processes: 0,
        })
    }

    /// A parameter of the scenario; every one that a scenario asks for is in its table.
    pub fn param(&self, name: &str) -> f64 {
        self.params.get(name).copied().unwrap_or_default()
    }

    /// A parameter that is a duration.
    pub fn duration(&self, name: &str) -> Duration {
        Duration::from_secs_f64(self.param(name))
    }

    /// Whether the server can do this.
    pub fn has(&self, feature: Feature) -> bool {
        self.server.has(feature)
    }

    /// Starts the server on ports of the system's choice and makes sure that it is the one that answers.
    ///
    /// # Errors
    /// When it does not start, or somebody else answers.
    pub async fn start(&mut self) -> Result<Target, Stop> {
        self.start_with(&[]).await
    }

    /// As [`Self::start`], with variables on top of the scenario's.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(&mut self, more: &[(&str, &str)]) -> Result<Target, Stop> {
        let mut process = self.spawn(more)?;
        let listening = process.listening().await?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listening.port));
        let warmup = match self.client.connect(address, Role::Warmup).await {
            Ok(mut connection) => connection.ask(Ask::get("/", Role::Warmup).patience(PATIENCE)).await,
            Err(why) => return Err(unconfirmed("the server answers", format!("connecting to {address}: {why:?}"))),
        };
        if warmup.status != Some(200) {
            return Err(unconfirmed("the server answers", format!("GET /: {:?} {:?}", warmup.outcome, warmup.status)));
        }
        if let (Some(expected), found) = (&listening.instance, warmup.instance)
            && found.as_ref() != Some(expected)
        {
            let found = found.unwrap_or_else(|| "somebody without an instance id".to_owned());
            return Err(Stop::Stranger { expected: expected.clone(), found });
        }
        self.recorder.record(Event::Listening {
            process: process.id,
            port: listening.port,
            admin_port: listening.admin_port,
            instance: listening.instance,
        });
        Ok(Target {
            address,
            admin: listening.admin_port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            process,
            recorder: self.recorder.clone(),
            client: self.client.clone(),
            listener: watch::Sender::new(true),
            watcher: None,
            longest: self.duration("shutdown_delay") + self.duration("drain_timeout") + Duration::from_secs(5),
        })
    }

    /// Starts a successor on this port; `None` where it ends instead of listening, which the timeline tells.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_successor(&mut self, port: &str) -> Result<Option<Target>, Stop> {
        match self.start_with(&[("PORT", port)]).await {
            Ok(target) => Ok(Some(target)),
            Err(Stop::Start(StartError::Exited { .. })) => Ok(None),
            Err(stop) => Err(stop),
        }
    }

    /// Starts the process without waiting for anything.
    ///
    /// # Errors
    /// When the program cannot be executed.
    pub fn spawn(&mut self, more: &[(&str, &str)]) -> Result<Spawned, Stop> {
        self.processes += 1;
        let mut env = self.server.spec.env.clone();
        env.insert("PORT".to_owned(), "0".to_owned());
        env.insert("ADMIN_PORT".to_owned(), "0".to_owned());
        for variable in VARIABLES {
            if let Some(value) = self.params.get(variable) {
                env.insert(variable.to_uppercase(), value.to_string());
            }
        }
        env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let launch = Launch { command: self.server.spec.run.clone(), folder: self.server.folder.clone(), env };
        Ok(process::start(&launch, self.processes, &self.recorder)?)
    }

    /// Notes that a precondition holds.
    pub fn confirmed(&self, what: &str) {
        self.recorder.record(Event::Confirmed { what: what.to_owned() });
    }

    /// Opens a connection and lets it answer once, so that it is certainly accepted.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn used_connection(&self, target: &Target, role: Role) -> Result<Connection, Stop> {
        let mut connection = target.connect(role).await?;
        let answer = connection.ask(Ask::get("/", Role::Warmup)).await;
        if answer.served() { Ok(connection) } else { Err(unconfirmed("a connection answers", format!("{answer:?}"))) }
    }

    /// Puts a request in flight on a connection that has answered before.
    ///
    /// # Errors
    /// When it is not in flight.
    pub async fn in_flight(&self, target: &Target, ask: Ask) -> Result<Pending, Stop> {
        let connection = self.used_connection(target, Role::Warmup).await?;
        let pending = connection.begin(ask).await;
        self.settle(target, 1).await?;
        if pending.is_open() {
            self.confirmed("a request is in flight");
            Ok(pending)
        } else {
            Err(unconfirmed("a request is in flight", "it ended at once"))
        }
    }

    /// Waits until the server works on at least so many requests: by its own metrics, or else for a moment.
    ///
    /// # Errors
    /// When its metrics do not get there.
    pub async fn settle(&self, target: &Target, requests: u64) -> Result<(), Stop> {
        if target.admin.is_none() {
            tokio::time::sleep(SETTLE).await;
            return Ok(());
        }
        let what = format!("{requests} requests in flight");
        if self.metrics_say(target, |in_flight| in_flight >= requests).await? {
            Ok(())
        } else {
            Err(unconfirmed(&what, format!("not by the server's metrics within {PATIENCE:?}")))
        }
    }

    /// Waits until the server's count of requests in flight is as wanted; `false` where it does not get there.
    ///
    /// # Errors
    /// When the server has no metrics.
    pub async fn metrics_say(&self, target: &Target, wanted: impl Fn(u64) -> bool) -> Result<bool, Stop> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut admin = target.connect_admin(Role::Metrics).await?;
        loop {
            let answer = admin.ask(Ask::get("/metrics", Role::Metrics)).await;
            let text = String::from_utf8_lossy(&answer.body);
            let value = text.lines().find_map(|line| line.strip_prefix("http_requests_in_flight "));
            let Some(in_flight) = value.and_then(|value| value.trim().parse().ok()) else {
                return Err(unconfirmed("metrics tell the requests in flight", format!("GET /metrics: {answer:?}")));
            };
            let met = wanted(in_flight);
            if met || tokio::time::Instant::now() > deadline {
                self.recorder.record(Event::InFlight { process: target.process.id, requests: in_flight });
                return Ok(met);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Target {
    /// Opens a connection to the traffic port.
    ///
    /// # Errors
    /// When that fails, although the server is expected to listen.
    pub async fn connect(&self, role: Role) -> Result<Connection, Stop> {
        self.try_connect(role).await.map_err(|why| unconfirmed("a connection is accepted", format!("{why:?}")))
    }

    /// Opens a connection to the traffic port, if that is possible.
    ///
    /// # Errors
    /// Tells refused from timed out.
    pub async fn try_connect(&self, role: Role) -> Result<Connection, NotOpened> {
        self.client.connect(self.address, role).await
    }

    /// Opens a connection to the traffic port, for bytes.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_raw(&self, role: Role) -> Result<Raw, Stop> {
        let connected = self.client.connect_raw(self.address, role).await;
        connected.map_err(|why| unconfirmed("a connection is accepted", format!("{why:?}")))
    }

    /// Opens a connection to the traffic port whose kernel buffers little.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_narrow(&self, role: Role, receive_buffer: u32) -> Result<Connection, Stop> {
        let connected = self.client.connect_narrow(self.address, role, receive_buffer).await;
        connected.map_err(|why| unconfirmed("a connection is accepted", format!("{why:?}")))
    }

    /// Opens a connection to the admin port.
    ///
    /// # Errors
    /// When that fails, or there is no admin port.
    pub async fn connect_admin(&self, role: Role) -> Result<Connection, Stop> {
        let admin = self.admin.ok_or_else(|| unconfirmed("the admin port answers", "the server has none"))?;
        let connected = self.client.connect(admin, role).await;
        connected.map_err(|why| unconfirmed("the admin port answers", format!("{why:?}")))
    }

    /// Sends a signal to the leader; `false` where it has ended already. The first one that is meant to stop it
    /// starts the watch on its listener.
    pub fn signal(&mut self, signal: Signal) -> bool {
        if self.watcher.is_none() && signal != Signal::SIGHUP {
            let (port, id) = (self.address.port(), self.process.id);
            let (recorder, listener) = (self.recorder.clone(), self.listener.clone());
            self.watcher = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                process::listener_closed(port).await;
                recorder.record(Event::ListenerClosed { process: id });
                listener.send_replace(false);
            })));
        }
        self.process.signal(signal, &self.recorder)
    }

    /// Waits until the listener has closed; `false` where it has not in time.
    pub async fn listener_closed(&self, within: Duration) -> bool {
        let mut listener = self.listener.subscribe();
        tokio::time::timeout(within, listener.wait_for(|open| !open)).await.is_ok()
    }

    /// Waits for the process to end, as long as its own deadlines can take and a little more.
    pub async fn exited(&self) -> Option<Exit> {
        let exit = self.process.exited(self.longest).await;
        if exit.is_some() {
            // Where no child holds the port, the table shows its end within milliseconds.
            self.listener_closed(Duration::from_millis(100)).await;
        }
        exit
    }

    /// Whether the process has ended.
    pub fn has_exited(&self) -> bool {
        self.process.exit().is_some()
    }

    /// Waits for the process to end, at most so long.
    pub async fn exited_within(&self, within: Duration) -> Option<Exit> {
        self.process.exited(within).await
    }

    /// Kills whatever is left of the process group.
    pub async fn kill(&self) {
        self.process.kill().await;
    }
}

/// A precondition does not hold.
pub fn unconfirmed(what: &str, why: impl Into<String>) -> Stop {
    Stop::Unconfirmed { what: what.to_owned(), why: why.into() }
}
