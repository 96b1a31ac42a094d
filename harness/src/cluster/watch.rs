//! Everything that the API says of a workload and its pods, as one stream of facts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::connect::Cluster;
use super::error::ClusterError;
use super::facts::{Endpoints, Fact, PodId, Pods, notice};
use super::follow::{Change, Follow};
use super::logs::Written;
use super::spec::Rolls;
use crate::timeline::PodFact;

/// The logs of so many pods are read at most: each is a connection to the API.
const LOGS: usize = 50;

/// A watch that is on, until it is dropped.
pub struct Watch {
    facts: UnboundedReceiver<Fact>,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Watches a workload that was found, its pods, and the endpoints of these Services: what is there now comes first.
    ///
    /// # Errors
    /// When one of it cannot be listed.
    pub(super) async fn start<K: Rolls>(
        cluster: &Cluster,
        (resource, name): (&'static str, &str),
        pods: &str,
        (services, container): (&[String], &str),
    ) -> Result<Self, ClusterError> {
        let (tell, facts) = unbounded_channel();
        let mut tasks = JoinSet::new();

        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        let (follow, found) = Follow::<K>::start(cluster, "apps", resource, only).await?;
        let mut progress = progress(tell.clone());
        progress(Change::All(found));
        tasks.spawn(follow.go_on(progress));

        let own = ListParams::default().labels(pods);
        let (follow, found) = Follow::<Pod>::start(cluster, "", "pods", own).await?;
        let mut logs = Logs::new(cluster, container, tell.clone());
        let (mut known, to) = (Pods::default(), tell.clone());
        let mut pods = move |change| {
            let facts = match change {
                Change::All(pods) => known.all(&pods),
                Change::Now(pod) => known.now(&pod),
                Change::Gone(pod) => known.gone(&pod),
                Change::Unseen(why) => vec![unseen("pods", why)],
            };
            for fact in facts {
                logs.note(&fact);
                let _ = to.send(fact);
            }
        };
        pods(Change::All(found));
        tasks.spawn(follow.go_on(pods));

        if !services.is_empty() {
            let theirs = format!("kubernetes.io/service-name in ({})", services.join(","));
            let slices = ListParams::default().labels(&theirs);
            let (follow, found) =
                Follow::<EndpointSlice>::start(cluster, "discovery.k8s.io", "endpointslices", slices).await?;
            let mut endpoints = endpoints(tell.clone());
            endpoints(Change::All(found));
            tasks.spawn(follow.go_on(endpoints));
        }

        let of_pods = ListParams::default().fields("involvedObject.kind=Pod");
        // What was noted before is of no interest: the list only says from where on to watch.
        let (follow, _) = Follow::<Event>::start(cluster, "", "events", of_pods).await?;
        tasks.spawn(follow.go_on(notices(tell)));
        Ok(Self { facts, _tasks: tasks })
    }

    /// The next fact; none when the watch is over.
    pub async fn next(&mut self) -> Option<Fact> {
        self.facts.recv().await
    }
}

fn unseen(what: &str, why: String) -> Fact {
    Fact::Notice { pod: None, reason: "Unseen".to_owned(), message: format!("{what} were not seen: {why}"), said: None }
}

fn progress<K: Rolls>(tell: UnboundedSender<Fact>) -> impl FnMut(Change<K>) + Send + 'static {
    let mut told = None;
    move |change| {
        let now = match change {
            Change::All(workloads) => workloads.into_iter().next(),
            Change::Now(workload) => Some(workload),
            Change::Gone(_) => None,
            Change::Unseen(why) => return drop(tell.send(unseen("changes of the workload", why))),
        };
        if let Some(progress) = now.map(|workload| workload.progress()).filter(|now| told.as_ref() != Some(now)) {
            told = Some(progress.clone());
            let _ = tell.send(Fact::Progress(progress));
        }
    }
}

fn endpoints(tell: UnboundedSender<Fact>) -> impl FnMut(Change<EndpointSlice>) + Send + 'static {
    let mut known = Endpoints::default();
    move |change| {
        let facts = match change {
            Change::All(slices) => known.all(&slices),
            Change::Now(slice) => known.now(&slice),
            Change::Gone(slice) => known.gone(&slice),
            Change::Unseen(why) => vec![unseen("endpoints", why)],
        };
        facts.into_iter().for_each(|fact| drop(tell.send(fact)));
    }
}

fn notices(tell: UnboundedSender<Fact>) -> impl FnMut(Change<Event>) + Send + 'static {
    move |change| {
        let facts: Vec<Fact> = match change {
            Change::Now(event) => notice(&event).into_iter().collect(),
            Change::All(_) | Change::Gone(_) | Change::Unseen(_) => Vec::new(),
        };
        facts.into_iter().for_each(|fact| drop(tell.send(fact)));
    }
}

/// Reads the log of each pod from when its container runs.
struct Logs {
    cluster: Cluster,
    container: String,
    tell: UnboundedSender<Fact>,
    stops: BTreeMap<PodId, Arc<AtomicBool>>,
    readers: Arc<Mutex<JoinSet<()>>>,
    begun: std::time::Instant,
}

impl Logs {
    fn new(cluster: &Cluster, container: &str, tell: UnboundedSender<Fact>) -> Self {
        Self {
            cluster: cluster.clone(),
            container: container.to_owned(),
            tell,
            stops: BTreeMap::new(),
            readers: Arc::default(),
            begun: std::time::Instant::now(),
        }
    }

    fn note(&mut self, fact: &Fact) {
        let Fact::Pod { pod, what, .. } = fact else { return };
        match what {
            PodFact::Started { container } if *container == self.container && self.stops.len() < LOGS => {
                let stops = self.stops.entry(pod.clone()).or_default().clone();
                let from_before = self.begun.elapsed() < std::time::Duration::from_secs(1);
                let (cluster, container) = (self.cluster.clone(), self.container.clone());
                let written = Written { cluster, pod: pod.clone(), container, from_before, stops };
                let tell = self.tell.clone();
                let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
                readers.spawn(written.read(move |fact| drop(tell.send(fact))));
            }
            PodFact::Deleted { .. } => {
                if let Some(stops) = self.stops.get(pod) {
                    stops.store(true, Ordering::Relaxed);
                }
            }
            PodFact::Gone => drop(self.stops.remove(pod)),
            _ => {}
        }
    }
}
