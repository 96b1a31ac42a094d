//! The kubelet of one pod: it asks its probes, runs its hook, and says what is to be done to its process.

use std::process::Stdio;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::hook_words;
use super::proxy::Proxies;
use crate::catalog::manifest::Manifest;
use crate::model::kubelet::{Get, Hook, Input, Kind, Output, Pod, Port, Probe, Settings};
use crate::process::guardian;
use crate::recorder::Recorder;
use crate::timeline::{Event, HookEnd};
use crate::topology::Member;
use crate::topology::driven::{Clock, Driven};
use crate::topology::probe::{Probed, probe};

/// How the kubelet calls itself, in probes and in hooks.
const USER_AGENT: &str = "kube-probe/1.34";
/// A hook that asks waits as long as its grace; nobody needs more.
const HOOK_WITHIN: Duration = Duration::from_secs(86_400);

/// What is to be done to the process of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It gets the signal that stops it.
    Terminate,
    /// It gets SIGKILL.
    Kill,
}

/// The kubelet of one pod.
pub(super) struct Kubelet {
    pod: Arc<Driven<Pod>>,
    acts: mpsc::UnboundedReceiver<Act>,
    ready: watch::Receiver<bool>,
}

/// The end of a pod: what is to be done to its process, one after the other.
pub struct Ending {
    pod: Arc<Driven<Pod>>,
    acts: mpsc::UnboundedReceiver<Act>,
}

/// What the model says is done here.
struct Hands {
    pod: Weak<Driven<Pod>>,
    clock: Clock,
    settings: Settings,
    member: Member,
    recorder: Recorder,
    proxies: Proxies,
    acts: mpsc::UnboundedSender<Act>,
    ready: watch::Sender<bool>,
    /// Why the hook failed, where it did.
    failed: Arc<OnceLock<String>>,
    /// Ends what the hook has begun.
    hook: CancellationToken,
}

impl Kubelet {
    pub fn start(clock: &Clock, manifest: &Manifest, member: Member, recorder: &Recorder, proxies: &Proxies) -> Self {
        let (acts, to_be_done) = mpsc::unbounded_channel();
        let (ready, is_ready) = watch::channel(false);
        let hands = |pod| Hands {
            pod,
            clock: clock.clone(),
            settings: manifest.pod.clone(),
            member,
            recorder: recorder.clone(),
            proxies: proxies.clone(),
            acts,
            ready,
            failed: Arc::default(),
            hook: CancellationToken::new(),
        };
        let settings = manifest.pod.clone();
        let pod = Driven::start(
            clock,
            |now| Pod::new(settings, now),
            |pod| {
                let hands = hands(pod);
                Box::new(move |output| hands.carry_out(output))
            },
        );
        Self { pod, acts: to_be_done, ready: is_ready }
    }

    /// Waits until the pod is ready; `false` where it is not within this time.
    pub async fn ready(&self, within: Duration) -> bool {
        let mut ready = self.ready.clone();
        tokio::time::timeout(within, ready.wait_for(|ready| *ready)).await.is_ok_and(|waited| waited.is_ok())
    }

    /// The pod is deleted.
    pub fn delete(self) -> Ending {
        self.pod.apply(Input::Deleted);
        Ending { pod: self.pod, acts: self.acts }
    }
}

impl Ending {
    /// What is to be done next.
    pub async fn next(&mut self) -> Option<Act> {
        self.acts.recv().await
    }

    /// The process has ended.
    pub fn exited(self) {
        self.pod.apply(Input::Exited);
    }
}

impl Hands {
    fn carry_out(&self, output: Output) {
        let process = self.member.process;
        match output {
            Output::Probe(kind) => self.probe(kind),
            Output::Ready(ready) => {
                self.proxies.ready(process, ready);
                self.ready.send_replace(ready);
            }
            Output::HookBegins => self.begin_hook(),
            Output::HookEnds { cut } => {
                self.hook.cancel();
                let why = match (cut, self.failed.get()) {
                    (true, _) => HookEnd::OutOfGrace,
                    (false, Some(reason)) => HookEnd::Failed(reason.clone()),
                    (false, None) => HookEnd::Done,
                };
                self.recorder.record(Event::HookEnded { process, why });
            }
            Output::Terminate => self.act(Act::Terminate),
            Output::Kill => self.act(Act::Kill),
            Output::Gone => self.proxies.gone(process),
        }
    }

    /// Whoever does not listen any more has seen the end of the process.
    fn act(&self, act: Act) {
        let _ = self.acts.send(act);
    }

    fn probe(&self, kind: Kind) {
        let Settings { startup, readiness, liveness, .. } = &self.settings;
        let asked = match kind {
            Kind::Startup => startup,
            Kind::Readiness => readiness,
            Kind::Liveness => liveness,
        };
        let Some(Probe { get, timeout, .. }) = asked.clone() else { return };
        let (address, pod) = (self.member.port(get.port), self.pod.clone());
        self.clock.spawn(async move {
            let ok = match address {
                Some(address) => succeeds(probe(address, &get.path, USER_AGENT, timeout).await),
                None => false,
            };
            tell(&pod, Input::Probed(kind, ok));
        });
    }

    fn begin_hook(&self) {
        let Some(hook) = self.settings.hook.clone() else { return };
        self.recorder.record(Event::Hook { process: self.member.process, action: hook_words(&hook) });
        let (pod, member) = (self.pod.clone(), self.member);
        let (failed, over) = (self.failed.clone(), self.hook.clone());
        self.clock.spawn(async move {
            let done = async {
                match &hook {
                    Hook::Sleep(_) => return, // it wakes by itself
                    Hook::Exec(command) => exec(command).await,
                    Hook::Get(get) => ask(member, get).await,
                }
                .unwrap_or_else(|reason| drop(failed.set(reason)));
                tell(&pod, Input::HookOver);
            };
            over.run_until_cancelled(done).await;
        });
    }
}

fn tell(pod: &Weak<Driven<Pod>>, what: Input) {
    if let Some(pod) = pod.upgrade() {
        pod.apply(what);
    }
}

impl Member {
    fn port(&self, port: Port) -> Option<std::net::SocketAddr> {
        match port {
            Port::Traffic => Some(self.address),
            Port::Admin => self.admin,
        }
    }
}

/// As the kubelet sees it: from 200 to 399.
fn succeeds(probed: Probed) -> bool {
    matches!(probed, Probed::Answered(200..400))
}

async fn ask(member: Member, get: &Get) -> Result<(), String> {
    let address = member.port(get.port).ok_or("the server has no admin port")?;
    match probe(address, &get.path, USER_AGENT, HOOK_WITHIN).await {
        probed if succeeds(probed) => Ok(()),
        Probed::Answered(status) => Err(format!("{} answered {status}", get.path)),
        Probed::Failed | Probed::TimedOut => Err(format!("{} did not answer", get.path)),
    }
}

/// Runs the hook's command beside the process, as a process of its own, which it is in a container, too.
async fn exec(command: &[String]) -> Result<(), String> {
    let [program, arguments @ ..] = command else { return Ok(()) };
    let mut process = tokio::process::Command::new(program);
    process.args(arguments).envs(guardian::tag()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = process.kill_on_drop(true).status().await.map_err(|error| format!("{program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} ended with {status}")) }
}
