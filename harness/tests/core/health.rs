//! Cases of the group *health*.

use drainspec::timeline::{Break, NotOpened, Param, Role};

use crate::case::{Case, holds, unclear, violated};
use crate::run::{Run, run, stopped};

pub fn cases() -> Vec<Case> {
    let mut cases = readiness_fails();
    cases.extend(readiness_latched());
    cases.extend(liveness_stays());
    cases.extend(lame_duck_serves());
    cases.extend(lame_duck_lasts());
    cases.extend(strangers());
    cases.extend(prestop_waits());
    cases.extend(prestop_keeps_process());
    cases.extend(prestop_delay_once());
    cases
}

/// SIGTERM at 1 s, and a lame-duck of one second.
fn lame_duck() -> Run {
    stopped().param(Param::ShutdownDelay, 1.0)
}

fn ready(run: Run, probe: &str, status: u16) -> Run {
    run.sent(probe, Role::Ready).answered(probe, status)
}

fn readiness_fails() -> Vec<Case> {
    let rule = "readiness-fails";
    vec![
        holds(rule, "at once", ready(lame_duck(), "a", 503).at(2_000).listener_closed()),
        holds(rule, "after a probe that was on its way", {
            ready(ready(lame_duck(), "a", 200), "b", 503).at(2_000).listener_closed()
        }),
        holds(rule, "at the very end of the slack", {
            lame_duck().at_us(3_998_000).sent("a", Role::Ready).answered("a", 503)
        }),
        violated(rule, "a microsecond after it", {
            lame_duck().at_us(3_998_001).sent("a", Role::Ready).answered("a", 503)
        }),
        violated(rule, "only when more than half of the delay is over", {
            ready(ready(lame_duck().at(1_600), "a", 200).at(1_700), "b", 503).at(2_000).listener_closed()
        }),
        violated(rule, "never while the listener was open", {
            ready(lame_duck(), "a", 200).at(2_000).listener_closed().sent("b", Role::Ready).broken("b", Break::Reset)
        }),
        violated(rule, "asked before, answered after the listener had closed", {
            let asked = lame_duck().sent("a", Role::Ready).at(2_000).listener_closed();
            asked.answered("a", 503)
        }),
        violated(rule, "only after the listener had closed", {
            let run = ready(lame_duck(), "a", 200).at(2_000).listener_closed();
            ready(run, "b", 503)
        }),
        violated(rule, "another status", ready(lame_duck(), "a", 500).at(2_000).listener_closed()),
        violated(rule, "the listener was gone before a probe", lame_duck().listener_closed()),
        violated(rule, "before the signal it was ready, then gone", {
            let run = run().param(Param::ShutdownDelay, 1.0);
            ready(run, "a", 200).at(1_000).signal("SIGTERM").listener_closed()
        }),
        unclear(rule, "the harness slept through the lame-duck", {
            lame_duck().at(2_000).listener_closed().at(2_100).stalled(600)
        }),
        unclear(rule, "only late, and the server had hardly run", {
            let run = ready(lame_duck().at(1_550).starved(350, 500).at(1_600), "a", 200);
            ready(run.at(1_700), "b", 503).at(2_000).listener_closed()
        }),
        violated(rule, "only late, and a short stall", {
            let run = ready(lame_duck().at(1_550).starved(200, 500).at(1_600), "a", 200);
            ready(run.at(1_700), "b", 503).at(2_000).listener_closed()
        }),
        unclear(rule, "late, but so was the harness", {
            lame_duck().at(4_000).stalled(2_500).sent("a", Role::Ready).answered("a", 503)
        }),
        unclear(rule, "no signal", ready(run(), "a", 200)),
    ]
}

fn readiness_latched() -> Vec<Case> {
    let rule = "readiness-latched";
    let failed = || ready(lame_duck(), "a", 503);
    vec![
        holds(rule, "and again 503", ready(failed(), "b", 503)),
        violated(rule, "ready again", ready(ready(failed(), "b", 503), "c", 200)),
        violated(rule, "another failure", ready(failed(), "b", 500)),
        holds(rule, "a probe that is lost says nothing", {
            ready(failed(), "b", 503).sent("c", Role::Ready).broken("c", Break::Reset)
        }),
        holds(rule, "a probe that was asked before, in a stall", {
            let run = failed().at(1_500).sent_since("slow", Role::Ready, 900).answered("slow", 200);
            run.sent_since("b", Role::Ready, 1_600).answered("b", 503)
        }),
        holds(rule, "a probe that was asked before and answered after", {
            let run = lame_duck().sent("slow", Role::Ready);
            ready(ready(run, "a", 503).answered("slow", 200), "b", 503)
        }),
        violated(rule, "ready once the listener has closed", ready(lame_duck().listener_closed(), "a", 200)),
        unclear(rule, "nobody asked again", failed()),
        unclear(rule, "readiness never failed", ready(lame_duck(), "a", 200)),
    ]
}

fn liveness_stays() -> Vec<Case> {
    let rule = "liveness-stays";
    let draining = || run().sent("slow", Role::InFlight).at(1_000).signal("SIGTERM");
    let live = |run: Run, status| run.sent("live", Role::Live).answered("live", status);
    let drained = |run: Run| run.at(2_500).answered_close("slow", 200).exited(0);
    vec![
        holds(rule, "200 throughout", drained(live(draining(), 200))),
        violated(rule, "503 while requests are in flight", drained(live(draining(), 503))),
        violated(rule, "the probe is lost", {
            drained(draining().sent("live", Role::Live).broken("live", Break::Reset))
        }),
        violated(rule, "nobody listens", drained(draining().not_opened(5, Role::Live, NotOpened::Refused))),
        holds(rule, "no local port is left on this side", {
            drained(live(draining(), 200).not_opened(5, Role::Live, NotOpened::Other))
        }),
        holds(rule, "refused after the last answer", {
            drained(live(draining(), 200)).not_opened(5, Role::Live, NotOpened::Refused)
        }),
        holds(rule, "refused before the signal is another matter", {
            let run = run().sent("slow", Role::InFlight).not_opened(5, Role::Live, NotOpened::Refused);
            drained(live(run.at(1_000).signal("SIGTERM"), 200))
        }),
        violated(rule, "503 after the first of two answers", {
            let two = run().sent("quick", Role::InFlight).sent("slow", Role::InFlight).at(1_000).signal("SIGTERM");
            drained(live(two.answered_close("quick", 200), 503))
        }),
        holds(rule, "503 before the signal is another matter", {
            let before = run().sent("slow", Role::InFlight).sent("early", Role::Live).answered("early", 503);
            drained(live(before.at(1_000).signal("SIGTERM"), 200))
        }),
        holds(rule, "503 after the last answer is another matter", {
            let late = live(draining(), 200).sent("late", Role::Live).at(1_500).answered_close("slow", 200);
            late.answered("late", 503).exited(0)
        }),
        violated(rule, "a probe that waits for more than a second", {
            let hangs = live(draining(), 200).sent("late", Role::Live).at(2_500).answered_close("slow", 200);
            hangs.broken("late", Break::Reset).exited(0)
        }),
        unclear(rule, "a probe waits, but so did the harness", {
            let hangs = live(draining(), 200).sent("late", Role::Live).at(2_400).stalled(900);
            hangs.answered_close("slow", 200).broken("late", Break::Reset).exited(0)
        }),
        holds(rule, "refused while the last answer is being read", {
            let run = live(draining(), 200).at(1_500).not_opened(5, Role::Live, NotOpened::Refused);
            run.answered_close("slow", 200).exited(0)
        }),
        unclear(rule, "refused while the last answer waits to be read by a harness that stalls", {
            let run = draining().at(1_500).not_opened(5, Role::Live, NotOpened::Refused).at(1_900).stalled(350);
            run.answered_close("slow", 200).exited(0)
        }),
        unclear(rule, "no probe meanwhile", drained(draining())),
        unclear(rule, "the request was lost", live(draining(), 200).broken("slow", Break::Reset)),
        unclear(rule, "no signal", live(run(), 200)),
    ]
}

fn lame_duck_serves() -> Vec<Case> {
    let rule = "lame-duck-serves";
    let asked = || lame_duck().opened(5, Role::LameDuck).sent("duck", Role::LameDuck);
    vec![
        holds(rule, "served", asked().answered_close("duck", 200)),
        violated(rule, "turned away", asked().answered_close("duck", 503)),
        holds(
            rule,
            "404 for what does not exist",
            lame_duck().sent("none", Role::NotFound).answered_close("none", 404),
        ),
        violated(rule, "503 for what does not exist", lame_duck().sent("none", Role::NotFound).answered("none", 503)),
        violated(rule, "served when the delay is over", asked().at(2_000).answered_close("duck", 200)),
        violated(rule, "a probe waits until it is over", {
            asked().answered_close("duck", 200).sent("probe", Role::Ready).at(2_000).answered("probe", 503)
        }),
        unclear(rule, "asked at the end of the delay, and read after it", {
            lame_duck().at(1_950).sent("duck", Role::LameDuck).at(2_100).starved(120, 140).answered("duck", 503)
        }),
        unclear(rule, "held, but the harness stalled", asked().at(1_900).stalled(800).answered_close("duck", 200)),
        violated(rule, "lost", asked().broken("duck", Break::Reset)),
        violated(rule, "one refused", {
            asked().answered_close("duck", 200).not_opened(6, Role::LameDuck, NotOpened::Refused)
        }),
        holds(rule, "one for which no local port is left", {
            asked().answered_close("duck", 200).not_opened(6, Role::LameDuck, NotOpened::Other)
        }),
        violated(rule, "all refused", lame_duck().not_opened(5, Role::LameDuck, NotOpened::Refused)),
        holds(rule, "refused once the delay is over", {
            asked().answered_close("duck", 200).at(2_000).not_opened(6, Role::LameDuck, NotOpened::Refused)
        }),
        unclear(
            rule,
            "nothing was asked in time",
            lame_duck().at(2_000).not_opened(5, Role::LameDuck, NotOpened::Refused),
        ),
        unclear(rule, "nothing was asked", lame_duck()),
        unclear(rule, "no signal", run()),
    ]
}

/// Somebody's server, which nobody has seen to have a lame-duck; or one that was learnt to last a second.
fn strangers() -> Vec<Case> {
    let none = || stopped().without_promise();
    let learnt = || lame_duck().without_promise().param(Param::LameDuck, 0.0);
    let connects = |run: Run| run.opened(5, Role::LameDuck).sent_on(5, "duck", Role::LameDuck);
    vec![
        violated("lame-duck-serves", "there is none: the next client is refused", {
            none().at(1_010).listener_closed().at(1_050).not_opened(5, Role::LameDuck, NotOpened::Refused)
        }),
        violated("lame-duck-serves", "there is none: new clients are turned away", {
            connects(none()).answered("duck", 503)
        }),
        holds("lame-duck-serves", "none was learnt, but there is one", connects(none()).answered("duck", 200)),
        holds("lame-duck-serves", "learnt on a machine that was busy: refused once the listener had closed", {
            let run = connects(learnt().param(Param::ShutdownDelay, 2.0)).answered("duck", 200);
            run.at(2_000).listener_closed().not_opened(6, Role::LameDuck, NotOpened::Refused)
        }),
        holds("lame-duck-serves", "learnt: what met the end of it is another matter", {
            let run = connects(learnt()).answered("duck", 200).at(1_900).sent_on(5, "late", Role::LameDuck);
            run.broken("late", Break::Reset).at(2_000).listener_closed()
        }),
        violated("lame-duck-serves", "learnt, and the listener closed at once", {
            connects(learnt()).answered("duck", 200).at(1_050).listener_closed()
        }),
        violated(
            "lame-duck-serves",
            "learnt, and new clients are turned away",
            connects(learnt()).answered("duck", 503),
        ),
        holds("readiness-fails", "by 500, of somebody's server", {
            ready(learnt(), "a", 500).at(2_000).listener_closed()
        }),
        violated("readiness-fails", "a redirect is no failure", {
            ready(learnt(), "a", 302).at(2_000).listener_closed()
        }),
        holds("readiness-latched", "by 500 and then by 503, of somebody's server", {
            ready(ready(learnt(), "a", 500), "b", 503)
        }),
        violated("readiness-latched", "by 500, and then ready again", ready(ready(learnt(), "a", 500), "b", 204)),
        unclear("lame-duck-lasts", "what was learnt is no promise", learnt().at(1_300).listener_closed()),
        violated("lame-duck-lasts", "shorter than its user says", {
            lame_duck().without_promise().param(Param::LameDuck, 1.0).at(1_300).listener_closed()
        }),
    ]
}

fn lame_duck_lasts() -> Vec<Case> {
    let rule = "lame-duck-lasts";
    let closed_at = |us| lame_duck().at_us(us).listener_closed();
    vec![
        holds(rule, "as long as it is meant to", closed_at(2_005_000)),
        holds(rule, "earlier by less than two clocks differ", closed_at(1_950_000)),
        violated(rule, "a microsecond earlier", closed_at(1_949_999)),
        violated(rule, "closed at once", closed_at(1_001_000)),
        violated(
            rule,
            "closed at once, and the harness stalled: no excuse",
            lame_duck().stalled(9_000).listener_closed(),
        ),
        holds(rule, "at the very end of the slack", closed_at(5_000_000)),
        violated(rule, "a microsecond after it", closed_at(5_000_001)),
        violated(rule, "never closed", lame_duck()),
        unclear(rule, "late, but so was the harness", lame_duck().at(5_000).stalled(2_000).listener_closed()),
        unclear(rule, "no delay is known", closed_at(2_005_000).without_param(Param::ShutdownDelay)),
        unclear(rule, "no signal", run()),
    ]
}

/// The hook is called at half a second, with a delay of one second.
fn hook() -> Run {
    run().param(Param::ShutdownDelay, 1.0).at(500).sent("hook", Role::Prestop)
}

fn prestop_waits() -> Vec<Case> {
    let rule = "prestop-waits";
    let called = || ready(hook(), "a", 503);
    // The hook ends with the second of two records.
    let ends_at = |run: Run, us: u64| run.at_us(us - 1_000).answered("hook", 200);
    vec![
        holds(rule, "when the delay is over", ends_at(called(), 1_510_000)),
        holds(rule, "counted from when it may have been called", {
            let hook = run().param(Param::ShutdownDelay, 1.0).at(500).sent_since("hook", Role::Prestop, 400);
            ends_at(ready(hook, "a", 503), 1_360_000)
        }),
        unclear(rule, "late, and the server had to wait for a processor", {
            ends_at(called().at(4_000).starved(300, 3_000), 5_000_000)
        }),
        holds(rule, "earlier by less than two clocks differ", ends_at(called(), 1_450_000)),
        violated(rule, "a microsecond earlier", ends_at(called(), 1_449_999)),
        violated(rule, "at once", called().answered("hook", 200)),
        holds(rule, "at the very end of the slack", ends_at(called(), 4_500_000)),
        violated(rule, "a microsecond after it", ends_at(called(), 4_500_001)),
        violated(rule, "not 200", called().at(1_500).answered("hook", 404)),
        violated(rule, "lost", called().at(1_500).broken("hook", Break::Fin)),
        violated(rule, "no answer", called()),
        violated(rule, "readiness did not fail", ends_at(ready(hook(), "a", 200), 1_510_000)),
        unclear(rule, "readiness did not fail, but the harness stalled", {
            ends_at(ready(hook(), "a", 200).at(1_000).stalled(400), 1_510_000)
        }),
        holds(rule, "readiness failed in the end", ends_at(ready(ready(hook(), "a", 200), "b", 503), 1_510_000)),
        unclear(rule, "late, but so was the harness", ends_at(called().at(4_000).stalled(2_500), 4_600_000)),
        violated(rule, "the second call does not wait", {
            let twice = called().sent("second", Role::Prestop).answered("second", 200);
            ends_at(twice, 1_510_000)
        }),
        holds(rule, "the second call waits for the same delay", {
            let twice = called().at(900).sent("second", Role::Prestop);
            ends_at(twice, 1_510_000).answered("second", 200)
        }),
        unclear(rule, "no delay is known", ends_at(called(), 1_510_000).without_param(Param::ShutdownDelay)),
        unclear(rule, "nobody asked for readiness", ends_at(hook(), 1_510_000)),
        unclear(rule, "the hook was not called", ready(lame_duck(), "a", 503)),
    ]
}

fn prestop_keeps_process() -> Vec<Case> {
    let rule = "prestop-keeps-process";
    let called = || hook().at(1_510).answered("hook", 200);
    let after = |run: Run| run.sent("after", Role::AfterHook);
    let stopped = |run: Run| run.at(3_000).signal("SIGTERM").exited(0);
    vec![
        holds(rule, "it serves until the signal", stopped(after(called()).answered("after", 200))),
        violated(rule, "the hook ended it", called().exited(0).at(3_000).signal("SIGTERM")),
        violated(rule, "the hook ended it, and nobody was left to signal", called().exited(0)),
        violated(rule, "turned away after the hook", stopped(after(called()).answered("after", 503))),
        violated(rule, "the hook stopped the listener", {
            stopped(called().not_opened(9, Role::AfterHook, NotOpened::Refused))
        }),
        violated(rule, "the second call is lost", {
            let twice = called().sent("second", Role::Prestop).broken("second", Break::Reset);
            stopped(after(twice).answered("after", 200))
        }),
        unclear(rule, "nothing was asked after the hook", stopped(called())),
        unclear(rule, "the hook was not called", stopped(after(run()).answered("after", 200))),
        unclear(rule, "no signal", after(called()).answered("after", 200)),
    ]
}

fn prestop_delay_once() -> Vec<Case> {
    let rule = "prestop-delay-once";
    // A delay of four seconds: at 3 s after the signal a second one can still be told from none.
    let called = || run().param(Param::ShutdownDelay, 4.0).at(500).sent("hook", Role::Prestop);
    let stopped = || called().at(4_510).answered("hook", 200).at(5_000).signal("SIGTERM");
    vec![
        holds(rule, "the listener closes at once", stopped().listener_closed()),
        holds(rule, "not before its end, counted from when the hook may have been called", {
            let hook = run().param(Param::ShutdownDelay, 4.0).at(500).sent_since("hook", Role::Prestop, 400);
            hook.at(1_000).signal("SIGTERM").at(4_390).listener_closed()
        }),
        holds(rule, "at the very end of the slack", stopped().at_us(8_000_000).listener_closed()),
        violated(rule, "a microsecond after it", stopped().at_us(8_000_001).listener_closed()),
        violated(rule, "after another delay", stopped().at(9_000).listener_closed()),
        holds(rule, "the hook did not wait, and its delay goes on", {
            called().at(510).answered("hook", 200).at(600).signal("SIGTERM").at(4_510).listener_closed()
        }),
        violated(rule, "never", stopped()),
        violated(rule, "the signal ends it", {
            called().at(1_000).signal("SIGTERM").listener_closed().at(4_510).answered("hook", 200)
        }),
        unclear(rule, "late, but so was the harness", stopped().at(7_900).stalled(1_100).at(8_100).listener_closed()),
        unclear(rule, "the hook was not called", lame_duck().listener_closed()),
        unclear(rule, "no signal", called().answered("hook", 200)),
    ]
}
