//! Rollouts of a workload by hand: what a cluster said, and what users missed. Times are seconds from the restart.

use std::collections::BTreeMap;

use drainspec::rollout::{Advice, Asked, Roll, advise, roll, tally};
use drainspec::timeline::{
    ContainerSpec, EndpointState, Event, Hook, PodFact, ProcessId, Progress, Record, Role, RolloutState, Strategy,
    Timeline, WorkloadKind, WorkloadSpec,
};

use crate::run::idle;

/// When the restart is, in seconds from the start of the run.
const RESTART_S: f64 = 10.0;

/// A Deployment of two pods as most are written: nothing but a readiness probe, all other values the default ones.
pub fn plain() -> WorkloadSpec {
    WorkloadSpec {
        kind: WorkloadKind::Deployment,
        replicas: 2,
        strategy: Strategy::Rolling { max_unavailable: 0, max_surge: 1 },
        grace_s: 30,
        min_ready_s: 0,
        containers: vec![ContainerSpec {
            name: "app".to_owned(),
            pre_stop: None,
            readiness: true,
            ports: vec![8080],
            serves: true,
        }],
        services: vec!["web".to_owned()],
    }
}

/// As [`plain`], with this hook.
pub fn hooked(hook: Hook) -> WorkloadSpec {
    let mut spec = plain();
    spec.containers[0].pre_stop = Some(hook);
    spec
}

/// A story in the making.
#[derive(Clone)]
pub struct Story {
    records: Vec<(f64, Event)>,
    next: u32,
}

/// Two old pods, 2 and 3, that are ready; the restart is asked for.
pub fn story(spec: WorkloadSpec) -> Story {
    let (name, namespace) = ("deployment/app".to_owned(), "shop".to_owned());
    let story = Story { records: Vec::new(), next: 1_000 };
    let story = story.add(-10.0, Event::Workload { name: name.clone(), namespace, spec });
    let story = story.pod(-9.0, 2, PodFact::Created).pod(-9.0, 3, PodFact::Created);
    let story = story.endpoint(-9.0, 2, EndpointState::Up).endpoint(-9.0, 3, EndpointState::Up);
    story.add(0.0, Event::Rollout { workload: name, state: RolloutState::Asked })
}

impl Story {
    pub fn add(mut self, at_s: f64, event: Event) -> Self {
        self.records.push((at_s, event));
        self
    }

    pub fn pod(self, at_s: f64, process: ProcessId, what: PodFact) -> Self {
        self.add(at_s, Event::Pod { process, name: format!("app-{process}"), what, said: None })
    }

    pub fn endpoint(self, at_s: f64, process: ProcessId, state: EndpointState) -> Self {
        self.add(at_s, Event::Endpoint { observer: "web-1".to_owned(), process, state })
    }

    pub fn logs(self, at_s: f64, process: ProcessId, line: &str) -> Self {
        self.add(at_s, Event::Log { process, line: line.to_owned() })
    }

    pub fn noted(self, at_s: f64, process: ProcessId, reason: &str, message: &str) -> Self {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        self.add(at_s, Event::Notice { process: Some(process), reason, message, said: None })
    }

    /// It is told to go, its endpoint follows a little later.
    pub fn deleted(self, at_s: f64, process: ProcessId) -> Self {
        let story = self.pod(at_s, process, PodFact::Deleted { grace_s: 30 });
        story.endpoint(at_s + 0.02, process, EndpointState::Draining)
    }

    /// Its process ends, and with it the pod.
    pub fn exits(self, at_s: f64, process: ProcessId, code: i32, reason: &str) -> Self {
        let ended = PodFact::Terminated { container: "app".to_owned(), code, reason: reason.to_owned() };
        let story = self.pod(at_s, process, ended).endpoint(at_s, process, EndpointState::Gone);
        story.pod(at_s + 0.1, process, PodFact::Gone)
    }

    /// A pod is created, and ready after a second.
    pub fn created(self, at_s: f64, process: ProcessId) -> Self {
        let story = self.pod(at_s, process, PodFact::Created).endpoint(at_s + 0.5, process, EndpointState::Starting);
        story.pod(at_s + 1.0, process, PodFact::Ready).endpoint(at_s + 1.0, process, EndpointState::Up)
    }

    /// A rollout as it should be: each old pod goes when a new one is ready, at one second and at three, and ends after that long.
    pub fn rolls(self, after_s: f64) -> Self {
        let story = self.created(0.0, 4).deleted(1.0, 2).exits(1.0 + after_s, 2, 0, "Completed");
        story.created(2.0, 5).deleted(3.0, 3).exits(3.0 + after_s, 3, 0, "Completed")
    }

    /// A new connection is refused.
    pub fn refused(mut self, at_s: f64) -> Self {
        self.next += 1;
        let (connection, why) = (self.next, drainspec::timeline::NotOpened::Refused);
        self.add(at_s, Event::NotOpened { connection, role: Role::Storm, why, begun_us: None })
    }

    /// A request is sent, and broken a little later.
    pub fn lost(mut self, at_s: f64, role: Role) -> Self {
        self.next += 1;
        let why = drainspec::timeline::Break::Reset;
        let request = format!("r{}", self.next);
        let story = self.sends(at_s, role);
        story.add(at_s + 0.05, Event::Broken { request, why, body_bytes: 0 })
    }

    /// A kept connection has ended when it is to be used.
    pub fn unsent(mut self, at_s: f64) -> Self {
        self.next += 1;
        let (connection, role) = (self.next, Role::KeepAlive);
        let story = self.add(at_s, Event::Opened { connection, role, begun_us: None });
        story.add(at_s, Event::Unsent { connection, request: format!("r{connection}"), role })
    }

    /// A request is answered a little later, by this instance.
    pub fn answered(mut self, at_s: f64, status: u16, instance: &str) -> Self {
        self.next += 1;
        let (request, instance) = (format!("r{}", self.next), Some(instance.to_owned()));
        let story = self.sends(at_s, Role::Storm);
        let head = Event::Head { request: request.clone(), status, close: false, retry_after: false, instance };
        let story = story.add(at_s + 0.01, head);
        story.add(at_s + 0.01, Event::Answered { request, body_bytes: 1, intact: None })
    }

    fn sends(self, at_s: f64, role: Role) -> Self {
        let connection = self.next;
        let story = self.add(at_s, Event::Opened { connection, role, begun_us: None });
        let sent = Event::Sent {
            connection,
            request: format!("r{connection}"),
            role,
            method: None,
            path: "/".to_owned(),
            due_us: None,
            expect_bytes: None,
            expect_status: None,
            begun_us: None,
            cut_hidden: false,
        };
        story.add(at_s, sent)
    }

    pub fn available(self, at_s: f64, available: u32) -> Self {
        let progress =
            Progress { generation: 2, observed: 2, desired: 2, present: 2, updated: 1, available, failed: None };
        self.add(at_s, Event::Progress { workload: "deployment/app".to_owned(), progress })
    }

    pub fn timeline(&self) -> Timeline {
        let mut records: Vec<Record> = self
            .records
            .iter()
            .map(|(at, event)| Record { t_us: ((at + RESTART_S) * 1e6).round() as u64, event: event.clone() })
            .collect();
        records.sort_by_key(|record| record.t_us);
        let mut timeline = idle().judged_by(&[]);
        let over = records.last().map_or(0, |record| record.t_us);
        timeline.records = records;
        let complete = Event::Rollout { workload: "deployment/app".to_owned(), state: RolloutState::Complete };
        timeline.records.push(Record { t_us: over, event: complete });
        timeline.records.push(Record { t_us: over, event: Event::Finished });
        timeline
    }

    pub fn told(&self) -> Roll {
        let timeline = self.timeline();
        let instances: BTreeMap<String, (f64, f64)> = tally(&timeline).instances;
        roll(&timeline, &instances).expect("something was deployed")
    }

    pub fn advice(&self) -> Vec<Advice> {
        advise(&self.told(), Asked { path: "/items?page=1", context: None, requests: 12_000 })
    }
}
