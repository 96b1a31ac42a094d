//! Connections: the listener first, idle ones last, nothing reset.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Basis, Finding, Level, Rule, SLACK_US, TOLERANCE_US, busy, but_for_peace, cost, each, ended, ending_word, fate,
    health, in_flight, lingering, ms, opened, seconds, stalled, stopped,
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
        slug: "keep-alive-outlasts-balancer",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "While nobody stops it, the server keeps an idle connection for longer than the balancer before it does.",
        judge: keep_alive_outlasts_balancer,
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
    ended(view, process, signalled, lingering(view))
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
    ended(view, process, last, lingering(view))
}

fn late_request_answered(view: &View) -> Finding {
    // What was asked when the linger was over, on a machine that had other things to do, has been promised nothing.
    // Where nobody has seen the listener open after the signal, the linger may have begun with that.
    let closed = view.process().and_then(|process| process.listener_open_until.or(process.signalled()));
    let over = closed.unwrap_or(u64::MAX).saturating_add(view.param(Param::IdleLinger).map_or(0, seconds));
    let in_time = |request: &&Request| request.sent.saturating_add(TOLERANCE_US) < over;
    // A server may learn a moment after the kernel that its listener is closed: until then it serves.
    let unaware = |request: &&Request| {
        let (from, ended) = (closed.unwrap_or(request.begun), request.ended.unwrap_or(request.sent));
        request.served() && request.close && stalled(view, from, ended, ended.saturating_sub(from))
    };
    let late = view.requests.iter().filter(|request| match request.role {
        Role::Late => in_time(request),
        Role::LateRejected => in_time(request) && !unaware(request),
        _ => false,
    });
    let late: Vec<&Request> = late.collect();
    if late.is_empty() {
        return Finding::too_short("nothing was asked within the linger, while a request drained");
    }
    each(late.into_iter(), "", |request| match request.role {
        Role::LateRejected => request.status == Some(503) && request.retry_after && request.close && request.answered(),
        _ => request.served() && request.close,
    })
}

fn close_announced(view: &View) -> Finding {
    let signalled = match stopped(view) {
        Ok((_, signalled)) => signalled,
        Err(finding) => return finding,
    };
    // A response that is read soon after the signal may have been on its way before it, and the server be about to
    // learn of it. Whoever says that he is not ready has.
    let knew = |request: &Request, head: u64| {
        request.role == Role::Ready || head > signalled.saturating_add(TOLERANCE_US + cost(view, signalled, head))
    };
    let told = in_flight(view, Role::InFlight, signalled)
        .chain(view.requests(Role::LameDuck))
        .chain(view.requests(Role::NotFound))
        .chain(view.requests(Role::Ready).filter(|probe| health::unready(view, probe)))
        .filter(|request| request.head.is_some_and(|head| knew(request, head)));
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

/// Whether a client asked so late on an open connection that the linger was over, and stalls can be why.
fn asked_late(view: &View, request: &Request, signalled: u64) -> bool {
    let linger = view.param(Param::IdleLinger).map_or(0, seconds);
    let began = view.process().and_then(|process| process.listener_open_until).unwrap_or(signalled);
    let opened = view.connections.iter().find(|connection| connection.id == request.connection);
    let since = opened.map_or(signalled, |connection| connection.begun.max(signalled));
    request.sent.saturating_add(TOLERANCE_US) >= began.saturating_add(linger)
        && stalled(view, since, request.sent, linger)
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
        return Finding::inconclusive(format!(
            "only {before} requests were answered before the signal, where {clients} were due"
        ));
    }
    let used = in_use(view, signalled);
    let asked: Vec<&Request> = load().filter(|request| concerned(request, &used)).collect();
    // Without an end it has no complete response either. What was lost before the signal is another rule's concern.
    let after = |request: &Request| request.ended.is_none_or(|ended| ended >= signalled);
    let gone = |request: &Request| after(request) && (request.lost() || request.end == End::Open);
    let lost = asked.iter().filter(|request| gone(request));
    let (late, lost): (Vec<&Request>, Vec<_>) = lost.partition(|request| asked_late(view, request, signalled));
    match lost.first() {
        None if asked.is_empty() => Finding::inconclusive("nobody asked"),
        None if !late.is_empty() => Finding::inconclusive(format!(
            "{} asked when their linger was over, for the machine was busy: {}",
            late.len(),
            fate(late[0])
        )),
        None => Finding::holds(format!("0 of {} lost", asked.len())),
        Some(first) => but_for_peace(
            view,
            Finding::violated(
                format!("{} of {} lost: {}", lost.len(), asked.len(), fate(first)),
                lost.iter().take(5).map(|request| request.ended.unwrap_or(request.sent)),
            )
            .share(lost.len(), asked.len()),
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
    // Until the end of a lame-duck new connections are to be taken.
    let lame_duck = signalled.saturating_add(view.param(Param::ShutdownDelay).map_or(0, seconds));
    let from = process.listener_closed.map_or(lame_duck, |closed| lame_duck.min(closed)).max(signalled);
    // A server may take a moment to close its listener, and a short drain is all moment.
    let drained = in_flight(view, Role::InFlight, from).map(|r| r.ended.unwrap_or(u64::MAX)).max();
    let lasts = view.param(Param::InFlightFor).map_or(0, seconds);
    let Some(drained) = drained else { return Finding::inconclusive("no request drained") };
    let half = from + (drained - from).min(lasts) / 2;
    let (mut refused, mut taken, mut unsure) = (0, 0, None);
    for connection in view.connections(Role::New) {
        let (begun, at) = (connection.begun, connection.at);
        let listening = process.listener_closed.is_none_or(|closed| closed > begun);
        let state = if listening { "the listener was still open" } else { "the listener had closed" };
        match connection.opening {
            // By then it is the end of the process that turns them away, or the end of the drain.
            _ if connection.at < from || connection.at >= drained => {}
            Opening::Failed(NotOpened::Refused) => refused += 1,
            Opening::Opened if listening && begun < half => taken += 1,
            Opening::Opened if drained - from < TELLING_US => {
                return Finding::too_short(&format!("the request drained for {} only", ms(drained - from)));
            }
            // Who has not had the time to take the signal has not had the time to close.
            Opening::Opened if listening && stalled(view, from, at, at - half) => {
                unsure = Some(busy(&format!("accepted {} after the signal", ms(at - signalled)), view, signalled, at));
            }
            Opening::Opened => {
                let after = ms(at - signalled);
                return Finding::violated(format!("accepted {after} after the signal: {state}"), [at]);
            }
            Opening::Failed(NotOpened::TimedOut) if stalled(view, begun, at, SLACK_US) => {
                return busy("connecting took too long", view, begun, at);
            }
            Opening::Failed(NotOpened::TimedOut) => {
                return Finding::violated("neither accepted nor refused: left hanging", [connection.at]);
            }
            Opening::Failed(NotOpened::Other) => return Finding::inconclusive("connecting failed on this side"),
        }
    }
    if let Some(unsure) = unsure {
        return unsure; // of none that came later is more known
    }
    // Whoever is kept out for the whole drain is refused by its end, and no sooner.
    let answered = in_flight(view, Role::InFlight, from).all(|request| request.answered());
    if let Some(closed) = process.listener_closed.filter(|closed| answered && *closed > drained) {
        if drained - from < TELLING_US {
            return Finding::too_short(&format!("the request drained for {} only", ms(drained - from)));
        }
        // What closes between two looks may have closed before the answer was read.
        let Some(open) = process.listener_open_until.filter(|open| *open > drained) else {
            return Finding::inconclusive(
                "the listener closed when the last request was answered, as near as can be seen",
            );
        };
        if stalled(view, from, open, open - half) {
            return busy("the listener closed late", view, from, open);
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
    ended(view, process, signalled, lingering(view).saturating_add(answers))
}

/// The request under way, the one that follows it on the same connection, and the one that waits in the accept queue.
const LAST_ANSWERS: u64 = 3;

/// How much longer than the balancer a server has to keep a connection, so that a request of the balancer does not
/// meet its FIN, in microseconds.
const MEETS_US: u64 = 500_000;

fn keep_alive_outlasts_balancer(view: &View) -> Finding {
    let Some(balancer) = view.param(Param::BalancerIdle) else {
        return Finding::inconclusive("it is not known how long the balancer keeps a connection");
    };
    let pooled = opened(view, &[Role::Pooled]).next();
    let last = |id: ConnectionId| view.requests.iter().rfind(|r| r.connection == id && r.answered());
    let idle = pooled.and_then(|connection| Some((connection, last(connection.id)?)));
    let Some((connection, (sent, since))) = idle.and_then(|(c, last)| Some((c, (last.sent, last.ended?)))) else {
        return Finding::inconclusive("no connection has answered and then waited");
    };
    // Whatever the server closes when the harness kills it, it would have kept.
    let killed = view.process().and_then(|process| process.killed).unwrap_or(u64::MAX);
    let due = seconds(balancer).saturating_add(MEETS_US);
    let at_once = format!("the balancer keeps it for {balancer} s and sends its next request on it");
    match connection.ended {
        Some((at, how)) if how != Ending::Local && at < killed => {
            let kept = at.saturating_sub(since);
            let actual = format!("an idle connection was closed by {} after {}", ending_word(how), ms(kept));
            match kept < due {
                false => Finding::holds(actual),
                // A response that was read late has made its connection idle earlier.
                true if stalled(view, sent, since, due - kept) => busy(&actual, view, sent, since),
                true => Finding::violated(format!("{actual}: {at_once}"), [since, at]),
            }
        }
        ended => {
            let until = ended.map_or(u64::MAX, |(at, _)| at).min(killed);
            match until.saturating_sub(since) {
                _ if until == u64::MAX => Finding::inconclusive("the connection was not watched to the end"),
                kept if kept >= due => Finding::holds(format!("an idle connection was open for {}", ms(kept))),
                kept => Finding::inconclusive(format!(
                    "an idle connection was open for at least {}, as long as it was watched; {at_once}",
                    ms(kept)
                )),
            }
        }
    }
}

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
        (None, None) if stalled(view, second.started, view.end, view.end.saturating_sub(second.started)) => {
            busy("the successor did not start in time", view, second.started, view.end)
        }
        (None, None) => Finding::violated("the successor never listened", [second.started]),
    }
}
