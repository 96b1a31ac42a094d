//! Cases of the group *requests*.

use drainspec::timeline::{Break, Ending, Param, Role};

use crate::case::{Case, holds, unclear, violated};
use crate::run::{BODY, Run, run, stopped};

pub fn cases() -> Vec<Case> {
    let mut cases = in_flight_answered();
    cases.extend(response_untruncated());
    cases.extend(endless_stream_ends());
    cases.extend(deadline());
    cases.extend(cuts());
    cases.extend(trickles());
    cases.extend(client_gone_releases());
    cases.extend(half_request_holds_nothing());
    cases.extend(pipelined_in_order());
    cases.extend(continue_answered());
    cases.extend(overload_sheds());
    cases.extend(slow_reader_bounded());
    cases.extend(streams_limited_apart());
    cases
}

/// A request with this role is on its way when SIGTERM arrives at 1 s.
fn in_flight(role: Role) -> Run {
    run().at(900).sent_expecting("slow", role, BODY).at(1_000).signal("SIGTERM").at(1_500)
}

fn in_flight_answered() -> Vec<Case> {
    let rule = "in-flight-answered";
    let slow = || in_flight(Role::InFlight);
    let saturated = |read_us| {
        let run = run().at(800).sent("full", Role::Saturated).at_us(read_us).read("full");
        run.at(1_000).signal("SIGTERM")
    };
    let learnt = |status| run().sent_expecting_status("slow", Role::InFlight, status).at(1_000).signal("SIGTERM");
    let saturated_and = |then: fn(Run) -> Run| {
        let run = run().at(800).sent("full", Role::Saturated).at(900).read("full");
        then(run).at(1_000).signal("SIGTERM")
    };
    vec![
        holds(rule, "answered", slow().answered_close("slow", 200).exited(0)),
        holds(rule, "answered 404, as in peace", learnt(404).answered("slow", 404).exited(0)),
        violated(rule, "answered 503, where 404 is normal", learnt(404).answered("slow", 503).exited(0)),
        violated(rule, "answered 404, where 200 is normal", learnt(200).answered("slow", 404).exited(0)),
        violated(rule, "lost, where 404 is normal", learnt(404).broken("slow", Break::Reset).exited(0)),
        holds(rule, "answered much later", slow().at(14_000).answered("slow", 200).exited(0)),
        holds(rule, "redirected", slow().answered("slow", 302).exited(0)),
        violated(rule, "answered with 400: not served", slow().answered_close("slow", 400).exited(0)),
        violated(rule, "answered with 503: not served", slow().answered_close("slow", 503).exited(0)),
        violated(rule, "lost by FIN", slow().broken("slow", Break::Fin).exited(0)),
        violated(rule, "lost by RST", slow().broken("slow", Break::Reset).killed_by(15)),
        violated(rule, "waited for in vain", slow().at(31_000).broken("slow", Break::TimedOut)),
        violated(rule, "not HTTP", slow().broken("slow", Break::Malformed)),
        violated(rule, "lost, and the harness stalled: no excuse", {
            slow().stalled(9_000).broken("slow", Break::Reset).exited(0)
        }),
        violated(rule, "cut at the deadline", slow().at(16_000).broken("slow", Break::Reset).exited(1)),
        unclear(rule, "cut at the deadline, after stalls that may have cost the time", {
            slow().at(9_500).stalled(8_000).at(16_000).broken("slow", Break::Reset).exited(1)
        }),
        unclear(rule, "cut at the deadline, and the server had hardly run", {
            slow().at(15_900).starved(9_000, 14_000).at(16_000).broken("slow", Break::Reset).exited(1)
        }),
        violated(rule, "cut at the deadline, after stalls that cannot have cost so much", {
            slow().at(9_500).stalled(6_000).at(16_000).broken("slow", Break::Reset).exited(1)
        }),
        violated(rule, "no end when the run was over", slow().exited(0)),
        violated(rule, "one of two", {
            let two = run().sent("one", Role::InFlight).sent("two", Role::InFlight).at(1_000).signal("SIGTERM");
            two.answered("one", 200).broken("two", Break::Fin).exited(0)
        }),
        holds(rule, "an upload", in_flight(Role::Upload).answered("slow", 200).exited(0)),
        violated(rule, "an upload is lost", in_flight(Role::Upload).broken("slow", Break::Reset)),
        holds(rule, "saturated, answered", saturated(900_000).answered("full", 200)),
        unclear(rule, "saturated by what nobody knows to last, answered", {
            saturated(900_000).without_promise().answered("full", 200)
        }),
        violated(rule, "saturated by what nobody knows to last, lost", {
            saturated(900_000).without_promise().broken("full", Break::Reset)
        }),
        violated(rule, "saturated, and the server had read it", saturated(900_000).broken("full", Break::Reset)),
        unclear(rule, "saturated, read too late to be certain", saturated(999_000).broken("full", Break::Reset)),
        unclear(rule, "saturated, and nobody knows whether it was read", {
            run().sent("full", Role::Saturated).at(1_000).signal("SIGTERM").broken("full", Break::Reset)
        }),
        unclear(rule, "saturated, and the last look before the signal no longer saw it unanswered", {
            saturated_and(|run| run.at(990).looked()).broken("full", Break::Reset)
        }),
        unclear(rule, "answered before the signal", {
            run().sent("slow", Role::InFlight).answered("slow", 200).at(1_000).signal("SIGTERM").exited(0)
        }),
        unclear(rule, "sent after the signal", stopped().sent("slow", Role::InFlight).broken("slow", Break::Reset)),
        unclear(rule, "unsent, which is not lost", {
            run().at(900).unsent("slow", Role::InFlight).at(1_000).signal("SIGTERM").exited(0)
        }),
        unclear(rule, "nothing was in flight", stopped().exited(0)),
        unclear(rule, "no signal", run().sent("slow", Role::InFlight).broken("slow", Break::Reset)),
        unclear(rule, "other roles are not its concern", in_flight(Role::Doomed).broken("slow", Break::Fin).exited(0)),
    ]
}

fn response_untruncated() -> Vec<Case> {
    let rule = "response-untruncated";
    let begun = || in_flight(Role::Finite).head("slow", 200);
    let slow_reader = || in_flight(Role::SlowReader).head("slow", 200);
    vec![
        holds(rule, "whole", begun().complete("slow", BODY)),
        violated(rule, "a valid end, but fewer bytes", begun().complete("slow", BODY - 1)),
        violated(rule, "a valid end, but more bytes", begun().complete("slow", BODY + 1)),
        holds(
            rule,
            "an error of another length, whole",
            in_flight(Role::Finite).head("slow", 503).complete("slow", 20),
        ),
        violated(rule, "FIN in the middle", begun().broken("slow", Break::Fin)),
        violated(rule, "RST in the middle", begun().broken("slow", Break::Reset)),
        violated(rule, "no end", begun()),
        violated(rule, "the right length, but not what was sent", {
            in_flight(Role::Upload).head("slow", 200).garbled("slow")
        }),
        holds(rule, "where no length is known", {
            run().sent("slow", Role::InFlight).at(1_000).signal("SIGTERM").answered("slow", 200)
        }),
        unclear(rule, "a slow reader is still reading when the deadline comes", {
            slow_reader().at(15_900).received("slow", 8).at(16_000).broken("slow", Break::Reset)
        }),
        violated(rule, "a slow reader has had nothing for two seconds when the deadline comes", {
            slow_reader().at(14_000).received("slow", 8).at(16_000).broken("slow", Break::Reset)
        }),
        violated(rule, "a slow reader is cut before the deadline", {
            slow_reader().at(15_900).received("slow", 8).at(15_949).broken("slow", Break::Reset)
        }),
        unclear(rule, "lost before its head", in_flight(Role::Finite).broken("slow", Break::Reset)),
        unclear(rule, "complete before the signal", {
            run().sent("slow", Role::Finite).answered("slow", 200).at(1_000).signal("SIGTERM")
        }),
        unclear(rule, "no signal", run().sent("slow", Role::Finite).answered("slow", 200)),
    ]
}

fn endless_stream_ends() -> Vec<Case> {
    let rule = "endless-stream-ends";
    let stream = || run().sent("events", Role::Endless).head("events", 200).at(1_000).signal("SIGTERM").at(1_100);
    vec![
        holds(rule, "with its final chunk", stream().complete("events", 50)),
        violated(rule, "by FIN, without it", stream().broken("events", Break::Fin)),
        violated(rule, "by RST", stream().broken("events", Break::Reset)),
        violated(rule, "never", stream()),
        violated(rule, "cut at the deadline", stream().at(16_000).broken("events", Break::Reset)),
        unclear(rule, "cut at the deadline, and the server had hardly run", {
            stream().at(15_900).starved(9_000, 14_000).at(16_000).broken("events", Break::Reset)
        }),
        holds(rule, "after the listener", stream().listener_closed().complete("events", 50)),
        violated(rule, "before the listener", stream().complete("events", 50).at(2_000).listener_closed()),
        unclear(rule, "it had ended before the signal", {
            run().sent("events", Role::Endless).answered("events", 404).at(1_000).signal("SIGTERM")
        }),
        unclear(rule, "no stream", stopped()),
        unclear(rule, "no signal", run()),
    ]
}

fn deadline() -> Vec<Case> {
    let rule = "deadline-bounds-drain";
    // Signal at 1 s, deadline 1 s: cut at 2 s, at the latest 5 s.
    let doomed = || in_flight(Role::Doomed).param(Param::DrainTimeout, 1.0);
    let cut_at = |us| doomed().at_us(us).broken("slow", Break::Reset);
    vec![
        holds(rule, "cut at the deadline", cut_at(2_010_000).exited(1)),
        holds(rule, "earlier by less than two clocks differ", cut_at(1_950_000).exited(1)),
        violated(rule, "a microsecond earlier", cut_at(1_949_999).exited(1)),
        violated(rule, "cut by FIN, much earlier", doomed().broken("slow", Break::Fin).exited(1)),
        violated(rule, "the delay before it is taken out of it", {
            let run = doomed().param(Param::ShutdownDelay, 1.0).at(2_000).listener_closed();
            run.broken("slow", Break::Reset).exited(1)
        }),
        holds(rule, "it counts from a listener that closes too early", {
            let run = doomed().param(Param::ShutdownDelay, 1.0).at(1_500).listener_closed();
            run.at(2_500).broken("slow", Break::Reset).exited(1)
        }),
        holds(rule, "at the very end of the slack", cut_at(4_000_000).at_us(5_000_000).exited(1)),
        violated(rule, "a microsecond after it", cut_at(4_000_000).at_us(5_000_001).exited(1)),
        violated(rule, "it never ended", doomed()),
        violated(rule, "it waited for the answer", doomed().at(12_000).answered("slow", 200).exited(0)),
        unclear(rule, "late, but so was the harness", cut_at(4_000_000).stalled(2_500).at(5_500).exited(1)),
        violated(rule, "too early is no fault of a harness that stalled", {
            doomed().stalled(9_000).broken("slow", Break::Fin).exited(1)
        }),
        holds(rule, "the delay comes on top", {
            doomed().param(Param::ShutdownDelay, 2.0).at(4_000).broken("slow", Break::Reset).exited(1)
        }),
        unclear(rule, "what should outlast the deadline had ended before the signal", {
            let run = run().param(Param::DrainTimeout, 1.0).sent("slow", Role::Doomed).answered("slow", 200);
            run.at(1_000).signal("SIGTERM").exited(0)
        }),
        unclear(rule, "nothing outlasted the deadline", stopped().param(Param::DrainTimeout, 1.0).at(1_100).exited(0)),
        unclear(rule, "no signal", run().param(Param::DrainTimeout, 1.0)),
    ]
}

fn cuts() -> Vec<Case> {
    let doomed = || in_flight(Role::Doomed).at(2_000);
    let (visible, status) = ("cut-is-visible", "cut-exit-status");
    vec![
        holds(visible, "RST", doomed().head("slow", 200).broken("slow", Break::Reset)),
        holds(visible, "FIN without a valid end", doomed().broken("slow", Break::Fin)),
        holds(visible, "never answered", doomed()),
        violated(visible, "a valid end after half of the body", doomed().head("slow", 200).complete("slow", BODY / 2)),
        holds(visible, "a whole answer", doomed().answered("slow", 200)),
        unclear(visible, "nothing was to be cut", stopped()),
        holds(status, "status 1", doomed().broken("slow", Break::Reset).exited(1)),
        holds(status, "killed", doomed().broken("slow", Break::Reset).killed_by(15)),
        violated(status, "status 0 hides the loss", doomed().broken("slow", Break::Reset).exited(0)),
        unclear(status, "the answer came", doomed().answered("slow", 200).exited(0)),
        unclear(status, "the client left", doomed().broken("slow", Break::Left).exited(0)),
        unclear(status, "it did not end", doomed().broken("slow", Break::Reset)),
        unclear(status, "no signal", run().sent("slow", Role::Doomed).broken("slow", Break::Reset).exited(0)),
    ]
}

fn trickles() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rule, role, limit) in [
        ("slow-head-bounded", Role::SlowHead, Param::HeaderTimeout),
        ("stalled-body-bounded", Role::SlowBody, Param::BodyTimeout),
    ] {
        // Opened at 1 s, one second allowed: given up at 5 s at the latest.
        let late_opening = |begun| {
            let run = run().param(limit, 1.0).at(1_200).opened_since(1, role, begun);
            run.sent("drip", role).at(1_300).signal("SIGTERM")
        };
        let drip = || run().param(limit, 1.0).at(1_000).opened(1, role).sent("drip", role).at(1_100).signal("SIGTERM");
        cases.extend([
            holds(rule, "408", drip().at(2_000).answered_close("drip", 408)),
            holds(rule, "408, and FIN much later", {
                drip().at(2_000).answered_close("drip", 408).at(9_000).ended(1, Ending::Fin)
            }),
            holds(rule, "FIN", drip().at(2_000).broken("drip", Break::Fin).ended(1, Ending::Fin)),
            holds(rule, "RST", drip().at(2_000).ended(1, Ending::Reset)),
            holds(rule, "at the very end of the slack", drip().at_us(5_000_000).ended(1, Ending::Fin)),
            violated(rule, "a microsecond after it", drip().at_us(5_000_001).ended(1, Ending::Fin)),
            violated(rule, "given up at once", drip().answered_close("drip", 408)),
            violated(rule, "never", drip()),
            violated(rule, "the harness gave up, not the server", drip().at(8_000).ended(1, Ending::Local)),
            violated(rule, "the harness gave up early", drip().at(2_000).ended(1, Ending::Local)),
            violated(rule, "waited for in vain", drip().at(2_000).broken("drip", Break::TimedOut)),
            unclear(rule, "late, but so was the harness", drip().at(5_000).stalled(3_000).ended(1, Ending::Fin)),
            unclear(rule, "late, and the harness in many pieces", {
                let pieces = (1..8).fold(drip(), |run, s| run.at(500 * s + 1_100).stalled_in_pieces(100, 450));
                pieces.at(5_800).ended(1, Ending::Fin)
            }),
            unclear(rule, "late, and the server had to wait for a processor", {
                drip().at(5_000).starved(600, 3_000).ended(1, Ending::Fin)
            }),
            violated(rule, "later than stalls can explain", drip().at(7_000).stalled(600).ended(1, Ending::Fin)),
            violated(rule, "late, and the stall was over before it began", {
                let run = run().param(limit, 1.0).at(990).stalled(900).at(1_000).opened(1, role);
                run.sent("drip", role).at(1_100).signal("SIGTERM").at(5_100).ended(1, Ending::Fin)
            }),
            violated(rule, "given up too early", late_opening(1_200).at(2_050).answered_close("drip", 408)),
            holds(rule, "in time, since connecting began long before this side knew", {
                late_opening(1_000).at(2_050).answered_close("drip", 408)
            }),
            unclear(rule, "nothing trickled", stopped().param(limit, 1.0)),
            unclear(rule, "no limit is known", run().opened(1, role).sent("drip", role)),
        ]);
    }
    cases
}

fn half_request_holds_nothing() -> Vec<Case> {
    let rule = "half-request-holds-nothing";
    let half = |role| {
        let run = run().param(Param::HeaderTimeout, 2.0).param(Param::BodyTimeout, 2.0).sent("half", role);
        run.at(1_000).signal("SIGTERM")
    };
    let head = || half(Role::SlowHead);
    vec![
        holds(rule, "at once", head().exited(0).broken("half", Break::Fin)),
        holds(rule, "at the very end of the slack", head().at(6_000).exited(0)),
        violated(rule, "half a head, later", head().at_us(6_000_001).exited(0)),
        violated(rule, "half a body, later", half(Role::SlowBody).at_us(6_000_001).exited(0)),
        holds(rule, "with the grace, nothing promised", head().without_promise().at(19_000).exited(0)),
        violated(rule, "beyond the grace, nothing promised", head().without_promise().at_us(19_000_001).exited(0)),
        violated(rule, "never", head()),
        unclear(rule, "late, but so was the harness", head().at(6_000).stalled(2_000).at(6_500).exited(0)),
        unclear(rule, "it had been given up before the signal", {
            run().sent("half", Role::SlowHead).broken("half", Break::Fin).at(1_000).signal("SIGTERM").exited(0)
        }),
        unclear(rule, "nobody sent half a request", stopped().exited(0)),
        unclear(rule, "no signal", run().sent("half", Role::SlowHead)),
    ]
}

fn client_gone_releases() -> Vec<Case> {
    let rule = "client-gone-releases";
    let gone = || run().at(500).sent("slow", Role::Gone).at(600).broken("slow", Break::Left);
    let then_stopped = |run: Run| run.at(1_000).signal("SIGTERM");
    vec![
        holds(rule, "ends at once", then_stopped(gone()).exited(0)),
        holds(rule, "counted down before the signal", then_stopped(gone().metrics(1).metrics(0)).exited(0)),
        violated(rule, "still counted when the signal came", then_stopped(gone().metrics(1)).exited(0)),
        unclear(rule, "still counted, but the server had hardly run", {
            then_stopped(gone().at(900).starved(200, 250).metrics(1)).exited(0)
        }),
        holds(rule, "counted before the client left", {
            then_stopped(run().sent("slow", Role::Gone).metrics(1).broken("slow", Break::Left)).exited(0)
        }),
        holds(rule, "counted while another was still there", {
            let two = run().sent("one", Role::Gone).sent("two", Role::Gone).broken("one", Break::Left);
            then_stopped(two.metrics(1).broken("two", Break::Left)).exited(0)
        }),
        holds(rule, "at the very end of the slack", then_stopped(gone()).at(5_000).exited(0)),
        violated(rule, "held by it", then_stopped(gone()).at(5_002).exited(0)),
        violated(rule, "held by it for ever", then_stopped(gone())),
        unclear(rule, "late, but so was the harness", then_stopped(gone()).at(5_000).stalled(2_000).exited(0)),
        holds(rule, "long before its request would have been done", {
            then_stopped(gone()).param(Param::InFlightFor, 4.0).at(2_000).exited(0)
        }),
        violated(rule, "when its request was done", {
            then_stopped(gone()).param(Param::InFlightFor, 4.0).at(4_510).exited(0)
        }),
        unclear(rule, "when its request was done, and it had hardly run", {
            then_stopped(gone()).param(Param::InFlightFor, 4.0).at(4_400).starved(1_300, 3_300).at(4_510).exited(0)
        }),
        violated(rule, "when its request was done, though it had run", {
            then_stopped(gone()).param(Param::InFlightFor, 4.0).at(4_400).starved(1_200, 3_300).at(4_510).exited(0)
        }),
        unclear(rule, "all but when its request was done", {
            then_stopped(gone()).param(Param::InFlightFor, 4.0).at(4_000).exited(0)
        }),
        unclear(rule, "when its short request was done", {
            then_stopped(gone()).param(Param::InFlightFor, 1.0).at(1_510).exited(0)
        }),
        unclear(rule, "it was answered before it could leave", {
            then_stopped(run().sent("slow", Role::Gone).answered("slow", 200)).exited(0)
        }),
        unclear(rule, "no client left", stopped().exited(0)),
        unclear(rule, "no signal", gone()),
    ]
}

fn pipelined_in_order() -> Vec<Case> {
    let rule = "pipelined-in-order";
    let piped = || {
        let sent = run().sent("one", Role::Pipelined).sent_expecting("two", Role::Pipelined, BODY);
        sent.sent_expecting("three", Role::Pipelined, BODY).at(1_000).signal("SIGTERM")
    };
    vec![
        holds(rule, "all three, the last with close", {
            piped().answered("one", 200).answered("two", 200).answered_close("three", 200)
        }),
        holds(rule, "one with close, the others unanswered", {
            piped().answered_close("one", 200).broken("two", Break::Fin).broken("three", Break::Fin)
        }),
        violated(rule, "executed after close, and unanswered", {
            let run = piped().answered_close("one", 200).executed("two").broken("two", Break::Fin);
            run.broken("three", Break::Fin)
        }),
        violated(rule, "an answer after close", piped().answered_close("one", 200).answered("two", 200)),
        violated(rule, "no answer, though none said close", {
            piped().answered("one", 200).broken("two", Break::Fin).broken("three", Break::Fin)
        }),
        violated(rule, "the second in place of the first", {
            piped().answered("one", 200).head("two", 200).complete("two", BODY + 5).answered_close("three", 200)
        }),
        violated(rule, "turned away", piped().answered_close("one", 503)),
        violated(rule, "none at all", piped().broken("one", Break::Reset)),
        unclear(rule, "after close unanswered, and not every execution is recorded", {
            piped().answered_close("one", 200).executed_unrecorded().broken("two", Break::Fin)
        }),
        unclear(rule, "nothing was pipelined", stopped()),
    ]
}

fn continue_answered() -> Vec<Case> {
    let rule = "continue-answered";
    let asked = || run().sent_expecting("post", Role::Continue, BODY);
    let told = || asked().continued("post").at(1_000).signal("SIGTERM");
    vec![
        holds(rule, "told, then answered", told().answered_close("post", 200)),
        violated(rule, "told, then lost", told().broken("post", Break::Reset)),
        violated(rule, "told, then refused with 400", told().answered_close("post", 400)),
        violated(rule, "told, then turned away", told().answered_close("post", 503)),
        violated(rule, "told, but the body is not the one sent", told().head("post", 200).garbled("post")),
        violated(rule, "never told", asked().at(1_000).signal("SIGTERM").answered_close("post", 200)),
        unclear(rule, "never told, and the server had hardly run", {
            asked().at(4_900).starved(2_600, 4_800).at(5_100).signal("SIGTERM").broken("post", Break::TimedOut)
        }),
        violated(rule, "never told, though the server had run", {
            asked().at(4_900).starved(2_400, 4_800).at(5_100).signal("SIGTERM").broken("post", Break::TimedOut)
        }),
        unclear(rule, "nobody asked", stopped()),
    ]
}

fn overload_sheds() -> Vec<Case> {
    let rule = "overload-sheds";
    let limited = || run().param(Param::MaxInFlight, 1.0);
    let two = || limited().sent("one", Role::Overload).sent("two", Role::Overload);
    let probed = |run: Run, status| run.sent("live", Role::Live).answered("live", status);
    let served = |run: Run| run.answered("one", 200);
    vec![
        holds(rule, "one served, one shed", served(probed(two(), 200).turned_away("two", 429, false))),
        violated(rule, "both served", served(probed(two(), 200)).answered("two", 200)),
        violated(rule, "both shed", probed(two(), 200).turned_away("one", 429, false).turned_away("two", 429, false)),
        violated(rule, "429 without Retry-After", served(probed(two(), 200)).answered("two", 429)),
        violated(rule, "503 instead of 429", served(probed(two(), 200)).turned_away("two", 503, true)),
        violated(rule, "lost instead of shed", served(probed(two(), 200)).broken("two", Break::Reset)),
        violated(rule, "the health path was shed", served(probed(two(), 429)).turned_away("two", 429, false)),
        unclear(rule, "the health path was not asked", served(two()).turned_away("two", 429, false)),
        unclear(rule, "both served, one after the other", {
            let run = limited().sent("one", Role::Overload).answered("one", 200).sent("two", Role::Overload);
            probed(run.answered("two", 200), 200)
        }),
        unclear(rule, "both served, maybe one after the other", {
            let two = probed(two(), 200).at(1_200).starved(600, 900);
            two.answered("one", 200).answered("two", 200)
        }),
        unclear(rule, "no more asked than the limit allows", {
            served(probed(two().param(Param::MaxInFlight, 2.0), 200)).answered("two", 200)
        }),
        unclear(rule, "nobody asked", probed(limited(), 200)),
        unclear(rule, "no limit is known", served(probed(run().sent("one", Role::Overload), 200))),
    ]
}

fn slow_reader_bounded() -> Vec<Case> {
    let rule = "slow-reader-bounded";
    // A second, and three of slack, from the last of two that read nothing.
    let deaf = || {
        let run = run().param(Param::MaxInFlight, 2.0).param(Param::WriteTimeout, 1.0);
        let run = run.at(1_000).sent("a", Role::NonReader).head("a", 200);
        run.at(2_000).sent("b", Role::NonReader).head("b", 200)
    };
    let reset = |run: Run| run.broken("a", Break::Reset).broken("b", Break::Reset);
    let newcomer = |run: Run| run.sent("new", Role::Newcomer).answered("new", 200);
    vec![
        holds(rule, "reset, and somebody else served", reset(newcomer(deaf().at(3_000)))),
        holds(rule, "turned away before", {
            let early = deaf().sent("early", Role::Newcomer).turned_away("early", 429, false);
            reset(newcomer(early.at(3_500)))
        }),
        violated(rule, "served too late", reset(newcomer(deaf().at(6_500)))),
        violated(rule, "turned away for ever", {
            reset(deaf().at(4_000).sent("new", Role::Newcomer).turned_away("new", 429, false))
        }),
        violated(rule, "as if whole", newcomer(deaf().complete("a", 10)).broken("b", Break::Reset)),
        unclear(rule, "one reads", {
            let run = run().param(Param::MaxInFlight, 2.0).param(Param::WriteTimeout, 1.0);
            newcomer(run.sent("a", Role::NonReader).head("a", 200))
        }),
        unclear(rule, "without a limit", newcomer(run().sent("a", Role::NonReader).head("a", 200))),
        unclear(rule, "late, where the harness stalled", {
            reset(newcomer(deaf().at(5_900).stalled(2_000).at(6_500)))
        }),
    ]
}

fn streams_limited_apart() -> Vec<Case> {
    let rule = "streams-limited-apart";
    let limits = || run().param(Param::MaxInFlight, 1.0).param(Param::MaxStreams, 2.0);
    let two = || limits().sent("a", Role::Endless).head("a", 200).sent("b", Role::Endless).head("b", 200);
    let third = || two().sent("c", Role::Endless).turned_away("c", 429, false);
    let newcomer = |run: Run, status| run.sent("new", Role::Newcomer).answered("new", status);
    vec![
        holds(rule, "the third is shed, others are served", newcomer(third(), 200)),
        violated(rule, "others are shed", newcomer(third(), 429)),
        violated(rule, "no limit", newcomer(two().sent("c", Role::Endless).head("c", 200), 200)),
        violated(rule, "shed without a word", newcomer(two().sent("c", Role::Endless).answered("c", 429), 200)),
        violated(rule, "they count among the others", {
            let one = limits().sent("a", Role::Endless).head("a", 200);
            let shed = one.sent("b", Role::Endless).turned_away("b", 429, false);
            newcomer(shed.sent("c", Role::Endless).turned_away("c", 429, false), 200)
        }),
        unclear(rule, "no more than may be", newcomer(two(), 200)),
        unclear(rule, "nobody else asked", third()),
        unclear(rule, "without a limit", newcomer(run().sent("a", Role::Endless).head("a", 200), 200)),
    ]
}
