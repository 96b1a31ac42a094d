//! What a view is made of: requests, connections and processes, each with what became of it.

use super::{
    Break, ConnectionId, Ending, EndpointState, Micros, NotOpened, Part, ProcessId, Role, Seen, Slot, StepKind,
};

/// Status of a rate limiter (RFC 6585, section 4).
const LIMITED: u16 = 429;

/// One request and what became of it.
#[derive(Debug)]
pub struct Request<'t> {
    /// Its id.
    pub id: &'t str,
    /// The connection it was sent on.
    pub connection: ConnectionId,
    /// What it is for.
    pub role: Role,
    /// Its method; `GET` also where that is not known.
    pub method: &'t str,
    /// The path it asks for.
    pub path: &'t str,
    /// When it was due, where requests are due at a steady rate.
    pub due: Option<Micros>,
    /// When its first bytes had been written, or should have been.
    pub sent: Micros,
    /// No earlier than this were they written.
    pub begun: Micros,
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
    /// When the last piece of its body came, to a client that reads slowly.
    pub received: Option<Micros>,
    /// Bytes of the body that came.
    pub body_bytes: u64,
    /// Whether the body is what it should be, where that was checked.
    pub intact: Option<bool>,
    /// How it ended.
    pub end: End,
    /// When it ended.
    pub ended: Option<Micros>,
    /// Who says that it executed the request, and when.
    pub executions: Vec<(Micros, ProcessId)>,
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
    /// When it was there, or was known not to come about.
    pub at: Micros,
    /// When connecting began.
    pub begun: Micros,
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

/// What an observer makes of an instance, from a moment on.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'t> {
    /// When.
    pub at: Micros,
    /// Who sees it so.
    pub observer: &'t str,
    /// The instance.
    pub process: ProcessId,
    /// Its state.
    pub state: EndpointState,
}

/// A step in the replacement of an instance.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// When it began.
    pub at: Micros,
    /// The place in the fleet.
    pub slot: Slot,
    /// What was done.
    pub what: StepKind,
}

/// One process.
#[derive(Debug, Default)]
pub struct Process {
    /// The part that it plays.
    pub part: Part,
    /// Its place in a fleet.
    pub slot: Option<Slot>,
    /// When it was started.
    pub started: Micros,
    /// When it was known to listen.
    pub listening: Option<Micros>,
    /// Its instance id.
    pub instance: Option<String>,
    /// When its preStop hook began.
    pub hook: Option<Micros>,
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
    /// When the harness killed it, where it did. What it does from then on is not its doing.
    pub killed: Option<Micros>,
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

impl Connection {
    pub(super) fn new(id: ConnectionId, role: Role, at: Micros, begun: Option<Micros>, opening: Opening) -> Self {
        Self { id, role, at, begun: begun.unwrap_or(at).min(at), opening, ended: None }
    }
}

impl<'t> Request<'t> {
    pub(super) fn new(id: &'t str, connection: ConnectionId, role: Role, sent: Micros) -> Self {
        Self {
            id,
            connection,
            role,
            method: "GET",
            path: "",
            due: None,
            sent,
            begun: sent,
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
            received: None,
            body_bytes: 0,
            intact: None,
            end: End::Open,
            ended: None,
            executions: Vec::new(),
        }
    }

    /// Whether a server says that it executed the request.
    pub fn executed(&self) -> bool {
        !self.executions.is_empty()
    }

    /// Whether doing it twice is the same as doing it once (RFC 9110, section 9.2.2), so that a balancer may send it again.
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
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
        let long = self.expect_bytes.is_none_or(|due| match self.expect_status {
            // What was learnt may grow with the phase that it tells: what is shorter is cut.
            Some(_) => self.body_bytes >= due,
            None => self.body_bytes == due,
        });
        (other && self.answered()) || (long && self.intact != Some(false))
    }
}
