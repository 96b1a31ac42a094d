//! The same facts, grouped by request, connection and process: what rules read.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Break, ConnectionId, Ending, Event, Header, Lines, NotOpened, Param, ProcessId, Record, RequestId, Role, Seen,
    Timeline,
};

/// Status of a rate limiter (RFC 6585, section 4).
const LIMITED: u16 = 429;

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
    /// When it was looked which requests the server had read, see [`Event::Read`].
    pub looks: Vec<Micros>,
    /// Preconditions that did not hold: what, and why.
    pub unconfirmed: Vec<(&'t str, &'t str)>,
    /// What this machine lacked, where nothing was played for it.
    pub skipped: Option<&'t str>,
    /// Why the run went no further, where it did not.
    pub aborted: Option<&'t str>,
    unrecorded: BTreeSet<Lines>,
    stalls: Vec<(Micros, Micros)>,
}

/// One request and what became of it.
#[derive(Debug)]
pub struct Request<'t> {
    /// Its id.
    pub id: &'t str,
    /// The connection it was sent on.
    pub connection: ConnectionId,
    /// What it is for.
    pub role: Role,
    /// The path it asks for.
    pub path: &'t str,
    /// When its first bytes were written, or should have been.
    pub sent: Micros,
    /// When the server had certainly read it, where that is known.
    pub read: Option<Micros>,
    /// When it had certainly read it and had not answered yet, the last time that this was looked at.
    pub in_hand: Option<Micros>,
    /// When the last byte of its body was written, where it has one.
    pub uploaded: Option<Micros>,
    /// When `100 Continue` came.
    pub continued: Option<Micros>,
    /// When the head of its response came.
    pub head: Option<Micros>,
    /// Status of its response.
    pub status: Option<u16>,
    /// Whether the response said `Connection: close`.
    pub close: bool,
    /// Whether the response had `Retry-After`.
    pub retry_after: bool,
    /// The instance that answered.
    pub instance: Option<&'t str>,
    /// Length of the body of a whole response, where it is known.
    pub expect_bytes: Option<u64>,
    /// Status of the response that this server gives when nobody stops it, where that was learnt.
    pub expect_status: Option<u16>,
    /// Whether a body that is cut would look like a whole one.
    pub cut_hidden: bool,
    /// Whether a rate limiter may answer it in the server's place.
    pub limited: bool,
    /// Bytes of the body that came.
    pub body_bytes: u64,
    /// Whether the body is what it should be, where that was checked.
    pub intact: Option<bool>,
    /// How it ended.
    pub end: End,
    /// When it ended.
    pub ended: Option<Micros>,
    /// Whether the server says that it executed the request.
    pub executed: bool,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A complete response came.
    Answered,
    /// At least one byte was written and no complete response came.
    Lost(Break),
    /// Not a byte was written.
    Unsent,
    /// Neither, when the run ended.
    Open,
}

/// One connection.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Its number.
    pub id: ConnectionId,
    /// What it is for.
    pub role: Role,
    /// When it was opened or not.
    pub at: Micros,
    /// Whether it was opened.
    pub opening: Opening,
    /// When and how it ended.
    pub ended: Option<(Micros, Ending)>,
}

/// Whether a connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It was.
    Opened,
    /// It was not.
    Failed(NotOpened),
}

/// One process.
#[derive(Debug, Default)]
pub struct Process {
    /// When it was started.
    pub started: Micros,
    /// When it was known to listen.
    pub listening: Option<Micros>,
    /// Its instance id.
    pub instance: Option<String>,
    /// Signals that it was sent.
    pub signals: Vec<(Micros, String)>,
    /// Who led and who listened, at each look.
    pub listeners: Vec<Listeners>,
    /// When the signal was sent past it, to whoever listened.
    pub signalled_past: Option<Micros>,
    /// Since when nobody reads its output.
    pub muted: Option<Micros>,
    /// When the harness broke its listener.
    pub listener_broken: Option<Micros>,
    /// When its listener was gone.
    pub listener_closed: Option<Micros>,
    /// Until when it was there for certain.
    pub listener_open_until: Option<Micros>,
    /// When it exited, with which code or by which signal.
    pub exited: Option<(Micros, Option<i32>, Option<i32>)>,
    killed: bool,
    /// Samples of its requests in flight.
    pub in_flight: Vec<(Micros, u64)>,
}

/// Who led and who listened, at one moment.
#[derive(Debug, Clone)]
pub struct Listeners {
    /// When.
    pub at: Micros,
    /// The process that was started.
    pub leader: Seen,
    /// Whoever listened on its port.
    pub listeners: Vec<Seen>,
}

impl Listeners {
    /// Whether the leader listens itself.
    pub fn leader_listens(&self) -> bool {
        self.listeners.iter().any(|listener| listener.pid.is_some() && listener.pid == self.leader.pid)
    }

    /// Those who listened, in words.
    pub fn words(&self) -> String {
        match &self.listeners[..] {
            [] => "nobody".to_owned(),
            [one] => one.to_string(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        }
    }
}

impl Process {
    /// Who led and who listened when it had started.
    pub fn at_first(&self) -> Option<&Listeners> {
        let signalled = self.signalled().unwrap_or(Micros::MAX);
        self.listeners.first().filter(|look| look.at <= signalled && !look.listeners.is_empty())
    }

    /// Who still listened when it had ended.
    pub fn left_behind(&self) -> Option<&Listeners> {
        let (exited, ..) = self.exited?;
        self.listeners.last().filter(|look| look.at >= exited && !look.listeners.is_empty())
    }

    /// When the first signal was sent.
    pub fn signalled(&self) -> Option<Micros> {
        self.signals.first().map(|(at, _)| *at)
    }
}

impl<'t> Request<'t> {
    fn new(id: &'t str, connection: ConnectionId, role: Role, sent: Micros) -> Self {
        Self {
            id,
            connection,
            role,
            path: "",
            sent,
            read: None,
            in_hand: None,
            uploaded: None,
            continued: None,
            head: None,
            status: None,
            close: false,
            retry_after: false,
            instance: None,
            expect_bytes: None,
            expect_status: None,
            cut_hidden: false,
            limited: false,
            body_bytes: 0,
            intact: None,
            end: End::Open,
            ended: None,
            executed: false,
        }
    }

    /// Whether a complete response came, whatever its status.
    pub fn answered(&self) -> bool {
        self.end == End::Answered
    }

    /// Whether something was written and no complete response came. A client that left on purpose lost nothing.
    pub fn lost(&self) -> bool {
        matches!(self.end, End::Lost(why) if why != Break::Left)
    }

    /// Whether the complete response came that is due: with the status that this server gives in peace, where that is
    /// known, and else with one below 400; and with the body that was due.
    pub fn served(&self) -> bool {
        self.answered() && self.has_status_due() && self.whole()
    }

    /// Whether the status is the one that is due. The 429 of a rate limiter that was seen in peace, too, is no more than
    /// our load deserves.
    pub fn has_status_due(&self) -> bool {
        let due = |status| self.expect_status.map_or(status < 400, |expected| status == expected);
        self.status.is_some_and(|status| due(status) || (self.limited && status == LIMITED))
    }

    /// Whether the body is as long as it should be and what it should be, as far as that is known.
    pub fn whole(&self) -> bool {
        // What was learnt of the body belongs to the status that was learnt with it.
        let other = self.expect_status.is_some_and(|expected| self.status.is_some_and(|status| status != expected));
        let long = self.expect_bytes.is_none_or(|expected| expected == self.body_bytes);
        (other && self.answered()) || (long && self.intact != Some(false))
    }
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
        views
    }

    fn of(header: &'t Header, records: &'t [Record]) -> Self {
        let mut view = View {
            header,
            requests: Vec::new(),
            connections: Vec::new(),
            processes: BTreeMap::new(),
            looks: Vec::new(),
            unconfirmed: Vec::new(),
            skipped: None,
            aborted: None,
            unrecorded: BTreeSet::new(),
            stalls: Vec::new(),
        };
        let mut requests: BTreeMap<&RequestId, usize> = BTreeMap::new();
        let mut connections: BTreeMap<ConnectionId, usize> = BTreeMap::new();
        for record in records {
            view.add(record.t_us, &record.event, &mut requests, &mut connections);
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
            Event::Started { process, .. } => {
                self.processes.insert(*process, Process { started: t, ..Process::default() });
            }
            Event::Listening { process, instance, .. } => {
                let process = self.mentioned(*process, t);
                process.listening = Some(t);
                process.instance.clone_from(instance);
            }
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
            Event::Killed { process } => self.mentioned(*process, t).killed = true,
            Event::Exited { process, code, signal } => {
                let process = self.mentioned(*process, t);
                if !process.killed {
                    process.exited = Some((t, *code, *signal));
                }
            }
            Event::InFlight { process, requests } => {
                self.mentioned(*process, t).in_flight.push((t, *requests));
            }
            Event::Opened { connection, role } => {
                connections.insert(*connection, self.connections.len());
                let opening = Opening::Opened;
                self.connections.push(Connection { id: *connection, role: *role, at: t, opening, ended: None });
            }
            Event::NotOpened { connection, role, why } => {
                let opening = Opening::Failed(*why);
                self.connections.push(Connection { id: *connection, role: *role, at: t, opening, ended: None });
            }
            Event::Ended { connection, how } => {
                if let Some(&index) = connections.get(connection) {
                    self.connections[index].ended.get_or_insert((t, *how));
                }
            }
            Event::Sent { connection, request: id, role, path, expect_bytes, expect_status, cut_hidden } => {
                requests.insert(id, self.requests.len());
                let mut request = Request::new(id, *connection, *role, t);
                request.path = path;
                request.expect_bytes = *expect_bytes;
                request.expect_status = *expect_status;
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
            Event::Executed { request: id, .. } => {
                if let Some(index) = request(id) {
                    self.requests[index].executed = true;
                }
            }
            Event::Stalled { late_us } => self.stalls.push((t, *late_us)),
            Event::Skipped { why } => self.skipped = Some(why),
            Event::Aborted { why } => self.aborted = Some(why),
            Event::Unconfirmed { what, why } => self.unconfirmed.push((what, why)),
            Event::Log { .. }
            | Event::Stderr { .. }
            | Event::Frozen { .. }
            | Event::Thawed { .. }
            | Event::Confirmed { .. }
            | Event::Finished => {}
        }
    }

    /// A process, which counts as started from when it is first heard of.
    fn mentioned(&mut self, process: ProcessId, t: Micros) -> &mut Process {
        self.processes.entry(process).or_insert_with(|| Process { started: t, ..Process::default() })
    }

    /// The process under test: the first one.
    pub fn process(&self) -> Option<&Process> {
        self.processes.values().next()
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

    /// Whether the harness itself was late by more than `slack` at some moment from `from` to `to`.
    pub fn stalled(&self, from: Micros, to: Micros, slack: Micros) -> bool {
        self.stalls.iter().any(|(at, late)| *late > slack && *at >= from && at.saturating_sub(*late) <= to)
    }
}
