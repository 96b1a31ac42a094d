//! What pods are to a timeline: processes with a place, which are told to end and end, and which say what they have done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use crate::cluster::{Fact, Told};
use crate::timeline::{Event, Part, PodFact, ProcessId, Slot, StepKind};

/// Exit status of a process that SIGKILL has ended.
const KILLED: i32 = 128 + 9;

/// What the kubelet notes when it begins to end a container, before its hook.
const KILLING: &str = "Killing";

/// What is known of the pods by now. Cheap to clone.
#[derive(Clone)]
pub(super) struct Known {
    pods: Arc<Mutex<BTreeMap<ProcessId, Seen>>>,
    places: Slot,
    /// The preStop hook, in words.
    hook: Option<String>,
}

/// What is known of a pod.
struct Seen {
    slot: Slot,
    name: String,
    /// Where it runs.
    node: Option<String>,
    /// What it calls itself.
    instance: Option<String>,
    /// Whether it is told to go, or has gone.
    leaves: bool,
}

/// A line of the contract's log, as far as it matters here.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line {
    Listening { port: u16, admin_port: Option<u16>, instance: Option<String> },
    Executed { request_id: String },
    Signal { signal: String },
}

impl Known {
    pub fn new(places: usize, hook: Option<String>) -> Self {
        Self { pods: Arc::default(), places: places.max(1) as Slot, hook }
    }

    /// The pod that has been there longest, of those that are to stay.
    pub fn oldest(&self) -> Option<String> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.values().find(|pod| !pod.leaves).map(|pod| pod.name.clone())
    }

    /// What those call themselves that are to stay.
    pub fn names(&self) -> Vec<String> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.values().filter(|pod| !pod.leaves).filter_map(|pod| pod.instance.clone()).collect()
    }

    /// The node of that pod.
    pub fn node_of_oldest(&self) -> Option<String> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.values().find(|pod| !pod.leaves).and_then(|pod| pod.node.clone())
    }

    /// Hears what the cluster says of pods, and tells what it means.
    pub fn listen(&self) -> Told {
        let known = self.clone();
        Box::new(move |process, fact| match fact {
            Fact::Pod { pod, what, .. } => known.pod(process, &pod.name, what),
            Fact::Notice { reason, .. } if reason == KILLING => {
                let begun = known.hook.clone().map(|action| Event::Hook { process, action });
                begun.into_iter().collect()
            }
            Fact::Log { line, .. } => known.log(process, line).into_iter().collect(),
            _ => Vec::new(),
        })
    }

    fn pod(&self, process: ProcessId, name: &str, what: &PodFact) -> Vec<Event> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever comes takes the place of one that leaves; and where none does yet, of the one that was there longest.
        let lives = |slot: Slot| pods.values().any(|pod| pod.slot == slot && !pod.leaves);
        let left = pods.values().map(|pod| pod.slot).find(|slot| !lives(*slot));
        let next = left.unwrap_or(pods.len() as Slot % self.places + 1);
        let Some(pod) = pods.get_mut(&process) else {
            pods.insert(process, Seen { slot: next, name: name.to_owned(), node: None, instance: None, leaves: false });
            let (part, settings) = (Part::Server, BTreeMap::new());
            return vec![Event::Started { process, pid: 0, part, slot: Some(next), settings }];
        };
        match what {
            PodFact::Scheduled { node } => {
                pod.node = Some(node.clone());
                Vec::new()
            }
            PodFact::Deleted { .. } => {
                pod.leaves = true;
                vec![Event::Step { slot: pod.slot, what: StepKind::Withdraw }]
            }
            PodFact::Terminated { code, .. } => {
                pod.leaves = true;
                // Nobody else kills: the kubelet does, where the grace is over.
                let killed = Event::Signal { process, name: "SIGKILL".to_owned(), group: false };
                let exited = Event::Exited { process, code: Some(*code), signal: None };
                (*code == KILLED).then_some(killed).into_iter().chain([exited]).collect()
            }
            _ => Vec::new(),
        }
    }

    fn log(&self, process: ProcessId, line: &str) -> Option<Event> {
        match serde_json::from_str(line).ok()? {
            Line::Listening { port, admin_port, instance } => {
                let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
                pods.get_mut(&process)?.instance.clone_from(&instance);
                Some(Event::Listening { process, port, admin_port, instance })
            }
            Line::Executed { request_id } => Some(Event::Executed { process, request: request_id }),
            Line::Signal { signal } => Some(Event::Signal { process, name: signal, group: false }),
        }
    }
}
