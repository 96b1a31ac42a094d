//! Cases of the group *connections*.

use drainspec::timeline::{Break, Ending, NotOpened, Param, Role};

use crate::case::{Case, holds, unclear, violated};
use crate::run::{Run, run, stopped};

pub fn cases() -> Vec<Case> {
    let mut cases = idle_closed_by_fin();
    cases.extend(holds_nothing());
    cases.extend(kept_open_holds_nothing());
    cases.extend(late_request_answered());
    cases.extend(close_announced());
    cases.extend(nothing_lost());
    cases.extend(losses_have_their_rule());
    cases.extend(listener_closes_first());
    cases.extend(new_connections_refused());
    cases.extend(new_connections_after_lame_duck());
    cases.extend(keep_alive_outlasts_balancer());
    cases.extend(load_does_not_hold_exit());
    cases.extend(port_free_after_exit());
    cases
}

/// Two connections that wait when SIGTERM arrives at 1 s.
fn waiting(role: Role) -> Run {
    run().opened(1, role).opened(2, role).at(1_000).signal("SIGTERM").at(1_100)
}

fn idle_closed_by_fin() -> Vec<Case> {
    let rule = "idle-closed-by-fin";
    let fin = |run: Run, id| run.ended(id, Ending::Fin);
    let mut cases = vec![
        holds(rule, "the first end of a connection is its end", {
            fin(waiting(Role::Idle), 1).ended(1, Ending::Reset)
        }),
        unclear(rule, "the client closed them", {
            waiting(Role::Idle).ended(1, Ending::Local).ended(2, Ending::Local)
        }),
        unclear(rule, "nobody closed them", waiting(Role::Idle)),
        unclear(rule, "none was opened", stopped().not_opened(1, Role::Idle, NotOpened::Refused)),
        unclear(rule, "other roles are not its concern", waiting(Role::Storm).ended(1, Ending::Reset)),
    ];
    for (role, both, one, stalled) in [
        (Role::Idle, "idle, by FIN", "idle, one by RST", "idle, by RST, and the harness stalled: no excuse"),
        (Role::Unused, "unused, by FIN", "unused, one by RST", "unused, by RST, and the harness stalled: no excuse"),
    ] {
        cases.push(holds(rule, both, fin(fin(waiting(role), 1), 2)));
        cases.push(violated(rule, one, fin(waiting(role), 1).ended(2, Ending::Reset)));
        cases.push(violated(rule, stalled, fin(waiting(role), 1).stalled(9_000).ended(2, Ending::Reset)));
    }
    cases
}

fn holds_nothing() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rule, role, other) in
        [("idle-holds-nothing", Role::Idle, Role::Unused), ("unused-holds-nothing", Role::Unused, Role::Idle)]
    {
        cases.extend([
            holds(rule, "ends after the linger", waiting(role).at(2_000).exited(0)),
            holds(rule, "at the very end of the slack", waiting(role).at_us(5_000_000).exited(0)),
            violated(rule, "a microsecond after it", waiting(role).at_us(5_000_001).exited(0)),
            violated(rule, "held for ever", waiting(role)),
            unclear(rule, "late, but so was the harness", waiting(role).at(5_000).stalled(2_000).exited(0)),
            unclear(rule, "they had ended before the signal", {
                run().opened(1, role).ended(1, Ending::Fin).at(1_000).signal("SIGTERM").exited(0)
            }),
            unclear(rule, "there were only others", waiting(other).exited(0)),
            unclear(rule, "no signal", run().opened(1, role)),
        ]);
    }
    cases
}

fn kept_open_holds_nothing() -> Vec<Case> {
    let rule = "kept-open-holds-nothing";
    let kept = |role| {
        let run = run().opened(1, role).at(900).sent("slow", Role::InFlight).at(1_000).signal("SIGTERM").at(2_000);
        run.head("slow", 200).complete("slow", 10)
    };
    // The answer is whole at 2.001 s; one second of linger, three of slack.
    vec![
        holds(rule, "after the linger", kept(Role::Kept).at(3_100).ended(1, Ending::Fin).exited(0)),
        holds(rule, "at the very end of the slack", kept(Role::Kept).at(6_001).exited(0)),
        violated(rule, "a microsecond after it", kept(Role::Kept).at_us(6_001_001).exited(0)),
        violated(rule, "though the server has closed it", kept(Role::Kept).ended(1, Ending::Fin).at(9_000).exited(0)),
        violated(rule, "for ever", kept(Role::Kept)),
        unclear(rule, "late, but so was the harness", kept(Role::Kept).at(6_000).stalled(2_000).at(6_100).exited(0)),
        unclear(rule, "its client did not keep it", kept(Role::Warmup).at(9_000).exited(0)),
        unclear(rule, "it was not answered", {
            let run = run().opened(1, Role::Kept).at(900).sent("slow", Role::InFlight).at(1_000).signal("SIGTERM");
            run.broken("slow", Break::Reset).exited(0)
        }),
        unclear(rule, "no signal", run().opened(1, Role::Kept)),
    ]
}

fn late_request_answered() -> Vec<Case> {
    let rule = "late-request-answered";
    let closed = || stopped().listener_closed();
    let late = |role| closed().sent("late", role);
    vec![
        holds(rule, "served, with close", late(Role::Late).answered_close("late", 200)),
        violated(rule, "served, but kept alive", late(Role::Late).answered("late", 200)),
        violated(rule, "answered with 503 under `serve`", late(Role::Late).turned_away("late", 503, true)),
        violated(rule, "lost by FIN", late(Role::Late).broken("late", Break::Fin)),
        violated(rule, "lost by RST", late(Role::Late).broken("late", Break::Reset)),
        violated(rule, "the connection had been closed", closed().unsent("late", Role::Late)),
        holds(rule, "503, Retry-After and close under `reject`", {
            late(Role::LateRejected).turned_away("late", 503, true)
        }),
        unclear(rule, "served under `reject` by a server that had hardly run since", {
            late(Role::LateRejected).at(1_500).starved(300, 490).answered_close("late", 200)
        }),
        violated(rule, "served under `reject` by a server that had run", {
            late(Role::LateRejected).at(1_500).starved(200, 490).answered_close("late", 200)
        }),
        violated(rule, "served under `reject`", late(Role::LateRejected).answered_close("late", 200)),
        violated(rule, "503 without Retry-After", late(Role::LateRejected).answered_close("late", 503)),
        violated(rule, "503 without close", late(Role::LateRejected).turned_away("late", 503, false)),
        unclear(rule, "nothing was asked", closed()),
        unclear(rule, "asked when the linger was over", closed().at(2_001).unsent("late", Role::Late)),
        violated(rule, "closed late in the linger", closed().at(1_900).unsent("late", Role::Late)),
        unclear(rule, "asked when two clocks may differ about its end", closed().at(1_960).unsent("late", Role::Late)),
        unclear(rule, "asked when the linger may be over: nobody saw the listener open", {
            stopped().at(1_500).listener_closed_unseen().at(2_100).unsent("late", Role::Late)
        }),
        violated(rule, "asked when it cannot be over, though nobody saw the listener open", {
            stopped().at(1_500).listener_closed_unseen().at(1_900).unsent("late", Role::Late)
        }),
    ]
}

fn close_announced() -> Vec<Case> {
    let rule = "close-announced";
    let slow = || run().sent("slow", Role::InFlight).at(1_000).signal("SIGTERM").at(1_500);
    let duck = || stopped().at(1_100).sent("duck", Role::LameDuck);
    vec![
        holds(rule, "the request in flight", slow().answered_close("slow", 200)),
        violated(rule, "the request in flight is not told", slow().answered("slow", 200)),
        holds(rule, "during the lame-duck", duck().answered_close("duck", 200)),
        violated(rule, "not during the lame-duck", duck().answered("duck", 200)),
        violated(rule, "a 503 is a response as well", duck().answered("duck", 503)),
        violated(rule, "a 404 as well", stopped().at(1_100).sent("none", Role::NotFound).answered("none", 404)),
        violated(rule, "a probe that fails as well", stopped().sent("probe", Role::Ready).answered("probe", 503)),
        unclear(rule, "on its way when the signal came", {
            run().sent("slow", Role::InFlight).at(1_000).signal("SIGTERM").at(1_049).answered("slow", 200)
        }),
        unclear(rule, "on its way when the signal came, and read late", slow().stalled(300).answered("slow", 200)),
        unclear(rule, "the server had not had the time to take the signal", {
            slow().starved(300, 490).answered("slow", 200)
        }),
        violated(rule, "it had", slow().starved(200, 490).answered("slow", 200)),
        unclear(rule, "its head had come before the signal", {
            run().sent("slow", Role::InFlight).head("slow", 200).at(1_000).signal("SIGTERM").complete("slow", 10)
        }),
        unclear(rule, "no response came", slow().broken("slow", Break::Reset)),
        unclear(rule, "nothing was asked", stopped()),
        unclear(rule, "no signal", run()),
    ]
}

fn nothing_lost() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rule, role) in [("nothing-lost-on-keep-alive", Role::KeepAlive), ("nothing-lost-in-accept-queue", Role::Storm)]
    {
        let before = || run().param(Param::Clients, 2.0).sent("a", role).answered("a", 200);
        let load = || before().sent("b", role).answered("b", 200).at(1_000).sent("c", role).signal("SIGTERM");
        cases.extend([
            holds(rule, "all answered", load().answered("c", 200).exited(0)),
            holds(rule, "a 503 is an answer", load().answered_close("c", 503).exited(0)),
            violated(rule, "one lost by RST", load().broken("c", Break::Reset).exited(0)),
            holds(rule, "one lost before the signal, which is not its doing", {
                before()
                    .sent("b", role)
                    .broken("b", Break::Reset)
                    .at(1_000)
                    .signal("SIGTERM")
                    .sent("c", role)
                    .answered("c", 200)
                    .exited(0)
            }),
            violated(rule, "one lost by FIN", load().broken("c", Break::Fin).exited(0)),
            violated(rule, "one waited for in vain", load().broken("c", Break::TimedOut).exited(0)),
            violated(rule, "one without an end", load().exited(0)),
            violated(rule, "lost, and the harness stalled: no excuse", {
                load().stalled(9_000).broken("c", Break::Reset).exited(0)
            }),
            violated(rule, "lost when the linger was over, with no reason to be late", {
                load().at(2_500).sent("d", role).answered("c", 200).broken("d", Break::Fin).exited(0)
            }),
            unclear(rule, "lost when the linger was over, and its client had slept", {
                let run = load().at(2_400).stalled(1_300).at(2_500).sent("d", role);
                run.answered("c", 200).broken("d", Break::Fin).exited(0)
            }),
            violated(rule, "one of them before the linger was over", {
                let run = load().broken("c", Break::Reset).at(2_400).stalled(1_300).at(2_500).sent("d", role);
                run.broken("d", Break::Fin).exited(0)
            }),
            holds(rule, "one unsent, which is not lost", load().answered("c", 200).unsent("d", role).exited(0)),
            holds(rule, "one left, who lost nothing", load().broken("c", Break::Left).exited(0)),
            holds(rule, "refused, which is not lost", {
                load().answered("c", 200).exited(0).not_opened(9, role, NotOpened::Refused)
            }),
            unclear(rule, "there was not load enough", before().at(1_000).signal("SIGTERM").exited(0)),
            unclear(rule, "only another role lost", {
                before().sent("b", Role::Doomed).at(1_000).signal("SIGTERM").broken("b", Break::Reset)
            }),
            unclear(rule, "no signal", before().sent("b", role).broken("b", Break::Reset)),
        ]);
    }
    // Clients that come only once have no number of their own: one answer shows that the server is at work.
    let rule = "nothing-lost-in-accept-queue";
    let arrivals = || run().sent("a", Role::Storm).answered("a", 200).sent("b", Role::Storm);
    let half_way = || arrivals().at(1_000).signal("SIGTERM").opened(3, Role::Storm).sent("c", Role::Storm);
    cases.extend([
        holds(rule, "a handshake was half done, and ends", {
            half_way().answered("b", 200).answered_close("c", 200).exited(0)
        }),
        holds(rule, "who comes too late is refused, a second later", {
            let run = arrivals().at(1_000).signal("SIGTERM").answered("b", 200).exited(0);
            run.at(2_000).not_opened(3, Role::Storm, NotOpened::Refused)
        }),
        violated(rule, "a handshake was half done, and is reset", {
            half_way().answered("b", 200).broken("c", Break::Reset).exited(0)
        }),
        unclear(rule, "nobody had an answer before the signal", {
            run().sent("a", Role::Storm).at(1_000).signal("SIGTERM").broken("a", Break::Reset).exited(0)
        }),
    ]);
    cases.push(violated("nothing-lost-on-keep-alive", "sustained clients count", {
        let load = run().sent("a", Role::Sustained).answered("a", 200).sent("b", Role::Sustained);
        load.at(1_000).signal("SIGTERM").broken("b", Break::Fin)
    }));
    cases
}

/// A loss on a connection that had answered is another one than a loss on a connection that had not.
fn losses_have_their_rule() -> Vec<Case> {
    let load =
        || run().param(Param::Clients, 1.0).opened(1, Role::KeepAlive).sent("a", Role::KeepAlive).answered("a", 200);
    let used = || load().at(1_000).signal("SIGTERM").sent("b", Role::KeepAlive).broken("b", Break::Reset).exited(0);
    let fresh = || {
        let run = load().at(1_000).signal("SIGTERM").opened(2, Role::KeepAlive);
        run.sent_on(2, "b", Role::KeepAlive).broken("b", Break::Reset).exited(0)
    };
    let came_back = |run: Run| run.sent_on(2, "c", Role::KeepAlive).answered("c", 200);
    vec![
        violated("nothing-lost-on-keep-alive", "on a connection in use", used()),
        holds("nothing-lost-in-accept-queue", "on a connection in use only", used()),
        unclear("nothing-lost-on-keep-alive", "on a connection of after the signal only", fresh()),
        violated("nothing-lost-in-accept-queue", "on a connection of after the signal", fresh()),
        violated("nothing-lost-in-accept-queue", "on a connection of after the signal that has answered", {
            let run = load().at(1_000).signal("SIGTERM").opened(2, Role::KeepAlive);
            came_back(run).sent_on(2, "b", Role::KeepAlive).broken("b", Break::Reset).exited(0)
        }),
    ]
}

fn listener_closes_first() -> Vec<Case> {
    let rule = "listener-closes-first";
    let idle = || waiting(Role::Idle);
    vec![
        holds(rule, "listener, then idle", idle().listener_closed().at(2_000).ended(1, Ending::Fin)),
        holds(rule, "a listener closes once", {
            idle().listener_closed().at(1_500).ended(1, Ending::Fin).at(2_000).listener_closed()
        }),
        holds(rule, "idle by RST, but later", idle().listener_closed().ended(1, Ending::Reset)),
        holds(rule, "between two looks at the listener", {
            idle().at_us(1_200_000).ended(1, Ending::Fin).at_us(1_900_000).listener_open_until(1_200_000)
        }),
        violated(rule, "a microsecond before it was still open", {
            idle().at_us(1_200_000).ended(1, Ending::Fin).at_us(1_220_000).listener_open_until(1_200_001)
        }),
        violated(rule, "much earlier, and the harness stalled: no excuse", {
            idle().ended(1, Ending::Fin).stalled(9_000).at(3_000).listener_closed()
        }),
        violated(rule, "unused ones count", {
            waiting(Role::Unused).ended(1, Ending::Fin).at(2_000).listener_closed()
        }),
        holds(rule, "the client's own closing does not count", {
            idle().ended(1, Ending::Local).at(2_000).listener_closed().ended(2, Ending::Fin)
        }),
        holds(rule, "what ended before the signal does not count", {
            let run = run().opened(1, Role::Idle).opened(2, Role::Idle).ended(1, Ending::Fin);
            run.at(1_000).signal("SIGTERM").at(1_500).listener_closed().ended(2, Ending::Fin)
        }),
        unclear(rule, "no idle connection closed", idle().listener_closed()),
        unclear(rule, "the listener did not close", idle().ended(1, Ending::Fin)),
        unclear(rule, "no signal", run().opened(1, Role::Idle).ended(1, Ending::Fin)),
    ]
}

fn new_connections_refused() -> Vec<Case> {
    let rule = "new-connections-refused";
    let refused = |run: Run, id| run.not_opened(id, Role::New, NotOpened::Refused);
    // From 1 s to 3 s a request drains: what comes up to 2 s is early.
    let drains = || {
        let run = run().param(Param::InFlightFor, 2.5).at(500).sent("slow", Role::InFlight);
        run.at(1_000).signal("SIGTERM")
    };
    let drained = |run: Run| run.at(3_000).answered_close("slow", 200);
    let closed = || drains().listener_closed();
    let last = |run: Run| drained(run).at(3_010).listener_closed();
    let short = || {
        let run = run().param(Param::InFlightFor, 0.4).at(900).sent("slow", Role::InFlight).at(1_000).signal("SIGTERM");
        run.at(1_250).opened(1, Role::New).at(1_300).answered_close("slow", 200)
    };
    vec![
        holds(rule, "refused", drained(refused(refused(closed(), 1), 2))),
        holds(rule, "refused, with no end of the drain in sight", refused(closed(), 1)),
        holds(rule, "accepted at first, while the listener was closing", {
            let run = drains().at(1_200).opened(1, Role::New).at(1_300).listener_closed();
            drained(refused(run.at(1_500), 2))
        }),
        holds(rule, "connecting began while it was closing, and was noticed late", {
            let run = drains().at(2_100).opened_since(1, Role::New, 1_200).at(2_200).listener_closed();
            drained(refused(run.at(2_300), 2))
        }),
        violated(rule, "left hanging, and the stall was over before", {
            let run = closed().at(3_500).stalled(2_000).at(9_000);
            run.not_opened_since(3, Role::New, NotOpened::TimedOut, 4_000)
        }),
        unclear(rule, "accepted late, and the server had hardly run since the signal", {
            let run = drains().at(2_400).starved(300, 1_300).at(2_500).opened(1, Role::New);
            drained(run.at(2_999).listener_closed())
        }),
        violated(rule, "accepted late, though the server had run", {
            let run = drains().at(2_400).starved(200, 1_300).at(2_500).opened(1, Role::New);
            drained(run.at(2_999).listener_closed())
        }),
        violated(rule, "accepted late, and once more when no stall explains it any longer", {
            let run = drains().at(2_400).starved(300, 1_300).at(2_500).opened(1, Role::New);
            drained(run.at(2_950).opened(2, Role::New).at(2_999).listener_closed())
        }),
        violated(rule, "accepted by another listener, whatever stalled", {
            drained(drains().listener_closed().at(2_400).starved(1_300, 1_300).at(2_500).opened(1, Role::New))
        }),
        unclear(rule, "refused late, and the server had hardly run", {
            refused(last(drains().at(2_900).starved(900, 1_800)), 1)
        }),
        violated(rule, "refused late, though the server had run", {
            refused(last(drains().at(2_900).starved(400, 1_800)), 1)
        }),
        unclear(rule, "the listener closed when the answer came, as near as the looks can tell", {
            refused(drained(drains()).at_us(3_003_000).listener_open_until(2_999_000), 1)
        }),
        violated(rule, "a look after the answer has seen the listener", {
            refused(drained(drains()).at_us(3_005_000).listener_open_until(3_003_000), 1)
        }),
        violated(rule, "accepted late, the listener open to the last moment", {
            let run = drains().at(1_200).opened(1, Role::New).at(2_500).opened(2, Role::New);
            drained(run.at(2_999).listener_closed())
        }),
        violated(rule, "accepted, though the listener had closed", drained(refused(closed(), 1).opened(2, Role::New))),
        violated(rule, "left hanging", closed().at(7_000).not_opened(3, Role::New, NotOpened::TimedOut)),
        violated(rule, "left hanging until the drain was over, then refused", refused(last(drains()), 1)),
        unclear(rule, "accepted late, but the harness slept", {
            let run = drains().at(2_400).stalled(1_200).at(2_500).opened(2, Role::New);
            drained(run.at(2_999).listener_closed())
        }),
        unclear(rule, "refused only after the drain", refused(drained(closed()), 1)),
        unclear(rule, "accepted in a drain that was too short", short().listener_closed()),
        unclear(rule, "left hanging, or the harness slept", {
            closed().at(6_500).stalled(2_000).at(7_000).not_opened_since(3, Role::New, NotOpened::TimedOut, 2_000)
        }),
        unclear(rule, "this side failed", closed().not_opened(1, Role::New, NotOpened::Other)),
        unclear(rule, "nobody tried", drained(closed())),
        unclear(rule, "nothing drained", refused(stopped().listener_closed(), 1)),
        unclear(rule, "no signal", refused(run(), 1)),
    ]
}

/// From 1 s to 4 s the lame-duck of somebody's server: a request that came late in it drains from then on.
fn new_connections_after_lame_duck() -> Vec<Case> {
    let rule = "new-connections-refused";
    let refused = |run: Run, id| run.not_opened(id, Role::New, NotOpened::Refused);
    let drains = || {
        let run = run().without_promise().param(Param::ShutdownDelay, 3.0).param(Param::InFlightFor, 1.0);
        run.at(1_000).signal("SIGTERM").at(3_750).sent("slow", Role::InFlight)
    };
    let drained = |run: Run| run.at(4_750).answered_close("slow", 200).exited(0);
    vec![
        holds(rule, "accepted in the lame-duck, refused after it", {
            let run = drains().at(3_900).opened(1, Role::New).at(4_000).listener_closed();
            drained(refused(run.at(4_500), 2))
        }),
        holds(rule, "earlier than it was learnt", {
            drained(refused(drains().at(3_800).listener_closed().at(3_850), 1).at(3_900))
        }),
        holds(rule, "a moment later than it was learnt", {
            let run = drains().at(4_100).opened(1, Role::New).at(4_150).listener_closed();
            drained(refused(run.at(4_500), 2))
        }),
        violated(rule, "accepted long after the lame-duck", {
            drained(drains().at(4_500).opened(1, Role::New).at(4_700).listener_closed())
        }),
        unclear(rule, "what was in flight at the signal was answered in the lame-duck", {
            let run =
                run().param(Param::ShutdownDelay, 3.0).param(Param::InFlightFor, 1.0).sent("slow", Role::InFlight);
            let run = run.at(1_000).signal("SIGTERM").at(1_500).answered_close("slow", 200);
            refused(run.at(4_000).listener_closed().at(4_500), 1)
        }),
    ]
}

fn keep_alive_outlasts_balancer() -> Vec<Case> {
    let rule = "keep-alive-outlasts-balancer";
    let pooled = || {
        let run = run().param(Param::BalancerIdle, 60.0).opened(1, Role::Pooled).sent("a", Role::Warmup);
        run.at(1_000).answered("a", 200)
    };
    vec![
        holds(rule, "closed later than the balancer would", pooled().at(66_000).ended(1, Ending::Fin)),
        holds(rule, "open for longer than the balancer keeps it", pooled().at(62_000).killed_by_harness()),
        holds(rule, "what the harness kills it would have kept", {
            pooled().at(62_000).killed_by_harness().ended(1, Ending::Fin)
        }),
        violated(rule, "closed after five seconds", pooled().at(6_000).ended(1, Ending::Fin)),
        violated(rule, "reset after five seconds", pooled().at(6_000).ended(1, Ending::Reset)),
        violated(rule, "closed at the very moment at which the balancer may send", {
            pooled().at(61_001).ended(1, Ending::Fin)
        }),
        violated(rule, "counted from the last answer", {
            let run = pooled().at(40_000).sent("b", Role::Warmup).answered("b", 200);
            run.at(70_000).ended(1, Ending::Fin)
        }),
        unclear(rule, "closed nearly as late as it should be, and its answer was read late", {
            let run = run().param(Param::BalancerIdle, 60.0).opened(1, Role::Pooled).sent("a", Role::Warmup);
            run.at(2_900).stalled(2_800).answered("a", 200).at(61_500).ended(1, Ending::Fin)
        }),
        unclear(rule, "open for as long as it was watched", pooled().at(15_000).killed_by_harness()),
        unclear(rule, "closed when the harness killed it", {
            pooled().at(15_000).killed_by_harness().ended(1, Ending::Fin)
        }),
        unclear(rule, "closed by the client", pooled().at(15_000).ended(1, Ending::Local)),
        unclear(rule, "the watch has no end", pooled()),
        unclear(rule, "nothing was answered", run().param(Param::BalancerIdle, 60.0).opened(1, Role::Pooled)),
        unclear(rule, "no balancer is known", run().opened(1, Role::Pooled).sent("a", Role::Warmup).answered("a", 200)),
    ]
}

fn load_does_not_hold_exit() -> Vec<Case> {
    let rule = "load-does-not-hold-exit";
    let load =
        || run().sent("a", Role::Sustained).answered("a", 200).at(1_000).signal("SIGTERM").sent("b", Role::Sustained);
    vec![
        holds(rule, "ends", load().answered_close("b", 200).at(2_000).exited(0)),
        holds(rule, "at the very end of the slack", load().at(5_006).exited(0)),
        violated(rule, "too late, though it answers to the end", {
            load().at(4_990).answered("b", 200).at_us(5_006_001).exited(0)
        }),
        violated(rule, "never", load().answered("b", 200)),
        holds(rule, "where each answer took two seconds, on a machine that is busy", {
            let load = run().sent("a", Role::Sustained).at(2_100).answered("a", 200).at(3_000).signal("SIGTERM");
            load.sent("b", Role::Sustained).at(10_000).answered_close("b", 200).exited(0)
        }),
        violated(rule, "any load will do", {
            let load = run().sent("a", Role::KeepAlive).answered("a", 200).at(1_000).signal("SIGTERM");
            load.sent("b", Role::KeepAlive)
        }),
        unclear(rule, "late, but so was the harness", load().at(5_005).stalled(2_000).at(5_010).exited(0)),
        unclear(rule, "nobody asked", stopped().exited(0)),
        unclear(rule, "no signal", run().sent("a", Role::Sustained)),
    ]
}

fn port_free_after_exit() -> Vec<Case> {
    let rule = "port-free-after-exit";
    let successor = || stopped().exited(0).process(2).started();
    let asked = |run: Run| run.sent("next", Role::Successor);
    vec![
        violated(rule, "a child still listens", {
            run().at(200).seen(1, &[1, 2]).at(1_000).signal("SIGTERM").exited(0).at(3_200).seen(1, &[2])
        }),
        holds(rule, "a successor serves", asked(successor().listening("second")).answered("next", 200)),
        violated(rule, "the successor cannot listen", successor().exited(1)),
        violated(rule, "the successor never listens", successor()),
        violated(rule, "the first one still answers", asked(successor().listening("first")).answered("next", 200)),
        violated(rule, "it listens, but nobody answers", successor().listening("second")),
        violated(rule, "it listens and loses", asked(successor().listening("second")).broken("next", Break::Reset)),
        unclear(rule, "the successor did not start in time, and had hardly run", {
            successor().at(20_000).starved(11_000, 18_000)
        }),
        unclear(rule, "no successor was started", stopped().exited(0)),
        unclear(rule, "what could not have its port is nobody's predecessor", {
            stopped().port_taken().exited(1).process(2).started()
        }),
    ]
}
