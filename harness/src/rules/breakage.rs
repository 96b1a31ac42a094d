//! What breaks around a server: nobody reads its output, its listener fails.

use super::due::each_due;
use super::signals::exit_words;
use super::{Finding, Outcome, each, in_flight, seconds, within};
use crate::timeline::{Param, Process, Role, View};

pub(super) fn log_holds_nothing(view: &View) -> Finding {
    let muted: Vec<&Process> = view.processes.values().filter(|process| process.muted.is_some()).collect();
    if muted.is_empty() {
        return Finding::inconclusive("somebody read its output all the time");
    }
    let served = each(view.requests(Role::Unheard), "nothing was asked meanwhile", |request| request.served());
    let probed = each(view.requests(Role::Live), "no probe", |probe| probe.status == Some(200));
    let due = each(view.requests(Role::InFlight), "no request was in flight", |request| request.served());
    for (what, finding) in [("asked meanwhile", served), ("a probe", probed), ("in flight", due)] {
        if finding.outcome == Outcome::Violated {
            return Finding { actual: format!("{what}: {}", finding.actual), ..finding };
        }
    }
    for process in muted {
        let Some((signalled, _)) = process.signals.last() else {
            return Finding::inconclusive("no signal was sent");
        };
        // Only one signal: what is in flight is waited for. The second one ends it at once.
        let ends = view.requests(Role::InFlight).filter_map(|request| request.ended);
        let last = ends.filter(|_| process.signals.len() == 1).max().unwrap_or(0).max(*signalled);
        let linger = seconds(view.param(Param::IdleLinger).unwrap_or(0.0));
        let ended = process.exited.map(|(at, ..)| at);
        let finding = within(view, "the process ended", last, ended, linger + FLUSH_US);
        if finding.outcome != Outcome::Holds {
            return finding;
        }
    }
    Finding::holds("requests, probes and exit as if somebody read it")
}

/// What a last attempt to write the log may take, in microseconds.
const FLUSH_US: u64 = 500_000;

pub(super) fn broken_listener_ends_process(view: &View) -> Finding {
    let broken = view.process().and_then(|process| process.listener_broken.map(|at| (process, at)));
    let Some((process, broken)) = broken else {
        return Finding::inconclusive("the listener was not broken");
    };
    let nothing = "no request was in flight when the listener broke";
    let asked = in_flight(view, Role::InFlight, broken);
    let answered = each_due(view, broken, asked, nothing, |request| request.served());
    if answered.outcome != Outcome::Holds {
        return answered;
    }
    let last = view.requests(Role::InFlight).filter_map(|request| request.ended).max().unwrap_or(broken).max(broken);
    let limit = seconds(view.param(Param::IdleLinger).unwrap_or(0.0)) + NOTICED_US;
    let ended = within(view, "the process ended", last, process.exited.map(|(at, ..)| at), limit);
    match process.exited {
        _ if ended.outcome != Outcome::Holds => ended,
        Some((at, Some(0), _)) => Finding::violated("exit status 0, though its listener had failed", [at]),
        Some((_, code, signal)) => Finding::holds(exit_words(code, signal)),
        None => ended,
    }
}

/// How long a server may take to notice that its listener works no more, where it has to look, in microseconds.
const NOTICED_US: u64 = 1_000_000;
