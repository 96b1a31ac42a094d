//! The rules: one sentence each, judged from the timeline alone.

mod connections;
mod health;
mod requests;
mod signals;
mod texts;

pub use texts::{Text, text};

use serde::{Deserialize, Serialize};

use crate::timeline::{Connection, End, Ending, Param, Process, Request, Role, View};

/// Slack, in microseconds, that every timing rule grants: what a busy two-core machine takes from a server that
/// is in order. Rules on order and on loss have none.
pub const SLACK_US: u64 = 3_000_000;

/// Timers fire late, never early: what comes earlier than it should by less than this, in microseconds, is the clocks of
/// two processes.
const TOLERANCE_US: u64 = 50_000;

/// How much a rule demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// Breaking it is a failure.
    Must,
    /// Breaking it is worth a warning.
    Should,
    /// It is measured and never counts.
    Info,
}

impl Level {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::Info => "INFO",
        }
    }
}

/// What a rule stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// A specification says so, or a client can see the loss.
    Wire,
    /// The contract of drainspec's own servers says so.
    Contract,
}

impl Basis {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Contract => "contract",
        }
    }
}

/// One rule.
pub struct Rule {
    /// Its name, for ever.
    pub slug: &'static str,
    /// How much it demands of a server that promises it.
    pub level: Level,
    /// What it stands on.
    pub basis: Basis,
    /// What must hold.
    pub sentence: &'static str,
    /// Decides, from the timeline alone.
    pub judge: fn(&View) -> Finding,
}

impl Rule {
    /// The level for a server that does or does not promise the contract.
    pub fn level_for(&self, promises_contract: bool) -> Level {
        match (self.basis, self.level, promises_contract) {
            (Basis::Contract, Level::Must, false) => Level::Should,
            _ => self.level,
        }
    }
}

/// What a rule finds in a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the rule holds.
    pub outcome: Outcome,
    /// What was seen.
    pub actual: String,
    /// Times (µs) of the records that show it.
    pub evidence: Vec<u64>,
}

/// Whether a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It does.
    Holds,
    /// It does not.
    Violated,
    /// The timeline does not tell.
    Inconclusive,
}

impl Finding {
    /// The rule holds.
    pub fn holds(actual: impl Into<String>) -> Self {
        Self { outcome: Outcome::Holds, actual: actual.into(), evidence: Vec::new() }
    }

    /// The rule is violated, as the records at these times show.
    pub fn violated(actual: impl Into<String>, evidence: impl IntoIterator<Item = u64>) -> Self {
        Self { outcome: Outcome::Violated, actual: actual.into(), evidence: evidence.into_iter().collect() }
    }

    /// The timeline does not tell.
    pub fn inconclusive(actual: impl Into<String>) -> Self {
        Self { outcome: Outcome::Inconclusive, actual: actual.into(), evidence: Vec::new() }
    }
}

/// All rules, group by group.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    [signals::RULES, requests::RULES, connections::RULES, health::RULES].into_iter().flatten()
}

/// The rule with this slug.
pub fn find(slug: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.slug == slug)
}

/// Rules that tell something where the signal does not reach the server; of all others nothing can be said then.
const WITHOUT_SERVER: [&str; 4] =
    ["signal-reaches-server", "port-free-after-exit", "int-like-term", "hup-keeps-serving"];

/// Why nothing can be said of a rule although all preconditions hold: what got the signal was not the server.
pub fn untold(rule: &Rule, view: &View) -> Option<Finding> {
    let process = view.process().filter(|_| !WITHOUT_SERVER.contains(&rule.slug))?;
    let missed = signals::missed(process)?;
    Some(Finding::inconclusive(format!("the signal did not reach the server: {missed}")))
}

// What several groups need.

/// Milliseconds, for people.
fn ms(us: u64) -> String {
    match us {
        0..100_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

fn seconds(s: f64) -> u64 {
    (s * 1e6) as u64
}

/// The process under test and the time of its first signal.
fn stopped<'v>(view: &'v View) -> Result<(&'v Process, u64), Finding> {
    let process = view.process().ok_or_else(|| Finding::inconclusive("no process was started"))?;
    let signalled = process.signalled().ok_or_else(|| Finding::inconclusive("no signal was sent"))?;
    Ok((process, signalled))
}

/// Whether something happened within `limit` (µs) and slack of `from`. Where it did not, but the harness stalled
/// meanwhile, nobody is accused.
fn within(view: &View, what: &str, from: u64, at: Option<u64>, limit: u64) -> Finding {
    let latest = from.saturating_add(limit).saturating_add(SLACK_US);
    match at {
        Some(at) if at <= latest => Finding::holds(format!("{what} after {}", ms(at.saturating_sub(from)))),
        _ if view.stalled(from, latest, SLACK_US / 2) => Finding::inconclusive("the harness itself stalled meanwhile"),
        Some(at) => Finding::violated(
            format!("{what} after {}, where {} and {} of slack are allowed", ms(at - from), ms(limit), ms(SLACK_US)),
            [from, at],
        ),
        None => Finding::violated(format!("{what}: not within {} and {} of slack", ms(limit), ms(SLACK_US)), [from]),
    }
}

/// What a server loses under load says nothing of the signal where it loses requests without one.
fn but_for_peace(view: &View, finding: Finding) -> Finding {
    match view.param(Param::LostInPeace).filter(|share| *share > 0.0) {
        Some(share) if finding.outcome == Outcome::Violated => Finding::inconclusive(format!(
            "{}; but it loses {:.1} % of the requests while nobody stops it",
            finding.actual,
            share * 100.0
        )),
        _ => finding,
    }
}

/// Which requests a rule minds, and what it wants of each.
fn each<'v, 't>(
    requests: impl Iterator<Item = &'v Request<'t>>,
    nothing: &str,
    good: impl Fn(&Request) -> bool,
) -> Finding
where
    't: 'v,
{
    let mut count = 0;
    let mut bad: Vec<&Request> = Vec::new();
    for request in requests {
        count += 1;
        if !good(request) {
            bad.push(request);
        }
    }
    match bad.first() {
        _ if count == 0 => Finding::inconclusive(nothing),
        None => Finding::holds(format!("{count} of {count}")),
        Some(first) => Finding::violated(
            format!("{} of {count} not: {}", bad.len(), fate(first)),
            bad.iter().take(5).flat_map(|request| [Some(request.sent), request.ended]).flatten(),
        ),
    }
}

/// What became of a request, in words.
fn fate(request: &Request) -> String {
    let what = format!("{} (request {}, connection {})", request.path, request.id, request.connection);
    let after = request.ended.map_or(String::new(), |at| format!(" after {}", ms(at - request.sent)));
    let head = match request.status {
        Some(status) => format!(", after the head of a {status} and {} body bytes", request.body_bytes),
        None => ", before any response byte".to_owned(),
    };
    match request.end {
        End::Answered if !request.whole() && request.has_status_due() => match request.expect_bytes {
            Some(expected) if expected != request.body_bytes => {
                format!("{what} ended as if whole with {} body bytes instead of {expected}", request.body_bytes)
            }
            _ => format!("{what} was answered with another body than is due"),
        },
        End::Answered => format!(
            "{what} was answered {}{}",
            request.status.map_or("without a status".to_owned(), |status| status.to_string()),
            if request.close { " with `Connection: close`" } else { "" }
        ),
        End::Lost(why) => format!("{what} was lost by {}{after}{head}", why.words()),
        End::Unsent => format!("{what} could not be sent: the connection had ended"),
        End::Open => format!("{what} had no end when the run was over{head}"),
    }
}

fn ending_word(how: Ending) -> &'static str {
    match how {
        Ending::Fin => "FIN",
        Ending::Reset => "RST",
        Ending::Local => "the client",
    }
}

/// Requests that were on their way when the signal was sent.
fn in_flight<'v, 't>(view: &'v View<'t>, role: Role, signalled: u64) -> impl Iterator<Item = &'v Request<'t>> {
    view.requests(role)
        .filter(move |request| request.sent <= signalled && request.ended.is_none_or(|ended| ended > signalled))
}

/// The first connection with this role that could not be made.
fn not_opened<'v>(view: &'v View, role: Role) -> Option<&'v Connection> {
    view.connections(role).find(|connection| connection.opening != crate::timeline::Opening::Opened)
}

/// Opened connections with one of these roles.
fn opened<'v>(view: &'v View, roles: &'v [Role]) -> impl Iterator<Item = &'v Connection> {
    view.connections
        .iter()
        .filter(|connection| roles.contains(&connection.role) && connection.opening == crate::timeline::Opening::Opened)
}
