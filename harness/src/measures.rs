//! What a run measured, from its timeline alone. Each name ends with its unit, or counts things.

use std::collections::BTreeMap;

use crate::rules;
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
        let count = |count: usize| Some(count as f64);
        put("requests_asked", count(score.asked));
        put("requests_lost", count(score.lost));
        put("requests_unsent", count(score.unsent));
        put("requests_failed", count(score.failed));
        put("answered_by_balancer", count(score.by_front));
        put("done_twice", score.doubled.and_then(count));
        put("done_but_failed", score.executed_but_failed.and_then(count));
        put("latency_p50_ms", latency(view, 0.5));
        put("latency_p99_ms", latency(view, 0.99));
        return measures; // what follows is of one process
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

/// The time within which this share of the users' answers came, from the moment at which each request was due.
fn latency(view: &View, share: f64) -> Option<f64> {
    let attempts = view.attempts(rules::is_of_users);
    let answered = attempts.iter().filter(|attempt| matches!(attempt.fate, Fate::Answered(_)));
    let mut took: Vec<u64> = answered.map(|attempt| attempt.ended.saturating_sub(attempt.due)).collect();
    took.sort_unstable();
    let last = took.len().checked_sub(1)?;
    Some(took[(last as f64 * share).round() as usize] as f64 / 1e3)
}
