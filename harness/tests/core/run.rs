//! Timelines by hand, in the words of the domain.

use std::collections::BTreeMap;

use drainspec::timeline::{
    Break, ConnectionId, Ending, EndpointState, Event, FORMAT, Header, Lines, NotOpened, Param, Part, ProcessId,
    Record, Role, Seen, Slot, StepKind, Timeline,
};

/// Bytes of a body, where a run does not say otherwise.
pub const BODY: u64 = 10;

/// A timeline in the making. Each record comes a millisecond after the one before, unless [`Run::at`] says when.
#[derive(Clone)]
pub struct Run {
    timeline: Timeline,
    next_us: u64,
    process: ProcessId,
}

/// A server that promises the contract, started and listening. Defaults are those of the scenarios.
pub fn run() -> Run {
    idle().started().at(100).listening("first")
}

/// Nothing was started yet.
pub fn idle() -> Run {
    let params = [(Param::ShutdownDelay, 0.0), (Param::DrainTimeout, 15.0), (Param::IdleLinger, 1.0)];
    let header = Header {
        format: FORMAT,
        scenario: "by-hand".to_owned(),
        rules: Vec::new(),
        server: "by-hand".to_owned(),
        topology: "direct".to_owned(),
        repeat: 1,
        promises_contract: true,
        features: vec!["accounting".to_owned()],
        params: params.into(),
        environment: BTreeMap::new(),
        learned: Vec::new(),
    };
    let timeline = Timeline { header, records: Vec::new() };
    Run { timeline, next_us: 0, process: 1 }
}

/// As [`run`], up to a SIGTERM after a second.
pub fn stopped() -> Run {
    run().at(1_000).signal("SIGTERM")
}

impl Run {
    /// The finished timeline, to be judged by these rules.
    pub fn judged_by(&self, rules: &[&str]) -> Timeline {
        let mut timeline = self.clone().record(Event::Finished).timeline;
        timeline.header.rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
        timeline
    }

    /// The next record comes so many milliseconds after the start.
    pub fn at(self, ms: u64) -> Self {
        self.at_us(1_000 * ms)
    }

    /// The next record comes so many microseconds after the start.
    pub fn at_us(mut self, us: u64) -> Self {
        let last = self.timeline.records.last().map_or(0, |record| record.t_us);
        assert!(us >= last, "time goes backwards, from {last} to {us}");
        self.next_us = us;
        self
    }

    /// A server that promises nothing but what everybody expects.
    pub fn without_promise(mut self) -> Self {
        self.timeline.header.promises_contract = false;
        self
    }

    /// A server that does not say which requests it has executed.
    pub fn without_accounting(mut self) -> Self {
        self.timeline.header.features.retain(|feature| feature != "accounting");
        self
    }

    pub fn param(mut self, param: Param, value: f64) -> Self {
        self.timeline.header.params.insert(param, value);
        self
    }

    pub fn without_param(mut self, param: Param) -> Self {
        self.timeline.header.params.remove(&param);
        self
    }

    /// What follows is about this process.
    pub fn process(mut self, process: ProcessId) -> Self {
        self.process = process;
        self
    }

    pub fn started(self) -> Self {
        self.starts(Part::Server, None)
    }

    /// As `started`, in this place of a fleet.
    pub fn started_in(self, slot: Slot) -> Self {
        self.starts(Part::Server, Some(slot))
    }

    /// As `started`, and it is no server.
    pub fn balancer_started(self) -> Self {
        self.starts(Part::Balancer, None)
    }

    fn starts(self, part: Part, slot: Option<Slot>) -> Self {
        let process = self.process;
        self.record(Event::Started { process, pid: 1_000 + process, part, slot, settings: BTreeMap::new() })
    }

    pub fn listening(self, instance: &str) -> Self {
        let process = self.process;
        self.record(Event::Listening { process, port: 40_000, admin_port: None, instance: Some(instance.to_owned()) })
    }

    /// A line of its output.
    pub fn logs(self, line: &str) -> Self {
        let process = self.process;
        self.record(Event::Log { process, line: line.to_owned() })
    }

    pub fn signal(self, name: &str) -> Self {
        let process = self.process;
        self.record(Event::Signal { process, name: name.to_owned(), group: false })
    }

    /// The process with the first pid leads, and these listen.
    pub fn seen(self, leader: u32, listeners: &[u32]) -> Self {
        let seen = |pid: u32| Seen { pid: Some(pid), command: format!("program-{pid}") };
        let (process, listeners) = (self.process, listeners.iter().map(|pid| seen(*pid)).collect());
        self.record(Event::Listeners { process, leader: seen(leader), listeners })
    }

    /// The signal is sent to whoever listens, past the leader.
    pub fn signal_past(self) -> Self {
        let process = self.process;
        self.record(Event::SignalPast { process, name: "SIGTERM".to_owned() })
    }

    pub fn listener_closed(self) -> Self {
        let now_us = self.next_us;
        self.listener_open_until(now_us)
    }

    /// It was seen to have closed now, and was open then for certain.
    pub fn listener_open_until(self, open_until_us: u64) -> Self {
        let process = self.process;
        self.record(Event::ListenerClosed { process, open_until_us: Some(open_until_us) })
    }

    /// It was seen to have closed now, and nobody had looked since the signal.
    pub fn listener_closed_unseen(self) -> Self {
        let process = self.process;
        self.record(Event::ListenerClosed { process, open_until_us: None })
    }

    pub fn exited(self, code: i32) -> Self {
        let process = self.process;
        self.record(Event::Exited { process, code: Some(code), signal: None })
    }

    pub fn killed_by(self, signal: i32) -> Self {
        let process = self.process;
        self.record(Event::Exited { process, code: None, signal: Some(signal) })
    }

    /// Nobody reads its output from now on.
    pub fn muted(self) -> Self {
        let process = self.process;
        self.record(Event::Muted { process })
    }

    /// The harness breaks its listener.
    pub fn listener_broken(self) -> Self {
        let process = self.process;
        self.record(Event::ListenerBroken { process })
    }

    /// The harness kills it, which ends it.
    pub fn killed_by_harness(self) -> Self {
        let process = self.process;
        self.record(Event::Killed { process }).killed_by(9)
    }

    pub fn metrics(self, requests: u64) -> Self {
        let process = self.process;
        self.record(Event::InFlight { process, requests })
    }

    pub fn opened(self, connection: ConnectionId, role: Role) -> Self {
        self.record(Event::Opened { connection, role, begun_us: None })
    }

    /// As `opened`, where connecting began so many milliseconds after the start.
    pub fn opened_since(self, connection: ConnectionId, role: Role, begun_ms: u64) -> Self {
        self.record(Event::Opened { connection, role, begun_us: Some(1_000 * begun_ms) })
    }

    pub fn not_opened(self, connection: ConnectionId, role: Role, why: NotOpened) -> Self {
        self.record(Event::NotOpened { connection, role, why, begun_us: None })
    }

    /// As `not_opened`, where connecting began so many milliseconds after the start.
    pub fn not_opened_since(self, connection: ConnectionId, role: Role, why: NotOpened, begun_ms: u64) -> Self {
        self.record(Event::NotOpened { connection, role, why, begun_us: Some(1_000 * begun_ms) })
    }

    pub fn ended(self, connection: ConnectionId, how: Ending) -> Self {
        self.record(Event::Ended { connection, how })
    }

    pub fn sent(self, request: &str, role: Role) -> Self {
        self.send(1, request, role, None, None)
    }

    /// As `sent`, on this connection.
    pub fn sent_on(self, connection: ConnectionId, request: &str, role: Role) -> Self {
        self.send(connection, request, role, None, None)
    }

    /// As `sent`, where the length of a whole body is known.
    pub fn sent_expecting(self, request: &str, role: Role, bytes: u64) -> Self {
        self.send(1, request, role, Some(bytes), None)
    }

    /// As `sent`, where it was learnt which status this server gives in peace.
    pub fn sent_expecting_status(self, request: &str, role: Role, status: u16) -> Self {
        self.send(1, request, role, None, Some(status))
    }

    /// As `sent`, where its first bytes may have been written so many milliseconds after the start already.
    pub fn sent_since(self, request: &str, role: Role, begun_ms: u64) -> Self {
        self.sent(request, role).sent_with(|_, _, begun_us| *begun_us = Some(1_000 * begun_ms))
    }

    /// What was just sent is no GET.
    pub fn by(self, method: &str) -> Self {
        self.sent_with(|name, _, _| *name = Some(method.to_owned()))
    }

    /// What was just sent was due so many milliseconds after the start.
    pub fn due(self, ms: u64) -> Self {
        self.sent_with(|_, due_us, _| *due_us = Some(1_000 * ms))
    }

    /// Changes the method, the due time and the beginning of what was just sent.
    fn sent_with(mut self, change: impl FnOnce(&mut Option<String>, &mut Option<u64>, &mut Option<u64>)) -> Self {
        match self.timeline.records.last_mut().map(|record| &mut record.event) {
            Some(Event::Sent { method, due_us, begun_us, .. }) => change(method, due_us, begun_us),
            other => panic!("nothing was just sent, but: {other:?}"),
        }
        self
    }

    fn send(
        self,
        connection: ConnectionId,
        request: &str,
        role: Role,
        expect_bytes: Option<u64>,
        expect_status: Option<u16>,
    ) -> Self {
        let (request, path) = (request.to_owned(), "/".to_owned());
        self.record(Event::Sent {
            connection,
            request,
            role,
            method: None,
            path,
            due_us: None,
            expect_bytes,
            expect_status,
            begun_us: None,
            cut_hidden: false,
        })
    }

    /// As `sent_expecting_status`, of a body whose length was learnt as well.
    pub fn sent_learnt(self, request: &str, role: Role, status: u16) -> Self {
        self.send(1, request, role, Some(BODY), Some(status))
    }

    /// As `sent_expecting_status`, of a body that ends with the connection and whose length changes.
    pub fn sent_without_length(self, request: &str, role: Role) -> Self {
        self.record(Event::Sent {
            connection: 1,
            request: request.to_owned(),
            role,
            method: None,
            path: "/".to_owned(),
            due_us: None,
            expect_bytes: None,
            expect_status: Some(200),
            begun_us: None,
            cut_hidden: true,
        })
    }

    pub fn unsent(self, request: &str, role: Role) -> Self {
        self.record(Event::Unsent { connection: 1, request: request.to_owned(), role })
    }

    /// The kernel says that the server has read it.
    pub fn read(self, request: &str) -> Self {
        self.record(Event::Read { requests: vec![request.to_owned()] })
    }

    /// A look that finds nothing read and unanswered.
    pub fn looked(self) -> Self {
        self.record(Event::Read { requests: Vec::new() })
    }

    /// A step in the replacement of the instance in this place begins.
    pub fn step(self, slot: Slot, what: StepKind) -> Self {
        self.record(Event::Step { slot, what })
    }

    /// An observer makes this of an instance.
    pub fn endpoint(self, observer: &str, process: ProcessId, state: EndpointState) -> Self {
        self.record(Event::Endpoint { observer: observer.to_owned(), process, state })
    }

    /// The balancer was told to read its configuration again.
    pub fn reloaded(self) -> Self {
        let process = self.process;
        self.record(Event::Reloaded { process })
    }

    /// More `executed` lines come than are recorded.
    pub fn executed_unrecorded(self) -> Self {
        let process = self.process;
        self.record(Event::Unrecorded { process, lines: Lines::Executed, recorded: 0 })
    }

    /// The server says that it executed it.
    pub fn executed(self, request: &str) -> Self {
        let process = self.process;
        self.record(Event::Executed { process, request: request.to_owned() })
    }

    pub fn continued(self, request: &str) -> Self {
        self.record(Event::Continued { request: request.to_owned() })
    }

    pub fn head(self, request: &str, status: u16) -> Self {
        self.heads(request, status, false, false)
    }

    fn heads(self, request: &str, status: u16, close: bool, retry_after: bool) -> Self {
        let request = request.to_owned();
        self.record(Event::Head { request, status, close, retry_after, instance: None })
    }

    /// A whole response by this instance.
    pub fn answered_by(self, request: &str, status: u16, instance: &str) -> Self {
        let (id, instance) = (request.to_owned(), Some(instance.to_owned()));
        let head = Event::Head { request: id, status, close: false, retry_after: false, instance };
        self.record(head).complete(request, BODY)
    }

    /// The end of a response, with so many bytes.
    pub fn complete(self, request: &str, body_bytes: u64) -> Self {
        self.record(Event::Answered { request: request.to_owned(), body_bytes, intact: None })
    }

    /// The end of a response whose body is not what was sent up.
    pub fn garbled(self, request: &str) -> Self {
        self.record(Event::Answered { request: request.to_owned(), body_bytes: BODY, intact: Some(false) })
    }

    /// A whole response.
    pub fn answered(self, request: &str, status: u16) -> Self {
        self.head(request, status).complete(request, BODY)
    }

    /// A whole response that says `Connection: close`.
    pub fn answered_close(self, request: &str, status: u16) -> Self {
        self.heads(request, status, true, false).complete(request, BODY)
    }

    /// A whole response with `Retry-After`, and with `Connection: close` if so.
    pub fn turned_away(self, request: &str, status: u16, close: bool) -> Self {
        self.heads(request, status, close, true).complete(request, BODY)
    }

    pub fn broken(self, request: &str, why: Break) -> Self {
        self.record(Event::Broken { request: request.to_owned(), why, body_bytes: 0 })
    }

    /// The harness itself was late.
    pub fn stalled(self, late_ms: u64) -> Self {
        self.record(Event::Stalled { late_us: 1_000 * late_ms, within_us: 0 })
    }

    /// The harness was late for so long in all, in many pieces, in so many milliseconds.
    pub fn stalled_in_pieces(self, late_ms: u64, within_ms: u64) -> Self {
        self.record(Event::Stalled { late_us: 1_000 * late_ms, within_us: 1_000 * within_ms })
    }

    /// The process has waited for a processor for so long in all, in so many milliseconds.
    pub fn starved(self, waited_ms: u64, within_ms: u64) -> Self {
        let process = self.process;
        self.record(Event::Starved { process, waited_us: 1_000 * waited_ms, within_us: 1_000 * within_ms })
    }

    /// A client that reads slowly is still reading.
    pub fn received(self, request: &str, body_bytes: u64) -> Self {
        self.record(Event::Received { request: request.to_owned(), body_bytes })
    }

    /// Somebody else has the port that it was told.
    pub fn port_taken(self) -> Self {
        let process = self.process;
        self.record(Event::PortTaken { process, port: 40_000 })
    }

    pub fn unconfirmed(self, what: &str) -> Self {
        self.record(Event::Unconfirmed { what: what.to_owned(), why: "it does not hold".to_owned() })
    }

    pub fn aborted(self, why: &str) -> Self {
        self.record(Event::Aborted { why: why.to_owned() })
    }

    pub fn skipped(self, why: &str) -> Self {
        self.record(Event::Skipped { why: why.to_owned() })
    }

    fn record(mut self, event: Event) -> Self {
        self.timeline.records.push(Record { t_us: self.next_us, event });
        self.next_us += 1_000;
        self
    }
}
