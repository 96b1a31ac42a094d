//! What became of the pods of a workload while it was rolled out, from the timeline alone. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::causes::stopped_before;
use super::tally::{Miss, Span, misses};
use crate::timeline::{EndpointState, Event, Hook, Micros, PodFact, ProcessId, Timeline, View, WorkloadSpec};

/// Lines and notes of a pod that are shown.
const SHOWN: usize = 5;
/// What a kubelet notes about a preStop hook that has failed begins with this.
pub(super) const HOOK_FAILED: &str = "FailedPreStopHook: ";
/// Words by which servers say that they stop.
const STOPPING: [&str; 5] = ["sigterm", "shutting down", "shutdown", "terminat", "graceful"];

/// A rollout as the cluster told it. All times are seconds from the start of the deploy, when the harness heard of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Roll {
    /// The workload, such as `deployment/app`.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// How it was written.
    pub spec: WorkloadSpec,
    /// Its pods: those that were replaced first, in the order in which they were stopped.
    pub pods: Vec<PodRow>,
    /// The fewest pods that were available; `null` where the cluster did not say.
    pub fewest_available: Option<u32>,
    /// When no endpoint was ready, from and to.
    pub nobody: Vec<(f64, f64)>,
    /// Why the controller gave up, where it did.
    pub failed: Option<String>,
    /// What was wrong with the watch itself.
    pub unseen: Vec<String>,
    /// What was missed.
    #[serde(skip)]
    pub misses: Vec<Miss>,
}

/// A pod, from its creation to its end, as far as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodRow {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: Option<String>,
    /// Whether it was there before the deploy.
    pub old: bool,
    /// The instance that its answers, and its log or its name, say that it is.
    pub instance: Option<String>,
    /// When it was created; of an old one that is not known.
    pub created_s: Option<f64>,
    /// When it was ready for the first time after that.
    pub ready_s: Option<f64>,
    /// When it answered first.
    pub first_answer_s: Option<f64>,
    /// When it was told to go.
    pub deleted_s: Option<f64>,
    /// Within so many seconds.
    pub grace_s: Option<u64>,
    /// When its server got the signal.
    pub signalled: Option<Signalled>,
    /// When the first slice called its endpoint not ready, after that.
    pub not_ready_s: Option<f64>,
    /// When the last slice had no endpoint for it any more.
    pub withdrawn_s: Option<f64>,
    /// When it answered last.
    pub last_answer_s: Option<f64>,
    /// How its server ended.
    pub exit: Option<Exit>,
    /// When it did not exist any more.
    pub gone_s: Option<f64>,
    /// What was missed from its deletion to that of the next pod.
    pub missed: u64,
    /// What the cluster noted about it, as far as that was a warning.
    pub notices: Vec<String>,
    /// The last lines of its log, where it never became ready.
    pub lines: Vec<String>,
}

/// When a server got the signal, and who says so. The API does not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Signalled {
    /// When.
    pub at_s: f64,
    /// Who says so.
    pub by: Source,
}

/// Who says when the signal came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A line of the server's log.
    Log,
    /// The hook's own length, counted from the deletion.
    Hook,
    /// There is no hook: it comes with the deletion.
    Deletion,
    /// The hook has failed, and with it the wait.
    FailedHook,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// When the API said so; the kubelet looks about once a second.
    pub at_s: f64,
    /// When it was by the node's clock.
    pub said: Option<String>,
    /// Its exit status.
    pub code: i32,
    /// What the runtime says to that.
    pub reason: String,
}

/// What was seen of a pod on the way.
#[derive(Default)]
struct Seen {
    row: PodRow,
    container_ends: Vec<(String, Exit)>,
    slices: BTreeMap<String, EndpointState>,
    log: Vec<(Micros, String)>,
}

/// What the cluster told, where a workload was watched and something was deployed. `instances` says who answered first and last.
pub fn roll(timeline: &Timeline, instances: &BTreeMap<String, (f64, f64)>) -> Option<Roll> {
    let view = View::new(timeline);
    let began = Span::of(timeline, &view).began?;
    let (workload, namespace, spec) = timeline.records.iter().find_map(|record| match &record.event {
        Event::Workload { name, namespace, spec } => Some((name.clone(), namespace.clone(), spec.clone())),
        _ => None,
    })?;
    let mut look =
        Look { began, pods: BTreeMap::new(), fewest: None, failed: None, unseen: Vec::new(), nobody: Vec::new() };
    for record in &timeline.records {
        look.take(record.t_us, &record.event);
    }
    let end = seconds(view.end, began);
    if let Some((_, to)) = look.nobody.last_mut().filter(|(_, to)| to.is_infinite()) {
        *to = end;
    }
    let serving = spec.containers.iter().find(|container| container.serves);
    let names = who(&look.pods, instances);
    let mut pods: Vec<PodRow> = look
        .pods
        .into_iter()
        .filter(|(_, seen)| !seen.row.name.is_empty())
        .map(|(process, seen)| {
            let answers = names.get(&process).map(|name| (name.clone(), instances[name]));
            seen.row(serving.map(|container| (container.name.as_str(), container.pre_stop.as_ref())), answers, began)
        })
        .collect();
    let order = |row: &PodRow| (!row.old, row.deleted_s.or(row.created_s).unwrap_or(f64::MAX));
    pods.sort_by(|a, b| order(a).0.cmp(&order(b).0).then(order(a).1.total_cmp(&order(b).1)));
    let misses = misses(timeline, &view);
    for miss in &misses {
        if let Some(at) = stopped_before(&pods, miss) {
            pods[at].missed += 1;
        }
    }
    Some(Roll {
        workload,
        namespace,
        spec,
        pods,
        fewest_available: look.fewest,
        nobody: look.nobody,
        failed: look.failed,
        unseen: look.unseen,
        misses,
    })
}

fn seconds(at: Micros, began: Micros) -> f64 {
    (at as f64 - began as f64) / 1e6
}

/// What is gathered while the records are read.
struct Look {
    began: Micros,
    pods: BTreeMap<ProcessId, Seen>,
    fewest: Option<u32>,
    failed: Option<String>,
    unseen: Vec<String>,
    nobody: Vec<(f64, f64)>,
}

impl Look {
    fn take(&mut self, t: Micros, event: &Event) {
        let at = seconds(t, self.began);
        match event {
            Event::Pod { process, name, what, said } => self.pod(*process, name, what, at, said.as_ref()),
            Event::Endpoint { observer, process, state } => {
                self.pods.entry(*process).or_default().endpoint(observer, *state, at);
                self.count_endpoints(at);
            }
            Event::Log { process, line } => {
                if let Some(seen) = self.pods.get_mut(process) {
                    seen.log.push((t, line.clone()));
                }
            }
            Event::Progress { progress, .. } if at >= 0.0 => {
                self.fewest = Some(self.fewest.map_or(progress.available, |fewest| fewest.min(progress.available)));
                self.failed.clone_from(&progress.failed);
            }
            Event::Notice { process: Some(process), reason, message, .. } if reason != "Killing" => {
                let notices = &mut self.pods.entry(*process).or_default().row.notices;
                let notice = format!("{reason}: {message}");
                if !notices.contains(&notice) {
                    notices.push(notice);
                }
            }
            Event::Notice { process: None, message, .. } => self.unseen.push(format!("{at:+.1} s: {message}")),
            _ => {}
        }
    }

    fn pod(&mut self, process: ProcessId, name: &str, what: &PodFact, at: f64, said: Option<&String>) {
        let seen = self.pods.entry(process).or_default();
        let row = &mut seen.row;
        row.name = name.to_owned();
        match what {
            PodFact::Created => {
                row.old = at < 0.0;
                row.created_s = Some(at).filter(|_| !row.old);
            }
            PodFact::Scheduled { node } => row.node = Some(node.clone()),
            PodFact::Ready if !row.old => drop(row.ready_s.get_or_insert(at)),
            PodFact::Deleted { grace_s } => {
                row.deleted_s.get_or_insert(at);
                row.grace_s = Some(*grace_s);
            }
            PodFact::Terminated { container, code, reason } if at >= 0.0 => {
                let exit = Exit { at_s: at, said: said.cloned(), code: *code, reason: reason.clone() };
                seen.container_ends.push((container.clone(), exit));
            }
            PodFact::Waiting { container, reason } => row.notices.push(format!("{container} waits: {reason}")),
            PodFact::Gone => row.gone_s = Some(at),
            _ => {}
        }
    }

    /// Whether any endpoint is ready: where none is, nobody can be served.
    fn count_endpoints(&mut self, at: f64) {
        let up = self.pods.values().flat_map(|seen| seen.slices.values()).any(|state| *state == EndpointState::Up);
        match self.nobody.last_mut().filter(|(_, to)| to.is_infinite()) {
            Some((_, to)) if up => *to = at,
            None if !up && at >= 0.0 => self.nobody.push((at, f64::INFINITY)),
            _ => {}
        }
    }
}

impl Seen {
    fn endpoint(&mut self, slice: &str, state: EndpointState, at: f64) {
        self.slices.insert(slice.to_owned(), state);
        if state != EndpointState::Up && at >= 0.0 && self.row.old {
            self.row.not_ready_s.get_or_insert(at);
        }
        if self.slices.values().all(|state| *state == EndpointState::Gone) {
            self.row.withdrawn_s = Some(at).filter(|at| *at >= 0.0);
        }
    }

    fn row(
        mut self,
        serving: Option<(&str, Option<&Hook>)>,
        answers: Option<(String, (f64, f64))>,
        began: Micros,
    ) -> PodRow {
        let row = &mut self.row;
        if let Some((instance, (first, last))) = answers {
            row.instance = Some(instance);
            row.first_answer_s = Some(first).filter(|_| !row.old);
            row.last_answer_s = Some(last).filter(|_| row.deleted_s.is_some());
        }
        let ends = &self.container_ends;
        let own = ends.iter().rev().find(|(name, _)| serving.is_some_and(|(serving, _)| serving == name));
        row.exit = own.or(ends.last()).map(|(_, exit)| exit.clone());
        if let Some(deleted) = row.deleted_s {
            let after = |(at, _): &&(Micros, String)| seconds(*at, began) >= deleted;
            let line = self.log.iter().filter(after).find(|(_, line)| says_that_it_stops(line));
            row.signalled = match (line, serving.and_then(|(_, hook)| hook)) {
                (Some((at, _)), _) => Some(Signalled { at_s: seconds(*at, began), by: Source::Log }),
                (None, None) => Some(Signalled { at_s: deleted, by: Source::Deletion }),
                (None, Some(_)) if row.notices.iter().any(|notice| notice.starts_with(HOOK_FAILED)) => {
                    Some(Signalled { at_s: deleted, by: Source::FailedHook })
                }
                (None, Some(hook)) => {
                    hook.seconds().map(|length| Signalled { at_s: deleted + length as f64, by: Source::Hook })
                }
            };
        }
        if !row.old && row.ready_s.is_none() {
            let from = self.log.len().saturating_sub(SHOWN);
            row.lines = self.log[from..].iter().map(|(_, line)| line.clone()).collect();
        }
        self.row
    }
}

fn says_that_it_stops(line: &str) -> bool {
    let line = line.to_lowercase();
    STOPPING.iter().any(|word| line.contains(word))
}

/// Which pod an instance is: the one that bears its name, or the only one whose log names it.
fn who(pods: &BTreeMap<ProcessId, Seen>, instances: &BTreeMap<String, (f64, f64)>) -> BTreeMap<ProcessId, String> {
    let mut names = BTreeMap::new();
    for instance in instances.keys() {
        let named: Vec<ProcessId> =
            pods.iter().filter(|(_, seen)| seen.row.name == *instance).map(|(process, _)| *process).collect();
        let logged = || {
            let says = |seen: &Seen| seen.log.iter().any(|(_, line)| line.contains(instance.as_str()));
            pods.iter().filter(|(_, seen)| says(seen)).map(|(process, _)| *process).collect()
        };
        let found: Vec<ProcessId> = if named.is_empty() { logged() } else { named };
        if let [only] = found[..] {
            names.insert(only, instance.clone());
        }
    }
    names
}
