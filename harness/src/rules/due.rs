//! Requests that are due an answer, and what may keep it from them that is nobody's fault.

use super::{Finding, Outcome, TOLERANCE_US, each, fate, seconds, stalled};
use crate::timeline::{Break, End, Param, Request, View};

/// How long a client that reads slowly may have heard nothing when it is cut, in microseconds, and still count as
/// reading: it says so more often.
const STILL_READING_US: u64 = 2_000_000;

/// Whether a request was given up when the drain deadline came, or the patience of the harness ended, and the server
/// need not be why it had not come to its end by then: the client reads slowly, or stalls had cost the time.
fn held_up(view: &View, signalled: u64, request: &Request) -> bool {
    let (End::Lost(why), Some(ended)) = (request.end, request.ended) else { return false };
    let start = view.process().and_then(|process| process.listener_open_until).unwrap_or(signalled);
    let deadline = view.param(Param::DrainTimeout).map(|timeout| start.saturating_add(seconds(timeout)));
    let cut = deadline.is_some_and(|deadline| ended.saturating_add(TOLERANCE_US) >= deadline);
    let reading = request.received.is_some_and(|last| ended.saturating_sub(last) < STILL_READING_US);
    cut && reading
        || (cut || why == Break::TimedOut) && stalled(view, request.begun, ended, ended.saturating_sub(request.begun))
}

/// As [`each`], of requests that are due an answer: those that were held up are nobody's fault, and nobody's merit.
pub(super) fn each_due<'v, 't>(
    view: &'v View<'t>,
    signalled: u64,
    requests: impl Iterator<Item = &'v Request<'t>>,
    nothing: &str,
    good: impl Fn(&Request) -> bool,
) -> Finding
where
    't: 'v,
{
    let (held, others): (Vec<_>, Vec<_>) = requests.partition(|request| held_up(view, signalled, request));
    let found = each(others.into_iter(), nothing, good);
    match held.first() {
        Some(first) if found.outcome != Outcome::Violated => Finding::inconclusive(format!(
            "the deadline came first, while this side was slow or the machine busy: {}",
            fate(first)
        )),
        _ => found,
    }
}
