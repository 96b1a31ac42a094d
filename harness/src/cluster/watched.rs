//! A workload that is watched while it is rolled out: what the cluster says goes onto the timeline, and the end of the
//! rollout is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{ClusterError, Fact, PodId, Watch, Workload};
use crate::recorder::Recorder;
use crate::timeline::{Event, Lines, PodFact, ProcessId, Progress};

/// What a cluster says about the workload and about its pods comes on different ways: it is believed when it has stayed
/// so for so long.
const SETTLES: Duration = Duration::from_millis(250);

/// What else a fact about a pod, which counts as this process, says to whoever watches.
pub type Told = Box<dyn FnMut(ProcessId, &Fact) -> Vec<Event> + Send>;

/// A watch that is on.
pub struct Watched {
    state: watch::Receiver<State>,
    _scribe: AbortOnDropHandle<()>,
}

/// How far the cluster is.
#[derive(Clone, Default)]
struct State {
    progress: Option<Progress>,
    /// Pods that were told to go and are still there.
    stopping: BTreeSet<ProcessId>,
}

impl Watched {
    /// Begins to watch: what is there by now is on the timeline first. Pods are processes from this number on.
    ///
    /// # Errors
    /// When the cluster does not say.
    pub async fn start(
        workload: &Workload,
        recorder: &Recorder,
        first: ProcessId,
        told: Told,
    ) -> Result<Self, ClusterError> {
        let name = workload.name().to_string();
        let (namespace, spec) = (workload.cluster().namespace().to_owned(), workload.spec().clone());
        recorder.record(Event::Workload { name: name.clone(), namespace, spec });
        let watch = workload.watch().await?;
        let (tell, state) = watch::channel(State::default());
        let scribe = Scribe { recorder: recorder.clone(), workload: name, first, pods: BTreeMap::new(), tell, told };
        Ok(Self { state, _scribe: AbortOnDropHandle::new(tokio::spawn(scribe.write(watch))) })
    }

    /// Waits until what was written with this generation is there, and the last old pod is gone: whether it is. It is
    /// not where the cluster has given up.
    pub async fn complete(&mut self, generation: i64, told: fn(&str)) -> bool {
        let mut shown = None;
        loop {
            let state = self.state.borrow_and_update().clone();
            let line = state.line(generation);
            if shown.as_ref() != Some(&line) {
                told(&line);
                shown = Some(line);
            }
            if state.gave_up(generation) {
                return false;
            }
            let changed = self.state.changed();
            if !state.complete(generation) {
                if changed.await.is_err() {
                    return false;
                }
            } else if tokio::time::timeout(SETTLES, changed).await.is_err() {
                return true;
            }
        }
    }
}

impl State {
    fn current(&self, generation: i64) -> Option<&Progress> {
        self.progress.as_ref().filter(|progress| progress.observed >= generation)
    }

    fn complete(&self, generation: i64) -> bool {
        self.current(generation).is_some_and(Progress::complete) && self.stopping.is_empty()
    }

    fn gave_up(&self, generation: i64) -> bool {
        self.current(generation).is_some_and(|progress| progress.failed.is_some())
    }

    fn line(&self, generation: i64) -> String {
        let Some(progress) = self.current(generation) else { return "its controller has not begun yet".to_owned() };
        let Progress { desired, updated, available, .. } = progress;
        format!("{updated} of {desired} pods are new, {available} available, {} stopping", self.stopping.len())
    }
}

/// Puts facts onto the timeline. Pods are processes, with numbers in the order in which they were heard of.
struct Scribe {
    recorder: Recorder,
    workload: String,
    first: ProcessId,
    pods: BTreeMap<PodId, ProcessId>,
    tell: watch::Sender<State>,
    told: Told,
}

impl Scribe {
    async fn write(mut self, mut watch: Watch) {
        while let Some(fact) = watch.next().await {
            self.note(fact);
        }
    }

    fn process(&mut self, pod: &PodId) -> ProcessId {
        let next = self.first + self.pods.len() as ProcessId;
        *self.pods.entry(pod.clone()).or_insert(next)
    }

    fn note(&mut self, fact: Fact) {
        let known = match &fact {
            Fact::Pod { pod, .. } | Fact::Log { pod, .. } => Some(self.process(pod)),
            Fact::Notice { pod: Some(pod), .. } => self.pods.get(pod).copied(),
            _ => None,
        };
        let events = known.map(|process| (self.told)(process, &fact)).unwrap_or_default();
        events.into_iter().for_each(|event| self.recorder.record(event));
        let event = match fact {
            Fact::Progress(progress) => {
                let event = Event::Progress { workload: self.workload.clone(), progress: progress.clone() };
                self.recorder.record(event);
                return self.tell.send_modify(|state| state.progress = Some(progress));
            }
            Fact::Pod { pod, what, said } => {
                let process = self.process(&pod);
                self.recorder.record(Event::Pod { process, name: pod.name, what: what.clone(), said });
                return self.tell.send_modify(|state| {
                    let _ = match what {
                        PodFact::Deleted { .. } => state.stopping.insert(process),
                        PodFact::Gone => state.stopping.remove(&process),
                        _ => false,
                    };
                });
            }
            Fact::Endpoint { pod, slice, state } => {
                Event::Endpoint { observer: slice, process: self.process(&pod), state }
            }
            Fact::Log { pod, line } => Event::Log { process: self.process(&pod), line },
            Fact::Unlogged { pod, told } => {
                Event::Unrecorded { process: self.process(&pod), lines: Lines::Log, recorded: told }
            }
            Fact::Notice { pod, reason, message, said } => {
                let process = pod.map(|pod| self.pods.get(&pod).copied());
                // Events are the namespace's: those of other pods are not ours.
                if process == Some(None) {
                    return;
                }
                Event::Notice { process: process.flatten(), reason, message, said }
            }
        };
        self.recorder.record(event);
    }
}
