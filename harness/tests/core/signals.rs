//! Cases of the group *signals*.

use drainspec::timeline::{Break, Ending, NotOpened, Param, Role};

use crate::case::{Case, holds, unclear, violated};
use crate::run::{Run, run, stopped};

pub fn cases() -> Vec<Case> {
    let mut cases = term_ends_process();
    cases.extend(signal_reaches_server());
    cases.extend(group_signal_drains());
    cases.extend(clean_exit_status());
    cases.extend(exit_is_prompt());
    cases.extend(int_like_term());
    cases.extend(second_signal_exits());
    cases.extend(hup_keeps_serving());
    cases.extend(startup_signal_ends_process());
    cases.extend(grace());
    cases.extend(kill_recovers());
    cases.extend(log_holds_nothing());
    cases.extend(broken_listener_ends_process());
    cases
}

fn signal_reaches_server() -> Vec<Case> {
    let rule = "signal-reaches-server";
    let direct = || run().at(200).seen(1, &[1]).at(1_000).signal("SIGTERM");
    let below = || run().at(200).seen(1, &[2]).at(1_000).signal("SIGTERM");
    let kept = || below().at(36_000).seen(1, &[2]).signal_past();
    vec![
        holds(rule, "the leader listens", direct().listener_closed().exited(0)),
        holds(rule, "the leader listens, and never ends", direct()),
        holds(rule, "the leader listens with its workers", {
            run().at(200).seen(1, &[1, 2, 3]).at(1_000).signal("SIGTERM").exited(0)
        }),
        holds(rule, "it is passed on", below().at(1_500).listener_closed().exited(0)),
        holds(rule, "it is passed on, and another process keeps the socket", {
            below().exited(0).at(3_000).seen(1, &[3])
        }),
        violated(rule, "it ends the leader alone", below().killed_by(15).at(3_000).seen(1, &[2])),
        violated(rule, "one of two workers is left", {
            let run = run().at(200).seen(1, &[2, 3]).at(1_000).signal("SIGTERM");
            run.killed_by(15).at(3_000).seen(1, &[3])
        }),
        violated(rule, "the leader keeps it", kept().at(36_500).listener_closed().exited(0)),
        unclear(rule, "the leader had hardly run until it was sent past it", {
            let run = below().at(35_000).starved(18_000, 33_900).at(36_000).seen(1, &[2]).signal_past();
            run.at(36_500).listener_closed().exited(0)
        }),
        violated(rule, "the leader keeps it, though it had run", {
            let run = below().at(35_000).starved(17_000, 33_900).at(36_000).seen(1, &[2]).signal_past();
            run.at(36_500).listener_closed().exited(0)
        }),
        unclear(rule, "nobody heeds it", kept()),
        unclear(rule, "nobody heeds it, and nobody tried", below()),
        unclear(rule, "it is not known who listened", stopped().exited(0)),
        unclear(rule, "it was seen only afterwards", stopped().exited(0).at(3_000).seen(1, &[2])),
        unclear(rule, "no signal was sent", run().at(200).seen(1, &[2])),
    ]
}

fn group_signal_drains() -> Vec<Case> {
    let rule = "group-signal-drains";
    let signalled = || in_flight_at("SIGTERM");
    vec![
        holds(rule, "answered, then ended", signalled().answered("slow", 200).exited(0)),
        holds(rule, "answered, then ended by the signal", signalled().answered("slow", 200).killed_by(15)),
        violated(rule, "lost", signalled().broken("slow", Break::Fin).exited(143)),
        violated(rule, "turned away", signalled().answered_close("slow", 503).exited(0)),
        violated(rule, "answered, never ended", signalled().answered("slow", 200)),
        unclear(rule, "answered, not ended, and it had hardly run", {
            signalled().answered("slow", 200).at(20_000).starved(10_000, 18_900)
        }),
        violated(rule, "answered, not ended, though it had run", {
            signalled().answered("slow", 200).at(20_000).starved(9_000, 18_900)
        }),
        unclear(rule, "cut at the deadline, and it had hardly run", {
            signalled().at(16_000).starved(8_000, 14_900).broken("slow", Break::Reset).exited(1)
        }),
        unclear(rule, "nothing was in flight", stopped().exited(0)),
        unclear(rule, "no signal was sent", run()),
    ]
}

fn log_holds_nothing() -> Vec<Case> {
    let rule = "log-holds-nothing";
    // A second of linger, half of one to flush, three of slack.
    let muted = || run().at(500).sent("slow", Role::InFlight).muted().sent("one", Role::Unheard).answered("one", 200);
    let stopped = || muted().at(1_000).signal("SIGTERM").at(2_000).answered("slow", 200);
    vec![
        holds(rule, "as if somebody read it", stopped().exited(0)),
        holds(rule, "at the very end of the slack", stopped().at_us(6_501_000).exited(0)),
        violated(rule, "a microsecond after it", stopped().at_us(6_501_001).exited(0)),
        violated(rule, "the exit waits for a reader", stopped()),
        violated(rule, "not before the harness kills it", stopped().killed_by_harness()),
        violated(rule, "a request waits for a reader", {
            let run = run().sent("slow", Role::InFlight).muted().sent("one", Role::Unheard);
            let run = run.at(2_000).broken("one", Break::TimedOut).signal("SIGTERM");
            run.answered("slow", 200).exited(0)
        }),
        violated(rule, "a request in flight is lost", {
            muted().at(1_000).signal("SIGTERM").broken("slow", Break::Fin).exited(0)
        }),
        violated(rule, "a probe waits for a reader", {
            let run = muted().sent("probe", Role::Live).at(2_000).broken("probe", Break::TimedOut);
            run.signal("SIGTERM").answered("slow", 200).exited(0)
        }),
        holds(rule, "a second signal ends it at once", {
            let second = stopped().exited(0).process(2).started().muted().at(3_000).signal("SIGTERM");
            second.at(4_000).signal("SIGTERM").at(8_000).exited(143)
        }),
        violated(rule, "a second signal waits for a reader", {
            let second = stopped().exited(0).process(2).started().muted().at(3_000).signal("SIGTERM");
            second.at(4_000).signal("SIGTERM")
        }),
        unclear(rule, "somebody read it", run().at(1_000).signal("SIGTERM").exited(0)),
        unclear(rule, "nobody was told to stop", muted().answered("slow", 200)),
        unclear(rule, "late, where the harness stalled", stopped().at(6_000).stalled(2_000).at(6_600).exited(0)),
    ]
}

fn broken_listener_ends_process() -> Vec<Case> {
    let rule = "broken-listener-ends-process";
    // A second of linger, one until it is noticed, three of slack.
    let broken = || run().at(500).sent("slow", Role::InFlight).at(1_000).listener_broken();
    let answered = || broken().at(2_000).answered("slow", 200);
    vec![
        holds(rule, "with a status of its own", answered().at(3_000).exited(1)),
        holds(rule, "at the very end of the slack", answered().at_us(7_001_000).exited(1)),
        violated(rule, "a microsecond after it", answered().at_us(7_001_001).exited(1)),
        violated(rule, "as if all were well", answered().at(3_000).exited(0)),
        violated(rule, "never", answered()),
        violated(rule, "not before the harness kills it", answered().at(9_000).killed_by_harness()),
        violated(rule, "with a request in flight lost", broken().broken("slow", Break::Fin).exited(1)),
        unclear(rule, "nothing was in flight", run().at(1_000).listener_broken().exited(1)),
        unclear(rule, "the listener was in order", run().sent("slow", Role::InFlight).answered("slow", 200)),
    ]
}

/// A request that is in flight when this signal arrives at 1 s.
fn in_flight_at(signal: &str) -> Run {
    run().at(900).sent("slow", Role::InFlight).at(1_000).signal(signal)
}

fn term_ends_process() -> Vec<Case> {
    let rule = "term-ends-process";
    // One second of linger and three of slack after the signal, or after the last byte.
    let idle = || run().opened(7, Role::Idle).at(1_000).signal("SIGTERM");
    let last_answer = || {
        let run = run().opened(7, Role::Idle).at(900).sent("slow", Role::InFlight).at(1_000).signal("SIGTERM");
        run.at(5_000).head("slow", 200).complete("slow", 10)
    };
    vec![
        holds(rule, "at once", stopped().exited(0)),
        holds(rule, "with any status", stopped().exited(3)),
        holds(rule, "whatever its successor does", stopped().exited(0).process(2).started()),
        holds(rule, "killed by the signal", stopped().killed_by(15)),
        holds(rule, "at the very end of the slack", idle().at_us(5_000_000).exited(0)),
        violated(rule, "a microsecond after it", idle().at_us(5_000_001).exited(0)),
        holds(rule, "at the very end of the slack, nobody connected", stopped().at_us(4_000_000).exited(0)),
        violated(rule, "lingering, with nobody connected", stopped().at_us(4_000_001).exited(0)),
        holds(rule, "lingering, with nobody connected, nothing promised", {
            stopped().without_promise().at_us(5_000_000).exited(0)
        }),
        violated(rule, "lingering, with somebody who had left", {
            run().opened(7, Role::Idle).ended(7, Ending::Local).at(1_000).signal("SIGTERM").at(4_500).exited(0)
        }),
        violated(rule, "never", stopped()),
        violated(rule, "never, and a moment's stall is no excuse for that", stopped().at(1_500).stalled(20)),
        violated(rule, "not before the harness kills it", stopped().at(1_500).killed_by_harness()),
        holds(rule, "counted from the last byte", last_answer().at(9_000).exited(0)),
        violated(rule, "long after the last byte", last_answer().at(9_002).exited(0)),
        holds(rule, "counted from the last loss", {
            in_flight_at("SIGTERM").at(9_000).broken("slow", Break::Reset).exited(1)
        }),
        holds(rule, "counted from the last of several", {
            let two = run().sent("one", Role::InFlight).sent("two", Role::InFlight).at(1_000).signal("SIGTERM");
            two.answered("one", 200).at(5_000).answered("two", 200).at(8_000).exited(0)
        }),
        violated(rule, "probes do not prolong it", {
            stopped().at(6_000).sent("probe", Role::Ready).answered("probe", 503).exited(0)
        }),
        violated(rule, "lost probes do not prolong it", {
            stopped().sent("probe", Role::Live).at(6_000).broken("probe", Break::Reset).exited(0)
        }),
        holds(rule, "the last bytes are read after the end", {
            in_flight_at("SIGTERM").at(8_000).exited(0).at(9_000).answered("slow", 200)
        }),
        violated(rule, "late, and a successor is asked", {
            let run = stopped().at(6_000).exited(0).process(2).started();
            run.sent("next", Role::Successor).answered("next", 200)
        }),
        holds(rule, "a delay is granted", idle().param(Param::ShutdownDelay, 2.0).at(7_000).exited(0)),
        violated(rule, "its worker serves on", {
            let run = run().at(200).seen(1, &[1, 2]).at(1_000).signal("SIGTERM").exited(0).at(3_200).seen(1, &[2]);
            run.sent("left", Role::AfterExit).answered("left", 200)
        }),
        holds(rule, "a helper that serves nobody holds the port", {
            let run = run().at(200).seen(1, &[1, 2]).at(1_000).signal("SIGTERM").exited(0).at(3_200).seen(1, &[2]);
            run.sent("left", Role::AfterExit).at(6_200).broken("left", Break::TimedOut)
        }),
        unclear(rule, "no signal was sent", run().exited(0)),
        unclear(rule, "late, but so was the harness", stopped().at(4_000).stalled(2_000).at(5_500).exited(0)),
        violated(rule, "late, the harness by little", stopped().at(4_000).stalled(200).at(5_500).exited(0)),
        violated(rule, "later than stalls explain", stopped().at(4_000).stalled(1_400).at(8_000).exited(0)),
        violated(
            rule,
            "late, and the harness only before the signal",
            run().at(900).stalled(2_000).at(1_000).signal("SIGTERM").at(5_500).exited(0),
        ),
        holds(rule, "in time, whatever the harness did", idle().at(4_000).stalled(2_000).exited(0)),
    ]
}

fn clean_exit_status() -> Vec<Case> {
    let rule = "clean-exit-status";
    let lost = |how| in_flight_at("SIGTERM").at(1_100).broken("slow", how);
    vec![
        holds(rule, "status 0", stopped().exited(0)),
        violated(rule, "status 1", stopped().exited(1)),
        violated(rule, "killed, where 0 is promised", stopped().killed_by(15)),
        violated(rule, "128 + 15, where 0 is promised", stopped().exited(143)),
        holds(rule, "killed by SIGTERM, nothing promised", stopped().without_promise().killed_by(15)),
        holds(rule, "128 + 15, nothing promised", stopped().without_promise().exited(143)),
        holds(rule, "killed by SIGINT, nothing promised", stopped().without_promise().killed_by(2)),
        holds(rule, "128 + 2, nothing promised", stopped().without_promise().exited(130)),
        violated(rule, "status 1, nothing promised", stopped().without_promise().exited(1)),
        violated(rule, "killed by SIGKILL, nothing promised", stopped().without_promise().killed_by(9)),
        violated(rule, "a crash, nothing promised", stopped().without_promise().killed_by(11)),
        unclear(rule, "it did not end", stopped()),
        unclear(rule, "it did not end before the harness killed it", stopped().killed_by_harness()),
        unclear(rule, "no signal was sent", run().exited(0)),
        unclear(rule, "status 1 after a loss, which is honest", lost(Break::Reset).exited(1)),
        violated(rule, "status 1 after a loss, nothing promised", lost(Break::Reset).without_promise().exited(1)),
        violated(rule, "status 3 after a loss", lost(Break::Reset).exited(3)),
        violated(rule, "status 1 after a client left, who lost nothing", lost(Break::Left).exited(1)),
        violated(rule, "status 1 after a 503, which is an answer", {
            in_flight_at("SIGTERM").answered_close("slow", 503).exited(1)
        }),
    ]
}

fn exit_is_prompt() -> Vec<Case> {
    let rule = "exit-is-prompt";
    // A process of ten seconds each: an idle one that takes 20 ms, and others that end so long after their response.
    let idle = || stopped().at(1_020).exited(0);
    let busy = |run: Run, number: u32, after: u64| {
        let (at, id) = (u64::from(number) * 10_000, format!("r{number}"));
        let run = run.process(number).at(at).started().sent(&id, Role::InFlight).at(at + 1_000).signal("SIGTERM");
        run.at(at + 1_600).head(&id, 200).complete(&id, 10).at(at + 1_601 + after).exited(0)
    };
    let three = |first, second, third| busy(busy(busy(idle(), 2, first), 3, second), 4, third);
    vec![
        holds(rule, "as soon as an idle one", three(25, 25, 25)),
        holds(rule, "at best, whatever the others take", three(2_000, 320, 2_000)),
        violated(rule, "at best a millisecond more", three(321, 400, 500)),
        unclear(rule, "late, but so was the harness", {
            let run = busy(busy(idle(), 2, 400), 3, 400);
            let run = run.process(4).at(40_000).started().sent("r4", Role::InFlight).at(41_000).signal("SIGTERM");
            run.at(41_600).head("r4", 200).complete("r4", 10).at(42_000).stalled(350).at(42_100).exited(0)
        }),
        violated(rule, "late, and the harness stalled by less than that", {
            let run = busy(busy(idle(), 2, 450), 3, 450);
            let run = run.process(4).at(40_000).started().sent("r4", Role::InFlight).at(41_000).signal("SIGTERM");
            run.at(41_600).head("r4", 200).complete("r4", 10).at(42_000).stalled(50).at(42_100).exited(0)
        }),
        unclear(rule, "too few of them", busy(idle(), 2, 25)),
        unclear(rule, "none of them idle", {
            let first = run().sent("r1", Role::InFlight).at(1_000).signal("SIGTERM").answered("r1", 200).exited(0);
            busy(busy(busy(first, 2, 25), 3, 25), 4, 25)
        }),
        unclear(rule, "no signal", run()),
    ]
}

fn int_like_term() -> Vec<Case> {
    let rule = "int-like-term";
    let interrupted = || in_flight_at("SIGINT");
    vec![
        holds(rule, "answered, then 0", interrupted().answered_close("slow", 200).exited(0)),
        violated(rule, "answered, then 130", interrupted().answered_close("slow", 200).exited(130)),
        holds(rule, "130, nothing promised", interrupted().without_promise().answered("slow", 200).exited(130)),
        violated(rule, "lost by RST", interrupted().broken("slow", Break::Reset).exited(0)),
        violated(rule, "lost, nothing promised", interrupted().without_promise().broken("slow", Break::Fin).exited(0)),
        violated(rule, "it ends a parent alone", {
            let run = run().at(200).seen(1, &[2]).at(900).sent("slow", Role::InFlight).at(1_000).signal("SIGINT");
            run.killed_by(2).at(1_900).answered("slow", 200).at(3_000).seen(1, &[2])
        }),
        violated(rule, "answered with 503", interrupted().answered_close("slow", 503).exited(0)),
        violated(rule, "answered, never ended", interrupted().answered_close("slow", 200)),
        unclear(rule, "answered, not ended, and it had hardly run", {
            interrupted().answered_close("slow", 200).at(20_000).starved(10_000, 18_900)
        }),
        violated(rule, "no answer when the run was over", interrupted().exited(0)),
        unclear(rule, "nothing was in flight", run().at(1_000).signal("SIGINT").exited(0)),
        unclear(rule, "the answer came before the signal", {
            run().sent("slow", Role::InFlight).answered("slow", 200).at(1_000).signal("SIGINT").exited(0)
        }),
        unclear(rule, "no signal was sent", run()),
    ]
}

fn second_signal_exits() -> Vec<Case> {
    let rule = "second-signal-exits";
    // Twelve seconds long, as long as the drain would take without a second signal.
    let held = || run().at(900).sent("slow", Role::Doomed).at(1_000).signal("SIGTERM").param(Param::InFlightFor, 12.0);
    let twice = || held().at(1_500).signal("SIGTERM");
    let exits = |run: Run, code| run.exited(code).broken("slow", Break::Fin);
    vec![
        holds(rule, "128 + 15 at once", exits(twice(), 143)),
        holds(rule, "at the very end of the slack", exits(twice().at_us(4_500_000), 143)),
        violated(rule, "a microsecond after it", exits(twice().at_us(4_500_001), 143)),
        violated(rule, "with 0", exits(twice(), 0)),
        holds(rule, "128 + 2 for another signal", exits(held().signal("SIGINT"), 130)),
        violated(rule, "128 + 15 for another signal", exits(held().signal("SIGINT"), 143)),
        violated(rule, "the second process ignores it", {
            let second = exits(twice(), 143).at(2_000).process(2).started().sent("again", Role::Doomed);
            second.signal("SIGTERM").signal("SIGINT")
        }),
        violated(rule, "killed, where a status is promised", twice().killed_by(15).broken("slow", Break::Fin)),
        holds(rule, "killed, nothing promised", twice().without_promise().killed_by(15).broken("slow", Break::Fin)),
        violated(rule, "the first one ended it", exits(held().at(1_300), 0)),
        violated(rule, "never", twice()),
        unclear(rule, "late, but so was the harness", exits(twice().at(4_400).stalled(2_000).at(4_600), 143)),
        unclear(rule, "both may have come before it ran", {
            exits(held().at(1_400).starved(300, 390).at(1_500).signal("SIGTERM").at(9_000), 0)
        }),
        violated(rule, "it had taken the first, and ignored the second", {
            let taken = held().at(1_400).starved(300, 390).listener_closed();
            exits(taken.at(1_500).signal("SIGTERM").at(9_000), 143)
        }),
        unclear(rule, "no second signal", held()),
        unclear(rule, "no signal", run()),
        unclear(rule, "nothing was in flight", stopped().at(1_500).signal("SIGTERM").exited(143)),
        unclear(rule, "nothing was in flight, and the first one ended it", stopped().at(1_013).exited(0)),
        // The harness cannot know that a process is ending while it sends the second signal.
        violated(rule, "ended by itself just before the second", {
            exits(held().at(1_400), 0).at(1_402).signal("SIGTERM")
        }),
        unclear(rule, "the drain was over before the second", {
            held().at(1_300).answered("slow", 200).exited(0).signal("SIGTERM")
        }),
        unclear(rule, "the drain was over, and its last answer is read late", {
            held().at(1_300).exited(0).answered("slow", 200)
        }),
        unclear(rule, "answered when the second signal was sent", {
            held().at(1_300).answered("slow", 200).at(1_400).signal("SIGTERM").exited(143)
        }),
        unclear(rule, "lost when the second signal was sent", {
            held().at(1_300).broken("slow", Break::Reset).at(1_400).signal("SIGTERM").exited(143)
        }),
        // Sent at 0.9 s, and 0.5 s of 1.5 s are left.
        unclear(rule, "too little was left to tell", {
            exits(held().param(Param::InFlightFor, 1.5).at(1_900).signal("SIGTERM"), 143)
        }),
        holds(rule, "long before the end of a short request", {
            exits(held().param(Param::InFlightFor, 2.5).at(1_400).signal("SIGTERM").at(1_500), 143)
        }),
        violated(rule, "with the end of a short request", {
            let run = held().without_promise().param(Param::InFlightFor, 2.5).at(1_400).signal("SIGTERM");
            run.at(3_400).answered("slow", 200).killed_by(15)
        }),
        unclear(rule, "with the end of a short request, or the harness stalled", {
            let run = held().param(Param::InFlightFor, 2.5).at(1_400).signal("SIGTERM");
            exits(run.at(3_300).stalled(1_500), 143)
        }),
    ]
}

fn hup_keeps_serving() -> Vec<Case> {
    let rule = "hup-keeps-serving";
    let reloaded = || in_flight_at("SIGHUP").at(1_500).answered("slow", 200);
    let asked_again = || reloaded().sent("again", Role::AfterReload).answered("again", 200);
    let to_the_end = |run: Run| run.at(3_000).signal("SIGTERM").exited(0);
    let limited = |shed: fn(Run) -> Run| {
        let run = shed(in_flight_at("SIGHUP").at(1_100).sent("shed", Role::Overload));
        let run = run.at(1_500).answered("slow", 200);
        to_the_end(run.sent("again", Role::AfterReload).answered("again", 200)).param(Param::InFlightFor, 0.45)
    };
    vec![
        holds(rule, "all is served", to_the_end(asked_again())),
        violated(rule, "it ended the process", in_flight_at("SIGHUP").at(1_100).killed_by(1)),
        violated(rule, "it ended the process, with 0", reloaded().at(1_700).exited(0)),
        violated(
            rule,
            "it lost what was in flight",
            to_the_end({
                let lost = in_flight_at("SIGHUP").broken("slow", Break::Reset);
                lost.sent("again", Role::AfterReload).answered("again", 200)
            }),
        ),
        violated(
            rule,
            "what came after it was turned away",
            to_the_end(reloaded().sent("again", Role::AfterReload).answered("again", 503)),
        ),
        violated(
            rule,
            "nobody listened any more",
            to_the_end(reloaded().not_opened(7, Role::AfterReload, NotOpened::Refused)),
        ),
        violated(rule, "the new limit is not in force", limited(|run| run.answered("shed", 200))),
        unclear(rule, "the new limit is not in force, and it had hardly run", {
            limited(|run| run.at(1_150).starved(90, 140).answered("shed", 200))
        }),
        holds(rule, "the new limit is in force", limited(|run| run.turned_away("shed", 429, false))),
        unclear(
            rule,
            "the limit had nothing to show itself on",
            to_the_end(asked_again().sent("shed", Role::Overload).answered("shed", 200))
                .param(Param::InFlightFor, 0.45),
        ),
        unclear(
            rule,
            "what was in flight may have ended before its response was read",
            limited(|run| run.at(1_480).answered("shed", 200)),
        ),
        unclear(rule, "nothing was asked", to_the_end(run().at(1_000).signal("SIGHUP"))),
        unclear(rule, "nothing was asked afterwards", to_the_end(reloaded())),
        unclear(rule, "no signal", run()),
    ]
}

/// Somebody's server that says that it is killed after three seconds, with a request in flight at SIGTERM.
fn grace() -> Vec<Case> {
    let rule = "term-ends-process";
    let run = |grace| {
        let run = run().without_promise().param(Param::Grace, grace).param(Param::IdleLinger, grace);
        run.at(900).sent("slow", Role::InFlight).at(1_000).signal("SIGTERM")
    };
    let drained = |run: Run, at| run.at(at).answered("slow", 200).exited(0);
    vec![
        holds(rule, "within its grace period", drained(run(3.0), 3_900)),
        violated(rule, "it needed eight seconds of three", drained(run(3.0), 9_000)),
        unclear(rule, "it needed a moment more than its grace period", drained(run(3.0), 4_100)),
        unclear(rule, "it needed more than its grace period, but the harness stalled", {
            drained(run(3.0).at(5_000).stalled(2_000), 5_500)
        }),
        holds(rule, "twenty seconds after the last answer, of thirty", {
            run(30.0).at(1_500).answered("slow", 200).at(21_500).exited(0)
        }),
        violated(rule, "twenty seconds after the last answer, where nobody said that it may", {
            run(30.0).param(Param::IdleLinger, 5.0).at(1_500).answered("slow", 200).at(21_500).exited(0)
        }),
        holds("startup-signal-ends-process", "with a lame-duck that had begun by then", {
            stopped().without_promise().param(Param::ShutdownDelay, 6.0).at(7_100).exited(0)
        }),
        violated("idle-holds-nothing", "longer than its grace period", {
            let run = crate::run::run().without_promise().param(Param::Grace, 3.0).param(Param::IdleLinger, 5.0);
            run.opened(1, Role::Idle).at(1_000).signal("SIGTERM").at(6_000).exited(0)
        }),
        holds("term-ends-process", "five seconds after the end of its lame-duck", {
            let run = run(30.0).param(Param::ShutdownDelay, 3.0).param(Param::IdleLinger, 5.0);
            run.at(1_500).answered("slow", 200).at(9_400).exited(0)
        }),
    ]
}

fn startup_signal_ends_process() -> Vec<Case> {
    let rule = "startup-signal-ends-process";
    let early = |process, at| run().process(process).at(at).started().at(at + 25).signal("SIGTERM");
    vec![
        holds(rule, "by its default action", early(2, 1_000).killed_by(15)),
        holds(rule, "in order", early(2, 1_000).exited(0)),
        holds(rule, "at the very end of the slack", early(2, 1_000).at(5_025).exited(0)),
        violated(rule, "too late", early(2, 1_000).at(5_026).exited(0)),
        violated(rule, "never", early(2, 1_000)),
        violated(rule, "not before the harness kills it", early(2, 1_000).killed_by_harness()),
        violated(rule, "one of two", {
            early(2, 1_000).exited(0).process(3).at(2_000).started().signal("SIGTERM").process(4).at(9_000).started()
        }),
        unclear(rule, "late, but so was the harness", early(2, 1_000).at(5_000).stalled(3_000).at(5_100).exited(0)),
        unclear(rule, "nobody was signalled", run()),
    ]
}

fn kill_recovers() -> Vec<Case> {
    let rule = "kill-recovers";
    let killed = || {
        let run = run().at(900).sent("slow", Role::Doomed).at(1_000).signal("SIGKILL").killed_by(9);
        run.broken("slow", Break::Reset).process(2).started().listening("second")
    };
    vec![
        holds(rule, "a successor serves", killed().sent("next", Role::Successor).answered("next", 200)),
        violated(rule, "a successor turns away", killed().sent("next", Role::Successor).answered("next", 503)),
        violated(rule, "a successor cannot listen", {
            let run = run().at(900).sent("slow", Role::Doomed).at(1_000).signal("SIGKILL").killed_by(9);
            run.process(2).started().exited(1)
        }),
        unclear(rule, "no successor was asked", killed()),
    ]
}
