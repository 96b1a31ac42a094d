//! What a deploy cost, from the timeline of the load on it alone. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::measures::percentile_ms;
use crate::timeline::{self, Event, Fate, Micros, NotOpened, Opening, ProcessId, Role, RolloutState, Timeline, View};

/// Stretches of time into which losses are sorted for the eye, at most.
const COLUMNS: u64 = 60;
/// No shorter than this is a column, in microseconds.
const SHORTEST_COLUMN_US: u64 = 250_000;
/// What the harness may lose of a run to other things that its machine does, and still be believed.
const BUSY: f64 = 0.1;
/// What a rate limiter answers (RFC 6585, section 4): the load is more than the target takes.
const TOO_MANY: u16 = 429;
/// Fewer requests, before the deploy or from its start on, say nothing.
const FEW: u64 = 10;

/// The command is the only process that the harness starts. Pods have the numbers behind it.
pub(super) const COMMAND: ProcessId = 1;

/// What a deploy cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Before the deploy began.
    pub before: Count,
    /// While it lasted.
    pub during: Count,
    /// When it was over.
    pub after: Count,
    /// What the command printed, and what was missed from there to the next line.
    pub steps: Vec<Step>,
    /// The whole run, in stretches of the same length.
    pub columns: Vec<Column>,
    /// The length of one of them, in seconds.
    pub column_s: f64,
    /// The longest time without a request that was served while the deploy lasted and after it, in seconds.
    pub longest_gap_s: f64,
    /// When each instance answered for the first and the last time, in seconds from the start of the deploy.
    pub instances: BTreeMap<String, (f64, f64)>,
    /// How long the deploy lasted, in seconds; `null` where it was not over.
    pub took_s: Option<f64>,
    /// The command's exit status; `null` where a signal ended it, it had not ended, or there was none.
    pub status: Option<i32>,
    /// Whether the cluster has rolled the workload out; `null` where none was named, or it was not waited for.
    pub rolled_out: Option<bool>,
    /// Why nothing can be said, where that is so.
    pub untold: Option<String>,
}

/// What became of the requests of one stretch of time. The outcomes are never mixed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// Requests that were to be sent.
    pub asked: u64,
    /// Complete responses that are in order.
    pub served: u64,
    /// Complete responses of 500 and above, 429, and of 400 and above where nobody got that before the command was started.
    pub failed: u64,
    /// Requests of which a byte was written, and no complete response came.
    pub lost: u64,
    /// Requests that were not sent: refused, no answer in time, or the connection was reset first.
    pub unsent: u64,
    /// How many responses had which status.
    pub statuses: BTreeMap<u16, u64>,
    /// The median of the time from when a request was due to its last byte, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The 99th percentile of that.
    pub p99_ms: Option<f64>,
}

/// A line of the command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Seconds since the command was started.
    pub at_s: f64,
    /// What it printed.
    pub line: String,
    /// What was missed until the next line, or the end.
    pub missed: u64,
}

/// A stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Requests that came to an end in it.
    pub ended: u64,
    /// Of these, what was lost, unsent or failed.
    pub missed: u64,
    /// Whether the deploy lasted in it.
    pub deploying: bool,
}

impl Count {
    /// Requests that a user would have missed: lost, unsent or failed.
    pub fn missed(&self) -> u64 {
        self.lost + self.unsent + self.failed
    }
}

impl Tally {
    /// What was missed from the start of the command on.
    pub fn missed(&self) -> u64 {
        self.during.missed() + self.after.missed()
    }

    /// Whether what was to be deployed was: the command ended with 0, and the cluster is done.
    pub fn succeeded(&self) -> bool {
        matches!((self.status, self.rolled_out), (Some(0), None | Some(true)) | (None, Some(true)))
    }
}

/// A request that was to be sent, and whether its user was served.
struct Attempt<'v, 't> {
    attempt: timeline::Attempt<'v, 't>,
    served: bool,
}

/// From when to when something was deployed, and what came of it.
pub(super) struct Span {
    /// When the command was started, or the restart asked for.
    pub began: Option<Micros>,
    /// When the command had ended, and the rollout too, where that was waited for.
    pub over: Option<Micros>,
    status: Option<i32>,
    rolled_out: Option<bool>,
}

impl Span {
    pub(super) fn of(timeline: &Timeline, view: &View) -> Self {
        let command = view.processes.get(&COMMAND);
        let exited = command.and_then(|command| command.exited);
        let mut span = Self {
            began: command.map(|command| command.started),
            over: exited.map(|(at, ..)| at),
            status: exited.and_then(|(_, code, _)| code),
            rolled_out: None,
        };
        for record in &timeline.records {
            match record.event {
                Event::Rollout { state: RolloutState::Asked, .. } => span.began = span.began.or(Some(record.t_us)),
                Event::Rollout { state, .. } => {
                    span.over = Some(record.t_us);
                    span.rolled_out = Some(state == RolloutState::Complete);
                }
                _ => {}
            }
        }
        span
    }
}

/// A request that was missed, in seconds from the start of the deploy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Miss {
    /// When it was due, and its connection begun, where it had none.
    pub due_s: f64,
    /// When it was certain that nothing would come of it.
    pub ended_s: f64,
    /// What became of it.
    pub how: Missed,
}

/// What became of a request that was missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Nothing of it was sent: there was no connection.
    Unsent,
    /// Nothing of it was sent: the connection that was kept for it had ended.
    UnsentKept,
    /// It was sent on a connection of its own, and not answered whole.
    LostFresh,
    /// It was sent on a connection that was kept, and not answered whole.
    LostKept,
    /// It was answered with an error.
    Failed,
}

/// What was missed from the start of the deploy on, in the order in which it was due.
pub(super) fn misses(timeline: &Timeline, view: &View) -> Vec<Miss> {
    let Some(began) = Span::of(timeline, view).began else { return Vec::new() };
    let seconds = |at: Micros| (at as f64 - began as f64) / 1e6;
    let missed = attempts(view, began).into_iter().filter(|attempt| !attempt.served && attempt.ended >= began);
    let miss = |attempt: Attempt| Miss {
        due_s: seconds(attempt.due),
        ended_s: seconds(attempt.ended),
        how: match (attempt.fate, attempt.request.map(|request| request.role)) {
            (Fate::Unsent, Some(Role::KeepAlive)) => Missed::UnsentKept,
            (Fate::Unsent, _) => Missed::Unsent,
            (Fate::Answered(_), _) => Missed::Failed,
            (Fate::Lost, Some(Role::KeepAlive)) => Missed::LostKept,
            (Fate::Lost, _) => Missed::LostFresh,
        },
    };
    missed.map(miss).collect()
}

/// Counts it.
pub fn tally(timeline: &Timeline) -> Tally {
    let view = View::new(timeline);
    let span = Span::of(timeline, &view);
    let started = span.began.unwrap_or(view.end);
    let over = span.over.unwrap_or(view.end);
    let attempts = attempts(&view, started);

    // What was cut belongs to the time in which it was cut, whenever it was asked.
    let at = |attempt: &Attempt| if attempt.served { attempt.due } else { attempt.ended };
    let count = |from: Micros, to: Micros| {
        let these = attempts.iter().filter(|attempt| (from..to).contains(&at(attempt)));
        Count::of(these)
    };
    let misses = |attempt: &&Attempt| !attempt.served;
    let seconds = |at: Micros| (at as f64 - started as f64) / 1e6;
    let served_at: Vec<Micros> = {
        let served = attempts.iter().filter(|attempt| attempt.served);
        let mut at: Vec<Micros> = served.map(|attempt| attempt.ended).collect();
        at.sort_unstable();
        at
    };
    let mut instances: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for attempt in &attempts {
        let Some(instance) = attempt.request.and_then(|request| request.instance) else { continue };
        let at = seconds(attempt.ended);
        let span = instances.entry(instance.to_owned()).or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
    }
    let column = (view.end / COLUMNS).max(SHORTEST_COLUMN_US);
    let columns = (0..view.end.div_ceil(column)).map(|number| {
        let (from, to) = (number * column, (number + 1) * column);
        let these = || attempts.iter().filter(|attempt| (from..to).contains(&attempt.ended));
        Column {
            ended: these().count() as u64,
            missed: these().filter(misses).count() as u64,
            deploying: span.began.is_some() && to > started && from < over,
        }
    });
    Tally {
        before: count(0, started),
        during: count(started, over),
        after: count(over, Micros::MAX),
        steps: steps(timeline, started, |from, to| {
            attempts.iter().filter(misses).filter(|attempt| (from..to).contains(&at(attempt))).count() as u64
        }),
        columns: columns.collect(),
        column_s: column as f64 / 1e6,
        longest_gap_s: longest_gap(&served_at, started, view.end) as f64 / 1e6,
        instances,
        took_s: span.over.map(seconds),
        status: span.status,
        rolled_out: span.rolled_out,
        untold: untold(&view, span.began.is_some(), started, &attempts),
    }
}

/// What was to be sent, and what became of it, in the order in which it was due. The command was started at `started`.
fn attempts<'v, 't>(view: &'v View<'t>, started: Micros) -> Vec<Attempt<'v, 't>> {
    let answered = view.requests.iter().filter(|request| request.ended.is_some_and(|ended| ended < started));
    let usual: BTreeSet<u16> = answered.filter_map(|request| request.status).collect();
    let in_order = |status: u16| match status {
        TOO_MANY => false,
        400..500 => usual.contains(&status),
        status => status < 400,
    };
    let served = |attempt: timeline::Attempt<'v, 't>| {
        let served = matches!(attempt.fate, Fate::Answered(status) if in_order(status));
        Attempt { attempt, served }
    };
    view.attempts(|_| true).into_iter().map(served).collect()
}

impl<'v, 't> std::ops::Deref for Attempt<'v, 't> {
    type Target = timeline::Attempt<'v, 't>;

    fn deref(&self) -> &Self::Target {
        &self.attempt
    }
}

impl Count {
    fn of<'a>(attempts: impl Iterator<Item = &'a Attempt<'a, 'a>>) -> Self {
        let mut count = Self::default();
        let mut took = Vec::new();
        for attempt in attempts {
            count.asked += 1;
            match attempt.fate {
                Fate::Answered(status) => {
                    *count.statuses.entry(status).or_default() += 1;
                    took.push(attempt.ended.saturating_sub(attempt.due));
                    match attempt.served {
                        true => count.served += 1,
                        false => count.failed += 1,
                    }
                }
                Fate::Lost => count.lost += 1,
                Fate::Unsent => count.unsent += 1,
            }
        }
        took.sort_unstable();
        (count.p50_ms, count.p99_ms) = (percentile_ms(&took, 0.5), percentile_ms(&took, 0.99));
        count
    }
}

fn steps(timeline: &Timeline, started: Micros, missed: impl Fn(Micros, Micros) -> u64) -> Vec<Step> {
    let lines: Vec<(Micros, &str)> = timeline
        .records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Log { process: COMMAND, line } | Event::Stderr { process: COMMAND, line } => {
                Some((record.t_us, line.as_str()))
            }
            _ => None,
        })
        .collect();
    let ends = lines.iter().skip(1).map(|(at, _)| *at).chain([Micros::MAX]);
    lines
        .iter()
        .zip(ends)
        .map(|((at, line), to)| Step {
            at_s: at.saturating_sub(started) as f64 / 1e6,
            line: (*line).to_owned(),
            missed: missed(*at, to),
        })
        .collect()
}

fn longest_gap(served: &[Micros], from: Micros, to: Micros) -> Micros {
    let within = served.iter().copied().filter(|at| (from..=to).contains(at));
    let moments: Vec<Micros> = [from].into_iter().chain(within).chain([to]).collect();
    moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

/// Why a deploy that began now could not be judged: the target is not in order under this load.
pub fn unfit(timeline: &Timeline) -> Option<String> {
    let view = View::new(timeline);
    not_in_order(view.end, &attempts(&view, view.end))
}

/// Why the deploy cannot be judged: the target was not in order before it, or this side was not.
fn untold(view: &View, deployed: bool, started: Micros, attempts: &[Attempt]) -> Option<String> {
    if let Some((what, why)) = view.unconfirmed.first() {
        return Some(format!("{what}: {why}"));
    }
    if !deployed {
        return Some("nothing was deployed".to_owned());
    }
    if let Some(why) = not_in_order(started, attempts) {
        return Some(why);
    }
    let since = attempts.iter().filter(|attempt| attempt.due >= started).count() as u64;
    if since < FEW {
        return Some(format!(
            "only {since} requests were due from the start of the deploy on: a longer --cool-down, or a higher --rate"
        ));
    }
    let failed = view.connections.iter().filter(|one| one.opening == Opening::Failed(NotOpened::Other)).count();
    if failed > 0 {
        return Some(format!(
            "{failed} connections could not be made from here: no local port, or no descriptor, was left"
        ));
    }
    let busy = view.lost(0, view.end) as f64 / view.end.max(1) as f64;
    (busy > BUSY).then(|| {
        let percent = busy * 100.0;
        format!(
            "this machine was too busy to tell: {percent:.0} % of the time was lost. A lower --rate, or another machine"
        )
    })
}

/// What is wrong with the target by then, before anything is deployed.
fn not_in_order(started: Micros, attempts: &[Attempt]) -> Option<String> {
    let before: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.due < started).collect();
    let ended: Vec<&&Attempt> = before.iter().filter(|attempt| attempt.ended < started).collect();
    if let Some(first) = ended.iter().find(|attempt| !attempt.served) {
        let missed = ended.iter().filter(|attempt| !attempt.served).count();
        let first = match first.fate {
            Fate::Answered(status) => format!("answered {status}"),
            Fate::Lost => "lost".to_owned(),
            Fate::Unsent => "refused, or not answered in time".to_owned(),
        };
        return Some(format!(
            "{missed} of {} requests were missed before the deploy, the first of them {first}: nobody knows \
             what the deploy is to blame for",
            ended.len()
        ));
    }
    if (ended.len() as u64) < FEW || 2 * ended.len() < before.len() {
        return Some(format!(
            "only {} of {} requests were answered before the deploy: a longer --warm-up, or a higher --rate",
            ended.len(),
            before.len()
        ));
    }
    let unanswered = |at: Micros| before.iter().filter(|attempt| attempt.due < at && attempt.ended >= at).count();
    let (half, end) = (unanswered(started / 2), unanswered(started));
    (2 * end > 3 * half + 10).then(|| {
        format!(
            "the target does not keep up with the load before the deploy: {half} requests waited in the middle \
             of the warm-up, {end} at its end. A lower --rate"
        )
    })
}
