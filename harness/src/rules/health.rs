//! Readiness, liveness, lame-duck and the preStop hook.

use super::{
    Basis, Finding, Level, Outcome, Rule, TOLERANCE_US, busy, cost, each, fate, ms, not_opened, seconds, stalled,
    stopped, within,
};
use crate::timeline::{Connection, NotOpened, Opening, Param, Process, Request, Role, View};

pub(super) const RULES: &[Rule] = &[
    Rule {
        slug: "readiness-fails",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "Readiness fails as soon as the signal arrives, while the listener is still open.",
        judge: readiness_fails,
    },
    Rule {
        slug: "readiness-latched",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "Once readiness has failed it never succeeds again.",
        judge: readiness_latched,
    },
    Rule {
        slug: "liveness-stays",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "Liveness succeeds as long as requests are in flight: a restart would lose them.",
        judge: liveness_stays,
    },
    Rule {
        slug: "lame-duck-serves",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "During the lame-duck everything is still served, on new connections too.",
        judge: lame_duck_serves,
    },
    Rule {
        slug: "lame-duck-lasts",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "The listener stays open for SHUTDOWN_DELAY and closes then.",
        judge: lame_duck_lasts,
    },
    Rule {
        slug: "prestop-waits",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "The preStop hook makes readiness fail and answers when the lame-duck is over, not before.",
        judge: prestop_waits,
    },
    Rule {
        slug: "prestop-keeps-process",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "The preStop hook, however often it is called, stops nothing: the process serves until a signal comes.",
        judge: prestop_keeps_process,
    },
    Rule {
        slug: "prestop-delay-once",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "A signal after the preStop hook neither starts another delay nor ends the one that has begun.",
        judge: prestop_delay_once,
    },
];

/// Whether a probe says that the server is not ready: by 503, as the contract has it, and for others by whatever a kubelet
/// takes for a failure.
pub(super) fn unready(view: &View, probe: &Request) -> bool {
    probe.status.is_some_and(|status| match view.header.promises_contract {
        true => status == 503,
        false => !(200..400).contains(&status),
    })
}

/// A kubelet gives up on a probe after a second.
const PROBE_TIMEOUT_US: u64 = 1_000_000;

fn readiness_fails(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let closed = process.listener_closed.unwrap_or(u64::MAX);
    let asked: Vec<_> = view.requests(Role::Ready).filter(|probe| (signalled..closed).contains(&probe.sent)).collect();
    let Some(first) = asked.iter().position(|probe| unready(view, probe)) else {
        // Whoever slept through the lame-duck has asked nobody, and the server may have slept through the signal.
        let delay = view.param(Param::ShutdownDelay).map_or(0, seconds);
        let over = signalled.saturating_add(delay);
        if stalled(view, signalled, over, delay) {
            return busy("readiness did not fail", view, signalled, over);
        }
        return match asked.last() {
            Some(last) => Finding::violated(
                format!("{} probes after the signal, the last: {}", asked.len(), fate(last)),
                [last.sent],
            ),
            None => Finding::violated("the listener was gone before a probe could be told", [signalled]),
        };
    };
    // A probe that was on its way when the signal arrived may still succeed; one much later may not.
    let half = signalled.saturating_add(view.param(Param::ShutdownDelay).map_or(0, seconds) / 2);
    let late = asked[..first].iter().rfind(|probe| half > signalled && probe.sent > half && probe.answered());
    if let Some(late) = late {
        // A server that has lost half of the delay may be about to learn of the signal.
        let ended = late.ended.unwrap_or(late.sent);
        if stalled(view, signalled, ended, ended.saturating_sub(signalled)) {
            return busy("readiness failed late", view, signalled, ended);
        }
        let after = ms(late.sent - signalled);
        return Finding::violated(
            format!("{after} after the signal, with half of the delay over: {}", fate(late)),
            [late.sent],
        );
    }
    let off = asked[first].ended.unwrap_or(asked[first].sent);
    if asked[first].sent < half && off > half {
        if stalled(view, signalled, off, half - signalled) {
            return busy("readiness failed late", view, signalled, off);
        }
        let (asked_after, told_after) = (ms(asked[first].sent - signalled), ms(off - signalled));
        return Finding::violated(
            format!(
                "asked {asked_after} after the signal, it answered {told_after} after it: half of the delay is over"
            ),
            [asked[first].sent, off],
        );
    }
    within(view, "readiness failed", signalled, Some(off), 0)
}

fn readiness_latched(view: &View) -> Finding {
    let probes = || view.requests(Role::Ready).filter(|probe| probe.answered());
    let closed = view.process().and_then(|process| process.listener_closed).unwrap_or(u64::MAX);
    if let Some(probe) = probes().find(|probe| probe.begun > closed && !unready(view, probe)) {
        return Finding::violated(format!("after the listener had closed: {}", fate(probe)), [closed, probe.sent]);
    }
    let Some(failed) = probes().find(|probe| unready(view, probe)) else {
        return Finding::inconclusive("readiness never failed");
    };
    let later = probes().filter(|probe| Some(probe.begun) > failed.ended);
    each(later, "nobody asked again after readiness had failed", |probe| unready(view, probe))
}

fn liveness_stays(view: &View) -> Finding {
    let signalled = match stopped(view) {
        Ok((_, signalled)) => signalled,
        Err(finding) => return finding,
    };
    let Some(drained) = view.requests(Role::InFlight).filter(|r| r.answered()).filter_map(|r| r.ended).max() else {
        return Finding::inconclusive("no request in flight was answered");
    };
    // The process may be gone before the last answer is read, by as much as this side is slow to read it.
    let during = |at: u64| at >= signalled && at + TOLERANCE_US + cost(view, at, drained) < drained;
    let kept_out = |connection: &&Connection| {
        during(connection.at) && matches!(connection.opening, Opening::Failed(NotOpened::Refused | NotOpened::TimedOut))
    };
    let refused = view.connections(Role::Live).find(kept_out);
    if let Some(refused) = refused {
        let after = ms(refused.at - signalled);
        return Finding::violated(format!("the probe could not connect {after} after the signal"), [refused.at]);
    }
    let asked = || view.requests(Role::Live).filter(|probe| during(probe.sent));
    let late = |probe: &&Request| probe.ended.is_none_or(|ended| ended > probe.sent.saturating_add(PROBE_TIMEOUT_US));
    if let Some(late) = asked().find(|probe| late(probe) && drained > probe.sent.saturating_add(PROBE_TIMEOUT_US)) {
        let ended = late.ended.unwrap_or(drained);
        if stalled(view, late.begun, ended, ended.saturating_sub(late.sent)) {
            return busy("a probe waited in vain", view, late.begun, ended);
        }
        return Finding::violated(format!("a probe waited for more than a second: {}", fate(late)), [late.sent]);
    }
    let due = asked().filter(|probe| probe.ended.is_some_and(during));
    each(due, "no probe while requests were in flight", |probe| probe.status == Some(200))
}

fn lame_duck_serves(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    // What came when the delay was over has been promised nothing.
    let delay = view.param(Param::ShutdownDelay).map_or(0, seconds);
    if delay == 0 {
        return no_lame_duck(view, process, signalled);
    }
    let mut over = signalled.saturating_add(delay);
    if learnt(view)
        && let Some(closed) = process.listener_closed
    {
        // How long it lasts may differ from one start to the next.
        if closed < signalled.saturating_add(delay / 4) {
            let (after, seen) = (ms(closed.saturating_sub(signalled)), ms(delay));
            let actual =
                format!("the listener was closed {after} after the signal; another time it was open for {seen}");
            return Finding::violated(actual, [signalled, closed]);
        }
        over = over.min(process.listener_open_until.unwrap_or(signalled).saturating_sub(NEAR_US));
    }
    let asked = || view.requests.iter().filter(|r| matches!(r.role, Role::Ready | Role::LameDuck | Role::NotFound));
    // By as much as the machine is busy, what is asked in time may be read too late.
    let in_time = |request: &&Request| {
        let ended = request.ended.unwrap_or(over).min(over);
        request.begun > signalled && request.sent + cost(view, request.begun, ended) < over
    };
    let during = || asked().filter(in_time);
    let held = |request: &&Request| request.ended.is_none_or(|ended| ended > request.sent.saturating_add(delay / 3));
    if let Some(held) = during().find(held) {
        let ended = held.ended.unwrap_or(over);
        return match stalled(view, held.begun, ended, ended.saturating_sub(held.sent)) {
            true => busy("silence", view, held.begun, ended),
            false => Finding::violated(
                format!("{} of silence: {}", ms(ended.saturating_sub(held.sent)), fate(held)),
                [held.sent],
            ),
        };
    }
    if let Some(refused) = not_opened(view, Role::LameDuck).filter(|connection| connection.at < over) {
        return Finding::violated("a new connection was not accepted", [refused.at]);
    }
    let due = during().filter(|request| request.role != Role::Ready);
    each(due, "nothing was asked during the lame-duck", |request| match request.role {
        Role::NotFound => request.answered() && request.status == Some(404),
        _ => request.served(),
    })
}

/// Whether the lame-duck of somebody's server was learnt, which is no promise.
fn learnt(view: &View) -> bool {
    view.param(Param::LameDuck) == Some(0.0)
}

/// So near to the end of a lame-duck that was learnt a request may meet it, in microseconds.
const NEAR_US: u64 = 300_000;

/// What is said of a server that was not seen to have a lame-duck.
fn no_lame_duck(view: &View, process: &Process, signalled: u64) -> Finding {
    let after = |at: u64| {
        format!("no lame-duck: the listener was closed {} after the signal", ms(at.saturating_sub(signalled)))
    };
    let refused = view.connections(Role::LameDuck).find(|c| c.at > signalled && c.opening != Opening::Opened);
    if let Some(closed) = process.listener_closed.filter(|_| refused.is_some()) {
        return Finding::violated(after(closed), [signalled, closed]);
    }
    let new = view.connections(Role::LameDuck).filter(|connection| connection.at > signalled);
    let new: std::collections::BTreeSet<_> = new.map(|connection| connection.id).collect();
    let asked = view.requests(Role::LameDuck).filter(|request| new.contains(&request.connection));
    each(asked, "nobody connected after the signal", |request| request.served())
}

fn lame_duck_lasts(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    if learnt(view) {
        return Finding::inconclusive("nobody has said how long the lame-duck is to last (--lame-duck S)");
    }
    let Some(delay) = view.param(Param::ShutdownDelay).map(seconds) else {
        return Finding::inconclusive("no delay was set");
    };
    match process.listener_closed {
        Some(closed) if closed + TOLERANCE_US < signalled.saturating_add(delay) => Finding::violated(
            format!("the listener closed after {}, where {} were due", ms(closed.saturating_sub(signalled)), ms(delay)),
            [signalled, closed],
        ),
        closed => within(view, "the listener closed", signalled, closed, delay),
    }
}

fn prestop_waits(view: &View) -> Finding {
    let Some(delay) = view.param(Param::ShutdownDelay).map(seconds) else {
        return Finding::inconclusive("no delay was set");
    };
    let Some(first) = view.requests(Role::Prestop).next() else {
        return Finding::inconclusive("the hook was not called");
    };
    match first.ended {
        Some(ended) if first.answered() && first.status == Some(200) => {
            let Some(probe) = view.requests(Role::Ready).last() else {
                return Finding::inconclusive("nobody asked whether the server is ready");
            };
            if probe.status != Some(503) {
                // It is asked for a third of the delay, or more.
                let over = first.sent.saturating_add(delay / 3);
                if stalled(view, first.begun, over, delay / 3) {
                    return busy("readiness did not fail", view, first.begun, over);
                }
                return Finding::violated("readiness did not fail while the hook was running", first.ended);
            }
            // A second call waits for the same delay; that it succeeds is another rule.
            let over = first.begun.saturating_add(delay);
            let mut answers = view.requests(Role::Prestop).filter(|call| call.served()).filter_map(|call| call.ended);
            match answers.find(|answer| answer + TOLERANCE_US < over) {
                Some(early) => {
                    let (after, due) = (ms(early.saturating_sub(first.begun)), ms(delay));
                    Finding::violated(format!("answered after {after}, where {due} were due"), [early])
                }
                None => within(view, "the hook answered", first.sent, Some(ended), delay),
            }
        }
        _ => Finding::violated(fate(first), [first.ended.unwrap_or(first.sent)]),
    }
}

fn prestop_keeps_process(view: &View) -> Finding {
    let ended = |process: &Process| process.exited.map(|(at, ..)| at);
    let unasked = |at: &u64| view.process().and_then(Process::signalled).is_none_or(|signalled| *at < signalled);
    if let Some(at) = view.process().and_then(ended).filter(unasked) {
        return Finding::violated("the process ended before any signal", [at]);
    }
    if let Err(finding) = stopped(view) {
        return finding;
    }
    if let Some(refused) = not_opened(view, Role::Prestop) {
        return Finding::violated("the hook could not be called again", [refused.at]);
    }
    let calls = each(view.requests(Role::Prestop), "the hook was not called", |request| request.served());
    if calls.outcome != Outcome::Holds {
        return calls;
    }
    if let Some(refused) = not_opened(view, Role::AfterHook) {
        return Finding::violated("a connection after the hook was not accepted", [refused.at]);
    }
    each(view.requests(Role::AfterHook), "nothing was asked after the hook", |request| request.served())
}

fn prestop_delay_once(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let (Some(delay), Some(hook)) =
        (view.param(Param::ShutdownDelay).map(seconds), view.requests(Role::Prestop).next())
    else {
        return Finding::inconclusive("the hook was not called");
    };
    // The delay begins with the hook, also where that does not wait for its end.
    let over = signalled.max(hook.begun.saturating_add(delay));
    let latest = over.saturating_add(delay / 4 * 3);
    let until = process.listener_closed.unwrap_or(view.end).max(latest);
    // What it may have lost before it knew of the hook, and when the delay was over.
    let told = view.requests(Role::Ready).find(|probe| probe.status == Some(503)).and_then(|probe| probe.ended);
    let spent = cost(view, hook.begun, told.unwrap_or(hook.sent)) + cost(view, over, until);
    match process.listener_closed {
        Some(closed) if closed + TOLERANCE_US < over => Finding::violated(
            format!("the signal ended the delay: the listener closed {} before its end", ms(over - closed)),
            [signalled, closed],
        ),
        Some(closed) if closed <= latest => {
            Finding::holds(format!("the listener closed {} after the signal", ms(closed.saturating_sub(signalled))))
        }
        _ if spent > 0 && spent >= until - latest => busy("the listener closed late", view, hook.begun, until),
        closed => Finding::violated(
            format!(
                "the hook had waited {}, and the listener stayed open {} more after the signal",
                ms(hook.ended.unwrap_or(signalled).saturating_sub(hook.sent)),
                closed.map_or("for ever".to_owned(), |closed| ms(closed - signalled)),
            ),
            [signalled],
        ),
    }
}
