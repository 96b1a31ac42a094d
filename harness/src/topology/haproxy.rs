//! HAProxy, with one of the configurations of `lb-configs/haproxy`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::configured::{Configured, LOOK, Program, children, gone, program_of};
use super::{FrontError, Member, Stage, io, spare_places};
use crate::catalog::{Topology, Withdrawal};
use crate::client::Route;
use crate::process::{Addressee, Spawned};
use crate::recorder::Recorder;
use crate::timeline::{EndpointState, Event};

const HAPROXY: Program = Program {
    name: "haproxy",
    install: "apt-get install haproxy, or ./scripts/setup.sh",
    test: &["-c", "-q", "-f", "haproxy.cfg"],
    run: &["-W", "-db", "-f", "haproxy.cfg"],
    without: |line| format!("{line} disabled"),
};

/// Its socket, as it stands in each of the configurations.
const SOCKET: &str = "haproxy.sock";
/// How long it may take until it sees an instance as it is.
const SEES_WITHIN: Duration = Duration::from_secs(20);
/// How long the old process may take to end after a reload, as the configurations say (hard-stop-after), and a little more.
const OLD_ENDS_WITHIN: Duration = Duration::from_secs(95);
/// Time for an answer on its socket.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Who it is in the timeline.
const OBSERVER: &str = "haproxy";

/// An HAProxy that runs.
pub struct Haproxy {
    process: Spawned,
    configured: Configured,
    withdraw: Withdrawal,
    /// The places that get nothing.
    without: BTreeSet<usize>,
    /// Backend and name of the server in each place.
    servers: Vec<(String, String)>,
    socket: PathBuf,
    members: Arc<Mutex<Vec<Member>>>,
    seen: watch::Receiver<Vec<Option<EndpointState>>>,
    recorder: Recorder,
    _observer: AbortOnDropHandle<()>,
    _agent: Option<Spawned>,
}

impl Haproxy {
    pub(super) async fn start(topology: &Topology, stage: &Stage<'_>, members: &[Member]) -> Result<Self, FrontError> {
        let configured = Configured::new(&HAPROXY, topology, stage, members)?;
        let without = spare_places(&configured.instances, members);
        configured.write(&without)?;
        let agent = match &topology.spec.agent[..] {
            [] => None,
            [program, arguments @ ..] => {
                let mut command = vec![program_of(topology, program)];
                command.extend(arguments.iter().cloned());
                let addresses = configured.others.iter().take(1).chain(&configured.instances);
                command.extend(addresses.map(ToString::to_string));
                Some(configured.spawn(command, stage, stage.process + 1)?)
            }
        };
        let process = configured.start(stage).await?;
        let servers = servers(configured.text(), &configured.instances);
        let socket = configured.folder.join(SOCKET);
        let members = Arc::new(Mutex::new(members.to_vec()));
        let recorder = stage.recorder.clone();
        let (sender, seen) = watch::channel(vec![None; members.lock().unwrap_or_else(PoisonError::into_inner).len()]);
        let observer = observe(socket.clone(), servers.clone(), members.clone(), sender, recorder.clone());
        let withdraw = topology.spec.withdraw;
        let mut haproxy = Self {
            process,
            configured,
            withdraw,
            without,
            servers,
            socket,
            members,
            seen,
            recorder,
            _observer: AbortOnDropHandle::new(tokio::spawn(observer)),
            _agent: agent,
        };
        let places = haproxy.seen.borrow().len();
        for place in 0..places {
            haproxy.sees(place, EndpointState::Up).await?;
        }
        Ok(haproxy)
    }

    pub(super) fn route(&self) -> Route {
        Route::One(self.configured.listen)
    }

    pub(super) async fn withdraw(&mut self, place: usize) -> Result<(), FrontError> {
        match self.withdraw {
            Withdrawal::RuntimeApi => {
                self.set_state(place, "drain").await?;
                self.sees(place, EndpointState::Draining).await?;
                self.idle(place).await
            }
            Withdrawal::Reload => {
                self.without.insert(place);
                self.configured.write(&self.without)?;
                self.reload().await
            }
            _ => Ok(()), // by its own readiness, once it has the signal
        }
    }

    pub(super) async fn admit(&mut self, place: usize, member: Member) -> Result<(), FrontError> {
        if let Some(slot) = self.members.lock().unwrap_or_else(PoisonError::into_inner).get_mut(place) {
            *slot = member;
        }
        match self.withdraw {
            Withdrawal::RuntimeApi => self.set_state(place, "ready").await?,
            Withdrawal::Reload => {
                self.without.remove(&place);
                self.configured.write(&self.without)?;
                self.reload().await?;
            }
            _ => {}
        }
        self.sees(place, EndpointState::Up).await
    }

    /// Returns when the old process has ended: until then it sends requests as its configuration says.
    pub(super) async fn reload(&mut self) -> Result<(), FrontError> {
        self.configured.test().await?;
        let old = children(&self.process);
        self.recorder.record(Event::Reloaded { process: self.process.id });
        self.process.signal(Signal::SIGUSR2, Addressee::Leader);
        match gone(&self.process, &old, OLD_ENDS_WITHIN).await {
            true => Ok(()),
            false => {
                let what = "the process of HAProxy that a reload replaces has ended".to_owned();
                Err(FrontError::Late { what, within: OLD_ENDS_WITHIN })
            }
        }
    }

    pub(super) async fn stop(self) {
        self.process.kill().await;
    }

    async fn set_state(&self, place: usize, state: &str) -> Result<(), FrontError> {
        let Some((backend, server)) = self.servers.get(place) else { return Ok(()) };
        let said = self.ask(&format!("set server {backend}/{server} state {state}")).await?;
        match said.trim() {
            "" => Ok(()),
            said => Err(FrontError::Refused {
                program: HAPROXY.name,
                file: format!("`set server {backend}/{server} state {state}`"),
                said: vec![said.to_owned()],
            }),
        }
    }

    /// Waits until it sees an instance so.
    async fn sees(&mut self, place: usize, state: EndpointState) -> Result<(), FrontError> {
        let as_wanted = |seen: &Vec<Option<EndpointState>>| seen.get(place) == Some(&Some(state));
        match tokio::time::timeout(SEES_WITHIN, self.seen.wait_for(as_wanted)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let what = format!("HAProxy sees instance {} as {}", place + 1, state.word());
                Err(FrontError::Late { what, within: SEES_WITHIN })
            }
        }
    }

    /// Waits until no request is under way at an instance: `scur`, the fifth column of `show stat`.
    async fn idle(&self, place: usize) -> Result<(), FrontError> {
        let Some((backend, server)) = self.servers.get(place) else { return Ok(()) };
        let deadline = Instant::now() + OLD_ENDS_WITHIN;
        loop {
            let said = self.ask(&format!("show stat {backend} 4 -1")).await?;
            let line = said
                .lines()
                .map(|line| line.split(',').collect::<Vec<_>>())
                .find(|line| line.get(1) == Some(&&**server));
            if line.and_then(|line| line.get(4).copied()) == Some("0") {
                return Ok(());
            }
            if Instant::now() > deadline {
                let what = format!("no request is under way at instance {}", place + 1);
                return Err(FrontError::Late { what, within: OLD_ENDS_WITHIN });
            }
            sleep(LOOK).await;
        }
    }

    async fn ask(&self, command: &str) -> Result<String, FrontError> {
        ask(&self.socket, command).await.map_err(io(format!("asking HAProxy: `{command}`")))
    }
}

/// Asks on its socket.
async fn ask(socket: &Path, command: &str) -> std::io::Result<String> {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok(said)
    };
    tokio::time::timeout(ANSWERS_WITHIN, asked).await?
}

/// Looks again and again how it sees the instances, and records what has changed.
async fn observe(
    socket: PathBuf,
    servers: Vec<(String, String)>,
    members: Arc<Mutex<Vec<Member>>>,
    seen: watch::Sender<Vec<Option<EndpointState>>>,
    recorder: Recorder,
) {
    loop {
        if let Ok(said) = ask(&socket, "show servers state").await {
            let now = states(&said, &servers);
            let members = members.lock().unwrap_or_else(PoisonError::into_inner).clone();
            seen.send_if_modified(|seen| {
                let before = seen.clone();
                for (place, (before, member)) in before.iter().zip(&members).enumerate() {
                    let state = now.get(place).copied().flatten();
                    if let Some(state) = state
                        && *before != Some(state)
                    {
                        seen[place] = Some(state);
                        let observer = OBSERVER.to_owned();
                        recorder.record(Event::Endpoint { observer, process: member.process, state });
                    }
                }
                *seen != before
            });
        }
        sleep(LOOK).await;
    }
}

/// Backend and name of the server at each of these addresses.
fn servers(text: &str, instances: &[SocketAddr]) -> Vec<(String, String)> {
    let mut found = vec![(String::new(), String::new()); instances.len()];
    let mut backend = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["backend", name, ..] => backend = Some(name),
            ["frontend" | "listen" | "defaults" | "global", ..] => backend = None,
            ["server", name, address, ..] => {
                let place = instances.iter().position(|instance| instance.to_string() == address);
                if let (Some(place), Some(backend)) = (place, backend) {
                    found[place] = (backend.to_owned(), name.to_owned());
                }
            }
            _ => {}
        }
    }
    found
}

/// How it sees the servers, from its answer to `show servers state` (management guide of HAProxy, section 9.3).
fn states(said: &str, servers: &[(String, String)]) -> Vec<Option<EndpointState>> {
    let state = |(backend, server): &(String, String)| {
        let mut lines = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = lines.find(|line| line.get(1) == Some(&&**backend) && line.get(3) == Some(&&**server))?;
        let number = |column: usize| line.get(column)?.parse::<u32>().ok();
        /// Bits of the administrative state: maintenance, and drain, by whoever has asked for it.
        const MAINTENANCE: u32 = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;
        const DRAIN: u32 = 0x08 | 0x10;
        Some(match (number(5)?, number(6)?) {
            (_, administrative) if administrative & MAINTENANCE != 0 => EndpointState::Gone,
            (0, _) => EndpointState::Down,
            (1, _) => EndpointState::Starting,
            (2, administrative) if administrative & DRAIN == 0 => EndpointState::Up,
            _ => EndpointState::Draining,
        })
    };
    servers.iter().map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_how_it_sees_its_servers() {
        let said = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state more\n\
                    3 app 1 app1 127.0.0.1 2 0 1 1\n3 app 2 app2 127.0.0.1 2 8 1 1\n3 app 3 app3 127.0.0.1 0 0 1 1\n\
                    3 app 4 app4 127.0.0.1 3 0 1 1\n3 app 5 app5 127.0.0.1 0 4 1 1\n4 readiness1 1 app1 127.0.0.1 0 0 1 1\n";
        let servers: Vec<_> = (1..=6).map(|n| ("app".to_owned(), format!("app{n}"))).collect();
        use EndpointState::*;
        let expected = [Some(Up), Some(Draining), Some(Down), Some(Draining), Some(Gone), None];
        assert_eq!(states(said, &servers), expected);
    }

    #[test]
    fn the_server_of_an_instance_is_that_of_a_backend() {
        let text = "listen readiness1\n    server one 127.0.0.1:1\nbackend app\n    default-server check\n    server app1 127.0.0.1:1 port 5\n";
        let instances = [([127, 0, 0, 1], 1).into()];
        assert_eq!(servers(text, &instances), [("app".to_owned(), "app1".to_owned())]);
    }
}
