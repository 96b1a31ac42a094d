//! What becomes of the requests of a fleet's users, while its instances are replaced one after the other.

use std::collections::BTreeMap;

use super::{Basis, Finding, Level, Rule, SLACK_US, busy, fate, ms, seconds, stalled};
use crate::timeline::{
    Attempt, Break, End, Endpoint, EndpointState, Fate, Lines, Micros, NotOpened, Opening, Param, Process, ProcessId,
    Request, Role, Slot, Step, StepKind, View,
};

/// On a machine that is not busy the end of a connection is seen sooner than that, in microseconds.
const UNSEEN_US: u64 = 10_000;
/// A probe waits no longer than this, and a few in a row no longer than that, in microseconds.
const PROBE_US: u64 = 1_000_000;
const PROBED_US: u64 = 5_000_000;
/// The signal that nobody survives.
const KILL: &str = "SIGKILL";
/// No longer than this may nobody be served, in microseconds.
const LONGEST_GAP_US: u64 = 1_000_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        slug: "nothing-lost-in-roll",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "While instances are replaced every request gets its whole answer, as if nothing went on.",
        judge: nothing_lost,
    },
    Rule {
        slug: "nothing-done-twice",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "No request is done twice, but for those that HTTP allows to be sent again.",
        judge: nothing_done_twice,
    },
    Rule {
        slug: "nothing-fails-though-executed",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "What an instance has done is answered: nobody is told that it failed, or told nothing.",
        judge: nothing_fails_though_executed,
    },
    Rule {
        slug: "service-stays",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "No second goes by in which nobody is served.",
        judge: service_stays,
    },
    Rule {
        slug: "roll-ends",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "Each instance ends by itself, in its time, and its successor answers in its place.",
        judge: roll_ends,
    },
    Rule {
        slug: "roll-costs",
        level: Level::Info,
        basis: Basis::Wire,
        sentence: "What is missed, where no configuration can prevent it.",
        judge: nothing_lost,
    },
];

/// Rules about what the instances have done, which only they can tell.
pub(super) const ACCOUNTED: [&str; 2] = ["nothing-done-twice", "nothing-fails-though-executed"];

/// What the users of a fleet saw.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Requests that were to be sent.
    pub asked: usize,
    /// Of these, at least a byte was written and no complete response came.
    pub lost: usize,
    /// Not a byte was written.
    pub unsent: usize,
    /// Complete responses that are not as they should be: their status, or their body.
    pub failed: usize,
    /// Of these, 502, 503 and 504 that name no instance: a balancer answers so in its place.
    pub by_front: usize,
    /// Requests that were done more than once, and HTTP does not allow that. `None` where nobody knows.
    pub doubled: Option<usize>,
    /// Requests that were done, and whose users do not know it. `None` where nobody knows.
    pub executed_but_failed: Option<usize>,
}

/// Whether requests with this role are those of users.
pub fn is_of_users(role: Role) -> bool {
    matches!(role, Role::KeepAlive | Role::Storm | Role::InFlight | Role::Finite | Role::Upload)
}

/// What the users of a fleet saw; `None` where there was no fleet.
pub fn score(view: &View) -> Option<Score> {
    view.servers().any(|(_, process)| process.slot.is_some()).then(|| {
        let attempts = view.attempts(is_of_users);
        let count = |counts: &dyn Fn(&Attempt) -> bool| attempts.iter().filter(|attempt| counts(attempt)).count();
        let known = is_accounted(view);
        Score {
            asked: attempts.len(),
            lost: count(&|attempt| attempt.fate == Fate::Lost),
            unsent: count(&|attempt| attempt.fate == Fate::Unsent),
            failed: count(&|attempt| matches!(attempt.fate, Fate::Answered(_)) && !is_served(attempt)),
            by_front: count(&is_by_front),
            doubled: known.then(|| count(&is_doubled)),
            executed_but_failed: known.then(|| count(&|attempt| is_executed(attempt) && !is_served(attempt))),
        }
    })
}

fn is_served(attempt: &Attempt) -> bool {
    attempt.request.is_some_and(|request| request.served())
}

fn is_executed(attempt: &Attempt) -> bool {
    attempt.request.is_some_and(|request| request.executed())
}

fn is_by_front(attempt: &Attempt) -> bool {
    let nameless = attempt.request.is_some_and(|request| request.instance.is_none() && !request.served());
    nameless && matches!(attempt.fate, Fate::Answered(502..=504))
}

fn is_doubled(attempt: &Attempt) -> bool {
    attempt.request.is_some_and(|request| request.executions.len() > 1 && !request.is_idempotent())
}

fn is_accounted(view: &View) -> bool {
    view.header.features.iter().any(|feature| feature == "accounting") && !view.unrecorded(Lines::Executed)
}

/// When something began to be done to the fleet: a step, a reload or a signal.
fn begun(view: &View) -> Option<Micros> {
    let steps = view.steps.first().map(|step| step.at);
    let signals = view.servers().filter_map(|(_, process)| process.signalled()).min();
    steps.into_iter().chain(view.reloads.first().copied()).chain(signals).min()
}

/// What users asked; or why nothing can be said: they missed something before anything was done.
fn attempts<'v, 't>(view: &'v View<'t>) -> Result<Vec<Attempt<'v, 't>>, Finding> {
    let attempts = view.attempts(is_of_users);
    if attempts.is_empty() {
        return Err(Finding::inconclusive("nobody asked"));
    }
    // Where nothing is done to the fleet on purpose all that is missed counts.
    let begun = begun(view).unwrap_or(0);
    let early = attempts.iter().filter(|attempt| attempt.ended < begun && !is_served(attempt)).count();
    match early {
        0 => Ok(attempts),
        _ => Err(Finding::inconclusive(format!("{early} of {} were missed before anything was done", attempts.len()))),
    }
}

fn nothing_lost(view: &View) -> Finding {
    let attempts = match attempts(view) {
        Ok(attempts) => attempts,
        Err(finding) => return finding,
    };
    let missed: Vec<&Attempt> = attempts.iter().filter(|attempt| !is_served(attempt)).collect();
    let Some(first) = missed.first() else {
        return match without_long_request(view) {
            Some(slot) => Finding::inconclusive(format!("no long request was at instance {slot} when it was replaced")),
            None => Finding::holds(format!("{} of {}", attempts.len(), attempts.len())),
        };
    };
    let actual = format!("{} of {} missed: {}", missed.len(), attempts.len(), kinds(&missed));
    if let Some(finding) = excused(view, &missed, &actual) {
        return finding;
    }
    let when = match times(view, &missed) {
        when if when.is_empty() => String::new(),
        when => format!("; {when}"),
    };
    let first = match first.request {
        Some(request) => fate(request),
        None => "no connection could be made".to_owned(),
    };
    Finding::violated(format!("{actual}{when}; the first: {first}"), shown_by(&missed))
        .share(missed.len(), attempts.len())
}

/// Where there are long requests, the place of an instance that had none when its replacement began.
fn without_long_request(view: &View) -> Option<Slot> {
    let long = |request: &&Request| matches!(request.role, Role::InFlight | Role::Finite | Role::Upload);
    let long: Vec<&Request> = view.requests.iter().filter(long).collect();
    let begins = |step: &&Step| step.what == StepKind::Withdraw && !long.is_empty();
    view.steps.iter().filter(begins).find_map(|step| {
        let gone = |process: &Process| process.signalled().is_some_and(|at| at < step.at);
        let there = |process: &Process| process.slot == Some(step.slot) && process.started < step.at && !gone(process);
        // Its successor may be there already.
        let (_, replaced) = view.servers().find(|(_, process)| there(process))?;
        let had_one = long.iter().any(|request| {
            let meanwhile = request.sent <= step.at && request.ended.is_none_or(|ended| ended > step.at);
            meanwhile && request.instance == replaced.instance.as_deref()
        });
        (!had_one).then_some(step.slot)
    })
}

/// Times of the records that show what was missed. When it was due there need be none.
fn shown_by(missed: &[&Attempt]) -> Vec<Micros> {
    let shown = |attempt: &&Attempt| [attempt.request.map(|request| request.sent), Some(attempt.ended)];
    missed.iter().take(5).flat_map(shown).flatten().collect()
}

/// What was missed, each kind by itself.
fn kinds(missed: &[&Attempt]) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for attempt in missed {
        let kind = match attempt.fate {
            Fate::Lost => "lost".to_owned(),
            Fate::Unsent => "not sent".to_owned(),
            Fate::Answered(_) if attempt.request.is_some_and(|request| request.has_status_due()) => {
                "answered with another body".to_owned()
            }
            Fate::Answered(status) => format!("answered {status}"),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    kinds.join(", ")
}

/// When it was missed: in which step of which instance's replacement, the most first.
fn times(view: &View, missed: &[&Attempt]) -> String {
    let mut times: BTreeMap<(Slot, StepKind), usize> = BTreeMap::new();
    for attempt in missed {
        if let Some(step) = view.steps.iter().rev().find(|step| step.at <= attempt.ended) {
            *times.entry((step.slot, step.what)).or_default() += 1;
        }
    }
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let words = |((slot, what), count): &((Slot, StepKind), usize)| match what {
        StepKind::Done => format!("{count} after instance {slot} was in place"),
        _ => format!("{count} while instance {slot} was {}", what.words()),
    };
    times.iter().take(3).map(words).collect::<Vec<_>>().join(", ")
}

/// Where all that was missed was waited for in vain, and stalls can explain that, nobody is accused.
fn waited_in_vain(view: &View, missed: &[&Attempt], actual: &str) -> Option<Finding> {
    let in_vain = |attempt: &&&Attempt| match attempt.request {
        Some(request) => request.end == End::Lost(Break::TimedOut),
        None => view.connections.iter().any(|connection| {
            connection.at == attempt.ended && connection.opening == Opening::Failed(NotOpened::TimedOut)
        }),
    };
    let all = missed.iter().all(|attempt| in_vain(&attempt));
    let explained = |attempt: &&Attempt| stalled(view, attempt.due, attempt.ended, attempt.ended - attempt.due);
    let (first, last) = (missed.first()?, missed.last()?);
    (all && missed.iter().all(explained)).then(|| busy(actual, view, first.due, last.ended))
}

/// Why nobody is accused of what was missed, where stalls can explain all of it.
fn excused(view: &View, missed: &[&Attempt], actual: &str) -> Option<Finding> {
    let explained = [waited_in_vain, ended_unseen, taken_for_dead];
    explained.into_iter().find_map(|explains| explains(view, missed, actual))
}

/// Where all that was missed was to be sent on connections that had ended, and this side was too busy to see it, nobody is
/// accused: whoever looks takes another one.
fn ended_unseen(view: &View, missed: &[&Attempt], actual: &str) -> Option<Finding> {
    let unseen = |attempt: &&Attempt| {
        attempt.request.is_some_and(|request| request.end == End::Unsent)
            && stalled(view, attempt.ended.saturating_sub(PROBE_US), attempt.ended, UNSEEN_US)
    };
    let (first, last) = (missed.first()?, missed.last()?);
    let all = missed.iter().all(unseen);
    all.then(|| busy(actual, view, first.ended.saturating_sub(PROBE_US), last.ended))
}

/// Where nobody was there to be asked, because an observer had taken out an instance to which nothing had been done, and
/// stalls can explain that it did not answer a probe in time, nobody is accused. What was lost at an instance is not explained.
fn taken_for_dead(view: &View, missed: &[&Attempt], actual: &str) -> Option<Finding> {
    let first = missed.iter().map(|attempt| attempt.ended).min()?;
    if !missed.iter().all(|attempt| is_by_front(attempt) || attempt.request.is_none()) {
        return None;
    }
    let touched = |process: &Process, by: Micros| {
        let steps = view.steps.iter().filter(|step| Some(step.slot) == process.slot && step.what.ends());
        let since = process.started..=by;
        process.signalled().is_some_and(|at| at <= by) || steps.map(|step| step.at).any(|at| since.contains(&at))
    };
    let was_up = |out: &Endpoint| {
        let before = view.endpoints.iter().take_while(|endpoint| endpoint.at < out.at).collect::<Vec<_>>();
        let last = before.iter().rev().find(|one| one.process == out.process && one.observer == out.observer);
        last.is_some_and(|one| one.state == EndpointState::Up)
    };
    let out = view.endpoints.iter().find(|out| {
        let process = view.processes.get(&out.process);
        out.state != EndpointState::Up
            && out.at <= first
            && process.is_some_and(|process| !touched(process, out.at))
            && was_up(out)
            && stalled(view, out.at.saturating_sub(PROBED_US), out.at, PROBE_US)
    })?;
    Some(busy(actual, view, out.at.saturating_sub(PROBED_US), out.at))
}

fn nothing_done_twice(view: &View) -> Finding {
    let attempts = view.attempts(is_of_users);
    let doubled: Vec<_> = attempts.iter().filter(|attempt| is_doubled(attempt)).filter_map(|one| one.request).collect();
    let once: Vec<_> = attempts.iter().filter_map(|one| one.request).filter(|one| !one.is_idempotent()).collect();
    let allowed = attempts.iter().filter_map(|one| one.request);
    let allowed = allowed.filter(|one| one.is_idempotent() && one.executions.len() > 1).count();
    let again = match allowed {
        0 => String::new(),
        1 => "; 1 that is idempotent was done again, as HTTP allows (RFC 9110, section 9.2.2)".to_owned(),
        n => format!("; {n} that are idempotent were done again, as HTTP allows (RFC 9110, section 9.2.2)"),
    };
    match doubled.first() {
        // What was seen counts; what was not may be among that which is not recorded.
        None if view.unrecorded(Lines::Executed) => Finding::inconclusive("not all of what was done is recorded"),
        _ if !once.iter().any(|request| request.executed()) => {
            Finding::inconclusive("nothing was done that may not be done twice")
        }
        None => Finding::holds(format!("none of {} that may be done once only was done twice{again}", once.len())),
        Some(first) => {
            let by: Vec<String> = first
                .executions
                .iter()
                .map(|(at, process)| match view.processes.get(process).and_then(|process| process.slot) {
                    Some(slot) => format!("by instance {slot} after {}", ms(at.saturating_sub(first.sent))),
                    None => format!("after {}", ms(at.saturating_sub(first.sent))),
                })
                .collect();
            let evidence = doubled.iter().take(3).flat_map(|one| one.executions.iter().map(|(at, _)| *at));
            Finding::violated(
                format!(
                    "{} of {} that may be done once only were done again: {} {} was done {}{again}",
                    doubled.len(),
                    once.len(),
                    first.method,
                    first.path,
                    by.join(" and ")
                ),
                evidence,
            )
            .share(doubled.len(), once.len())
        }
    }
}

fn nothing_fails_though_executed(view: &View) -> Finding {
    let attempts = match attempts(view) {
        Ok(attempts) => attempts,
        Err(finding) => return finding,
    };
    let done: Vec<&Attempt> = attempts.iter().filter(|attempt| is_executed(attempt)).collect();
    let failed: Vec<&Attempt> = done.iter().copied().filter(|attempt| !is_served(attempt)).collect();
    match failed.first().and_then(|attempt| attempt.request) {
        _ if view.unrecorded(Lines::Executed) => Finding::inconclusive("not all of what was done is recorded"),
        _ if done.is_empty() => Finding::inconclusive("nothing was done, by the word of the instances"),
        None => Finding::holds(format!("{} were done, and all of them answered", done.len())),
        Some(first) => {
            let actual = format!("{} of {} that were done failed for their users", failed.len(), done.len());
            waited_in_vain(view, &failed, &actual).unwrap_or_else(|| {
                Finding::violated(format!("{actual}: {}", fate(first)), shown_by(&failed))
                    .share(failed.len(), done.len())
            })
        }
    }
}

fn service_stays(view: &View) -> Finding {
    let attempts = match attempts(view) {
        Ok(attempts) => attempts,
        Err(finding) => return finding,
    };
    let Some(from) = begun(view) else { return Finding::inconclusive("nothing was done to the fleet") };
    // From then on nobody asks any more.
    let to = attempts.iter().map(|attempt| attempt.due).max().unwrap_or(from);
    if to <= from {
        return Finding::inconclusive("nobody asked any more when something was done");
    }
    let mut served: Vec<Micros> = attempts.iter().filter(|one| is_served(one)).map(|one| one.ended).collect();
    served.retain(|at| (from..to).contains(at));
    served.sort_unstable();
    let moments: Vec<Micros> = [from].into_iter().chain(served).chain([to]).collect();
    let gaps = moments.windows(2).map(|pair| (pair[1] - pair[0], pair[0], pair[1]));
    let Some((longest, since, until)) = gaps.max() else { return Finding::inconclusive("nobody was served") };
    let overdue = longest.saturating_sub(LONGEST_GAP_US);
    let actual = format!("nobody was served for {}", ms(longest));
    match overdue {
        0 => Finding::holds(format!("the longest time in which nobody was served is {}", ms(longest))),
        _ if stalled(view, since, until, overdue) => busy(&actual, view, since, until),
        // When somebody asked for the last time there need be no record.
        _ => Finding::violated(actual, [since].into_iter().chain((until < to).then_some(until))),
    }
}

fn roll_ends(view: &View) -> Finding {
    let replaced: Vec<(ProcessId, &Process)> =
        view.servers().filter(|(_, process)| process.slot.is_some() && process.signalled().is_some()).collect();
    if replaced.is_empty() {
        return Finding::inconclusive("no instance was replaced");
    }
    let allowed = seconds(
        view.param(Param::ShutdownDelay).unwrap_or(0.0)
            + view.param(Param::DrainTimeout).unwrap_or(0.0)
            + view.param(Param::IdleLinger).unwrap_or(0.0),
    );
    for (id, process) in &replaced {
        let (slot, signalled) = (process.slot.unwrap_or_default(), process.signalled().unwrap_or_default());
        let latest = signalled.saturating_add(allowed).saturating_add(SLACK_US);
        let ended = process.exited.map(|(at, ..)| at);
        if let Some((at, _)) = process.signals.iter().find(|(_, name)| name == KILL)
            && ended.is_none_or(|ended| ended >= *at)
        {
            let what =
                format!("instance {slot} was killed {} after its signal: its grace was over", ms(at - signalled));
            return match stalled(view, signalled, *at, at - signalled) {
                true => busy(&what, view, signalled, *at),
                false => Finding::violated(what, [signalled, *at]),
            };
        }
        if ended.is_none_or(|at| at > latest) {
            let seen = ended.or(process.killed).unwrap_or(view.end);
            let until = seen.max(latest);
            let what = format!("instance {slot} had not ended {} after its signal", ms(until - signalled));
            return match stalled(view, signalled, until, until - latest) {
                true => busy(&what, view, signalled, until),
                false => Finding::violated(what, [signalled, seen]),
            };
        }
        let successor = view.servers().find(|(other, next)| *other > *id && next.slot == process.slot);
        let Some((_, successor)) = successor else {
            return Finding::inconclusive(format!("instance {slot} has no successor"));
        };
        let by_it = |request: &Request| request.served() && request.instance == successor.instance.as_deref();
        if !view.requests.iter().any(|request| is_of_users(request.role) && by_it(request)) {
            let what = format!("the successor of instance {slot} answered nobody");
            return Finding::violated(what, [ended.unwrap_or(signalled)]);
        }
        let late = ended.and_then(|ended| {
            let its = |request: &Request| request.instance.is_some() && request.instance == process.instance.as_deref();
            view.requests.iter().find(|request| request.sent > ended && its(request))
        });
        if let Some(request) = late {
            let what = format!("instance {slot} has ended and still answers: {}", fate(request));
            return Finding::violated(what, [ended.unwrap_or(signalled), request.sent]);
        }
    }
    let longest =
        replaced.iter().filter_map(|(_, process)| Some(process.exited?.0.saturating_sub(process.signalled()?)));
    Finding::holds(format!(
        "{} replaced, the slowest ended {} after its signal",
        replaced.len(),
        ms(longest.max().unwrap_or(0))
    ))
}
