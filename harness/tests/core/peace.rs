//! Cases of what was learnt of somebody's server in peace: its statuses, its bodies, its limiter, what it loses anyway.

use drainspec::timeline::{Break, Param, Role};

use crate::case::{Case, holds, unclear, violated};
use crate::run::{BODY, run};

pub fn cases() -> Vec<Case> {
    let mut cases = nothing_lost_in_peace();
    cases.extend(in_flight_answered());
    cases.extend(response_untruncated());
    cases
}

fn nothing_lost_in_peace() -> Vec<Case> {
    let rule = "nothing-lost-in-peace";
    let load = || run().param(Param::Clients, 2.0).sent("a", Role::Sustained).answered("a", 200);
    let more = || load().sent("b", Role::Storm).answered("b", 200).sent("c", Role::Storm);
    vec![
        holds(rule, "all answered", more().answered("c", 200)),
        holds(rule, "an error is an answer", more().answered("c", 500)),
        violated(rule, "one lost by RST", more().broken("c", Break::Reset)),
        violated(rule, "one without an end", more()),
        unclear(rule, "one waited for in vain", more().broken("c", Break::TimedOut)),
        unclear(rule, "there was not load enough", load()),
        unclear(rule, "a signal was sent", more().answered("c", 200).at(1_000).signal("SIGTERM")),
    ]
}

fn in_flight_answered() -> Vec<Case> {
    let rule = "in-flight-answered";
    let learnt = |status| run().sent_expecting_status("slow", Role::InFlight, status).at(1_000).signal("SIGTERM");
    let saturated = || {
        let run = run().at(800).sent("full", Role::Saturated).at(900).read("full");
        run.at(1_000).signal("SIGTERM")
    };
    vec![
        unclear(rule, "a stranger answered what it had in hand, and dropped the others", {
            let run =
                run().at(800).sent_learnt("full", Role::Saturated, 200).sent_learnt("other", Role::Saturated, 200);
            let run = run.at(900).read("full").at(1_000).signal("SIGTERM");
            run.answered("full", 200).broken("other", Break::Reset)
        }),
        violated(rule, "answered 429, where no limiter was seen", learnt(200).answered("slow", 429).exited(0)),
        holds(rule, "answered 429 by a limiter that was seen in peace", {
            let run = run().param(Param::Limited, 50.0).sent_expecting_status("slow", Role::InFlight, 200);
            run.at(1_000).signal("SIGTERM").answered("slow", 429).exited(0)
        }),
        unclear(rule, "it loses requests in peace as well", {
            saturated().param(Param::LostInPeace, 0.02).broken("full", Break::Reset)
        }),
    ]
}

fn response_untruncated() -> Vec<Case> {
    let rule = "response-untruncated";
    let learnt = |bytes| {
        let run = run().at(900).sent_learnt("slow", Role::Finite, 200).head("slow", 200);
        run.at(1_000).signal("SIGTERM").complete("slow", bytes).exited(0)
    };
    vec![
        holds(rule, "as long as was learnt", learnt(BODY)),
        holds(rule, "longer than was learnt: it tells its phase", learnt(BODY + 4)),
        unclear(rule, "a body without a length that changes: a cut does not show", {
            let run = run().at(900).sent_without_length("slow", Role::Finite).head("slow", 200);
            run.at(1_000).signal("SIGTERM").complete("slow", 7)
        }),
        violated(rule, "a body without a length that changes, by RST", {
            let run = run().at(900).sent_without_length("slow", Role::Finite).head("slow", 200);
            run.at(1_000).signal("SIGTERM").broken("slow", Break::Reset)
        }),
        violated(rule, "a stranger's response is shorter than in peace", learnt(BODY - 1)),
    ]
}
