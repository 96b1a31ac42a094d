//! Connections: the listener first, idle ones last, nothing reset.

use std::collections::{BTreeMap, BTreeSet};

use super::signals::LONGER;
use super::{
    Basis, Finding, Level, Rule, SLACK_US, but_for_peace, each, ending_word, fate, in_flight, ms, opened, seconds,
    stopped, within,
};
use crate::timeline::{Break, ConnectionId, End, Ending, NotOpened, Opening, Param, Process, Request, Role, View};

pub(super) const RULES: &[Rule] = &[
    Rule {
        slug: "idle-closed-by-fin",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "An idle or unused connection is closed by FIN, never by RST.",
        judge: idle_closed_by_fin,
    },
    Rule {
        slug: "idle-holds-nothing",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "Idle keep-alive connections do not hold the process beyond their linger.",
        judge: |view| holds_nothing(view, Role::Idle),
    },
    Rule {
        slug: "unused-holds-nothing",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "Connections on which nothing was ever sent do not hold the process beyond the linger.",
        judge: |view| holds_nothing(view, Role::Unused),
    },
    Rule {
        slug: "kept-open-holds-nothing",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "A connection that its client keeps after the answer to a request in flight does not hold the process beyond its linger, whatever the client does.",
        judge: kept_open_holds_nothing,
    },
    Rule {
        slug: "late-request-answered",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "An idle connection may ask once more after the listener closed, and gets the answer that the policy says, with `Connection: close`.",
        judge: late_request_answered,
    },
    Rule {
        slug: "close-announced",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "From the lame-duck on every response says `Connection: close`.",
        judge: close_announced,
    },
    Rule {
        slug: "nothing-lost-on-keep-alive",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "Of clients that ask back to back on keep-alive connections none loses a request.",
        judge: nothing_lost_on_keep_alive,
    },
    Rule {
        slug: "nothing-lost-in-accept-queue",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "Of clients that connect while the listener closes none loses a request: each is served or refused.",
        judge: nothing_lost_in_accept_queue,
    },
    Rule {
        slug: "nothing-lost-in-peace",
        level: Level::Should,
        basis: Basis::Wire,
        sentence: "Under a steady load no request is lost while nobody stops the server.",
        judge: nothing_lost_in_peace,
    },
    Rule {
        slug: "listener-closes-first",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "The listener closes before any idle connection does.",
        judge: listener_closes_first,
    },
    Rule {
        slug: "new-connections-refused",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "While requests drain, new connections are refused, so that clients can go elsewhere at once.",
        judge: new_connections_refused,
    },
    Rule {
        slug: "load-does-not-hold-exit",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "Clients that never stop asking do not hold the process.",
        judge: load_does_not_hold_exit,
    },
    Rule {
        slug: "port-free-after-exit",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "As soon as the process has exited its port can be listened on again.",
        judge: port_free_after_exit,
    },
];

const WAITING: [Role; 2] = [Role::Idle, Role::Unused];

fn idle_closed_by_fin(view: &View) -> Finding {
    let mut closed = 0;
    for connection in opened(view, &WAITING) {
        match connection.ended {
            Some((at, Ending::Reset)) => {
                return Finding::violated(format!("connection {} was closed by RST", connection.id), [at]);
            }
            Some((_, Ending::Fin)) => closed += 1,
            Some((_, Ending::Local)) | None => {}
        }
    }
    match closed {
        0 => Finding::inconclusive("the server closed no idle connection"),
        _ => Finding::holds(format!("{closed} of {closed} by FIN")),
    }
}

fn holds_nothing(view: &View, role: Role) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let still_open = |at: Option<(u64, Ending)>| at.is_none_or(|(ended, _)| ended > signalled);
    if !opened(view, &[role]).any(|connection| still_open(connection.ended)) {
        return Finding::inconclusive("no such connection was open when the signal was sent");
    }
    let lingering = view.param(Param::ShutdownDelay).unwrap_or(0.0) + view.param(Param::IdleLinger).unwrap_or(0.0);
    within(view, "the process ended", signalled, process.exited.map(|(at, ..)| at), seconds(lingering))
}

fn kept_open_holds_nothing(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let kept: BTreeSet<ConnectionId> = opened(view, &[Role::Kept]).map(|connection| connection.id).collect();
    let answers = in_flight(view, Role::InFlight, signalled).filter(|request| kept.contains(&request.connection));
    let Some(last) = answers.filter(|request| request.answered()).filter_map(|request| request.ended).max() else {
        return Finding::inconclusive("no request in flight was answered on a connection that its client kept");
    };
    let lingering = view.param(Param::ShutdownDelay).unwrap_or(0.0) + view.param(Param::IdleLinger).unwrap_or(0.0);
    within(view, "the process ended", last, process.exited.map(|(at, ..)| at), seconds(lingering))
}

fn late_request_answered(view: &View) -> Finding {
    // What was asked when the linger was over, on a machine that had other things to do, has been promised nothing.
    let closed = view.process().and_then(|process| process.listener_open_until).unwrap_or(u64::MAX);
    let over = closed.saturating_add(view.param(Param::IdleLinger).map_or(0, seconds));
    let late = view.requests.iter().filter(|r| matches!(r.role, Role::Late | Role::LateRejected) && r.sent < over);
    let nothing = format!("nothing was asked while a request drained: {LONGER}");
    each(late, &nothing, |request| match request.role {
        Role::LateRejected => request.status == Some(503) && request.retry_after && request.close && request.answered(),
        _ => request.served() && request.close,
    })
}

fn close_announced(view: &View) -> Finding {
    let signalled = match stopped(view) {
        Ok((_, signalled)) => signalled,
        Err(finding) => return finding,
    };
    let told = in_flight(view, Role::InFlight, signalled)
        .chain(view.requests(Role::LameDuck))
        .chain(view.requests(Role::NotFound))
        .chain(view.requests(Role::Ready).filter(|probe| probe.status == Some(503)))
        .filter(|request| request.head.is_some_and(|head| head > signalled));
    each(told, "no response came after the signal", |request| request.close)
}

const ON_KEEP_ALIVE: [Role; 2] = [Role::KeepAlive, Role::Sustained];
const UNDER_LOAD: [Role; 3] = [Role::KeepAlive, Role::Sustained, Role::Storm];

/// Connections from before the signal that have answered, and since when.
fn in_use(view: &View, signalled: u64) -> BTreeMap<ConnectionId, u64> {
    let late = view.connections.iter().filter(|connection| connection.at > signalled);
    let late: BTreeSet<ConnectionId> = late.map(|connection| connection.id).collect();
    let mut answered = BTreeMap::new();
    let others = view.requests.iter().filter(|request| request.answered() && !late.contains(&request.connection));
    for (request, ended) in others.filter_map(|request| Some((request, request.ended?))) {
        let first = answered.entry(request.connection).or_insert(ended);
        *first = ended.min(*first);
    }
    answered
}

fn nothing_lost_on_keep_alive(view: &View) -> Finding {
    nothing_lost(view, &ON_KEEP_ALIVE, |request, used| {
        used.get(&request.connection).is_some_and(|since| *since <= request.sent)
    })
}

/// Whoever has not been answered on a connection yet may have waited in the queue.
fn nothing_lost_in_accept_queue(view: &View) -> Finding {
    nothing_lost(view, &UNDER_LOAD, |request, used| {
        request.role == Role::Storm || used.get(&request.connection).is_none_or(|since| *since > request.sent)
    })
}

fn nothing_lost(
    view: &View,
    roles: &[Role],
    concerned: impl Fn(&Request, &BTreeMap<ConnectionId, u64>) -> bool,
) -> Finding {
    let signalled = match stopped(view) {
        Ok((_, signalled)) => signalled,
        Err(finding) => return finding,
    };
    let load = || view.requests.iter().filter(|request| roles.contains(&request.role));
    let before = load().filter(|request| request.ended.is_some_and(|ended| ended < signalled)).count();
    let clients = view.param(Param::Clients).unwrap_or(1.0) as usize;
    if before < clients {
        return Finding::inconclusive(format!("only {before} requests by {clients} clients before the signal"));
    }
    let used = in_use(view, signalled);
    let asked: Vec<&Request> = load().filter(|request| concerned(request, &used)).collect();
    // Without an end it has no complete response either. What was lost before the signal is another rule's concern.
    let after = |request: &Request| request.ended.is_none_or(|ended| ended >= signalled);
    let gone = |request: &Request| after(request) && (request.lost() || request.end == End::Open);
    let lost: Vec<_> = asked.iter().filter(|request| gone(request)).collect();
    match lost.first() {
        None if asked.is_empty() => Finding::inconclusive("nobody asked"),
        None => Finding::holds(format!("0 of {} lost", asked.len())),
        Some(first) => but_for_peace(
            view,
            Finding::violated(
                format!("{} of {} lost: {}", lost.len(), asked.len(), fate(first)),
                lost.iter().take(5).map(|request| request.ended.unwrap_or(request.sent)),
            ),
        ),
    }
}

fn listener_closes_first(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let first = opened(view, &WAITING)
        .filter_map(|connection| connection.ended)
        .filter(|(at, how)| *at > signalled && *how != Ending::Local)
        .min_by_key(|(at, _)| *at);
    let (Some((idle, how)), Some(closed)) = (first, process.listener_closed) else {
        return Finding::inconclusive("the listener, or no idle connection, was seen to close");
    };
    if let Some(open_until) = process.listener_open_until.filter(|open_until| idle < *open_until) {
        let early = ms(open_until - idle);
        return Finding::violated(
            format!(
                "an idle connection was closed by {}, and {early} later the listener was still open",
                ending_word(how)
            ),
            [idle, closed],
        );
    }
    Finding::holds(format!("the first idle connection closed {} after the listener", ms(idle.saturating_sub(closed))))
}

fn nothing_lost_in_peace(view: &View) -> Finding {
    if stopped(view).is_ok() {
        return Finding::inconclusive("a signal was sent");
    }
    let load = || view.requests.iter().filter(|request| UNDER_LOAD.contains(&request.role));
    let (answered, clients) = (load().filter(|r| r.answered()).count(), view.param(Param::Clients).unwrap_or(1.0));
    if answered < clients as usize {
        return Finding::inconclusive(format!("only {answered} requests of {clients} clients were answered"));
    }
    // A burst may be more than its accept queue holds: then the kernel lets clients wait.
    let (late, lost): (Vec<_>, Vec<_>) = load()
        .filter(|request| request.lost() || request.end == End::Open)
        .partition(|request| request.end == End::Lost(Break::TimedOut));
    match lost.first() {
        None if late.is_empty() => Finding::holds(format!("0 of {} lost", load().count())),
        None => Finding::inconclusive(format!("{} of {} had no answer in time", late.len(), load().count())),
        Some(first) => Finding::violated(
            format!("{} of {} lost while nobody stopped it: {}", lost.len(), load().count(), fate(first)),
            lost.iter().take(5).map(|request| request.ended.unwrap_or(request.sent)),
        ),
    }
}

/// For how long a request must drain so that a listener that closes at once and one that closes last can be told
/// apart, in microseconds.
const TELLING_US: u64 = 500_000;

fn new_connections_refused(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    // A server may take a moment to close its listener, and a short drain is all moment.
    let drained = in_flight(view, Role::InFlight, signalled).map(|r| r.ended.unwrap_or(u64::MAX)).max();
    let lasts = view.param(Param::InFlightFor).map_or(0, seconds);
    let Some(drained) = drained else { return Finding::inconclusive("no request drained") };
    let half = signalled + (drained - signalled).min(lasts) / 2;
    let (mut refused, mut taken) = (0, 0);
    for connection in view.connections(Role::New) {
        let listening = process.listener_closed.is_none_or(|closed| closed > connection.at);
        let state = if listening { "the listener was still open" } else { "the listener had closed" };
        match connection.opening {
            // By then it is the end of the process that turns them away, or the end of the drain.
            _ if connection.at < signalled || connection.at >= drained => {}
            Opening::Failed(NotOpened::Refused) => refused += 1,
            Opening::Opened if listening && connection.at < half => taken += 1,
            Opening::Opened if drained - signalled < TELLING_US => {
                return Finding::inconclusive(format!(
                    "the request drained for {} only: {LONGER}",
                    ms(drained - signalled)
                ));
            }
            Opening::Opened if listening && view.stalled(signalled, connection.at, (half - signalled) / 2) => {
                return Finding::inconclusive("accepted, but the harness itself stalled meanwhile");
            }
            Opening::Opened => {
                let after = ms(connection.at - signalled);
                return Finding::violated(format!("accepted {after} after the signal: {state}"), [connection.at]);
            }
            Opening::Failed(NotOpened::TimedOut) if view.stalled(signalled, connection.at, SLACK_US / 2) => {
                return Finding::inconclusive("connecting took too long, but the harness itself stalled meanwhile");
            }
            Opening::Failed(NotOpened::TimedOut) => {
                return Finding::violated("neither accepted nor refused: left hanging", [connection.at]);
            }
            Opening::Failed(NotOpened::Other) => return Finding::inconclusive("connecting failed on this side"),
        }
    }
    // Whoever is kept out for the whole drain is refused by its end, and no sooner.
    let answered = in_flight(view, Role::InFlight, signalled).all(|request| request.answered());
    if let Some(closed) = process.listener_closed.filter(|closed| answered && *closed > drained) {
        if drained - signalled < TELLING_US {
            return Finding::inconclusive(format!(
                "the request drained for {} only: {LONGER}",
                ms(drained - signalled)
            ));
        }
        if view.stalled(signalled, closed, (drained - signalled) / 2) {
            return Finding::inconclusive("the listener closed late, but the harness itself stalled meanwhile");
        }
        return Finding::violated("the listener closed only after the last request was answered", [drained, closed]);
    }
    match refused {
        0 => Finding::inconclusive("nobody tried to connect while the request drained, and was refused"),
        _ if taken > 0 => Finding::holds(format!("{refused} refused, after {taken} were accepted at first")),
        _ => Finding::holds(format!("{refused} of {refused} refused")),
    }
}

fn load_does_not_hold_exit(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let load = |request: &&Request| UNDER_LOAD.contains(&request.role) || request.role == Role::Saturated;
    if !view.requests.iter().any(|request| load(&request)) {
        return Finding::inconclusive("nobody asked");
    }
    // Where the machine lets an answer take long, those who wait when the signal comes take as long, one after the other.
    let before = view.requests.iter().filter(load).filter(|request| request.answered());
    let took = before.filter_map(|request| request.ended.filter(|at| *at < signalled)?.checked_sub(request.sent));
    let answers = LAST_ANSWERS * took.max().unwrap_or(0);
    let lingering = view.param(Param::ShutdownDelay).unwrap_or(0.0) + view.param(Param::IdleLinger).unwrap_or(0.0);
    let exited = process.exited.map(|(at, ..)| at);
    within(view, "the process ended", signalled, exited, seconds(lingering).saturating_add(answers))
}

/// The request under way, the one that follows it on the same connection, and the one that waits in the accept queue.
const LAST_ANSWERS: u64 = 3;

fn port_free_after_exit(view: &View) -> Finding {
    if let Some(left) = view.process().and_then(Process::left_behind) {
        let actual = format!("the process ended, but {} still listens on its port", left.words());
        return Finding::violated(actual, [left.at]);
    }
    let mut processes = view.processes.values();
    let (Some(first), Some(second)) = (processes.next(), processes.next()) else {
        return Finding::inconclusive("no successor was started");
    };
    let served = view.requests(Role::Successor).any(|request| request.served());
    let own = first.instance.is_none() || first.instance != second.instance;
    match (second.listening, second.exited) {
        (Some(_), _) if served && own => Finding::holds("a successor listens on the same port and answers"),
        (Some(_), _) => {
            Finding::violated("the successor listens, but somebody else answers, or nobody", [second.started])
        }
        (None, Some((at, code, signal))) => Finding::violated(
            format!("the successor could not start: {}", super::signals::exit_words(code, signal)),
            [second.started, at],
        ),
        (None, None) if view.stalled(second.started, u64::MAX, SLACK_US) => {
            Finding::inconclusive("the harness itself stalled while the successor started")
        }
        (None, None) => Finding::violated("the successor never listened", [second.started]),
    }
}
