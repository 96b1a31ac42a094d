//! Requests in flight: they finish, or their end is bounded.

use super::due::each_due;
use super::{
    Basis, Finding, Level, Outcome, Reason, Rule, TOLERANCE_US, busy, but_for_peace, each, ended, fate, in_flight,
    lingering, ms, seconds, signals, stalled, stopped, within,
};
use crate::timeline::{Break, End, Ending, Lines, Param, Request, Role, View};

pub(super) const RULES: &[Rule] = &[
    Rule {
        slug: "in-flight-answered",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "A request that is in flight when the signal arrives is answered.",
        judge: in_flight_answered,
    },
    Rule {
        slug: "response-untruncated",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "A response that has begun is delivered to its last byte.",
        judge: response_untruncated,
    },
    Rule {
        slug: "endless-stream-ends",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "A stream without an end of its own is ended properly, with its final chunk.",
        judge: endless_stream_ends,
    },
    Rule {
        slug: "deadline-bounds-drain",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "Requests that outlast the drain deadline are cut then: neither earlier nor later.",
        judge: deadline_bounds_drain,
    },
    Rule {
        slug: "cut-is-visible",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "A response that is cut never looks complete.",
        judge: cut_is_visible,
    },
    Rule {
        slug: "cut-exit-status",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "After requests were cut the process exits with a status other than 0.",
        judge: cut_exit_status,
    },
    Rule {
        slug: "slow-head-bounded",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "A head that arrives byte by byte is waited for HEADER_TIMEOUT in all.",
        judge: slow_head_bounded,
    },
    Rule {
        slug: "half-request-holds-nothing",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "Half a head, or half a body, whose rest never comes holds the process for its time-out at most.",
        judge: half_request_holds_nothing,
    },
    Rule {
        slug: "stalled-body-bounded",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "A body that arrives byte by byte is waited for BODY_TIMEOUT in all.",
        judge: stalled_body_bounded,
    },
    Rule {
        slug: "client-gone-releases",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "A request whose client has left does not hold the process.",
        judge: client_gone_releases,
    },
    Rule {
        slug: "pipelined-in-order",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "Pipelined requests are answered whole and in order, and none after the response that says `close`.",
        judge: pipelined_in_order,
    },
    Rule {
        slug: "continue-answered",
        level: Level::Must,
        basis: Basis::Wire,
        sentence: "A client that was told to continue is answered, also when the signal comes before its body.",
        judge: continue_answered,
    },
    Rule {
        slug: "overload-sheds",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "Above MAX_IN_FLIGHT requests get 429 with `Retry-After`, the others and the health paths are served.",
        judge: overload_sheds,
    },
    Rule {
        slug: "slow-reader-bounded",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "A client that takes nothing of its response loses it, visibly, and its place is free for others.",
        judge: slow_reader_bounded,
    },
    Rule {
        slug: "streams-limited-apart",
        level: Level::Must,
        basis: Basis::Contract,
        sentence: "Endless streams have a limit of their own, and keep nobody else out.",
        judge: streams_limited_apart,
    },
];

const DUE: [Role; 5] = [Role::InFlight, Role::Finite, Role::Upload, Role::SlowReader, Role::Continue];

/// How long before the signal a server must have read a request for that request to be in flight for certain,
/// in microseconds: by then it has parsed the head.
const READ_BEFORE_US: u64 = 5_000;

fn due<'v, 't>(view: &'v View<'t>, signalled: u64) -> impl Iterator<Item = &'v Request<'t>> {
    // An answer may have been on its way to us: the last look before the signal saw none.
    let last = view.looks.iter().rfind(|look| **look <= signalled).copied();
    let read = move |request: &&Request| {
        request.read.is_some_and(|read| read + READ_BEFORE_US <= signalled) && request.in_hand == last
    };
    let saturated = in_flight(view, Role::Saturated, signalled).filter(read);
    DUE.into_iter().flat_map(move |role| in_flight(view, role, signalled)).chain(saturated)
}

fn in_flight_answered(view: &View) -> Finding {
    let signalled = match stopped(view) {
        Ok((_, signalled)) => signalled,
        Err(finding) => return finding,
    };
    let nothing = "no request was certainly in flight when the signal was sent";
    let found = each_due(view, signalled, due(view, signalled), nothing, |request| request.has_status_due());
    // What nobody could make last may have been answered by then, and only read later: where others that were on their
    // way were dropped, that is said.
    let lasts = view.header.promises_contract || view.header.features.iter().any(|feature| feature == "slow");
    let learnt = |request: &&Request| request.expect_status.is_some() && request.lost();
    let dropped = in_flight(view, Role::Saturated, signalled).filter(learnt).count();
    if found.outcome == Outcome::Holds && dropped > 0 {
        return Finding::inconclusive(format!(
            "what was in its hands was answered, but perhaps before the signal: {dropped} on their way were lost"
        ));
    }
    match found.outcome {
        Outcome::Holds if !lasts && due(view, signalled).all(|request| request.role == Role::Saturated) => {
            Finding::inconclusive(
                "only quick requests were in flight, and may have been answered when the signal came: it takes a path \
                 that lasts half a second or more (--slow PATH)",
            )
            .because(Reason::TooShort)
        }
        // One single request is not lost by chance.
        _ if view.requests(Role::Saturated).next().is_some() => but_for_peace(view, found),
        _ => found,
    }
}

fn response_untruncated(view: &View) -> Finding {
    let signalled = match stopped(view) {
        Ok((_, signalled)) => signalled,
        Err(finding) => return finding,
    };
    let begun = due(view, signalled).filter(|request| request.head.is_some());
    // An error that is delivered whole is another rule's concern.
    let delivered = |request: &Request| request.whole() || !request.has_status_due();
    let finding =
        each_due(view, signalled, begun, "no response had begun", |request| request.answered() && delivered(request));
    match due(view, signalled).find(|request| request.head.is_some() && request.cut_hidden) {
        Some(hidden) if finding.outcome == Outcome::Holds => Finding::inconclusive(format!(
            "{} ends with its connection, and its length changes: one that was cut looks like a whole one",
            hidden.path
        )),
        _ => finding,
    }
}

fn endless_stream_ends(view: &View) -> Finding {
    let signalled = match stopped(view) {
        Ok((_, signalled)) => signalled,
        Err(finding) => return finding,
    };
    let open_until = view.process().and_then(|process| process.listener_open_until).unwrap_or(0);
    if let Some(early) = in_flight(view, Role::Endless, signalled).find(|stream| stream.ended < Some(open_until)) {
        let ended = early.ended.unwrap_or(early.sent);
        let before = ms(open_until.saturating_sub(ended));
        return Finding::violated(format!("ended {before} before the listener closed: {}", fate(early)), [ended]);
    }
    let streams = in_flight(view, Role::Endless, signalled);
    let nothing = "no endless stream was in progress when the signal was sent";
    each_due(view, signalled, streams, nothing, |stream| stream.answered())
}

fn deadline_bounds_drain(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let doomed = || in_flight(view, Role::Doomed, signalled);
    let Some(timeout) = view.param(Param::DrainTimeout).map(seconds) else {
        return Finding::inconclusive("no deadline was set");
    };
    if doomed().next().is_none() {
        return Finding::inconclusive("no request that outlasts the deadline was in flight when the signal was sent");
    }
    // It counts from the closing of the listener; whether that comes at the right time, another rule says.
    let due = signalled.saturating_add(seconds(view.param(Param::ShutdownDelay).unwrap_or(0.0)));
    let first = process.listener_closed.map_or(due, |closed| closed.min(due));
    let early = doomed()
        .filter(|request| !request.answered())
        .filter_map(|request| request.ended)
        .find(|cut| cut + TOLERANCE_US < first.saturating_add(timeout));
    match early {
        Some(cut) => Finding::violated(
            format!(
                "cut {} after the listener was to close, where {} are allowed",
                ms(cut.saturating_sub(first)),
                ms(timeout)
            ),
            [signalled, cut],
        ),
        None => {
            let exited = process.exited.map(|(at, ..)| at);
            within(view, "the process ended", signalled, exited, due.saturating_add(timeout) - signalled)
        }
    }
}

fn cut_is_visible(view: &View) -> Finding {
    each(view.requests(Role::Doomed), "no request was to be cut", |request| {
        request.end != End::Answered || request.whole()
    })
}

fn cut_exit_status(view: &View) -> Finding {
    let process = match stopped(view) {
        Ok((process, _)) => process,
        Err(finding) => return finding,
    };
    let cut = view.requests(Role::Doomed).filter(|request| request.lost()).count();
    match process.exited {
        _ if cut == 0 => Finding::inconclusive("no request was cut"),
        None => Finding::inconclusive("the process did not end"),
        Some((at, Some(0), _)) => Finding::violated(format!("exit status 0 after {cut} requests were cut"), [at]),
        Some((_, code, signal)) => Finding::holds(signals::exit_words(code, signal)),
    }
}

fn slow_head_bounded(view: &View) -> Finding {
    connection_bounded(view, Role::SlowHead, Param::HeaderTimeout)
}

fn stalled_body_bounded(view: &View) -> Finding {
    connection_bounded(view, Role::SlowBody, Param::BodyTimeout)
}

fn half_request_holds_nothing(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let half = [Role::SlowHead, Role::SlowBody].into_iter().flat_map(|role| in_flight(view, role, signalled));
    let halves = half.count();
    if halves == 0 {
        return Finding::inconclusive("nothing was half sent when the signal was sent");
    }
    let limit = |name| view.param(name).unwrap_or(0.0);
    // Who has promised no time-out has until the orchestrator's patience is at its end.
    let longest = match view.header.promises_contract {
        true => limit(Param::HeaderTimeout).max(limit(Param::BodyTimeout)),
        false => limit(Param::DrainTimeout),
    };
    ended(view, process, signalled, seconds(longest))
}

/// A connection on which bytes keep trickling in is given up after a limit that is counted once.
fn connection_bounded(view: &View, role: Role, limit: Param) -> Finding {
    let (Some(connection), Some(limit)) = (view.connections(role).next(), view.param(limit)) else {
        return Finding::inconclusive("nothing trickled");
    };
    // Where the harness gave up, the server did not.
    let by_server = |request: &&Request| !matches!(request.end, End::Lost(Break::TimedOut | Break::Left));
    let answered = view.requests(role).next().filter(by_server).and_then(|request| request.ended);
    let closed = connection.ended.filter(|(_, how)| *how != Ending::Local).map(|(at, _)| at);
    let given_up = [answered, closed].into_iter().flatten().min();
    // It may have been accepted, and its time have begun, before this side knew.
    let begun = connection.begun;
    if let Some(early) = given_up.filter(|at| at + TOLERANCE_US < begun.saturating_add(seconds(limit))) {
        let (after, due) = (ms(early.saturating_sub(begun)), ms(seconds(limit)));
        return Finding::violated(format!("given up after {after}, where {due} are promised"), [early]);
    }
    within(view, "the server gave up", connection.at, given_up, seconds(limit))
}

/// What must be left of a request when its client leaves, so that it is no accident where the process ends with it;
/// and how soon after it that is, in microseconds.
const TELLING_US: u64 = 2_000_000;
const TOLD_US: u64 = 1_000_000;

fn client_gone_releases(view: &View) -> Finding {
    let (process, signalled) = match stopped(view) {
        Ok(stopped) => stopped,
        Err(finding) => return finding,
    };
    let gone = view.requests(Role::Gone).filter(|request| request.end == End::Lost(Break::Left));
    let times: Vec<u64> = gone.filter_map(|request| request.ended).collect();
    let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else {
        return Finding::inconclusive("no client left");
    };
    // What the metrics say once others are in flight tells nothing about those that left.
    let others = view.requests.iter().filter(|request| matches!(request.role, Role::Gone | Role::InFlight));
    let next = others.map(|request| request.sent).filter(|sent| sent > first).min().unwrap_or(signalled);
    let left = times.iter().filter(|at| **at < next).max().unwrap_or(first);
    if let Some((at, requests)) = process.in_flight.iter().rfind(|(at, _)| at > left && *at < next)
        && *requests > 0
    {
        if stalled(view, *left, *at, at - left) {
            return busy("a client that had left was still counted", view, *left, *at);
        }
        return Finding::violated(
            format!("{requests} in flight by its own metrics, {} after the client left", ms(at - left)),
            [*left, *at],
        );
    }
    let stayed = view.requests(Role::InFlight).filter_map(|request| request.ended).max().unwrap_or(0);
    let from = signalled.max(*last).max(stayed);
    let finding = ended(view, process, from, lingering(view));
    // A process that waited for them would have ended when their requests were done.
    let lasts = view.param(Param::InFlightFor).map_or(u64::MAX / 2, seconds);
    let done = view.requests(Role::Gone).map(|request| request.sent.saturating_add(lasts)).max().unwrap_or(0);
    let left = done.saturating_sub(from);
    match process.exited {
        Some((at, ..)) if finding.outcome == Outcome::Holds && at.saturating_add(left / 4) >= done => {
            let actual = format!("{}, when their requests were done, or all but done", finding.actual);
            let lingered = from.saturating_add(lingering(view));
            if stalled(view, from, at, at.saturating_sub(lingered)) {
                return busy(&actual, view, from, at);
            }
            match left >= TELLING_US && (done..done.saturating_add(TOLD_US)).contains(&(at + TOLERANCE_US)) {
                true => Finding::violated(actual, [from, at]),
                false => Finding::too_short(&actual),
            }
        }
        _ => finding,
    }
}

fn pipelined_in_order(view: &View) -> Finding {
    let mut closed = false;
    let mut answered = 0;
    for request in view.requests(Role::Pipelined) {
        let wrong = match (request.answered(), closed) {
            (true, true) => Some("answered after the response that said `close`"),
            (true, false) if !request.served() => Some("not served, or not in its place"),
            (false, true) if request.executed() => {
                Some("executed, though nobody gets its answer: whoever repeats it doubles it")
            }
            (false, false) => Some("not answered, though no response before it said `close`"),
            (false, true) if view.unrecorded(Lines::Executed) => {
                return Finding::inconclusive("more `executed` lines came than are recorded");
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            let evidence = [Some(request.sent), request.ended].into_iter().flatten();
            return Finding::violated(format!("{wrong}: {}", fate(request)), evidence);
        }
        answered += u32::from(request.answered());
        closed |= request.close;
    }
    match answered {
        0 => Finding::inconclusive("no request was pipelined"),
        _ => Finding::holds(format!("{answered} in order{}", if closed { ", the last with `close`" } else { "" })),
    }
}

/// How long it is waited for a `100 Continue`, in microseconds.
const CONTINUE_US: u64 = 5_000_000;

fn continue_answered(view: &View) -> Finding {
    let told_late = |request: &&Request| {
        request.continued.is_none()
            && stalled(view, request.begun, request.begun.saturating_add(CONTINUE_US), CONTINUE_US)
    };
    if let Some(late) = view.requests(Role::Continue).find(told_late) {
        return busy("no `100 Continue` came", view, late.begun, late.begun.saturating_add(CONTINUE_US));
    }
    each(view.requests(Role::Continue), "no request asked to continue", |request| {
        request.continued.is_some() && request.served()
    })
}

fn overload_sheds(view: &View) -> Finding {
    let (Some(limit), all) = (view.param(Param::MaxInFlight), view.requests(Role::Overload).count()) else {
        return Finding::inconclusive("no limit is known");
    };
    if all <= limit as usize {
        return Finding::inconclusive(format!("{all} asked, with a limit of {limit}"));
    }
    let served = view.requests(Role::Overload).filter(|request| request.served()).count();
    let shed = view.requests(Role::Overload).filter(|r| r.status == Some(429) && r.retry_after).count();
    let probes = each(view.requests(Role::Live), "no probe under load", |probe| probe.status == Some(200));
    let tally = format!("{served} served, {shed} shed of {all}, with a limit of {limit}");
    if probes.outcome != Outcome::Holds {
        return Finding { actual: format!("a health path under load: {}", probes.actual), ..probes };
    }
    if served + shed == all && served <= limit as usize && shed > 0 && served > 0 {
        Finding::holds(tally)
    } else if served + shed == all && !at_once(view, limit as usize) {
        Finding::inconclusive(tally + ": they were not all in flight at the same time, for the machine was busy")
    } else {
        let odd = view.requests(Role::Overload).find(|r| !(r.served() || r.status == Some(429) && r.retry_after));
        let detail = odd.map_or(String::new(), |request| format!("; {}", fate(request)));
        let shown = odd.or_else(|| view.requests(Role::Overload).last());
        Finding::violated(tally + &detail, shown.map(|request| request.ended.unwrap_or(request.sent)))
    }
}

/// Whether the requests that were to be too many have certainly been in flight at the same time.
fn at_once(view: &View, limit: usize) -> bool {
    let served = || view.requests(Role::Overload).filter(|request| request.served());
    let last = view.requests(Role::Overload).map(|request| request.sent).max().unwrap_or(0);
    let ends = served().filter_map(|request| Some((request.begun, request.ended?)));
    let Some((begun, first)) = ends.min_by_key(|(_, ended)| *ended) else { return true };
    served().count() <= limit || last < first && !stalled(view, begun, first, first - begun)
}

fn slow_reader_bounded(view: &View) -> Finding {
    let (Some(limit), Some(write_timeout)) = (view.param(Param::MaxInFlight), view.param(Param::WriteTimeout)) else {
        return Finding::inconclusive("no limit is known");
    };
    let deaf = view.requests(Role::NonReader);
    let began: Vec<u64> = deaf.filter(|request| request.status == Some(200)).map(|request| request.sent).collect();
    let Some(last) = began.iter().copied().max().filter(|_| began.len() >= limit as usize) else {
        return Finding::inconclusive(format!("only {} responses were begun, with a limit of {limit}", began.len()));
    };
    let whole = view.requests(Role::NonReader).find(|request| request.answered());
    if let Some(request) = whole {
        return Finding::violated(fate(request), [request.ended.unwrap_or(request.sent)]);
    }
    let served = view.requests(Role::Newcomer).filter(|request| request.served()).filter_map(|request| request.ended);
    within(view, "somebody else was served", last, served.min(), seconds(write_timeout))
}

fn streams_limited_apart(view: &View) -> Finding {
    let (Some(limit), Some(streams)) = (view.param(Param::MaxInFlight), view.param(Param::MaxStreams)) else {
        return Finding::inconclusive("no limit is known");
    };
    let begun = view.requests(Role::Endless).filter(|request| request.status == Some(200)).count();
    let shed =
        view.requests(Role::Endless).filter(|request| request.status == Some(429) && request.retry_after).count();
    let newcomers = each(view.requests(Role::Newcomer), "nobody else asked", |request| request.served());
    let asked = view.requests(Role::Endless).count();
    if asked <= streams.max(limit) as usize {
        return Finding::inconclusive(format!("{asked} streams were asked for, with limits of {limit} and {streams}"));
    }
    if newcomers.outcome != Outcome::Holds {
        return Finding { actual: format!("with {begun} streams: {}", newcomers.actual), ..newcomers };
    }
    match view.requests(Role::Endless).last() {
        Some(last) if begun != streams as usize || begun + shed != asked => Finding::violated(
            format!("{begun} streams begun, {shed} shed of {asked}, with a limit of {streams}"),
            [last.sent],
        ),
        _ => Finding::holds(format!("{begun} streams begun, {shed} shed; others were served")),
    }
}
