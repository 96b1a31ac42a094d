//! What a run measured, from its timeline alone. Each name ends with its unit, or counts things.

use std::collections::BTreeMap;

use crate::rules::{self, Score};
use crate::timeline::{Ending, Fate, Role, View};

/// Names and values; a value that the run does not show is absent.
pub fn measures(view: &View) -> BTreeMap<String, f64> {
    let mut measures = BTreeMap::new();
    let mut put = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            measures.insert(name.to_owned(), value);
        }
    };
    let traffic = || view.requests.iter().filter(|r| !matches!(r.role, Role::Ready | Role::Live | Role::Metrics));
    put("requests_answered", Some(traffic().filter(|request| request.answered()).count() as f64));
    put("requests_lost", Some(traffic().filter(|request| request.lost()).count() as f64));
    let reset = |connection: &&crate::timeline::Connection| matches!(connection.ended, Some((_, Ending::Reset)));
    put("connections_reset", Some(view.connections.iter().filter(reset).count() as f64));

    if let Some(score) = rules::score(view) {
        for (name, value) in of_a_fleet(view, &score) {
            put(name, value);
        }
        return measures; // several processes, and each has a signal and an end of its own
    }

    let Some(process) = view.process() else { return measures };
    let Some(signalled) = process.signalled() else { return measures };
    let since = |from: u64, at: u64| (at as f64 - from as f64) / 1e3;
    let exited = process.exited.map(|(at, ..)| at);
    put("exit_after_signal_ms", exited.map(|at| since(signalled, at)));
    put("listener_closed_after_signal_ms", process.listener_closed.map(|at| since(signalled, at)));
    let ended_after = |at: &u64| *at > signalled && exited.is_none_or(|exited| *at <= exited);
    let last_byte = traffic().filter(|r| r.answered()).filter_map(|r| r.ended).filter(ended_after).max();
    put("exit_after_last_byte_ms", last_byte.zip(exited).map(|(last, exit)| since(last, exit)));
    let unready = view.requests(Role::Ready).find(|probe| probe.sent > signalled && probe.status == Some(503));
    put("readiness_off_after_signal_ms", unready.and_then(|probe| probe.head).map(|at| since(signalled, at)));
    measures
}

/// What the users of a fleet saw.
fn of_a_fleet(view: &View, score: &Score) -> [(&'static str, Option<f64>); 9] {
    let count = |number: usize| Some(number as f64);
    let answered = view.attempts(rules::is_of_users).into_iter().filter(|one| matches!(one.fate, Fate::Answered(_)));
    let mut took: Vec<u64> = answered.map(|one| one.ended.saturating_sub(one.due)).collect();
    took.sort_unstable();
    [
        ("requests_asked", count(score.asked)),
        ("requests_lost", count(score.lost)),
        ("requests_unsent", count(score.unsent)),
        ("requests_failed", count(score.failed)),
        ("answered_by_balancer", count(score.by_front)),
        ("done_twice", score.doubled.and_then(count)),
        ("done_but_failed", score.executed_but_failed.and_then(count)),
        ("p50_ms", percentile_ms(&took, 0.5)),
        ("p99_ms", percentile_ms(&took, 0.99)),
    ]
}

/// The time, in milliseconds, than which so large a share of these is shorter; they are sorted, in microseconds.
pub fn percentile_ms(sorted: &[u64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last as f64 * share).round() as usize] as f64 / 1e3)
}
