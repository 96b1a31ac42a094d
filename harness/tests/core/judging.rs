//! From what a rule finds to the verdict: levels, preconditions, and the worst of several.

use drainspec::rules::{self, Basis, Level, Reason, Share};
use drainspec::timeline::{Break, Param, Role};
use drainspec::verdict::{NoVerdict, Verdict, judge};

use crate::run::{Run, run, stopped};

fn verdict(run: &Run, rule: &str) -> Verdict {
    let verdicts = judge(&run.judged_by(&[rule])).unwrap();
    assert_eq!(verdicts.len(), 1);
    verdicts[0].verdict
}

#[test]
fn a_contract_rule_only_warns_where_nothing_is_promised() {
    let rude = stopped().exited(1);
    assert_eq!(verdict(&rude, "clean-exit-status"), Verdict::Fail);
    assert_eq!(verdict(&rude.without_promise(), "clean-exit-status"), Verdict::Warn);
    for rule in rules::all() {
        let (promised, unpromised) = (rule.level_for(true), rule.level_for(false));
        assert_eq!(promised, rule.level, "{}", rule.slug);
        match rule.basis {
            Basis::Wire => assert_eq!(unpromised, rule.level, "{}", rule.slug),
            Basis::Contract => assert_ne!(unpromised, Level::Must, "{}", rule.slug),
        }
    }
}

#[test]
fn a_wire_rule_fails_whoever_breaks_it() {
    let lossy = run().sent("slow", Role::InFlight).at(1_000).signal("SIGTERM").broken("slow", Break::Reset);
    assert_eq!(verdict(&lossy, "in-flight-answered"), Verdict::Fail);
    assert_eq!(verdict(&lossy.without_promise(), "in-flight-answered"), Verdict::Fail);
}

#[test]
fn what_others_conclude_from_is_told_apart_from_the_words() {
    let both = run().sent("lost", Role::InFlight).sent("kept", Role::InFlight);
    let lost = both.at(1_000).signal("SIGTERM").broken("lost", Break::Reset).answered("kept", 200);
    let told = |run: &Run, rule: &str| judge(&run.judged_by(&[rule])).unwrap().remove(0);
    let share = told(&lost, "in-flight-answered").share;
    assert_eq!(share, Some(Share { bad: 1, of: 2 }));
    let goes_on = stopped().at(60_000);
    assert_eq!(told(&goes_on, "term-ends-process").reason, Some(Reason::Never));
    assert_eq!(told(&stopped().at(60_000).exited(0), "term-ends-process").reason, None);
    let orphaned = run().at(200).seen(1, &[2]).at(1_000).signal("SIGTERM").killed_by(15).at(3_000).seen(1, &[2]);
    assert_eq!(told(&orphaned, "in-flight-answered").reason, Some(Reason::Missed));
}

#[test]
fn the_level_that_was_judged_by_is_told() {
    let told = judge(&stopped().without_promise().exited(1).judged_by(&["clean-exit-status"])).unwrap();
    assert_eq!((told[0].level, told[0].basis), (Level::Should, Basis::Contract));
    let told = judge(&stopped().exited(1).judged_by(&["clean-exit-status"])).unwrap();
    assert_eq!(told[0].level, Level::Must);
}

#[test]
fn without_its_precondition_no_rule_comes_to_a_verdict() {
    let all: Vec<&str> = rules::all().map(|rule| rule.slug).collect();
    let lossy = run().sent("slow", Role::InFlight).at(1_000).signal("SIGTERM").broken("slow", Break::Reset).exited(1);
    for verdict in judge(&lossy.unconfirmed("the load is running").judged_by(&all)).unwrap() {
        assert_eq!(verdict.verdict, Verdict::Inconclusive, "{}", verdict.rule);
        assert!(verdict.actual.contains("the load is running"), "{}: {}", verdict.rule, verdict.actual);
    }
}

#[test]
fn where_the_signal_does_not_reach_the_server_nothing_else_can_be_told() {
    let orphaned = run().at(200).seen(1, &[2]).at(1_000).signal("SIGTERM").killed_by(15).at(3_000).seen(1, &[2]);
    let told = ["signal-reaches-server", "port-free-after-exit", "int-like-term"];
    for rule in rules::all() {
        let expected = if told.contains(&rule.slug) { Verdict::Fail } else { Verdict::Inconclusive };
        assert_eq!(verdict(&orphaned, rule.slug), expected, "{}", rule.slug);
    }
}

#[test]
fn an_info_rule_never_counts_but_is_never_a_pass_without_its_precondition() {
    let killed = run().at(900).sent("slow", Role::Doomed).at(1_000).signal("SIGKILL").killed_by(9);
    let next = killed.process(2).started().listening("second").sent("next", Role::Successor);
    assert_eq!(verdict(&next.clone().answered("next", 503), "kill-recovers"), Verdict::Pass);
    assert_eq!(verdict(&next.answered("next", 200).unconfirmed("in flight"), "kill-recovers"), Verdict::Inconclusive);
    assert_eq!(verdict(&stopped(), "kill-recovers"), Verdict::Inconclusive);
}

#[test]
fn a_run_in_which_nothing_happened_tells_nothing() {
    let all: Vec<&str> = rules::all().map(|rule| rule.slug).collect();
    let mut nothing = run().judged_by(&all);
    nothing.records.drain(..nothing.records.len() - 1);
    for verdict in judge(&nothing).unwrap() {
        assert_eq!(verdict.verdict, Verdict::Inconclusive, "{}: {}", verdict.rule, verdict.actual);
    }
}

#[test]
fn rules_are_judged_in_the_order_of_the_header() {
    let rules = ["clean-exit-status", "in-flight-answered", "term-ends-process"];
    let told = judge(&stopped().exited(0).judged_by(&rules)).unwrap();
    assert_eq!(told.iter().map(|verdict| verdict.rule.as_str()).collect::<Vec<_>>(), rules);
}

#[test]
fn a_rule_that_nobody_knows_is_an_error_that_names_it() {
    let error = judge(&stopped().judged_by(&["clean-exit-status", "no-such-rule"])).unwrap_err().to_string();
    assert!(error.contains("`no-such-rule`") && error.contains("list rules"), "{error}");
}

#[test]
fn a_run_that_was_aborted_has_no_verdict_but_a_reason() {
    let aborted = run().sent("slow", Role::InFlight).aborted("the server printed no `listening` line");
    let error = judge(&aborted.judged_by(&["in-flight-answered"])).unwrap_err().to_string();
    assert!(error.contains("no `listening` line"), "{error}");
}

#[test]
fn what_stalls_may_have_left_without_a_verdict_is_told_apart() {
    let disturbed = |run: Run| drainspec::runner::verdict(&run.judged_by(&["term-ends-process"])).disturbed;
    let late = |stalled_ms| stopped().at(4_000).stalled(stalled_ms).at(5_500).exited(0);
    assert!(disturbed(late(800)));
    assert!(!disturbed(late(100)), "a failure is never played again");
    assert!(disturbed(run().at(900).starved(600, 800).unconfirmed("a request is in flight")));
    assert!(!disturbed(run().at(900).starved(100, 800).unconfirmed("a request is in flight")));
}

#[test]
fn what_has_broken_a_rule_is_never_played_again_whatever_else_is_unclear() {
    let lossy = run().at(900).sent("slow", Role::InFlight).stalled(800).at(1_000).signal("SIGTERM");
    let lossy = lossy.broken("slow", Break::Reset).exited(3);
    let told = |run: Run, rules: &[&str]| drainspec::runner::verdict(&run.judged_by(rules));
    // Of the one nothing can be said, and the other is broken.
    let lost = told(lossy.clone(), &["endless-stream-ends", "in-flight-answered"]);
    assert_eq!((lost.verdict, lost.disturbed), (Verdict::Fail, false));
    let warned = told(lossy.clone().without_promise(), &["endless-stream-ends", "clean-exit-status"]);
    assert_eq!((warned.verdict, warned.disturbed), (Verdict::Inconclusive, false));
    let unclear = told(lossy, &["endless-stream-ends"]);
    assert_eq!((unclear.verdict, unclear.disturbed), (Verdict::Inconclusive, true));
}

#[test]
fn what_would_be_unclear_on_a_quiet_machine_is_not_played_again() {
    let told = |run: Run| drainspec::runner::verdict(&run.judged_by(&["second-signal-exits"]));
    let short = run().param(Param::InFlightFor, 1.0).at(800).sent("slow", Role::Doomed).stalled(400);
    let short = short.at(1_000).signal("SIGTERM").at(1_700).signal("SIGTERM").at(1_710).killed_by(15);
    let short = told(short);
    assert_eq!((short.verdict, short.disturbed), (Verdict::Inconclusive, false), "{:?}", short.reason);
}

#[test]
fn a_start_for_which_somebody_had_taken_the_port_is_no_start_of_a_race() {
    let taken = run().param(Param::Rounds, 3.0).port_taken().exited(1).process(2).started();
    let run = taken.at(1_000).signal("SIGTERM").exited(0);
    let told = judge(&run.judged_by(&["clean-exit-status"])).unwrap().remove(0);
    assert_eq!((told.verdict, told.actual.as_str()), (Verdict::Pass, "status 0"));
}

#[test]
fn a_run_that_was_skipped_is_neither_good_nor_bad() {
    let skipped = run().skipped("no link with delay can be made here").judged_by(&["clean-exit-status"]);
    let reason = judge(&skipped).unwrap_err();
    assert!(matches!(&reason, NoVerdict::Skipped(why) if why.contains("no link")), "{reason}");
    let outcome = drainspec::runner::verdict(&skipped);
    assert_eq!((outcome.verdict, outcome.rules.len()), (Verdict::Skipped, 0));
    assert_eq!(outcome.reason.as_deref(), Some("no link with delay can be made here"));
}

#[test]
fn the_worst_is_in_the_order_that_the_documentation_says() {
    use Verdict::{Error, Fail, Inconclusive, Pass, Skipped, Unsupported, Warn};
    let order = [Error, Fail, Inconclusive, Warn, Pass];
    for (at, worse) in order.iter().enumerate() {
        for better in &order[at..] {
            assert_eq!(Verdict::worst([*better, *worse]), Some(*worse), "{worse:?} is worse than {better:?}");
        }
        // A cell is unsupported or skipped only where all of it is.
        assert_eq!(Verdict::worst([*worse, Unsupported]), Some(*worse));
        assert_eq!(Verdict::worst([Skipped, *worse]), Some(*worse));
    }
    assert_eq!(Verdict::worst([]), None);
}

#[test]
fn a_race_that_was_played_several_times_says_how_often_it_was_lost() {
    let start = |run: Run, id, at| run.process(id).at(at).started().opened(id, Role::KeepAlive);
    let load = |run: Run, id: u32| {
        let (first, second) = (format!("a{id}"), format!("b{id}"));
        let run = run.sent_on(id, &first, Role::KeepAlive).answered(&first, 200);
        run.sent_on(id, &second, Role::KeepAlive).signal("SIGTERM")
    };
    let first = load(run().param(Param::Rounds, 3.0).opened(1, Role::KeepAlive), 1).answered_close("b1", 200).exited(0);
    let second = load(start(first, 2, 5_000), 2).broken("b2", Break::Reset).exited(0);
    let third = |at| load(start(second.clone(), 3, at), 3);
    let told = |run: Run, rule: &str| judge(&run.judged_by(&[rule])).unwrap().remove(0);

    let lost = told(third(10_000).answered_close("b3", 200).exited(0), "nothing-lost-on-keep-alive");
    assert_eq!(lost.verdict, Verdict::Fail);
    assert!(lost.actual.starts_with("in 1 of 3 starts: 1 of 1 lost"), "{}", lost.actual);
    // Each start counts, not the first one alone.
    let status = told(third(10_000).answered_close("b3", 200).exited(3), "clean-exit-status");
    assert_eq!((status.verdict, status.actual.as_str()), (Verdict::Fail, "in 1 of 3 starts: exit status 3"));
    let clean = told(third(10_000).answered_close("b3", 200).exited(0), "clean-exit-status");
    assert_eq!((clean.verdict, clean.actual.as_str()), (Verdict::Pass, "in 3 of 3 starts: status 0"));
}
