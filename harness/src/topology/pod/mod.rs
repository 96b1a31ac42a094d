//! Pods and their Service, as Kubernetes would have them, on loopback: the kubelet of each pod, the EndpointSlice and the
//! rules of each node are models; probes, hooks, signals and connections are real.
//!
//! Nothing stands between: clients look into the table of a node when they connect, as new connections do in the kernel of
//! a real one, and are connected to the process itself. What is played and what is not stands in `docs/pod-model.md`.

mod kubelet;
mod manifest;
mod proxy;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::driven::Clock;
use super::{FrontError, Member, Stage};
use crate::catalog::Topology;
use crate::catalog::manifest::Manifest;
use crate::client::Route;
use crate::model::kubelet::Hook;
use crate::model::service::Lags;
use crate::recorder::Recorder;
use crate::timeline::{Event, ProcessId};
use kubelet::Kubelet;
pub use kubelet::{Act, Ending};
use proxy::Proxies;

/// How long a pod may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long the nodes may take to hear of the first pods.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);
/// How long the controllers of a Deployment take from a pod that is ready to the deletion of the one that it replaces.
const DELETED_AFTER: Duration = Duration::from_millis(35);
/// Nodes at which users come in. One alone understates the race: two do not hear of an end at the same time.
const NODES: usize = 2;

/// Pods and their Service.
pub struct Pods {
    manifest: Arc<Manifest>,
    clock: Clock,
    proxies: Proxies,
    kubelets: BTreeMap<ProcessId, Kubelet>,
    recorder: Recorder,
    _stop: DropGuard,
}

/// The variables of the container in these manifests, but for its addresses.
pub async fn environment(topology: &Topology) -> Result<BTreeMap<String, String>, FrontError> {
    Ok(manifest::of(topology).await?.environment.clone())
}

impl Pods {
    pub(super) async fn start(topology: &Topology, stage: &Stage<'_>, members: &[Member]) -> Result<Self, FrontError> {
        let manifest = manifest::of(topology).await?;
        let (lags, seed) = (Lags::default(), jiff::Timestamp::now().as_microsecond().unsigned_abs());
        let line = format!("{}: {}; {NODES} nodes, seed {seed}", topology.name, words(&manifest));
        stage.recorder.record(Event::Log { process: stage.process, line });
        let stop = CancellationToken::new();
        let clock = Clock::new(stop.clone());
        let recorder = stage.recorder.clone();
        let proxies = Proxies::start(&clock, &recorder, lags, NODES, seed);
        let mut pods = Self { manifest, clock, proxies, kubelets: BTreeMap::new(), recorder, _stop: stop.drop_guard() };
        for member in members {
            pods.create(*member);
        }
        for member in members {
            pods.ready(*member).await?;
        }
        if pods.proxies.known(members, KNOWN_WITHIN).await {
            return Ok(pods);
        }
        Err(FrontError::Late { what: "every node knows the pods".to_owned(), within: KNOWN_WITHIN })
    }

    pub(super) fn route(&self) -> Route {
        self.proxies.route()
    }

    /// The process of a pod has started. Returns when the pod is ready.
    pub(super) async fn admit(&mut self, member: Member) -> Result<(), FrontError> {
        self.create(member);
        self.ready(member).await?;
        tokio::time::sleep(DELETED_AFTER).await;
        Ok(())
    }

    /// Deletes a pod. What is to be done to its process comes one after the other.
    pub(super) fn delete(&mut self, process: ProcessId) -> Option<Ending> {
        let ending = self.kubelets.remove(&process)?.delete();
        self.proxies.deleted(process);
        Some(ending)
    }

    fn create(&mut self, member: Member) {
        self.proxies.created(member);
        let kubelet = Kubelet::start(&self.clock, &self.manifest, member, &self.recorder, &self.proxies);
        self.kubelets.insert(member.process, kubelet);
    }

    async fn ready(&self, member: Member) -> Result<(), FrontError> {
        let Some(kubelet) = self.kubelets.get(&member.process) else { return Ok(()) };
        if kubelet.ready(READY_WITHIN).await {
            return Ok(());
        }
        Err(FrontError::Late { what: format!("the pod at {} is ready", member.address), within: READY_WITHIN })
    }
}

/// What a manifest says, in a few words.
fn words(manifest: &Manifest) -> String {
    let hook = match &manifest.pod.hook {
        Some(hook) => format!("preStop {}", hook_words(hook)),
        None => "no preStop hook".to_owned(),
    };
    format!("grace {:?}, {hook}", manifest.pod.grace)
}

/// A preStop hook in words.
fn hook_words(hook: &Hook) -> String {
    match hook {
        Hook::Sleep(long) => format!("sleep {long:?}"),
        Hook::Exec(command) => format!("exec {}", command.join(" ")),
        Hook::Get(get) => format!("httpGet {}", get.path),
    }
}
