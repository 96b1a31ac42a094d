//! The rules: one sentence each, judged from the timeline alone.

mod breakage;
mod connections;
mod due;
mod finding;
mod health;
mod requests;
mod rollout;
mod signals;
mod texts;

pub use finding::{Finding, Outcome, Reason, Share};
pub use rollout::{Score, is_of_users, score};
pub use texts::{Text, text};

use serde::{Deserialize, Serialize};

use crate::timeline::{Connection, End, Ending, NotOpened, Opening, Param, Process, Request, Role, View};

/// Slack, in microseconds, that every timing rule grants: what a busy two-core machine takes from a server that
/// is in order, on top of the stalls that are seen. Rules on order and on loss have none.
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

/// All rules, group by group.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    let one = [signals::RULES, requests::RULES, connections::RULES, health::RULES];
    one.into_iter().chain([rollout::RULES]).flatten()
}

/// The rule with this slug.
pub fn find(slug: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.slug == slug)
}

/// Whether a rule is broken where a client loses a request.
pub fn is_about_loss(slug: &str) -> bool {
    LOSSES.contains(&slug)
}

/// Whether a rule is about what a server says to whoever is connected to it, and so about nobody behind a balancer.
pub fn is_of_one_hop(slug: &str) -> bool {
    slug == "close-announced"
}

/// Whether a rule is about several instances and what stands before them, so that no line of one server keeps it.
pub fn is_about_fleets(slug: &str) -> bool {
    rollout::RULES.iter().any(|rule| rule.slug == slug)
}

const LOSSES: [&str; 7] = [
    "in-flight-answered",
    "response-untruncated",
    "nothing-lost-on-keep-alive",
    "nothing-lost-in-accept-queue",
    "late-request-answered",
    "pipelined-in-order",
    "continue-answered",
];

/// Rules that tell something where the signal does not reach the server; of all others nothing can be said then.
const WITHOUT_SERVER: [&str; 4] =
    ["signal-reaches-server", "port-free-after-exit", "int-like-term", "hup-keeps-serving"];

/// Why a rule cannot be judged of a server with these features; `None` where it can.
pub fn unsupported(rule: &Rule, features: &[String]) -> Option<&'static str> {
    let accounts = features.iter().any(|feature| feature == "accounting");
    (rollout::ACCOUNTED.contains(&rule.slug) && !accounts).then_some("the server does not say what it has done")
}

/// What is said of a rule that tells nothing because what got the signal was not the server.
pub const MISSED: &str = "the signal did not reach the server";

/// What is said of a rule that is about the end of a process which was not waited for long enough.
const NOT_WAITED_FOR: &str = "its end was not waited for: it does not come when nothing is going on, either";

/// Why nothing can be said of a rule although all preconditions hold: what got the signal was not the server.
pub fn untold(rule: &Rule, view: &View) -> Option<Finding> {
    let process = view.process().filter(|_| !WITHOUT_SERVER.contains(&rule.slug))?;
    let missed = signals::missed(process)?;
    Some(Finding::inconclusive(format!("{MISSED}: {missed}")).because(Reason::Missed))
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

/// A busy machine costs others about as much again as is seen of it: a stall is noticed where the harness, or the
/// kernel, happens to look.
const UNSEEN: u64 = 2;

/// How much of the time from `from` to `to` stalls may have cost, in microseconds. Zero where none was seen.
fn cost(view: &View, from: u64, to: u64) -> u64 {
    UNSEEN.saturating_mul(view.lost(from, to))
}

/// Whether what was lost from `from` to `to` can be the reason why something came `overdue` microseconds too late, or
/// was not done in a time of that length.
fn stalled(view: &View, from: u64, to: u64, overdue: u64) -> bool {
    let cost = cost(view, from, to);
    cost > 0 && cost >= overdue
}

/// Nobody is accused of what a stall can explain.
fn busy(what: &str, view: &View, from: u64, to: u64) -> Finding {
    Finding::inconclusive(format!(
        "{what}, but the machine was busy: {} of {} were lost",
        ms(view.lost(from, to)),
        ms(to.saturating_sub(from))
    ))
    .because(Reason::Stalled)
}

/// Whether something happened within `limit` (µs) and slack of `from`. Where it did not, but stalls can explain that,
/// nobody is accused.
fn within(view: &View, what: &str, from: u64, at: Option<u64>, limit: u64) -> Finding {
    let latest = from.saturating_add(limit).saturating_add(SLACK_US);
    let until = at.unwrap_or(view.end).max(latest);
    // Where the run was over sooner, whoever waited for it had waited from another moment on.
    let overdue = if at.is_none() && view.end < latest { SLACK_US } else { until - latest };
    match at {
        Some(at) if at <= latest => Finding::holds(format!("{what} after {}", ms(at.saturating_sub(from)))),
        _ if stalled(view, from, until, overdue) => busy(&format!("{what} late"), view, from, until),
        None if view.gave_up.is_some_and(|at| at < latest) => Finding::inconclusive(NOT_WAITED_FOR),
        Some(at) => Finding::violated(
            format!("{what} after {}, where {} and {} of slack are allowed", ms(at - from), ms(limit), ms(SLACK_US)),
            [from, at],
        ),
        None => {
            // Where it was waited for from another moment on, the run may be over sooner.
            let when = match view.end {
                until if until < latest => "by the end of the run".to_owned(),
                _ => format!("after {}", ms(latest.saturating_sub(from))),
            };
            let allowed = format!("{} and {} of slack are allowed", ms(limit), ms(SLACK_US));
            Finding::violated(format!("{} {when}, where {allowed}", not_yet(what)), [from]).because(Reason::Never)
        }
    }
}

/// How much later than its grace period a process has to end so that it is not the machine, in microseconds.
const GRACE_US: u64 = 500_000;

/// Whether the process has ended within `limit` (µs) and slack of `from`, and before the grace period was over, where
/// one is known.
fn ended(view: &View, process: &Process, from: u64, limit: u64) -> Finding {
    let exited = process.exited.map(|(at, ..)| at);
    let grace = process.signalled().zip(view.param(Param::Grace));
    if let (Some((signalled, grace)), Some(at)) = (grace, exited)
        && at > signalled.saturating_add(seconds(grace))
    {
        let needed = at - signalled;
        let late = needed - seconds(grace);
        let actual = format!("needed {:.1} s from the signal on; --grace says {grace} s", needed as f64 / 1e6);
        return if late < GRACE_US {
            Finding::inconclusive(format!("{actual}: too close to tell"))
        } else if stalled(view, signalled, at, late) {
            busy(&actual, view, signalled, at)
        } else {
            Finding::violated(format!("{actual}: it is killed by then, with all that it was doing"), [signalled, at])
        };
    }
    within(view, "the process ended", from, exited, limit)
}

/// For how long after the signal idle connections may hold a process, in microseconds: the lame-duck, and their linger.
fn lingering(view: &View) -> u64 {
    seconds(view.param(Param::ShutdownDelay).unwrap_or(0.0) + view.param(Param::IdleLinger).unwrap_or(0.0))
}

/// The same of something that has not happened: "the process ended" becomes "the process had not ended".
fn not_yet(what: &str) -> String {
    for done in ["ended", "gave up", "failed", "answered", "closed", "was served"] {
        if let Some((who, rest)) = what.split_once(&format!(" {done}")) {
            let participle = match done {
                "gave up" => "given up",
                "was served" => "been served",
                done => done,
            };
            return format!("{who} had not {participle}{rest}");
        }
    }
    format!("it had not come to this: {what}")
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
        )
        .share(bad.len(), count),
    }
}

/// What became of a request, in words.
fn fate(request: &Request) -> String {
    let of = format!("request {}, connection {}", request.id, request.connection);
    // Of one that was never sent the path is not known.
    let what = if request.path.is_empty() { of } else { format!("{} ({of})", request.path) };
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

/// The first connection with this role that could not be made. Where this side had no local port left, that is no
/// doing of the server.
fn not_opened<'v>(view: &'v View, role: Role) -> Option<&'v Connection> {
    let kept_out = |connection: &&Connection| {
        matches!(connection.opening, Opening::Failed(NotOpened::Refused | NotOpened::TimedOut))
    };
    view.connections(role).find(kept_out)
}

/// Opened connections with one of these roles.
fn opened<'v>(view: &'v View, roles: &'v [Role]) -> impl Iterator<Item = &'v Connection> {
    view.connections
        .iter()
        .filter(|connection| roles.contains(&connection.role) && connection.opening == Opening::Opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_happened_is_said_so() {
        for (what, said) in [
            ("the process ended", "the process had not ended"),
            ("the process ended on SIGINT", "the process had not ended on SIGINT"),
            ("the server gave up", "the server had not given up"),
            ("readiness failed", "readiness had not failed"),
            ("somebody else was served", "somebody else had not been served"),
        ] {
            assert_eq!(not_yet(what), said);
        }
    }
}
