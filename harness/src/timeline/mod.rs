//! The immutable record of one run.
//!
//! A timeline is a header and a list of [`Record`]s, written as NDJSON. It holds facts only: what was sent, what
//! came back, how a connection ended, when a process exited. What the facts mean is decided by
//! [`crate::rules`], as a pure function.

mod attempts;
mod param;
mod parts;
mod read;
mod view;
mod workload;

pub use attempts::{Attempt, Fate};
pub use param::Param;
pub use parts::{Connection, End, Endpoint, Listeners, Opening, Process, Request, Step};
pub use read::{ReadError, read};
pub use view::{Micros, View};
pub use workload::{ContainerSpec, Hook, PodFact, Progress, RolloutState, Strategy, WorkloadKind, WorkloadSpec};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The format that this version writes. It reads it and all earlier ones: fields are added with a default, kinds of records
/// are added, and none changes its meaning.
pub const FORMAT: u32 = 2;

/// One run: its header and its records, in the order of their times.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// What was run, against what, and where.
    pub header: Header,
    /// What happened.
    pub records: Vec<Record>,
}

/// The first line of a timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Format version, see [`FORMAT`].
    pub format: u32,
    /// Slug of the scenario.
    pub scenario: String,
    /// Slugs of the rules by which this run is judged.
    pub rules: Vec<String>,
    /// Name of the server under test, such as `go` or `naive/python`.
    pub server: String,
    /// What stood between client and server.
    pub topology: String,
    /// Which repeat of the same cell this is, from 1.
    pub repeat: u32,
    /// Whether the server promises drainspec's contract, so that breaking a contract rule is a failure.
    pub promises_contract: bool,
    /// What the server can do.
    pub features: Vec<String>,
    /// Parameters of the scenario.
    pub params: BTreeMap<Param, f64>,
    /// The machine: operating system, kernel, cores.
    pub environment: BTreeMap<String, String>,
    /// What was learnt of somebody's server before it was judged, in words; empty for servers of the catalogue.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<String>,
}

/// One fact and its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Microseconds since the run began, from a monotonic clock.
    pub t_us: u64,
    /// What happened then.
    pub event: Event,
}

/// Number of a connection within a run.
pub type ConnectionId = u32;
/// Id of a request within a run; sent as `X-Request-Id`.
pub type RequestId = String;
/// Number of a process within a run: a restart is another process.
pub type ProcessId = u32;
/// Place of an instance in a fleet, from 1. Whoever replaces it takes its place, and its address.
pub type Slot = u32;

/// The part that a process plays in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// It is under test, or an instance of what is.
    #[default]
    Server,
    /// It stands between the clients and the server.
    Balancer,
}

impl Part {
    fn is_server(&self) -> bool {
        *self == Self::Server
    }
}

/// What an observer makes of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// It is known, and gets no requests yet.
    Starting,
    /// It gets requests.
    Up,
    /// It gets no new requests; those that it has are waited for.
    Draining,
    /// It is known, and gets no requests, because it does not answer as it should.
    Down,
    /// It is not known, or not any more.
    Gone,
}

impl EndpointState {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Gone => "gone",
        }
    }
}

/// A step in the replacement of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// The balancer is told to send it nothing more.
    Withdraw,
    /// It gets the signal that stops it, and its end is waited for.
    Stop,
    /// Its successor is started, and has to answer.
    Start,
    /// The balancer is to send requests to the successor.
    Admit,
    /// The balancer does.
    Done,
}

impl StepKind {
    /// Whether the instance that was there before is ended by it.
    pub fn ends(self) -> bool {
        matches!(self, Self::Withdraw | Self::Stop)
    }

    /// What goes on from there to the next step, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Withdraw => "being withdrawn",
            Self::Stop => "stopping",
            Self::Start => "starting",
            Self::Admit => "being admitted",
            Self::Done => "in place",
        }
    }
}

/// How a preStop hook ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookEnd {
    /// It has done what it does.
    Done,
    /// It has failed, for this reason.
    Failed(String),
    /// The grace of its pod was over before.
    OutOfGrace,
}

/// A process as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Its pid; `null` where the process cannot be seen and only its socket shows.
    pub pid: Option<u32>,
    /// Its command line, shortened.
    pub command: String,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) if self.command.is_empty() => write!(f, "a process that has ended since (pid {pid})"),
            Some(pid) => write!(f, "`{}` (pid {pid})", self.command),
            None => f.write_str("a process that cannot be seen"),
        }
    }
}

/// What a request or a connection is for. Rules choose by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Shows that the server answers at all.
    Warmup,
    /// In flight when the signal arrives, and due a whole answer.
    InFlight,
    /// In flight when the signal arrives, and too long for the deadline.
    Doomed,
    /// A response in progress that has an end.
    Finite,
    /// A response in progress that has none.
    Endless,
    /// A body on its way up.
    Upload,
    /// A head that arrives byte by byte and never ends.
    SlowHead,
    /// A body that arrives byte by byte and never ends.
    SlowBody,
    /// A client that takes its time to read.
    SlowReader,
    /// A client that leaves before the answer.
    Gone,
    /// One of several requests written at once on one connection.
    Pipelined,
    /// Asks before it sends its body.
    Continue,
    /// One of more requests than the server takes.
    Overload,
    /// Asked on an open connection after the listener closed.
    Late,
    /// As `Late`, where the server was told to reject.
    LateRejected,
    /// Asks back to back on one connection.
    KeepAlive,
    /// Connects for each request.
    Storm,
    /// Keeps the server so busy that requests wait inside it.
    Saturated,
    /// Goes on asking long after the signal.
    Sustained,
    /// A connection that has answered and waits.
    Idle,
    /// A connection on which nothing was ever sent.
    Unused,
    /// A connection that its client keeps after the answer to the request that was in flight on it.
    Kept,
    /// A connection that waits in a balancer's pool while nobody stops the server.
    Pooled,
    /// A connection opened after the listener closed.
    New,
    /// Asked during the lame-duck.
    LameDuck,
    /// As `LameDuck`, for what does not exist.
    NotFound,
    /// A readiness probe.
    Ready,
    /// A liveness probe.
    Live,
    /// A call of the preStop hook.
    Prestop,
    /// Asked after a SIGHUP.
    AfterReload,
    /// Asked after the preStop hook has answered.
    AfterHook,
    /// Asked while nobody reads the server's output.
    Unheard,
    /// Reads nothing of its response.
    NonReader,
    /// Asked while others keep the server from nothing but their own answers.
    Newcomer,
    /// Asked of the successor of the process under test.
    Successor,
    /// Asked of whoever still listens when the process has ended.
    AfterExit,
    /// A scrape of the server's metrics.
    Metrics,
}

/// Why no connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotOpened {
    /// The kernel answered RST to the SYN, or right after the handshake: nobody listens. Nothing was sent.
    Refused,
    /// No answer in time.
    TimedOut,
    /// Anything else, such as a lack of local ports.
    Other,
}

impl NotOpened {
    /// What came instead of a connection.
    pub fn words(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "no answer in time",
            Self::Other => "not possible from here",
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The server sent FIN.
    Fin,
    /// The server, or its kernel, sent RST.
    Reset,
    /// The harness closed it.
    Local,
}

/// Why a request that was sent has no complete response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Break {
    /// FIN before the response was complete.
    Fin,
    /// RST before the response was complete.
    Reset,
    /// The harness waited long enough.
    TimedOut,
    /// What came is not HTTP.
    Malformed,
    /// The harness left, as the scenario wants it.
    Left,
}

impl Break {
    /// What came instead of a complete response.
    pub fn words(self) -> &'static str {
        match self {
            Self::Fin => "FIN",
            Self::Reset => "RST",
            Self::TimedOut => "waiting in vain",
            Self::Malformed => "an answer that is not HTTP",
            Self::Left => "the client's leaving",
        }
    }
}

/// Lines that a server writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lines {
    /// On standard output.
    Log,
    /// On standard error.
    Stderr,
    /// Those that say that a request was executed.
    Executed,
}

/// A fact.
#[allow(missing_docs)] // of the fields: each is named by its type, or said in the line above its event
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// A process was started.
    Started {
        process: ProcessId,
        pid: u32,
        #[serde(default, skip_serializing_if = "Part::is_server")]
        part: Part,
        /// Its place in a fleet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<Slot>,
        /// Variables that the harness set for it, and their values. Older timelines do not tell.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        settings: BTreeMap<String, String>,
    },
    /// A process listens; confirmed by an answer that bears its instance id, where it has one.
    Listening { process: ProcessId, port: u16, admin_port: Option<u16>, instance: Option<String> },
    /// A line of the process's standard output.
    Log { process: ProcessId, line: String },
    /// A line of the process's standard error.
    Stderr { process: ProcessId, line: String },
    /// The server says that it executed this request.
    Executed { process: ProcessId, request: RequestId },
    /// Such lines of the process are not recorded any more: so many were.
    Unrecorded { process: ProcessId, lines: Lines, recorded: u64 },
    /// A connection was made; connecting began no earlier than `begun_us`.
    Opened {
        connection: ConnectionId,
        role: Role,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        begun_us: Option<Micros>,
    },
    /// A connection was not made.
    NotOpened {
        connection: ConnectionId,
        role: Role,
        why: NotOpened,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        begun_us: Option<Micros>,
    },
    /// The first bytes of a request were written, no earlier than `begun_us`.
    Sent {
        connection: ConnectionId,
        request: RequestId,
        role: Role,
        /// Its method, where that is not GET. Timelines of format 1 do not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        method: Option<String>,
        path: String,
        /// When it was due, where requests are due at a steady rate.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        due_us: Option<Micros>,
        /// Length of the body that a whole response has, where it is known.
        expect_bytes: Option<u64>,
        /// Status of the response that this server gives when nobody stops it, where that was learnt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expect_status: Option<u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        begun_us: Option<Micros>,
        /// Whether a body that is cut would look like a whole one: it ends with the connection, and its length changes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cut_hidden: bool,
    },
    /// A request could not be written at all: the connection had ended.
    Unsent { connection: ConnectionId, request: RequestId, role: Role },
    /// The kernel says that the server has accepted the connections of these requests and read all of them, and that
    /// nothing of their answers has come.
    Read { requests: Vec<RequestId> },
    /// The last byte of a request's body was written.
    Uploaded { request: RequestId },
    /// `100 Continue` came.
    Continued { request: RequestId },
    /// The head of a response came.
    Head { request: RequestId, status: u16, close: bool, retry_after: bool, instance: Option<String> },
    /// So much of a body has come to a client that reads slowly, and that is still reading.
    Received { request: RequestId, body_bytes: u64 },
    /// The response is complete, with a valid end.
    Answered { request: RequestId, body_bytes: u64, intact: Option<bool> },
    /// No complete response will come.
    Broken { request: RequestId, why: Break, body_bytes: u64 },
    /// A connection ended.
    Ended { connection: ConnectionId, how: Ending },
    /// Who leads and who listens on the process's port: asked when it has started, and again where the port is still
    /// open when the process has ended, or should have.
    Listeners { process: ProcessId, leader: Seen, listeners: Vec<Seen> },
    /// A signal was sent to the process, or to its whole process group.
    Signal {
        process: ProcessId,
        name: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        group: bool,
    },
    /// The signal to the process had no effect on whoever listens: it was sent to them as well, past the process.
    SignalPast { process: ProcessId, name: String },
    /// The kernel's table of sockets no longer lists a listener on the process's port. Until `open_until_us` it
    /// was open for certain: `null` where no look since the signal has seen it.
    ListenerClosed { process: ProcessId, open_until_us: Option<Micros> },
    /// From now on nobody reads the process's output, and there is no room left in it.
    Muted { process: ProcessId },
    /// The harness holds the process by SIGSTOP: whatever comes from now on waits in the kernel.
    Frozen { process: ProcessId },
    /// The process goes on.
    Thawed { process: ProcessId },
    /// The harness breaks the process's listener: accept(2) fails from now on.
    ListenerBroken { process: ProcessId },
    /// The harness waits for the end of the process no longer: another one that had nothing to do has not ended either.
    WaitedNoLonger { process: ProcessId },
    /// The harness kills the process, which has not ended by itself. What it does from now on is not its doing.
    Killed { process: ProcessId },
    /// The process ended.
    Exited { process: ProcessId, code: Option<i32>, signal: Option<i32> },
    /// What the server's metrics say.
    InFlight { process: ProcessId, requests: u64 },
    /// The harness itself was late: timers fired so much after their times, in all, in the last `within_us`.
    Stalled {
        late_us: u64,
        #[serde(default)]
        within_us: u64,
    },
    /// The kernel says that the process and its children were ready to run, and had no processor, for so long in the
    /// last `within_us`.
    Starved { process: ProcessId, waited_us: u64, within_us: u64 },
    /// A load has asked so often that it goes on at a slower pace. Everything that it asks is recorded all the same.
    Eased { asked: u64, per_second: u64 },
    /// Somebody else has taken the port that the process was to use: another one is tried.
    PortTaken { process: ProcessId, port: u16 },
    /// An observer, such as a balancer or one of its nodes, makes this of an instance from now on.
    Endpoint { observer: String, process: ProcessId, state: EndpointState },
    /// A step in the replacement of the instance in this place of the fleet begins.
    Step { slot: Slot, what: StepKind },
    /// The preStop hook of a pod begins; its process has got no signal yet.
    Hook { process: ProcessId, action: String },
    /// It is over, and the signal follows.
    HookEnded { process: ProcessId, why: HookEnd },
    /// The balancer was told to read its configuration again.
    Reloaded { process: ProcessId },
    /// A workload of a cluster, as it is written there from now on.
    Workload { name: String, namespace: String, spec: WorkloadSpec },
    /// How far the cluster is with it.
    Progress { workload: String, progress: Progress },
    /// Where the rollout of it is.
    Rollout { workload: String, state: RolloutState },
    /// What the cluster says of a pod, which counts as a process; and since when that is so by the cluster's own clock.
    Pod {
        process: ProcessId,
        name: String,
        what: PodFact,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        said: Option<String>,
    },
    /// What the cluster has noted about a pod, or about the watch on it, in words.
    Notice {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process: Option<ProcessId>,
        reason: String,
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        said: Option<String>,
    },
    /// A precondition of the scenario holds.
    Confirmed { what: String },
    /// A precondition could not be established: no verdict is possible.
    Unconfirmed { what: String, why: String },
    /// This machine lacks something that the scenario needs: nothing was played, and nothing is judged.
    Skipped { why: String },
    /// The harness or its environment failed, or the server did not start: there is no verdict.
    Aborted { why: String },
    /// The scenario is over. A timeline without this record is truncated.
    Finished,
}
