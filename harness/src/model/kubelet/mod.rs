//! What the kubelet does with one pod: it probes its container, and ends it when the pod is deleted.
//!
//! A pod is driven from outside, as a [target group](super::target_group) is: whoever holds the process tells it what
//! happens ([`Input`]), wakes it when it wants to be woken ([`Pod::next`]), and does what it says ([`Output`]). Times are
//! durations since the start of the run. A time before the last one that the pod has seen counts as that one.
//!
//! A pod is one container here, and one that has ended is not started again. What Kubernetes documents and what is assumed
//! is told in `docs/pod-model.md`.

mod probe;

pub use probe::{Kind, Probe};

use std::time::Duration;

use super::Model;

use probe::Worker;

/// However much of the grace a preStop hook has used up, so long the container has after SIGTERM.
///
/// Kubernetes: Pod Lifecycle, "Termination of Pods".
pub const LEAST_GRACE: Duration = Duration::from_secs(2);

/// What a manifest says of a pod, and how slow the news are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `terminationGracePeriodSeconds`: the preStop hook is part of it.
    pub grace: Duration,
    /// The preStop hook.
    pub hook: Option<Hook>,
    /// Until it succeeds the others do not begin.
    pub startup: Option<Probe>,
    /// Without one a container is ready as soon as it has started.
    pub readiness: Option<Probe>,
    /// Where it fails the container is ended.
    pub liveness: Option<Probe>,
    /// How long the kubelet takes to hear of a deletion.
    pub lag: Duration,
}

/// What is done before SIGTERM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// Nothing, for so long.
    Sleep(Duration),
    /// This is run in the container.
    Exec(Vec<String>),
    /// This is asked for.
    Get(Get),
}

/// What a probe or a hook asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    /// The path.
    pub path: String,
    /// At which port.
    pub port: Port,
}

/// A port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Where its users come in.
    Traffic,
    /// Where they do not.
    Admin,
}

/// What happens to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A probe of this kind has succeeded, or not.
    Probed(Kind, bool),
    /// The pod is deleted.
    Deleted,
    /// The preStop hook is over, whether it succeeded or not. One that sleeps needs nobody to tell.
    HookOver,
    /// The container has ended.
    Exited,
}

/// What is to be done, or is so from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// A probe is due.
    Probe(Kind),
    /// The pod is ready, or is not any more.
    Ready(bool),
    /// The preStop hook begins.
    HookBegins,
    /// The preStop hook is over: by itself, or because the grace is.
    HookEnds {
        /// Whether the grace was over before.
        cut: bool,
    },
    /// The container gets SIGTERM.
    Terminate,
    /// The container gets SIGKILL.
    Kill,
    /// The pod is no more.
    Gone,
}

/// One pod on its node.
#[derive(Debug)]
pub struct Pod {
    settings: Settings,
    now: Duration,
    since: Duration,
    ready: bool,
    workers: Vec<Worker>,
    end: End,
    outbox: Vec<Output>,
}

/// How near its end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody ends it.
    Far,
    /// The kubelet is to hear of it at this time.
    Decided { heard: Duration },
    /// The hook is on.
    Hook { sleeps_until: Option<Duration>, grace_over: Duration },
    /// It has got SIGTERM, and gets SIGKILL at this time.
    Terminating { kill: Duration },
    /// It has got SIGKILL.
    Killed,
    /// It has ended.
    Over,
}

impl Model for Pod {
    type Input = Input;
    type Output = Output;

    fn apply(&mut self, now: Duration, input: Input) -> Vec<Output> {
        self.run_until(now);
        match input {
            Input::Probed(kind, ok) => self.probed(kind, ok),
            Input::Deleted => self.ends(self.settings.lag),
            Input::HookOver => {
                if let End::Hook { grace_over, .. } = self.end {
                    self.terminate(grace_over, false);
                }
            }
            Input::Exited => {
                if self.end != End::Over {
                    self.end = End::Over;
                    self.workers.clear();
                    self.is_ready(false);
                    self.outbox.push(Output::Gone);
                }
            }
        }
        self.advance(now)
    }

    fn advance(&mut self, now: Duration) -> Vec<Output> {
        self.run_until(now);
        self.outbox.drain(..).collect()
    }

    fn next(&self) -> Option<Duration> {
        if self.outbox.is_empty() { self.due() } else { Some(self.now) }
    }
}

impl Pod {
    /// A pod whose container is started now.
    pub fn new(settings: Settings, now: Duration) -> Self {
        let (workers, end, outbox) = (Vec::new(), End::Far, Vec::new());
        let mut pod = Self { settings, now, since: now, ready: false, workers, end, outbox };
        match pod.settings.startup.clone() {
            Some(probe) => pod.workers.push(Worker::starting(Kind::Startup, probe, now)),
            None => pod.probe_all(Worker::starting),
        }
        pod
    }

    fn due(&self) -> Option<Duration> {
        let end = match self.end {
            End::Far | End::Killed | End::Over => None,
            End::Decided { heard } => Some(heard),
            End::Hook { sleeps_until, grace_over } => Some(sleeps_until.map_or(grace_over, |at| at.min(grace_over))),
            End::Terminating { kill } => Some(kill),
        };
        self.workers.iter().filter_map(Worker::due).chain(end).min()
    }

    fn run_until(&mut self, now: Duration) {
        let now = now.max(self.now);
        while let Some(at) = self.due().filter(|at| *at <= now) {
            self.now = at.max(self.now);
            self.step();
        }
        self.now = now;
    }

    /// Does what is due now.
    fn step(&mut self) {
        let now = self.now;
        let due = self.workers.iter_mut().filter_map(|worker| worker.takes(now).then_some(Output::Probe(worker.kind)));
        self.outbox.extend(due);
        match self.end {
            End::Decided { heard } if heard <= now => self.begin_hook(),
            // What wakes at the end of the grace has slept enough.
            End::Hook { sleeps_until: Some(at), grace_over } if at <= now => self.terminate(grace_over, false),
            End::Hook { grace_over, .. } if grace_over <= now => self.terminate(grace_over, true),
            End::Terminating { kill } if kill <= now => {
                self.end = End::Killed;
                self.outbox.push(Output::Kill);
            }
            _ => {}
        }
    }

    fn probed(&mut self, kind: Kind, ok: bool) {
        let now = self.now;
        let worker = self.workers.iter_mut().find(|worker| worker.kind == kind);
        match (kind, worker.and_then(|worker| worker.probed(now, ok))) {
            (Kind::Startup, Some(true)) => {
                let since = self.since;
                self.probe_all(|kind, probe, now| Worker::started(kind, probe, now, since));
            }
            (Kind::Readiness, Some(ready)) => self.is_ready(ready),
            // The kubelet itself has found it, and need not hear of it.
            (Kind::Startup | Kind::Liveness, Some(false)) => self.ends(Duration::ZERO),
            (Kind::Liveness, Some(true)) | (_, None) => {}
        }
    }

    /// The startup probe has succeeded, or there is none: the others begin.
    fn probe_all(&mut self, begin: impl Fn(Kind, Probe, Duration) -> Worker) {
        let Settings { readiness, liveness, .. } = &self.settings;
        let probes = [(Kind::Readiness, readiness), (Kind::Liveness, liveness)];
        let on = probes.map(|(kind, probe)| probe.clone().map(|probe| begin(kind, probe, self.now)));
        let always_ready = readiness.is_none();
        self.workers = on.into_iter().flatten().collect();
        if always_ready {
            self.is_ready(true);
        }
    }

    fn is_ready(&mut self, ready: bool) {
        if self.ready != ready {
            self.ready = ready;
            self.outbox.push(Output::Ready(ready));
        }
    }

    /// The container is to be ended. From now on only readiness is probed.
    fn ends(&mut self, lag: Duration) {
        if self.end == End::Far {
            self.workers.retain(|worker| worker.kind == Kind::Readiness);
            self.end = End::Decided { heard: self.now.saturating_add(lag) };
        }
    }

    fn begin_hook(&mut self) {
        let grace_over = self.now.saturating_add(self.settings.grace);
        let Some(hook) = &self.settings.hook else { return self.terminate(grace_over, false) };
        let sleeps_until = match hook {
            Hook::Sleep(long) => Some(self.now.saturating_add(*long)),
            Hook::Exec(_) | Hook::Get(_) => None,
        };
        self.end = End::Hook { sleeps_until, grace_over };
        self.outbox.push(Output::HookBegins);
    }

    fn terminate(&mut self, grace_over: Duration, cut: bool) {
        if matches!(self.end, End::Hook { .. }) {
            self.outbox.push(Output::HookEnds { cut });
        }
        self.end = End::Terminating { kill: grace_over.max(self.now.saturating_add(LEAST_GRACE)) };
        self.outbox.push(Output::Terminate);
    }
}
