//! Cases of the rules about fleets: two instances and their users, while the one is replaced, and then the other.

use drainspec::measures::measures;
use drainspec::rules::{self, Finding, Outcome, Score, is_of_users, score};
use drainspec::timeline::{Break, EndpointState, Event, Fate, NotOpened, Param, Role, StepKind, Timeline, View};
use drainspec::verdict::{Verdict, judge};
use proptest::prelude::*;

use crate::case::{Case, holds, unclear, violated};
use crate::properties::timelines;
use crate::run::{BODY, Run, idle};

/// What happens from a moment on, in milliseconds.
type Part = (u64, fn(Run) -> Run);

const LOST: &str = "nothing-lost-in-roll";
const TWICE: &str = "nothing-done-twice";
const FAILED: &str = "nothing-fails-though-executed";
const ALL: [&str; 6] = [LOST, TWICE, FAILED, "service-stays", "roll-ends", "roll-costs"];

pub fn cases() -> Vec<Case> {
    let mut cases = nothing_lost();
    cases.extend(nothing_done_twice());
    cases.extend(nothing_fails_though_executed());
    cases.extend(service_stays());
    cases.extend(roll_ends());
    cases.extend(roll_costs());
    cases
}

/// Two instances, `a` and `b`, and what stands before them.
fn fleet() -> Run {
    let first = idle().process(1).started_in(1).at(50).listening("a");
    first.process(2).started_in(2).at(100).listening("b").process(9).balancer_started()
}

/// A POST that the instance which is this process does and answers.
fn post(run: Run, id: &str, process: u32) -> Run {
    let name = ["a", "b", "c", "d"][process as usize - 1];
    run.sent(id, Role::KeepAlive).by("POST").process(process).executed(id).answered_by(id, 200, name)
}

/// Each instance is replaced, and users ask all the time.
const ROLL: &[Part] = &[
    (200, |run| post(run, "p1", 1)),
    (300, |run| post(run, "p2", 2)),
    (1_000, |run| run.step(1, StepKind::Withdraw).step(1, StepKind::Stop).process(1).signal("SIGTERM")),
    (1_200, |run| post(run, "p3", 2)),
    (1_500, |run| run.process(1).exited(0).step(1, StepKind::Start).process(3).started_in(1)),
    (1_600, |run| run.process(3).listening("c").step(1, StepKind::Admit).step(1, StepKind::Done)),
    (1_800, |run| post(run, "p4", 3)),
    (2_000, |run| run.step(2, StepKind::Stop).process(2).signal("SIGTERM")),
    (2_200, |run| post(run, "p5", 3)),
    (2_500, |run| run.process(2).exited(0).step(2, StepKind::Start).process(4).started_in(2)),
    (2_600, |run| run.process(4).listening("d").step(2, StepKind::Admit).step(2, StepKind::Done)),
    (2_800, |run| post(run, "p6", 4)),
    (2_900, |run| post(run, "p7", 3)),
];
/// What users ask in it.
const ASKED: usize = 7;

/// A roll in which these things happen, too.
fn roll(extra: &[Part]) -> Run {
    let mut parts: Vec<&Part> = ROLL.iter().chain(extra).collect();
    parts.sort_by_key(|(at, _)| *at);
    parts.into_iter().fold(fleet(), |run, (at, then)| then(run.at(*at)))
}

/// A roll in which this happens, too, while the first instance is stopping.
fn stopping(then: fn(Run) -> Run) -> Run {
    roll(&[(1_300, then)])
}

/// A roll with a long request that begins before it and ends so in the middle of the first replacement.
fn long_across(end: fn(Run) -> Run) -> Run {
    roll(&[(900, |run| run.sent("x", Role::InFlight)), (1_300, end)])
}

fn found(rule: &str, run: &Run) -> Finding {
    (rules::find(rule).unwrap().judge)(&View::new(&run.judged_by(&[rule])))
}

fn nothing_lost() -> Vec<Case> {
    let expecting = |run: Run| run.sent_expecting("x", Role::Storm, 2 * BODY);
    vec![
        holds(LOST, "all are answered", roll(&[])),
        holds(LOST, "a new connection for want of a port: no attempt", {
            stopping(|run| run.not_opened(7, Role::Storm, NotOpened::Other))
        }),
        holds(LOST, "a probe is refused: no user", {
            stopping(|run| run.not_opened(7, Role::Ready, NotOpened::Refused))
        }),
        holds(LOST, "answered 404, as in peace", {
            stopping(|run| run.sent_expecting_status("x", Role::Storm, 404).answered("x", 404))
        }),
        violated(LOST, "lost by RST", stopping(|run| run.sent("x", Role::Storm).broken("x", Break::Reset))),
        violated(LOST, "the connection had ended", stopping(|run| run.unsent("x", Role::KeepAlive))),
        violated(LOST, "refused", stopping(|run| run.not_opened(7, Role::Storm, NotOpened::Refused))),
        violated(LOST, "answered 502", stopping(|run| run.sent("x", Role::Storm).answered("x", 502))),
        violated(LOST, "answered 500 by an instance", {
            stopping(|run| run.sent("x", Role::Storm).answered_by("x", 500, "b"))
        }),
        violated(LOST, "half a body", stopping(|run| run.sent_expecting("x", Role::Finite, 20).answered("x", 200))),
        violated(LOST, "another body", stopping(|run| run.sent("x", Role::Upload).head("x", 200).garbled("x"))),
        violated(LOST, "no end when the run is over", stopping(|run| run.sent("x", Role::InFlight))),
        violated(LOST, "asked before the first step, and lost in it", {
            roll(&[(900, |run| run.sent("x", Role::InFlight)), (1_300, |run| run.broken("x", Break::Fin))])
        }),
        violated(LOST, "nothing is done to the fleet, and it loses", expecting(fleet().at(500)).answered("x", 200)),
        violated(LOST, "waited for in vain", stopping(|run| in_vain(run, 0))),
        violated(LOST, "waited for in vain, and stalls were too short to explain it", stopping(|run| in_vain(run, 20))),
        violated(LOST, "one waited for in vain after stalls, and one lost by RST", {
            stopping(|run| in_vain(run, 50).sent("y", Role::Storm).broken("y", Break::Reset))
        }),
        violated(LOST, "lost by RST after stalls: no excuse", {
            stopping(|run| run.sent("x", Role::Storm).at(1_380).stalled(75).broken("x", Break::Reset))
        }),
        unclear(LOST, "all waited for in vain, after stalls that explain it", stopping(|run| in_vain(run, 50))),
        unclear(LOST, "a connection waited for in vain, after stalls that explain it", {
            stopping(|run| run.at(1_380).stalled(75).not_opened_since(7, Role::Storm, NotOpened::TimedOut, 1_300))
        }),
        unclear(
            LOST,
            "refused, as one that nobody touched was taken for dead, and stalls explain it",
            taken_out(|run| run.stalled(600)),
        ),
        violated(
            LOST,
            "refused, as a balancer took an instance for dead, and there was no stall",
            taken_out(|run| run),
        ),
        violated(LOST, "refused after stalls, as the instance that is stopped was taken out", {
            let refused = |run: Run| run.not_opened(7, Role::Storm, NotOpened::Refused);
            roll(&[
                (900, |run| run.endpoint("haproxy", 1, EndpointState::Up)),
                (1_240, |run| run.stalled(600)),
                (1_250, |run| run.endpoint("haproxy", 1, EndpointState::Down)),
                (1_300, refused),
            ])
        }),
        violated(LOST, "one refused for that reason, and one lost at an instance", {
            roll(&[
                (150, |run| run.endpoint("haproxy", 2, EndpointState::Up)),
                (1_250, |run| run.stalled(600)),
                (1_260, |run| run.endpoint("haproxy", 2, EndpointState::Down)),
                (1_300, |run| run.not_opened(7, Role::Storm, NotOpened::Refused)),
                (1_310, |run| run.sent("x", Role::Storm).broken("x", Break::Fin)),
            ])
        }),
        violated(LOST, "one refused for that reason, and one before it", {
            roll(&[
                (150, |run| run.endpoint("haproxy", 2, EndpointState::Up)),
                (1_240, |run| run.not_opened(7, Role::Storm, NotOpened::Refused)),
                (1_250, |run| run.stalled(600)),
                (1_260, |run| run.endpoint("haproxy", 2, EndpointState::Down)),
                (1_300, |run| run.not_opened(8, Role::Storm, NotOpened::Refused)),
            ])
        }),
        unclear(LOST, "not sent, as its connection had ended, and stalls explain that nobody saw it", {
            stopping(|run| run.stalled(30).at(1_340).unsent("x", Role::KeepAlive))
        }),
        violated(LOST, "not sent, as its connection had ended, and there was no stall", {
            stopping(|run| run.unsent("x", Role::KeepAlive))
        }),
        violated(LOST, "one not sent after stalls, and one lost by RST", {
            let unsent = |run: Run| run.stalled(30).at(1_340).unsent("x", Role::KeepAlive);
            roll(&[(1_300, |run| run.sent("y", Role::Storm).broken("y", Break::Reset)), (1_310, unsent)])
        }),
        holds(LOST, "a long request is at the instance that is deleted when its successor is there", surge("a")),
        unclear(LOST, "a long request is at its successor", surge("c")),
        holds(LOST, "a long request is at the instance when its replacement begins", {
            long_across(|run| run.answered_by("x", 200, "a"))
        }),
        unclear(LOST, "a long request, and it is at the other instance", {
            long_across(|run| run.answered_by("x", 200, "b"))
        }),
        unclear(LOST, "missed before the first step", roll(&[(400, |run| run.unsent("x", Role::Storm))])),
        unclear(LOST, "nobody asks", fleet().at(1_000).step(1, StepKind::Stop).process(1).signal("SIGTERM").exited(0)),
    ]
}

/// A balancer takes out the second instance while the first is stopping, after this, and nobody is left to be asked.
fn taken_out(before: fn(Run) -> Run) -> Run {
    roll(&[
        (150, |run| run.endpoint("haproxy", 2, EndpointState::Up)),
        (1_250, before),
        (1_260, |run| run.endpoint("haproxy", 2, EndpointState::Down)),
        (1_300, |run| run.not_opened(7, Role::Storm, NotOpened::Refused)),
    ])
}

/// A pod whose successor is there before it is deleted, and a long request that this instance answers.
fn surge(instance: &str) -> Run {
    let begun = post(post(fleet().at(200), "p1", 1), "p2", 2).at(300).step(1, StepKind::Start);
    let there = begun.process(3).started_in(1).at(400).listening("c").at(500).sent("x", Role::InFlight);
    let deleted = there.at(600).step(1, StepKind::Withdraw).at(700).process(1).signal("SIGTERM").at(800);
    deleted.answered_by("x", 200, instance).at(900).process(1).exited(0).step(1, StepKind::Done)
}

/// A request that is given up after 81 ms; the harness has stalled for so many milliseconds by then.
fn in_vain(run: Run, stalled_ms: u64) -> Run {
    let asked = run.at(1_300).sent("x", Role::Storm).at(1_380);
    let stalled = if stalled_ms > 0 { asked.stalled(stalled_ms) } else { asked };
    stalled.at(1_381).broken("x", Break::TimedOut)
}

/// Two instances do what was just asked.
fn done_twice(run: Run) -> Run {
    run.process(1).executed("x").process(2).executed("x").answered_by("x", 200, "b")
}

fn nothing_done_twice() -> Vec<Case> {
    let get = |process| fleet().at(500).sent("x", Role::Storm).process(process).executed("x").answered("x", 200);
    vec![
        holds(TWICE, "each POST is done once", roll(&[])),
        holds(TWICE, "a GET is done twice", stopping(|run| done_twice(run.sent("x", Role::Storm)))),
        holds(TWICE, "a PUT is done twice", stopping(|run| done_twice(run.sent("x", Role::Storm).by("PUT")))),
        holds(TWICE, "a POST is lost, and was not done", {
            stopping(|run| run.sent("x", Role::Storm).by("POST").broken("x", Break::Reset))
        }),
        violated(TWICE, "a POST is done twice", stopping(|run| done_twice(run.sent("x", Role::Storm).by("POST")))),
        violated(TWICE, "a PATCH is done twice", stopping(|run| done_twice(run.sent("x", Role::Storm).by("PATCH")))),
        violated(TWICE, "a POST is done twice, and lost", {
            let twice = |run: Run| run.process(1).executed("x").process(2).executed("x").broken("x", Break::Fin);
            twice(roll(&[]).at(3_000).sent("x", Role::KeepAlive).by("POST"))
        }),
        violated(TWICE, "seen to be done twice, and not all that was done is recorded", {
            stopping(|run| post(run, "x", 2).process(1).executed("x").process(2).executed_unrecorded())
        }),
        unclear(TWICE, "not all that was done is recorded", stopping(|run| run.process(2).executed_unrecorded())),
        unclear(TWICE, "GETs alone", get(1)),
        unclear(TWICE, "nobody asks", fleet()),
        unclear(TWICE, "no POST was done", fleet().at(500).sent("x", Role::Storm).by("POST").answered("x", 503)),
    ]
}

fn nothing_fails_though_executed() -> Vec<Case> {
    vec![
        holds(FAILED, "all that was done is answered", roll(&[])),
        holds(FAILED, "lost, and not done", stopping(|run| run.sent("x", Role::Storm).broken("x", Break::Reset))),
        violated(FAILED, "done and lost", stopping(|run| done(run).broken("x", Break::Reset))),
        violated(FAILED, "done, and answered 502", stopping(|run| done(run).answered("x", 502))),
        violated(FAILED, "done, and its body is cut", stopping(|run| done(run).head("x", 200).garbled("x"))),
        violated(FAILED, "done, and waited for in vain", {
            stopping(|run| done(run).at(1_380).broken("x", Break::TimedOut))
        }),
        unclear(FAILED, "done, and waited for in vain, after stalls that explain it", {
            stopping(|run| done(run).at(1_380).stalled(75).broken("x", Break::TimedOut))
        }),
        unclear(FAILED, "not all that was done is recorded", {
            stopping(|run| done(run).process(2).executed_unrecorded().answered("x", 502))
        }),
        unclear(FAILED, "nothing was done", fleet().at(500).sent("x", Role::Storm).broken("x", Break::Fin)),
        unclear(FAILED, "missed before the first step", roll(&[(400, |run| run.unsent("x", Role::Storm))])),
        unclear(FAILED, "nobody asks", fleet()),
    ]
}

/// A GET that an instance has done.
fn done(run: Run) -> Run {
    run.sent("x", Role::KeepAlive).process(1).executed("x")
}

fn service_stays() -> Vec<Case> {
    let rule = "service-stays";
    // Served at 1,002 ms, when something is done to the fleet at 1,000, and nobody from then on to this moment.
    let gap = |until: u64| {
        let begun = post(fleet().at(200), "p1", 1).at(1_000).step(1, StepKind::Stop).at_us(1_000_500);
        post(post(begun, "p2", 2).at(until), "p3", 2).at(until + 100)
    };
    let after = |run: Run| post(run, "p4", 2);
    vec![
        holds(rule, "somebody is served all the time", roll(&[])),
        holds(rule, "nobody for less than a second", after(gap(1_900))),
        holds(rule, "nobody is served when nobody asks any more", gap(1_900).at(9_000).stalled(30)),
        violated(rule, "nobody for over a second", after(gap(2_500))),
        violated(rule, "nobody for over a second, and a stall was too short to explain it", {
            after(gap(2_500).stalled(100))
        }),
        violated(rule, "nobody any more", {
            let asked = |run: Run, at: u64| run.at(at).sent(&format!("x{at}"), Role::Storm).by("POST");
            asked(asked(gap(1_500), 2_000), 3_000).at(4_000).broken("x2000", Break::TimedOut)
        }),
        violated(rule, "nobody for over a second after a reload", {
            let reloaded = post(fleet().at(200), "p1", 1).at(1_000).process(9).reloaded();
            after(post(reloaded.at(2_500), "p2", 2).at(2_600))
        }),
        unclear(rule, "nobody for over a second, and a stall explains it", {
            let begun = post(fleet().at(200), "p1", 1).at(1_000).step(1, StepKind::Stop).at(2_400).stalled(1_000);
            after(post(begun.at(2_500), "p2", 2).at(2_600))
        }),
        unclear(rule, "nothing is done to the fleet", post(fleet().at(200), "p1", 1)),
        unclear(rule, "nobody asks any more when something is done", {
            post(fleet().at(200), "p1", 1).at(1_000).step(1, StepKind::Stop).at(9_000)
        }),
        unclear(rule, "missed before the first step", roll(&[(400, |run| run.unsent("x", Role::Storm))])),
        unclear(rule, "nobody asks", fleet().at(1_000).step(1, StepKind::Stop)),
    ]
}

/// The first instance gets its signal after a second.
fn signalled() -> Run {
    post(fleet().at(200), "p1", 1).at(1_000).step(1, StepKind::Stop).process(1).signal("SIGTERM")
}

/// Its successor is started and answers.
fn succeeded(run: Run) -> Run {
    post(run.step(1, StepKind::Start).process(3).started_in(1).listening("c").step(1, StepKind::Done), "p2", 3)
}

fn roll_ends() -> Vec<Case> {
    let rule = "roll-ends";
    // The drain may take 15 s and the linger 1 s, and 3 s are slack: by 20.0 s it has to have ended.
    let ended = |at| signalled().at(at).process(1).exited(0);
    vec![
        holds(rule, "both in their time", roll(&[])),
        holds(rule, "as late as it may", succeeded(ended(19_900))),
        holds(rule, "later, as its lame-duck is so long", succeeded(ended(29_900).param(Param::ShutdownDelay, 10.0))),
        violated(rule, "too late", succeeded(ended(20_500))),
        violated(rule, "killed in the end", succeeded(signalled().at(25_000).process(1).killed_by_harness())),
        violated(rule, "killed, as its grace is over", {
            succeeded(signalled().at(3_000).process(1).signal("SIGKILL").at(3_010).killed_by(9))
        }),
        holds(rule, "the kubelet would have killed it, and it had ended just before", {
            succeeded(signalled().at(3_000).process(1).exited(0).at(3_001).signal("SIGKILL"))
        }),
        unclear(rule, "killed, as its grace is over, and stalls have used that up", {
            succeeded(
                signalled().at(2_900).stalled(1_500).at(3_000).process(1).signal("SIGKILL").at(3_010).killed_by(9),
            )
        }),
        violated(rule, "it never ends", signalled().at(30_000).process(1).logs("still here")),
        violated(rule, "too late, and a stall was too short to explain it", {
            succeeded(signalled().at(5_000).stalled(200).at(20_500).process(1).exited(0))
        }),
        violated(rule, "the successor answers nobody", {
            let started = ended(1_500).step(1, StepKind::Start).process(3).started_in(1).listening("c");
            post(started.step(1, StepKind::Done).at(2_000), "p2", 2)
        }),
        violated(rule, "the successor says 503 to everybody", {
            let started = ended(1_500).process(3).started_in(1).listening("c").at(2_000);
            started.sent("x", Role::Storm).answered_by("x", 503, "c")
        }),
        violated(rule, "the old one has ended and still answers", {
            roll(&[(1_700, |run| run.sent("x", Role::Storm).answered_by("x", 200, "a"))])
        }),
        violated(rule, "the second one ends too late", {
            let second = succeeded(ended(1_500)).at(2_000).step(2, StepKind::Stop).process(2).signal("SIGTERM");
            second.at(24_000).exited(0)
        }),
        unclear(rule, "too late, and a stall explains it", {
            succeeded(signalled().at(5_000).stalled(300).at(20_500).process(1).exited(0))
        }),
        unclear(rule, "no successor was started", ended(1_500)),
        unclear(rule, "no instance was stopped", post(fleet().at(200), "p1", 1)),
        unclear(rule, "they are killed at the end of the run, without a signal", {
            post(fleet().at(200), "p1", 1).at(9_000).process(1).killed_by_harness().process(2).killed_by_harness()
        }),
    ]
}

fn roll_costs() -> Vec<Case> {
    let rule = "roll-costs";
    vec![
        holds(rule, "nothing", roll(&[])),
        violated(rule, "an instance is killed", {
            stopping(|run| run.sent("x", Role::Storm).process(1).killed_by(9).broken("x", Break::Reset))
        }),
        unclear(rule, "missed before anything was done", roll(&[(400, |run| run.unsent("x", Role::Storm))])),
    ]
}

/// One of each kind is missed while the first instance is stopping, and one when the second one is in place.
fn lossy() -> Run {
    let kinds: fn(Run) -> Run = |run| {
        let lost = run.sent("l", Role::Storm).broken("l", Break::Reset).unsent("u", Role::KeepAlive);
        let refused = lost.not_opened(7, Role::Storm, NotOpened::Refused);
        let by_front = refused.sent("b", Role::Storm).answered("b", 502);
        let by_instance = by_front.sent("i", Role::Storm).answered_by("i", 503, "b");
        by_instance.sent("g", Role::Upload).head("g", 200).garbled("g")
    };
    roll(&[(1_300, kinds), (2_700, |run| run.sent("z", Role::KeepAlive).broken("z", Break::Fin))])
}

#[test]
fn what_is_missed_is_told_by_kind_and_by_step() {
    let finding = found(LOST, &lossy());
    let share = finding.share.unwrap();
    assert_eq!((share.bad, share.of), (7, ASKED as u64 + 7));
    let kinds = "7 of 14 missed: 1 answered 502, 1 answered 503, 1 answered with another body, 2 lost, 2 not sent";
    assert!(finding.actual.starts_with(kinds), "{}", finding.actual);
    let steps = "; 6 while instance 1 was stopping, 1 after instance 2 was in place; the first: ";
    assert!(finding.actual.contains(steps), "{}", finding.actual);
    let refused = found(LOST, &stopping(|run| run.not_opened(7, Role::Storm, NotOpened::Refused)));
    assert!(refused.actual.ends_with("the first: no connection could be made"), "{}", refused.actual);
    let reloaded = post(fleet().at(200), "p1", 1).at(1_000).process(9).reloaded().unsent("x", Role::Storm);
    assert!(!found(LOST, &reloaded).actual.contains("instance"), "there was no step");
}

#[test]
fn who_did_it_twice_is_told_and_what_may_be_done_twice_is_told_as_well() {
    let post = found(TWICE, &stopping(|run| done_twice(run.sent("x", Role::Storm).by("POST"))));
    assert!(
        post.actual.contains("POST / was done by instance 1 after 1.0 ms and by instance 2 after"),
        "{}",
        post.actual
    );
    assert_eq!(post.share.map(|share| (share.bad, share.of)), Some((1, ASKED as u64 + 1)));
    let get = found(TWICE, &stopping(|run| done_twice(run.sent("x", Role::Storm))));
    assert!(get.actual.ends_with("1 that is idempotent was done again, as HTTP allows (RFC 9110, section 9.2.2)"));
    assert!(!found(TWICE, &roll(&[])).actual.contains("idempotent"));
}

#[test]
fn a_server_that_does_not_say_what_it_has_done_is_judged_by_the_rest() {
    let told = |run: Run| judge(&run.judged_by(&ALL[..5])).unwrap();
    let clean = told(roll(&[]).without_accounting());
    for verdict in &clean {
        let unsupported = verdict.rule == TWICE || verdict.rule == FAILED;
        let expected = if unsupported { Verdict::Unsupported } else { Verdict::Pass };
        assert_eq!(verdict.verdict, expected, "{}: {}", verdict.rule, verdict.actual);
    }
    assert_eq!(Verdict::worst(clean.iter().map(|verdict| verdict.verdict)), Some(Verdict::Pass));
    let lossy = told(lossy().without_accounting());
    assert_eq!(Verdict::worst(lossy.iter().map(|verdict| verdict.verdict)), Some(Verdict::Fail));
}

#[test]
fn a_balancer_is_never_taken_for_the_process_under_test() {
    let run = idle().process(1).balancer_started().at(100).process(2).started_in(1).listening("a");
    let ended = run.at(1_000).process(2).signal("SIGTERM").at(1_500).exited(0).process(1).killed_by_harness();
    let timeline = ended.judged_by(&[]);
    let view = View::new(&timeline);
    assert_eq!(view.process().and_then(|process| process.instance.as_deref()), Some("a"));
    assert_eq!(view.servers().map(|(id, _)| id).collect::<Vec<_>>(), [2]);
    // Nor is one that is stopped an instance that was replaced.
    let stopped = roll(&[]).at(3_000).process(9).signal("SIGTERM").at(60_000).killed_by_harness();
    assert_eq!(found("roll-ends", &stopped).outcome, Outcome::Holds);
}

#[test]
fn the_score_counts_each_kind_by_itself() {
    let counted = |run: &Run| score(&View::new(&run.judged_by(&[])));
    let clean = Score { asked: ASKED, doubled: Some(0), executed_but_failed: Some(0), ..Score::default() };
    assert_eq!(counted(&roll(&[])), Some(clean));
    let lossy = lossy().at(3_000).sent("x", Role::KeepAlive).by("POST").process(3).executed("x").executed("x");
    let lossy = lossy.broken("x", Break::Fin);
    let expected =
        Score { asked: 15, lost: 3, unsent: 2, failed: 3, by_front: 1, doubled: Some(1), executed_but_failed: Some(1) };
    assert_eq!(counted(&lossy), Some(expected));
    let unknown = counted(&lossy.without_accounting()).unwrap();
    assert_eq!((unknown.doubled, unknown.executed_but_failed), (None, None));
    assert_eq!(counted(&crate::run::run().sent("x", Role::Storm).answered("x", 200)), None, "no fleet");
}

#[test]
fn a_fleet_is_measured_by_what_its_users_saw() {
    let measured = |run: &Run| measures(&View::new(&run.judged_by(&[])));
    let counts = measured(&lossy());
    let counted = |name: &str| counts.get(name).copied();
    assert_eq!(counted("requests_asked"), Some(14.0));
    assert_eq!((counted("requests_unsent"), counted("requests_failed")), (Some(2.0), Some(3.0)));
    assert_eq!((counted("answered_by_balancer"), counted("requests_lost")), (Some(1.0), Some(2.0)));
    assert_eq!((counted("done_twice"), counted("done_but_failed")), (Some(0.0), Some(0.0)));
    assert_eq!(measured(&lossy().without_accounting()).get("done_twice"), None);
    assert!(!counts.contains_key("exit_after_signal_ms"), "there are several processes");
    // A hundred are answered after 10 ms, and two after a second from when they were due.
    let mut run = fleet();
    for number in 0..100 {
        let id = format!("r{number}");
        run = run.at(200 + 20 * number).sent(&id, Role::Storm).at(210 + 20 * number).head(&id, 200);
        run = run.at_us(1_000 * (210 + 20 * number) + 500).complete(&id, BODY);
    }
    for (number, id) in [(0, "s1"), (1, "s2")] {
        run = run.at(3_900 + 10 * number).sent(id, Role::Storm).due(3_000 + number).answered(id, 200);
    }
    let took = measured(&run);
    assert_eq!(took["p50_ms"], 10.5);
    assert!((900.0..1_000.0).contains(&took["p99_ms"]), "{}", took["p99_ms"]);
    let alone = measured(&crate::run::run().sent("x", Role::Storm).answered("x", 200));
    assert!(!alone.contains_key("requests_asked") && !alone.contains_key("p50_ms"), "no fleet");
}

#[test]
fn an_attempt_is_due_when_it_should_have_been_sent() {
    let run = fleet().at(500).opened_since(1, Role::Storm, 400).sent_since("first", Role::Storm, 480);
    let run = run.answered("first", 200).sent_since("second", Role::Storm, 502).answered("second", 200);
    let run = run.at(600).sent("third", Role::Storm).due(550).unsent("unsent", Role::Storm);
    let run = run.at(700).not_opened_since(8, Role::Storm, NotOpened::Refused, 690);
    let run = run.not_opened(9, Role::Storm, NotOpened::Other).not_opened(9, Role::Ready, NotOpened::Refused);
    let timeline = run.at(900).logs("over").judged_by(&[]);
    let view = View::new(&timeline);
    let seen: Vec<_> = view
        .attempts(is_of_users)
        .iter()
        .map(|one| (one.due / 1_000, one.ended / 1_000, one.fate, one.request.map(|request| request.id)))
        .collect();
    assert_eq!(
        seen,
        [
            // Its connection was made for it.
            (400, 503, Fate::Answered(200), Some("first")),
            (502, 506, Fate::Answered(200), Some("second")),
            (550, 901, Fate::Lost, Some("third")),
            (601, 601, Fate::Unsent, Some("unsent")),
            (690, 700, Fate::Unsent, None),
        ]
    );
}

/// Where the answers in a clean roll are complete.
fn answers(timeline: &Timeline) -> Vec<usize> {
    let complete = |at: &usize| matches!(timeline.records[*at].event, Event::Answered { .. });
    (0..timeline.records.len()).filter(complete).collect()
}

proptest! {
    #[test]
    fn an_answer_that_is_taken_away_is_noticed(which in 0..ASKED) {
        let verdicts = |timeline: &Timeline| -> Vec<Verdict> {
            judge(timeline).unwrap().iter().map(|verdict| verdict.verdict).collect()
        };
        let mut timeline = roll(&[]).judged_by(&[LOST, FAILED]);
        prop_assert_eq!(verdicts(&timeline), [Verdict::Pass, Verdict::Pass]);
        let answer = answers(&timeline)[which];
        timeline.records.remove(answer);
        prop_assert_eq!(verdicts(&timeline), [Verdict::Fail, Verdict::Fail]);
    }

    #[test]
    fn no_more_are_missed_than_were_asked(timeline in timelines()) {
        let view = View::new(&timeline);
        let asked = view.attempts(is_of_users).len();
        if let Some(share) = (rules::find(LOST).unwrap().judge)(&view).share {
            prop_assert!(share.bad <= share.of && share.of == asked as u64, "{:?} of {}", share, asked);
        }
        if let Some(score) = score(&view) {
            prop_assert_eq!(score.asked, asked);
            prop_assert!(score.lost + score.unsent + score.failed <= asked && score.by_front <= score.failed);
            let done = [score.doubled, score.executed_but_failed];
            prop_assert!(done.into_iter().flatten().all(|count| count <= asked));
        }
    }
}
