//! A server that was started for a run.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::Patience;
use super::stop::{Stop, unconfirmed};
use crate::client::{Ask, Client, Connection, Raw, Route};
use crate::process::{self, Addressee, Exit, Listeners, Spawned, Watch};
use crate::recorder::Recorder;
use crate::timeline::{Event, NotOpened, ProcessId, Role};

/// How long whoever is left may take to answer, or to stop when it is told so itself.
const LEFT: Duration = Duration::from_secs(3);

/// A server that was started for a run. Dropping it kills everything of this start.
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its admin port is, if it has one.
    pub admin: Option<SocketAddr>,
    instance: Option<String>,
    /// Where clients connect: to it, or to what stands before it.
    route: Route,
    process: Spawned,
    recorder: Recorder,
    client: Client,
    listener: watch::Sender<bool>,
    watcher: Option<Watch>,
    stop: Stopping,
    listeners: Listeners,
}

/// Where a server was found, and who listens there.
pub(super) struct Found {
    pub address: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// What it calls itself.
    pub instance: Option<String>,
    pub listeners: Listeners,
}

/// How a server is stopped, and what it is asked to see whether it is still there.
pub(super) struct Stopping {
    pub to: Addressee,
    pub longest: Duration,
    /// When it is known to be of no use to wait that long.
    pub patience: Option<Patience>,
    pub ask: Ask,
}

impl Target {
    pub(super) fn new(found: Found, process: Spawned, recorder: &Recorder, client: &Client, stop: Stopping) -> Self {
        let Found { address, admin, instance, listeners } = found;
        let target = Self {
            address,
            admin,
            instance,
            route: Route::One(address),
            process,
            recorder: recorder.clone(),
            client: client.clone(),
            listener: watch::Sender::new(true),
            watcher: None,
            stop,
            listeners,
        };
        target.note(&target.listeners);
        target
    }

    /// The same, with clients that come another way.
    pub(super) fn behind(self, route: Route) -> Self {
        Self { route, ..self }
    }

    /// Its number in the timeline.
    pub fn id(&self) -> ProcessId {
        self.process.id
    }

    /// What it calls itself, where it does.
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }

    /// The process itself.
    pub fn process(&self) -> &Spawned {
        &self.process
    }

    /// From now on nobody reads its output, and there is no room left in it.
    ///
    /// # Errors
    /// Where this machine does not allow that.
    pub async fn mute(&self) -> Result<(), Stop> {
        let muted = self.process.mute().await;
        muted.map_err(|error| Stop::Skipped(format!("its output cannot be filled here ({error}): it needs Linux")))
    }

    /// Holds the server: whatever comes from now on waits in the kernel.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets the server go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Breaks its listener for good.
    ///
    /// # Errors
    /// Where this machine does not allow that.
    pub fn break_listener(&mut self) -> Result<(), Stop> {
        self.watch();
        let broken = self.process.break_listener(self.address.port());
        broken.map_err(|error| {
            let way_out = "it needs Linux, and the right to trace the server: run it as root";
            Stop::Skipped(format!("its listener cannot be broken here ({error}); {way_out}"))
        })
    }

    /// Opens a connection to the traffic port.
    ///
    /// # Errors
    /// When that fails, although the server is expected to listen.
    pub async fn connect(&self, role: Role) -> Result<Connection, Stop> {
        self.try_connect(role).await.map_err(not_accepted)
    }

    /// Opens a connection to the traffic port, if that is possible.
    ///
    /// # Errors
    /// Tells refused from timed out.
    pub async fn try_connect(&self, role: Role) -> Result<Connection, NotOpened> {
        self.client.connect_by(&self.route, role).await
    }

    /// Whether a connection could not be opened because this program had no descriptor left.
    pub fn starved(&self) -> bool {
        self.client.starved()
    }

    /// Opens a connection to the traffic port, for bytes.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_raw(&self, role: Role) -> Result<Raw, Stop> {
        self.client.connect_raw(self.address, role).await.map_err(not_accepted)
    }

    /// Opens a connection to the traffic port whose kernel buffers little.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_narrow(&self, role: Role, receive_buffer: u32) -> Result<Connection, Stop> {
        self.client.connect_narrow(self.address, role, receive_buffer).await.map_err(not_accepted)
    }

    /// Opens a connection to the admin port.
    ///
    /// # Errors
    /// When that fails, or there is no admin port.
    pub async fn connect_admin(&self, role: Role) -> Result<Connection, Stop> {
        let admin = self.admin.ok_or_else(|| unconfirmed("the admin port answers", "the server has none"))?;
        let connected = self.client.connect(admin, role).await;
        connected.map_err(|why| unconfirmed("the admin port answers", why.words()))
    }

    /// Sends a signal to the leader, or to whoever else it is that is to get signals; `false` where the leader has
    /// ended already. The first one that is meant to stop it starts the watch on its listener.
    pub fn signal(&mut self, signal: Signal) -> bool {
        self.signal_to(signal, self.stop.to)
    }

    /// As [`Self::signal`], to this addressee.
    pub fn signal_to(&mut self, signal: Signal, to: Addressee) -> bool {
        if signal != Signal::SIGHUP {
            self.watch();
        }
        self.process.signal(signal, if signal == Signal::SIGKILL { Addressee::Leader } else { to })
    }

    fn watch(&mut self) {
        if self.watcher.is_none() {
            let (port, id) = (self.address.port(), self.process.id);
            let (recorder, listener) = (self.recorder.clone(), self.listener.clone());
            self.watcher = Some(process::watch_listener(self.process.place(), port, move |seen_open| {
                let open_until_us = seen_open.map(|at| recorder.micros(at));
                recorder.record(Event::ListenerClosed { process: id, open_until_us });
                listener.send_replace(false);
            }));
        }
    }

    /// Waits until the listener has closed; `false` where it has not in time.
    pub async fn listener_closed(&self, within: Duration) -> bool {
        let mut listener = self.listener.subscribe();
        tokio::time::timeout(within, listener.wait_for(|open| !open)).await.is_ok()
    }

    /// Waits for the process to end, as long as its own deadlines can take and a little more. Where the port is still
    /// open then, the timeline tells who holds it, and whether they answer.
    pub async fn exited(&self) -> Option<Exit> {
        let exit = match &self.stop.patience {
            Some(patience) => tokio::select! {
                exit = self.process.exited(self.stop.longest) => exit,
                () = patience.runs_out() => {
                    self.recorder.record(Event::WaitedNoLonger { process: self.id() });
                    None
                }
            },
            None => self.process.exited(self.stop.longest).await,
        };
        // Where no child holds the port, the table shows its end at the next look.
        let closed = self.listener_closed(if exit.is_some() { Duration::from_secs(2) } else { Duration::ZERO }).await;
        if exit.is_some() && !closed && self.watcher.is_some() {
            self.note(&self.process.tree().listeners(self.address));
            if let Ok(mut connection) = self.client.connect(self.address, Role::AfterExit).await {
                connection.ask(self.stop.ask.clone().patience(LEFT)).await;
            }
        }
        exit
    }

    /// Where the leader does not listen itself, and neither it nor whoever listens has ended: sends the signal to the
    /// listeners themselves. Where they stop then, the leader had not passed it on.
    pub async fn signal_past(&self, signal: Signal) {
        let leader = self.process.pid();
        if self.has_exited() || self.listeners.own.contains(&leader) || !*self.listener.borrow() {
            return;
        }
        let listeners = self.process.tree().listeners(self.address);
        self.note(&listeners);
        self.recorder.record(Event::SignalPast { process: self.id(), name: signal.as_str().to_owned() });
        for listener in listeners.own {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(listener), signal);
        }
        self.listener_closed(LEFT).await;
    }

    /// Whoever listened when it had started.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    fn note(&self, listeners: &Listeners) {
        let leader = process::see(self.process.pid());
        self.recorder.record(Event::Listeners { process: self.id(), leader, listeners: listeners.seen() });
    }

    /// Whether the process has ended.
    pub fn has_exited(&self) -> bool {
        self.process.exit().is_some()
    }

    /// As [`Self::exited`], but for all the time that it has, whatever is known of it.
    pub async fn exited_at_last(&mut self) -> Option<Exit> {
        self.stop.patience = None;
        self.exited().await
    }

    /// Waits for the process to end, at most so long.
    pub async fn exited_within(&self, within: Duration) -> Option<Exit> {
        self.process.exited(within).await
    }

    /// Kills everything of this start.
    pub async fn kill(&self) {
        self.process.kill().await;
    }
}

fn not_accepted(why: NotOpened) -> Stop {
    unconfirmed("a connection is accepted", why.words())
}
