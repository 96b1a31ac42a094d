//! From what the API says of pods and endpoints, which is all of it each time, to what has changed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::timeline::{EndpointState, PodFact, Progress};

/// A pod: the name alone may be used again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodId {
    /// Its name.
    pub name: String,
    /// What no other pod has, nor will have.
    pub uid: String,
}

/// Something that the cluster says. Its own time for it is RFC 3339, in UTC.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// How far the cluster is with it.
    Progress(Progress),
    /// What became of a pod.
    Pod {
        /// The pod.
        pod: PodId,
        /// What.
        what: PodFact,
        /// The cluster's time for it.
        said: Option<String>,
    },
    /// What an EndpointSlice makes of a pod.
    Endpoint {
        /// The pod.
        pod: PodId,
        /// The slice.
        slice: String,
        /// What it makes of it.
        state: EndpointState,
    },
    /// A line of a pod's log.
    Log {
        /// The pod.
        pod: PodId,
        /// The line.
        line: String,
    },
    /// Lines of a pod's log are not told any more, or not until it stops: so many were.
    Unlogged {
        /// The pod.
        pod: PodId,
        /// How many.
        told: u64,
    },
    /// What the cluster has noted about a pod, or what is wrong with the watch itself.
    Notice {
        /// The pod.
        pod: Option<PodId>,
        /// In a word.
        reason: String,
        /// In words.
        message: String,
        /// The cluster's time for it.
        said: Option<String>,
    },
}

/// What has been told of pods so far.
#[derive(Debug, Default)]
pub struct Pods(BTreeMap<PodId, Told>);

#[derive(Debug, Default)]
struct Told {
    facts: BTreeSet<String>,
    ready: bool,
}

impl Pods {
    /// These are all there are.
    pub fn all(&mut self, pods: &[Pod]) -> Vec<Fact> {
        let here: BTreeSet<PodId> = pods.iter().map(id).collect();
        let gone: Vec<PodId> = self.0.keys().filter(|pod| !here.contains(*pod)).cloned().collect();
        let mut facts: Vec<Fact> = pods.iter().flat_map(|pod| self.now(pod)).collect();
        for pod in gone {
            self.0.remove(&pod);
            facts.push(Fact::Pod { pod, what: PodFact::Gone, said: None });
        }
        facts
    }

    /// This one is new, or other than it was: what has not been told of it yet.
    pub fn now(&mut self, pod: &Pod) -> Vec<Fact> {
        let name = id(pod);
        let told = self.0.entry(name.clone()).or_default();
        let mut facts = Vec::new();
        for (key, what, said) in true_of(pod) {
            if told.facts.insert(key) {
                facts.push((what, said));
            }
        }
        if let Some((ready, since)) = readiness(pod).filter(|(ready, _)| *ready != told.ready) {
            told.ready = ready;
            facts.push((if ready { PodFact::Ready } else { PodFact::NotReady }, since));
        }
        facts.into_iter().map(|(what, said)| Fact::Pod { pod: name.clone(), what, said }).collect()
    }

    /// This one is gone.
    pub fn gone(&mut self, pod: &Pod) -> Vec<Fact> {
        let mut facts = self.now(pod);
        let pod = id(pod);
        self.0.remove(&pod);
        facts.push(Fact::Pod { pod, what: PodFact::Gone, said: None });
        facts
    }
}

fn id(pod: &Pod) -> PodId {
    let metadata = &pod.metadata;
    PodId { name: metadata.name.clone().unwrap_or_default(), uid: metadata.uid.clone().unwrap_or_default() }
}

/// What is true of a pod and stays so, each with a name by which it is told once.
fn true_of(pod: &Pod) -> Vec<(String, PodFact, Option<String>)> {
    let (metadata, status) = (&pod.metadata, pod.status.as_ref());
    let time = |time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| time.0.to_string();
    let created = metadata.creation_timestamp.as_ref().map(time);
    let mut facts = vec![("created".to_owned(), PodFact::Created, created)];
    if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
        let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let mut scheduled = conditions.filter(|condition| condition.type_ == "PodScheduled");
        let since = scheduled.next().and_then(|condition| condition.last_transition_time.as_ref().map(time));
        facts.push(("scheduled".to_owned(), PodFact::Scheduled { node }, since));
    }
    if let Some(end) = &metadata.deletion_timestamp {
        // What the API calls the time of the deletion is when the grace is over.
        let grace_s = metadata.deletion_grace_period_seconds.unwrap_or(0).max(0);
        let asked = end.0.checked_sub(jiff::SignedDuration::from_secs(grace_s)).ok();
        let deleted = PodFact::Deleted { grace_s: grace_s.cast_unsigned() };
        facts.push(("deleted".to_owned(), deleted, asked.map(|at| at.to_string())));
    }
    for container in status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten() {
        let (name, starts) = (&container.name, container.restart_count);
        let state = container.state.clone().unwrap_or_default();
        if let Some(running) = &state.running {
            let started = PodFact::Started { container: name.clone() };
            facts.push((format!("started {name} {starts}"), started, running.started_at.as_ref().map(time)));
        }
        if let Some(reason) = state.waiting.and_then(|waiting| waiting.reason).filter(|reason| !is_usual(reason)) {
            let waiting = PodFact::Waiting { container: name.clone(), reason: reason.clone() };
            facts.push((format!("waiting {name} {reason}"), waiting, None));
        }
        // One that was started again has ended before.
        let before = container.last_state.clone().unwrap_or_default().terminated.map(|ended| (ended, starts - 1));
        let now = state.terminated.map(|ended| (ended, starts));
        for (ended, start) in before.into_iter().chain(now) {
            let terminated = PodFact::Terminated {
                container: name.clone(),
                code: ended.exit_code,
                reason: ended.reason.clone().unwrap_or_default(),
            };
            facts.push((format!("ended {name} {start}"), terminated, ended.finished_at.as_ref().map(time)));
        }
    }
    facts
}

/// What every container waits for at first.
fn is_usual(reason: &str) -> bool {
    matches!(reason, "ContainerCreating" | "PodInitializing")
}

fn readiness(pod: &Pod) -> Option<(bool, Option<String>)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some((ready.status == "True", ready.last_transition_time.as_ref().map(|time| time.0.to_string())))
}

/// What has been told of endpoints so far.
#[derive(Debug, Default)]
pub struct Endpoints(BTreeMap<String, BTreeMap<PodId, EndpointState>>);

impl Endpoints {
    /// These are all slices there are.
    pub fn all(&mut self, slices: &[EndpointSlice]) -> Vec<Fact> {
        let here: BTreeSet<String> = slices.iter().map(slice_name).collect();
        let gone: Vec<String> = self.0.keys().filter(|slice| !here.contains(*slice)).cloned().collect();
        let mut facts: Vec<Fact> = slices.iter().flat_map(|slice| self.now(slice)).collect();
        for slice in gone {
            facts.extend(self.change(slice, BTreeMap::new()));
        }
        facts
    }

    /// This slice is new, or other than it was.
    pub fn now(&mut self, slice: &EndpointSlice) -> Vec<Fact> {
        let state = |endpoint: &Endpoint| Some((target(endpoint)?, state(endpoint)));
        self.change(slice_name(slice), slice.endpoints.iter().filter_map(state).collect())
    }

    /// This slice is gone.
    pub fn gone(&mut self, slice: &EndpointSlice) -> Vec<Fact> {
        self.change(slice_name(slice), BTreeMap::new())
    }

    fn change(&mut self, slice: String, mut now: BTreeMap<PodId, EndpointState>) -> Vec<Fact> {
        let before = self.0.remove(&slice).unwrap_or_default();
        for (pod, state) in &mut now {
            let was = before.get(pod).copied().unwrap_or(EndpointState::Starting);
            if *state == EndpointState::Starting && was != EndpointState::Starting {
                *state = EndpointState::Down; // it has been ready, and is not any more
            }
        }
        self.0.insert(slice.clone(), now.clone());
        let gone = before.keys().filter(|pod| !now.contains_key(*pod)).map(|pod| (pod, EndpointState::Gone));
        let changed = now.iter().filter(|(pod, state)| before.get(*pod) != Some(*state));
        let changed = changed.map(|(pod, state)| (pod, *state));
        let fact =
            |(pod, state): (&PodId, EndpointState)| Fact::Endpoint { pod: pod.clone(), slice: slice.clone(), state };
        gone.chain(changed).map(fact).collect()
    }
}

fn slice_name(slice: &EndpointSlice) -> String {
    slice.metadata.name.clone().unwrap_or_default()
}

fn target(endpoint: &Endpoint) -> Option<PodId> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
    Some(PodId { name: target.name.clone()?, uid: target.uid.clone().unwrap_or_default() })
}

/// One that terminates gets no new connections while another one is ready.
fn state(endpoint: &Endpoint) -> EndpointState {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    match (ready, serving, conditions.terminating.unwrap_or(false)) {
        (true, ..) => EndpointState::Up,
        (_, true, true) => EndpointState::Draining,
        (_, _, true) => EndpointState::Down,
        _ => EndpointState::Starting,
    }
}

/// What an event says about a pod, where it is worth a word: warnings, and that its containers are being stopped.
pub fn notice(event: &Event) -> Option<Fact> {
    let reason = event.reason.clone().unwrap_or_default();
    if event.type_.as_deref() != Some("Warning") && reason != "Killing" {
        return None;
    }
    let about = &event.involved_object;
    let pod = PodId { name: about.name.clone()?, uid: about.uid.clone().unwrap_or_default() };
    let last = event.last_timestamp.as_ref().map(|time| time.0.to_string());
    let said = last.or_else(|| event.event_time.as_ref().map(|time| time.0.to_string()));
    Some(Fact::Notice { pod: Some(pod), reason, message: event.message.clone().unwrap_or_default(), said })
}
