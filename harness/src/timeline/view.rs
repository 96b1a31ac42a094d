//! The same facts, grouped by request, connection and process: what rules read.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Connection, ConnectionId, End, Endpoint, Event, Header, Lines, Listeners, Opening, Param, Part, Process, ProcessId,
    Record, Request, RequestId, Role, Step, Timeline,
};

/// Microseconds since the run began.
pub type Micros = u64;

/// A timeline, indexed.
#[derive(Debug)]
pub struct View<'t> {
    /// The timeline's header.
    pub header: &'t Header,
    /// All requests, in the order in which they were sent.
    pub requests: Vec<Request<'t>>,
    /// All connections, in the order of their numbers.
    pub connections: Vec<Connection>,
    /// All processes.
    pub processes: BTreeMap<ProcessId, Process>,
    /// Steps of replacements, in the order in which they began.
    pub steps: Vec<Step>,
    /// What observers made of instances, in order.
    pub endpoints: Vec<Endpoint<'t>>,
    /// When the balancer was told to read its configuration again.
    pub reloads: Vec<Micros>,
    /// When it was looked which requests the server had read, see [`Event::Read`].
    pub looks: Vec<Micros>,
    /// Preconditions that did not hold: what, and why.
    pub unconfirmed: Vec<(&'t str, &'t str)>,
    /// What this machine lacked, where nothing was played for it.
    pub skipped: Option<&'t str>,
    /// Why the run went no further, where it did not.
    pub aborted: Option<&'t str>,
    /// When a process was waited for no longer, because it does not end when nothing is going on.
    pub gave_up: Option<Micros>,
    /// When its last record was made.
    pub end: Micros,
    unrecorded: BTreeSet<Lines>,
    lost: Vec<Lost>,
}

/// Time that somebody lost because the machine had other things to do.
#[derive(Debug, Clone, Copy)]
struct Lost {
    from: Micros,
    to: Micros,
    us: u64,
    /// It is somewhere in the last so many microseconds before `to`.
    within: u64,
}

impl<'t> View<'t> {
    /// Groups the records of a timeline. Records that name what never began are passed over.
    pub fn new(timeline: &'t Timeline) -> Self {
        Self::of(&timeline.header, &timeline.records)
    }

    /// One view for each start of the server, where the scenario plays a race several times (parameter `rounds`).
    pub fn rounds(timeline: &'t Timeline) -> Vec<Self> {
        let records = &timeline.records;
        let started = |index: &usize| matches!(records[*index].event, Event::Started { .. });
        let starts = (0..records.len()).filter(started).skip(1);
        let several = timeline.header.params.contains_key(&Param::Rounds);
        let mut bounds: Vec<usize> = starts.take_while(|_| several).collect();
        bounds.push(records.len());
        let mut from = 0;
        let mut views = Vec::new();
        for to in bounds {
            views.push(Self::of(&timeline.header, &records[from..to]));
            from = to;
        }
        // A start for which somebody had taken the port is none.
        if views.iter().any(|view| !view.processes.is_empty()) {
            views.retain(|view| !view.processes.is_empty());
        }
        views
    }

    fn of(header: &'t Header, records: &'t [Record]) -> Self {
        let mut view = View {
            header,
            requests: Vec::new(),
            connections: Vec::new(),
            processes: BTreeMap::new(),
            steps: Vec::new(),
            endpoints: Vec::new(),
            reloads: Vec::new(),
            looks: Vec::new(),
            unconfirmed: Vec::new(),
            skipped: None,
            aborted: None,
            gave_up: None,
            end: records.last().map_or(0, |record| record.t_us),
            unrecorded: BTreeSet::new(),
            lost: Vec::new(),
        };
        let mut requests: BTreeMap<&RequestId, usize> = BTreeMap::new();
        let mut connections: BTreeMap<ConnectionId, usize> = BTreeMap::new();
        for record in records {
            view.add(record.t_us, &record.event, &mut requests, &mut connections);
        }
        for record in records {
            if let Event::PortTaken { process, .. } = record.event {
                view.processes.remove(&process); // it has never been under test
            }
        }
        view
    }

    fn add(
        &mut self,
        t: Micros,
        event: &'t Event,
        requests: &mut BTreeMap<&'t RequestId, usize>,
        connections: &mut BTreeMap<ConnectionId, usize>,
    ) {
        let request = |id: &RequestId| requests.get(id).copied();
        match event {
            Event::Unrecorded { lines, .. } => drop(self.unrecorded.insert(*lines)),
            Event::Started { process, part, slot, .. } => {
                let started = Process { started: t, part: *part, slot: *slot, ..Process::default() };
                self.processes.insert(*process, started);
            }
            Event::Listening { process, instance, .. } => {
                let process = self.mentioned(*process, t);
                process.listening = Some(t);
                process.instance.clone_from(instance);
            }
            Event::Hook { process, .. } => self.mentioned(*process, t).hook = Some(t),
            Event::Signal { process, name, .. } => {
                self.mentioned(*process, t).signals.push((t, name.clone()));
            }
            Event::SignalPast { process, .. } => {
                self.mentioned(*process, t).signalled_past.get_or_insert(t);
            }
            Event::Listeners { process, leader, listeners } => {
                let look = Listeners { at: t, leader: leader.clone(), listeners: listeners.clone() };
                self.mentioned(*process, t).listeners.push(look);
            }
            Event::ListenerClosed { process, open_until_us } => {
                let process = self.mentioned(*process, t);
                process.listener_closed.get_or_insert(t);
                process.listener_open_until = process.listener_open_until.or(*open_until_us);
            }
            Event::Muted { process } => self.mentioned(*process, t).muted = Some(t),
            Event::ListenerBroken { process } => {
                self.mentioned(*process, t).listener_broken = Some(t);
            }
            Event::WaitedNoLonger { .. } => self.gave_up = Some(t),
            Event::Killed { process } => {
                self.mentioned(*process, t).killed.get_or_insert(t);
            }
            Event::Exited { process, code, signal } => {
                let process = self.mentioned(*process, t);
                if process.killed.is_none() {
                    process.exited = Some((t, *code, *signal));
                }
            }
            Event::InFlight { process, requests } => {
                self.mentioned(*process, t).in_flight.push((t, *requests));
            }
            Event::Opened { connection, role, begun_us } => {
                connections.insert(*connection, self.connections.len());
                let opening = Opening::Opened;
                self.connections.push(Connection::new(*connection, *role, t, *begun_us, opening));
            }
            Event::NotOpened { connection, role, why, begun_us } => {
                let opening = Opening::Failed(*why);
                self.connections.push(Connection::new(*connection, *role, t, *begun_us, opening));
            }
            Event::Ended { connection, how } => {
                if let Some(&index) = connections.get(connection) {
                    self.connections[index].ended.get_or_insert((t, *how));
                }
            }
            Event::Sent {
                connection,
                request: id,
                role,
                method,
                path,
                due_us,
                expect_bytes,
                expect_status,
                cut_hidden,
                begun_us,
            } => {
                requests.insert(id, self.requests.len());
                let mut request = Request::new(id, *connection, *role, t);
                request.method = method.as_deref().unwrap_or("GET");
                request.path = path;
                request.due = *due_us;
                request.expect_bytes = *expect_bytes;
                request.expect_status = *expect_status;
                request.begun = begun_us.unwrap_or(t).min(t);
                request.cut_hidden = *cut_hidden;
                request.limited = self.param(Param::Limited).is_some();
                self.requests.push(request);
            }
            Event::Unsent { connection, request: id, role } => {
                requests.insert(id, self.requests.len());
                let mut request = Request::new(id, *connection, *role, t);
                request.end = End::Unsent;
                request.ended = Some(t);
                self.requests.push(request);
            }
            Event::Read { requests: read } => {
                self.looks.push(t);
                for index in read.iter().filter_map(request) {
                    self.requests[index].read.get_or_insert(t);
                    self.requests[index].in_hand = Some(t);
                }
            }
            Event::Uploaded { request: id } => {
                if let Some(index) = request(id) {
                    self.requests[index].uploaded = Some(t);
                }
            }
            Event::Continued { request: id } => {
                if let Some(index) = request(id) {
                    self.requests[index].continued = Some(t);
                }
            }
            Event::Head { request: id, status, close, retry_after, instance } => {
                if let Some(index) = request(id) {
                    let request = &mut self.requests[index];
                    request.head = Some(t);
                    request.status = Some(*status);
                    request.close = *close;
                    request.retry_after = *retry_after;
                    request.instance = instance.as_deref();
                }
            }
            Event::Received { request: id, .. } => {
                if let Some(index) = request(id) {
                    self.requests[index].received = Some(t);
                }
            }
            Event::Answered { request: id, body_bytes, intact } => {
                if let Some(index) = request(id) {
                    let request = &mut self.requests[index];
                    request.end = End::Answered;
                    request.ended = Some(t);
                    request.body_bytes = *body_bytes;
                    request.intact = *intact;
                }
            }
            Event::Broken { request: id, why, body_bytes } => {
                if let Some(index) = request(id) {
                    let request = &mut self.requests[index];
                    request.end = End::Lost(*why);
                    request.ended = Some(t);
                    request.body_bytes = *body_bytes;
                }
            }
            Event::Executed { request: id, process } => {
                if let Some(index) = request(id) {
                    self.requests[index].executions.push((t, *process));
                }
            }
            Event::Stalled { late_us: us, within_us } | Event::Starved { waited_us: us, within_us, .. } => {
                let within = (*us).max(*within_us);
                self.lost.push(Lost { from: t.saturating_sub(within), to: t, us: *us, within });
            }
            Event::Step { slot, what } => self.steps.push(Step { at: t, slot: *slot, what: *what }),
            Event::Endpoint { observer, process, state } => {
                self.endpoints.push(Endpoint { at: t, observer, process: *process, state: *state });
            }
            Event::Reloaded { .. } => self.reloads.push(t),
            Event::Skipped { why } => self.skipped = Some(why),
            Event::Aborted { why } => self.aborted = Some(why),
            Event::Unconfirmed { what, why } => self.unconfirmed.push((what, why)),
            Event::Log { .. }
            | Event::Stderr { .. }
            | Event::Frozen { .. }
            | Event::Thawed { .. }
            | Event::Confirmed { .. }
            | Event::Eased { .. }
            | Event::PortTaken { .. }
            | Event::HookEnded { .. }
            | Event::Workload { .. }
            | Event::Progress { .. }
            | Event::Rollout { .. }
            | Event::Pod { .. }
            | Event::Notice { .. }
            | Event::Finished => {}
        }
    }

    /// A process, which counts as started from when it is first heard of.
    fn mentioned(&mut self, process: ProcessId, t: Micros) -> &mut Process {
        self.processes.entry(process).or_insert_with(|| Process { started: t, ..Process::default() })
    }

    /// The process under test: the first one that is no balancer.
    pub fn process(&self) -> Option<&Process> {
        self.servers().next().map(|(_, process)| process)
    }

    /// The processes under test: of a fleet, all that were ever started.
    pub fn servers(&self) -> impl Iterator<Item = (ProcessId, &Process)> {
        self.processes.iter().filter(|(_, process)| process.part == Part::Server).map(|(id, process)| (*id, process))
    }

    /// Requests with this role.
    pub fn requests(&self, role: Role) -> impl Iterator<Item = &Request<'t>> {
        self.requests.iter().filter(move |request| request.role == role)
    }

    /// Connections with this role.
    pub fn connections(&self, role: Role) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(move |connection| connection.role == role)
    }

    /// A parameter of the scenario.
    pub fn param(&self, param: Param) -> Option<f64> {
        self.header.params.get(&param).copied()
    }

    /// Whether such lines came that are not on the timeline.
    pub fn unrecorded(&self, lines: Lines) -> bool {
        self.unrecorded.contains(&lines)
    }

    /// How much of the time from `from` to `to` was lost, by the harness or by a process that it had started, because
    /// the machine had other things to do: many short stalls count as much as one long one, and of those that are only
    /// partly in that time, that part. Never more than all of it.
    pub fn lost(&self, from: Micros, to: Micros) -> u64 {
        let part = |lost: &Lost| {
            let overlap = lost.to.min(to).saturating_sub(lost.from.max(from));
            (u128::from(lost.us) * u128::from(overlap) / u128::from(lost.within.max(1))) as u64
        };
        let sum = self.lost.iter().map(part).fold(0, u64::saturating_add);
        sum.min(to.saturating_sub(from))
    }
}
