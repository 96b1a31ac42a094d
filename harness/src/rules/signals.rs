//! What a signal does.

use super::due::each_due;
use super::{
    Basis, Finding, Level, NOT_WAITED_FOR, Outcome, Rule, breakage, busy, each, ended, in_flight, ms, not_opened,
    seconds, stalled, stopped, within,
};
use crate::timeline::{Connection, Opening, Param, Process, Request, Role, View};

pub(super) const RULES: &[Rule] = &[
    Rule {
        slug: "signal-reaches-server",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "The signal reaches whoever listens: the process that gets it is the server, or passes it on.",
        judge: signal_reaches_server,
    },
    Rule {
        slug: "group-signal-drains",
        level: Level::Should,
        basis: Basis::Wire,
        sentence: "A signal to the whole process group drains like one to the leader: requests in flight are answered, then it ends.",
        judge: group_signal_drains,
    },
    Rule {
        slug: "term-ends-process",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "After the signal the process ends by itself, once nothing is in flight.",
        judge: term_ends_process,
    },
    Rule {
        slug: "clean-exit-status",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "After a drain in which nothing was cut the process exits with status 0.",
        judge: clean_exit_status,
    },
    Rule {
        slug: "exit-is-prompt",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "When the last response is sent, the process ends as soon as it does when nothing is going on.",
        judge: exit_is_prompt,
    },
    Rule {
        slug: "int-like-term",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "SIGINT drains like SIGTERM: requests in flight are answered, then the process exits.",
        judge: int_like_term,
    },
    Rule {
        slug: "second-signal-exits",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "The first signal drains; a second one exits at once, with 128 + the signal's number.",
        judge: second_signal_exits,
    },
    Rule {
        slug: "hup-keeps-serving",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "SIGHUP ends neither the process nor a request; a configuration file is read again, a bad one is not taken.",
        judge: hup_keeps_serving,
    },
    Rule {
        slug: "startup-signal-ends-process",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "A signal that arrives while the server starts ends the process and is never lost.",
        judge: startup_signal_ends_process,
    },
    Rule {
        slug: "kill-recovers",
        level: Level::Info,
        basis: Basis::Wire,
        sentence: "SIGKILL costs what is in flight; a new process on the same port serves again.",
        judge: kill_recovers,
    },
    Rule {
        slug: "log-holds-nothing",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "A log line that nobody reads holds no request, no probe and no exit.",
        judge: breakage::log_holds_nothing,
    },
    Rule {
        slug: "broken-listener-ends-process",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "A listener that fails while the server is up begins the shutdown, and that ends with a status other than 0.",
        judge: breakage::broken_listener_ends_process,
    },
];

/// How a signal did not reach whoever listened, in words; `None` where it did, or where that is not known.
pub(super) fn missed(process: &Process) -> Option<String> {
    let first = process.at_first().filter(|first| !first.leader_listens())?;
    let (leader, server) = (&first.leader, first.words());
    if let Some(left) = process.left_behind() {
        let same =
            left.listeners.iter().find(|listener| listener.pid.is_some() && first.listeners.contains(listener))?;
        return Some(format!("it ended {leader}, and {same} still listens"));
    }
    let past = process.signalled_past?;
    let stopped = process.listener_closed.filter(|closed| *closed > past)?;
    let after = ms(past.saturating_sub(process.signalled()?));
    Some(format!("{leader} kept it for {after}; sent to {server} itself, it was heeded after {}", ms(stopped - past)))
}

fn signal_reaches_server(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let Some(first) = process.at_first() else {
        return Finding::inconclusive("it is not known who listened");
    };
    if first.leader_listens() {
        return Finding::holds(format!("{} listens itself", first.leader));
    }
    if let Some(missed) = missed(process) {
        let past = process.left_behind().map(|left| left.at).or(process.signalled_past);
        if let Some(past) = past.filter(|past| stalled(view, signalled, *past, past.saturating_sub(signalled))) {
            return busy(&format!("it may have been about to be passed on: {missed}"), view, signalled, past);
        }
        return Finding::violated(missed, [Some(signalled), past].into_iter().flatten());
    }
    if process.left_behind().is_some() {
        return Finding::holds(format!("{} passed it on: {} listens no more", first.leader, first.words()));
    }
    match process.listener_closed {
        Some(closed) => Finding::holds(format!(
            "{} passed it on: {} stopped listening after {}",
            first.leader,
            first.words(),
            ms(closed.saturating_sub(signalled))
        )),
        None => Finding::inconclusive(format!(
            "{} did not stop listening, whoever got the signal: whether it was passed on does not show",
            first.words()
        )),
    }
}

/// Of a process that did not end as long as it was waited for.
fn endless(view: &View, signalled: u64) -> Finding {
    match stalled(view, signalled, view.end, view.end - signalled) {
        _ if view.gave_up.is_some() => Finding::inconclusive(NOT_WAITED_FOR),
        true => busy("the process did not end", view, signalled, view.end),
        false => Finding::violated("the process did not end", [signalled]),
    }
}

fn group_signal_drains(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let nothing = "no request was in flight when the signal was sent";
    let asked = in_flight(view, Role::InFlight, signalled);
    let answered = each_due(view, signalled, asked, nothing, |request| request.served());
    match process.exited {
        _ if answered.outcome != Outcome::Holds => answered,
        None => endless(view, signalled),
        Some((_, code, signal)) => {
            Finding::holds(format!("{} answered; {}", answered.actual, exit_words(code, signal)))
        }
    }
}

fn term_ends_process(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let answers = view.requests(Role::AfterExit).find(|request| request.answered()).and_then(|request| request.ended);
    if let (Some(left), Some(at)) = (process.left_behind(), answers) {
        let actual = format!("the process ended, but {} was left behind and still answers on its port", left.words());
        return Finding::violated(actual, [left.at, at]);
    }
    let exited = process.exited.map(|(at, ..)| at);
    // Probes come as long as there is somebody to answer them, and what comes after the end is for a successor.
    let probe = |role| matches!(role, Role::Ready | Role::Live | Role::Metrics);
    let sent = view.requests.iter().filter(|r| !probe(r.role) && exited.is_none_or(|exited| r.sent < exited));
    // What was lost in the end had been in flight until then.
    let last = sent.filter(|r| r.answered() || r.lost()).filter_map(|r| r.ended).max();
    let from = signalled.max(last.unwrap_or(0).min(exited.unwrap_or(u64::MAX)));
    // Where nobody is connected nothing lingers, by the contract.
    let there = |connection: &Connection| {
        connection.role != Role::AfterExit && connection.ended.is_none_or(|(at, _)| at > signalled + CLIENT_LEAVES_US)
    };
    let anybody = view.connections.iter().any(|c| c.opening == Opening::Opened && there(c));
    let linger = match anybody || !view.header.promises_contract {
        true => view.param(Param::IdleLinger).unwrap_or(0.0),
        false => 0.0,
    };
    let delay = view.param(Param::ShutdownDelay).unwrap_or(0.0);
    ended(view, process, from, seconds(delay + linger))
}

/// What it may take until the harness has closed a connection that it is done with, in microseconds.
const CLIENT_LEAVES_US: u64 = 50_000;

/// What the end of a process may take longer after a last response than when nothing was going on, in microseconds:
/// less than one who looks twice a second whether all is done needs at worst.
const PROMPT_US: u64 = 300_000;

fn exit_is_prompt(view: &View) -> Finding {
    let (mut idle, mut held) = (Vec::new(), Vec::new());
    for process in view.processes.values() {
        let (Some(signalled), Some((exited, ..))) = (process.signalled(), process.exited) else { continue };
        let mut requests = in_flight(view, Role::InFlight, signalled).filter(|r| r.sent >= process.started);
        match requests.next() {
            None => idle.push((exited.saturating_sub(signalled), signalled, exited)),
            // The end of a process may be seen before its last bytes are read.
            Some(request) if request.answered() || request.lost() => {
                let last = request.ended.unwrap_or(exited).min(exited);
                held.push((exited - last, last, exited));
            }
            Some(_) => {}
        }
    }
    let (Some((alone, ..)), Some((after, last, exited)), 3..) = (idle.iter().min(), held.iter().min(), held.len())
    else {
        return Finding::inconclusive("too few processes ended, with and without a request in flight");
    };
    let told = format!("at best {} after the last response, and {} where nothing was going on", ms(*after), ms(*alone));
    let allowed = alone.saturating_add(PROMPT_US);
    if *after <= allowed {
        return Finding::holds(told);
    }
    // Any of them may have been the best.
    match held.iter().find(|(after, last, exited)| stalled(view, *last, *exited, after - allowed)) {
        Some((_, last, exited)) => busy(&told, view, *last, *exited),
        None => Finding::violated(told, [*last, *exited]),
    }
}

fn clean_exit_status(view: &View) -> Finding {
    let process = match stopped(view) {
        Ok((process, _)) => process,
        Err(finding) => return finding,
    };
    let promised = view.header.promises_contract;
    // What was pipelined behind a response that said `close` is unanswered, not lost.
    let lost =
        view.requests.iter().filter(|r| r.lost() && !matches!(r.role, Role::Pipelined | Role::AfterExit)).count();
    match process.exited {
        None => Finding::inconclusive("the process did not end"),
        Some((_, Some(0), _)) => Finding::holds("status 0"),
        // To end by the signal itself says the same, for whoever has not promised a status.
        Some((_, Some(143), _)) | Some((_, _, Some(15))) if !promised => Finding::holds("ended by SIGTERM"),
        Some((_, Some(130), _)) | Some((_, _, Some(2))) if !promised => Finding::holds("ended by SIGINT"),
        // That is the status promised after a cut: what was lost is the concern of other rules.
        Some((_, Some(1), _)) if promised && lost > 0 => {
            Finding::inconclusive(format!("exit status 1 after {lost} were lost"))
        }
        Some((at, code, signal)) => Finding::violated(exit_words(code, signal), [at]),
    }
}

fn int_like_term(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    if let Some(missed) = missed(process) {
        return Finding::violated(format!("it did not reach the server: {missed}"), [signalled]);
    }
    let nothing = "no request was in flight when the signal was sent";
    let asked = in_flight(view, Role::InFlight, signalled);
    let answered = each_due(view, signalled, asked, nothing, |request| request.served());
    if answered.outcome != Outcome::Holds {
        return answered;
    }
    match process.exited {
        None => endless(view, signalled),
        Some((at, code, signal)) if view.header.promises_contract && code != Some(0) => {
            Finding::violated(exit_words(code, signal), [at])
        }
        Some((_, code, signal)) => Finding::holds(exit_words(code, signal)),
    }
}

fn second_signal_exits(view: &View) -> Finding {
    let mut found = Finding::inconclusive("no process was started");
    for process in view.processes.values() {
        found = second_signal_ends(view, process);
        if found.outcome != Outcome::Holds {
            break;
        }
    }
    found
}

/// What is left of a slow request, in microseconds, so that its end and that of a process can be told apart.
const LEFT_US: u64 = 1_000_000;

fn second_signal_ends(view: &View, process: &Process) -> Finding {
    let (Some((first, _)), second) = (process.signals.first(), process.signals.get(1)) else {
        return Finding::inconclusive("no signal was sent");
    };
    let holding = || in_flight(view, Role::Doomed, *first).filter(|request| request.sent >= process.started);
    if holding().next().is_none() {
        return Finding::inconclusive("no request was in flight when the first signal was sent");
    }
    // A process may end while the second signal is being sent.
    let gone = process.exited.filter(|(at, ..)| second.is_none_or(|(second, _)| at < second));
    // An answer may be read after the end of the process that sent it.
    let asked_again = second.filter(|_| gone.is_none()).map_or(u64::MAX, |(at, _)| *at);
    if let Some(answered) = holding().find(|r| r.answered() && r.ended.is_some_and(|ended| ended <= asked_again))
        && (gone.is_some() || second.is_some())
    {
        let after = ms(answered.ended.unwrap_or(*first).saturating_sub(*first));
        return Finding::too_short(&format!(
            "the request in flight was answered {after} after the first signal, before a second one could come"
        ));
    }
    if let Some((at, code, signal)) = gone {
        let after = ms(at.saturating_sub(*first));
        let actual = format!("the first signal ended it after {after}: {}", exit_words(code, signal));
        return Finding::violated(actual, [*first, at]);
    }
    let Some((second, name)) = second else { return Finding::inconclusive("no second signal was sent") };
    if holding().all(|request| request.ended.is_some_and(|ended| ended <= *second)) {
        return Finding::inconclusive("nothing was in flight any more when the second signal was sent");
    }
    // When the drain would be over by itself.
    let lasts = view.param(Param::InFlightFor).map_or(u64::MAX / 2, seconds);
    let left = holding().map(|request| request.sent.saturating_add(lasts)).max().unwrap_or(0).saturating_sub(*second);
    if left < LEFT_US {
        return Finding::too_short(&format!("the drain would have been over after another {}", ms(left)));
    }
    let number = match name.as_str() {
        "SIGINT" => 2,
        "SIGQUIT" => 3,
        _ => 15,
    };
    // Of two signals of one kind that come before the process runs, the kernel keeps one.
    let taken = process.listener_closed.is_some_and(|closed| closed < *second);
    if !taken && stalled(view, *first, *second, second - first) {
        return busy("the first signal may not have been taken before the second", view, *first, *second);
    }
    let exited = process.exited.map(|(at, ..)| at);
    let bounded = within(view, &format!("the process ended on {name}"), *second, exited, 0);
    let by_itself = |at: u64| at.saturating_sub(*second) > left / 2;
    match process.exited {
        Some((at, ..)) if bounded.outcome == Outcome::Holds && by_itself(at) => {
            if stalled(view, *second, at, at - second - left / 2) {
                return busy(&format!("the process ended late on {name}"), view, *second, at);
            }
            let (after, left) = (ms(at - second), ms(left));
            Finding::violated(
                format!("the process ended {after} after {name}, when the drain was over, or all but over ({left})"),
                [*second, at],
            )
        }
        Some((at, code, signal)) if bounded.outcome == Outcome::Holds => {
            if code == Some(128 + number) || (!view.header.promises_contract && signal == Some(number)) {
                Finding::holds(format!("{}, {} after {name}", exit_words(code, signal), ms(at - second)))
            } else {
                Finding::violated(format!("{} on {name}", exit_words(code, signal)), [*second, at])
            }
        }
        _ => bounded,
    }
}

fn hup_keeps_serving(view: &View) -> Finding {
    let (process, hup) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let stop = process.signals.iter().find(|(_, name)| name != "SIGHUP").map(|(at, _)| *at);
    if let Some((at, code, signal)) = process.exited
        && stop.is_none_or(|stop| at < stop)
    {
        return Finding::violated(
            format!("{} after SIGHUP: {}", ms(at.saturating_sub(hup)), exit_words(code, signal)),
            [hup, at],
        );
    }
    if let Some(refused) = not_opened(view, Role::AfterReload) {
        return Finding::violated("a connection after the SIGHUP was not accepted", [refused.at]);
    }
    let after = each(view.requests(Role::AfterReload), "nothing was asked after the SIGHUP", |r| r.served());
    if after.outcome != Outcome::Holds {
        return after;
    }
    let nothing = "no request was in flight when the SIGHUP was sent";
    let served = each_due(view, hup, in_flight(view, Role::InFlight, hup), nothing, |request| request.served());
    if served.outcome != Outcome::Holds || view.requests(Role::Overload).count() == 0 {
        return served;
    }
    // A limit of one shows only as long as that one is in flight: for the time that it was asked to take, whenever
    // its response was read.
    let lasts = seconds(view.param(Param::InFlightFor).unwrap_or(0.0));
    let until = view.requests(Role::InFlight).map(|request| request.begun.saturating_add(lasts)).max();
    let shed = || view.requests(Role::Overload).filter(|request| request.ended.is_some() && request.ended < until);
    let turned_away = |request: &Request| request.status == Some(429);
    let limited = each(shed(), "nothing was asked while a request was in flight", turned_away);
    match limited.outcome {
        Outcome::Violated => {
            // It may not have had the time to read the file.
            let first = shed().find(|request| !turned_away(request)).and_then(|request| request.ended).unwrap_or(hup);
            if stalled(view, hup, first, first.saturating_sub(hup)) {
                return busy("MAX_IN_FLIGHT=1 from the file is not in force", view, hup, first);
            }
            Finding { actual: format!("MAX_IN_FLIGHT=1 from the file is not in force: {}", limited.actual), ..limited }
        }
        _ => limited,
    }
}

fn startup_signal_ends_process(view: &View) -> Finding {
    let mut count = 0;
    for process in view.processes.values() {
        let Some(signalled) = process.signalled() else { continue };
        // It may have come so far that it has a lame-duck.
        let limit = seconds(view.param(Param::ShutdownDelay).unwrap_or(0.0)).saturating_add(1_000_000);
        let finding = ended(view, process, signalled, limit);
        if finding.outcome != Outcome::Holds {
            let after = ms(signalled - process.started);
            return Finding { actual: format!("signalled {after} after its start: {}", finding.actual), ..finding };
        }
        count += 1;
    }
    match count {
        0 => Finding::inconclusive("no process was signalled while it started"),
        _ => Finding::holds(format!("{count} of {count} processes ended")),
    }
}

fn kill_recovers(view: &View) -> Finding {
    let lost = view.requests.iter().filter(|request| request.lost()).count();
    if let Some(successor) = view.processes.values().nth(1).filter(|successor| successor.listening.is_none()) {
        // A child that outlives its leader may keep the port, or share it.
        let actual = format!("{lost} lost by SIGKILL; no successor listens, or somebody else answers on its port");
        return Finding::violated(actual, [successor.started]);
    }
    let recovery = each(view.requests(Role::Successor), "no successor was asked", |request| request.served());
    Finding { actual: format!("{lost} lost by SIGKILL; successor: {}", recovery.actual), ..recovery }
}

/// How a process ended, in words.
pub(super) fn exit_words(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}
