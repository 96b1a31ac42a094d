//! What a check makes of what was played: causes, what a deploy loses, and the words for both.

use std::collections::BTreeMap;

use drainspec::check::{Cause, CheckResults, CheckedRule, Diagnosis, LeftOut, Played, Profile, RuleSummary};
use drainspec::check::{causes, deploy, promote, summarise};
use drainspec::report::{check, check_page};
use drainspec::results::Outcome;
use drainspec::rules::{self, Reason};
use drainspec::scenario;
use drainspec::timeline::Seen;
use drainspec::verdict::Verdict::{Fail, Inconclusive, Pass, Warn};
use drainspec::verdict::{RuleVerdict, Verdict};

const ENDED: &str = "exit_after_signal_ms";
const LOST: &str = "requests_lost";

/// What a verdict comes from that says this.
fn reason(actual: &str) -> Option<Reason> {
    let reasons = [(rules::MISSED, Reason::Missed), ("was busy", Reason::Stalled), ("had not ended", Reason::Never)];
    reasons.into_iter().find(|(words, _)| actual.contains(words)).map(|(_, reason)| reason)
}

/// A scenario with what its rules came to, and what was measured.
fn played(slug: &str, found: &[(&str, Verdict, &str)], measures: &[(&str, f64)]) -> Played {
    let verdicts = found.iter().map(|(slug, verdict, actual)| {
        let rule = rules::find(slug).unwrap();
        RuleVerdict {
            rule: (*slug).to_owned(),
            level: rule.level_for(false),
            basis: rule.basis,
            verdict: *verdict,
            expected: rule.sentence.to_owned(),
            actual: (*actual).to_owned(),
            evidence: Vec::new(),
            reason: reason(actual),
            share: None,
        }
    });
    let outcome = Outcome {
        rules: verdicts.collect(),
        measures: measures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        timeline: Some(format!("timelines/check/{slug}-1.ndjson").into()),
        ..Outcome::without_run(Pass, "")
    };
    let verdict = Verdict::worst(outcome.rules.iter().map(|rule| rule.verdict)).unwrap();
    Played { scenario: scenario::find(slug).unwrap(), outcome: Outcome { verdict, ..outcome } }
}

fn summaries(played: &[Played]) -> Vec<RuleSummary> {
    summarise(played, Profile::Standalone, &Default::default())
}

fn process() -> Seen {
    Seen { pid: Some(7), command: "python3 main.py".to_owned() }
}

/// Rule that says it best, and those that follow.
fn found(played: &[Played], diagnoses: &[Diagnosis]) -> Vec<(String, Vec<String>)> {
    let causes = causes(&summaries(played), played, diagnoses, 30);
    causes.into_iter().map(|cause| (cause.rule, cause.follows)).collect()
}

fn below(rule: &str, follows: &[&str]) -> Vec<(String, Vec<String>)> {
    vec![(rule.to_owned(), follows.iter().map(|slug| (*slug).to_owned()).collect())]
}

/// A server that ends when nothing is going on.
fn ends() -> Played {
    played("idle-exit", &[("term-ends-process", Pass, "the process ended after 3.0 ms")], &[(ENDED, 3.0)])
}

#[test]
fn what_a_server_loses_that_does_not_drain_comes_from_that() {
    let lost = "1 of 1 not: /slow (request r3, connection 2) was lost by FIN after 9.0 ms, before any response byte";
    let runs = [
        ends(),
        played("in-flight-completes", &[("in-flight-answered", Fail, lost)], &[(ENDED, 8.0), (LOST, 1.0)]),
        played("sigint-like-sigterm", &[("int-like-term", Warn, lost)], &[(ENDED, 8.0), (LOST, 1.0)]),
        played("late-request-on-keep-alive", &[("late-request-answered", Inconclusive, "nothing")], &[(ENDED, 9.0)]),
        // It went on for so long that this is another fault.
        played("keep-alive-race", &[("nothing-lost-on-keep-alive", Warn, "2 of 9 lost: /")], &[(ENDED, 2000.0)]),
        played("sighup-keeps-serving", &[("hup-keeps-serving", Warn, "killed by signal 1")], &[(ENDED, 5.0)]),
    ];
    assert_eq!(found(&runs, &[]), below("in-flight-answered", &["int-like-term", "late-request-answered"]));

    let diagnosis = Diagnosis::NoHandler { process: process(), signal: "SIGTERM", launcher: false };
    let diagnosed = causes(&summaries(&runs), &runs, &[diagnosis], 30);
    assert_eq!(diagnosed[0].what, "no handler for SIGTERM: it ends at once, whatever is in flight");
    let all = ["int-like-term", "nothing-lost-on-keep-alive", "late-request-answered"];
    assert_eq!(diagnosed[0].follows, all, "nothing can wait, whenever that was seen");

    // One that waits, and loses all the same, has another fault for each.
    let slow = [
        played("in-flight-completes", &[("in-flight-answered", Fail, lost)], &[(ENDED, 3000.0), (LOST, 1.0)]),
        played("sigint-like-sigterm", &[("int-like-term", Warn, lost)], &[(ENDED, 8.0), (LOST, 1.0)]),
    ];
    let early = causes(&summaries(&slow), &slow, &[], 30);
    assert_eq!(
        early[0].what,
        "it ends 3.0 s after the signal and cuts what is in flight, though --grace gives it 30 s"
    );
    assert_eq!(early[0].follows, [""; 0]);
    assert_eq!(causes(&summaries(&slow), &slow, &[], 2), [], "it had no more");
}

#[test]
fn what_a_process_that_goes_on_for_ever_breaks_comes_from_that() {
    let goes_on = "the process had not ended after 8.00 s, where 5.00 s and 3.00 s of slack are allowed";
    let runs = [
        played("immediate-rebind", &[("term-ends-process", Fail, goes_on)], &[]),
        played("idle-exit", &[("term-ends-process", Fail, goes_on)], &[]),
        played("idle-keep-alive-closes", &[("idle-holds-nothing", Inconclusive, "not waited for")], &[]),
        played("unused-connection-closes", &[("unused-holds-nothing", Warn, goes_on)], &[]),
        // What is lost, and a scenario whose process ended, have their own reasons.
        played("in-flight-completes", &[("in-flight-answered", Fail, "1 of 1 not: /slow")], &[(LOST, 1.0)]),
        played("sigint-like-sigterm", &[("int-like-term", Warn, "1 of 1 not: /slow")], &[(ENDED, 8.0), (LOST, 1.0)]),
    ];
    assert_eq!(found(&runs, &[]), below("term-ends-process", &["unused-holds-nothing", "idle-holds-nothing"]));
    let lead = summaries(&runs).into_iter().find(|rule| rule.slug() == "term-ends-process").unwrap();
    assert_eq!(lead.scenario, "idle-exit", "that shows it best");

    let ignored = Diagnosis::Ignored { process: process(), signal: "SIGTERM" };
    let causes = causes(&summaries(&runs), &runs, &[ignored], 30);
    assert_eq!(causes[0].what, "SIGTERM is ignored: it does not end");
    assert!(causes[0].remedy.as_ref().is_some_and(|remedy| remedy.contains("--default-signal=TERM")));
}

#[test]
fn what_open_connections_hold_is_one_cause_whatever_the_levels() {
    let held = "the process ended after 20.00 s, where 5.00 s and 3.00 s of slack are allowed";
    let runs = [
        ends(),
        played("idle-keep-alive-closes", &[("idle-holds-nothing", Fail, held)], &[(ENDED, 20_000.0)]),
        played("unused-connection-closes", &[("unused-holds-nothing", Warn, held)], &[(ENDED, 20_000.0)]),
        played("keep-alive-race", &[("term-ends-process", Fail, held)], &[(ENDED, 20_000.0)]),
    ];
    assert_eq!(found(&runs, &[]), below("idle-holds-nothing", &["term-ends-process", "unused-holds-nothing"]));
}

#[test]
fn what_ends_late_with_nothing_to_do_is_not_held_by_connections() {
    let late = "the process ended after 10.00 s, where 5.00 s and 3.00 s of slack are allowed";
    let runs = [
        played("idle-exit", &[("term-ends-process", Fail, late)], &[(ENDED, 10_000.0)]),
        played("unused-connection-closes", &[("unused-holds-nothing", Warn, late)], &[(ENDED, 10_000.0)]),
    ];
    assert_eq!(found(&runs, &[]), below("term-ends-process", &["unused-holds-nothing"]));
}

#[test]
fn a_signal_that_does_not_arrive_is_the_cause_of_what_is_not_told() {
    let missed = format!("{}: `sh` kept it for 35.00 s", rules::MISSED);
    let runs = [
        played(
            "idle-exit",
            &[("signal-reaches-server", Fail, "kept"), ("term-ends-process", Inconclusive, &missed)],
            &[],
        ),
        played("immediate-rebind", &[("port-free-after-exit", Fail, "`python3` still listens")], &[]),
        played("sighup-keeps-serving", &[("hup-keeps-serving", Warn, "killed by signal 1")], &[]),
    ];
    assert_eq!(found(&runs, &[]), below("signal-reaches-server", &["port-free-after-exit", "term-ends-process"]));
}

#[test]
fn a_warning_becomes_a_failure_where_that_is_asked_for() {
    let runs = [played("sighup-keeps-serving", &[("hup-keeps-serving", Warn, "killed by signal 1")], &[])];
    let mut rules = summaries(&runs);
    promote(&mut rules, &["int-like-term".to_owned()]);
    assert_eq!(rules[0].verdict.verdict, Warn);
    promote(&mut rules, &["hup-keeps-serving".to_owned()]);
    assert_eq!(rules[0].verdict.verdict, Fail);
}

fn rule(slug: &str, verdict: Verdict, scenario: &str, actual: &str) -> CheckedRule {
    let known = rules::find(slug).unwrap();
    let broken = matches!(verdict, Fail | Warn);
    let number = |place| actual.split(' ').nth(place).filter(|_| broken).and_then(|word| word.parse().ok());
    CheckedRule {
        rule: slug.to_owned(),
        level: known.level_for(false),
        verdict,
        known: false,
        scenario: scenario.to_owned(),
        expected: known.sentence.to_owned(),
        actual: actual.to_owned(),
        reason: reason(actual),
        why: Profile::Standalone.why(slug).map(str::to_owned),
        remedy: None,
        source: None,
        lost: number(0).filter(|_| number(2).is_some()),
        of: number(2),
        excerpt: Vec::new(),
    }
}

fn results(profile: Profile, rules: Vec<CheckedRule>) -> CheckResults {
    let mut results = CheckResults {
        format: 1,
        version: "0.0.0".to_owned(),
        ended: "2026-01-02T03:04:05Z".to_owned(),
        machine: BTreeMap::from([("os".to_owned(), "linux".to_owned())]),
        command: vec!["python3".to_owned(), "main.py".to_owned()],
        profile,
        grace_s: 30,
        known: Vec::new(),
        fail_on: Vec::new(),
        port: 8080,
        keep_alive: true,
        latency_ms: 1.0,
        learned: vec!["GET / is answered 200 in 1.0ms".to_owned()],
        language: None,
        framework: None,
        leader: process(),
        server: process(),
        start_ms: 200.0,
        notes: Vec::new(),
        causes: Vec::new(),
        rules,
        not_tested: Vec::new(),
        left_out: Vec::new(),
        untestable: vec!["HTTP/2".to_owned(), "TLS".to_owned()],
        skipped: Vec::new(),
        errors: Vec::new(),
        told: Vec::new(),
        deploy: String::new(),
        took_s: 12.3,
        timelines: Vec::new(),
    };
    results.deploy = deploy(&results);
    results
}

#[test]
fn the_last_line_says_what_it_means_for_a_deploy() {
    let in_flight = |verdict, actual| rule("in-flight-answered", verdict, "in-flight-completes", actual);
    let queue = || rule("nothing-lost-in-accept-queue", Warn, "held-when-signalled", "6 of 23 lost: /");
    let goes_on = || rule("term-ends-process", Fail, "idle-exit", "the process had not ended");
    let held = || rule("unused-holds-nothing", Warn, "unused-connection-closes", "the process ended after 9 s");
    let means = |profile, rules| results(profile, rules).deploy;
    assert_eq!(
        means(Profile::Standalone, vec![in_flight(Pass, "1 of 1")]),
        "A restart loses nothing of what was tested here."
    );
    // A loss that is worth a warning only is a loss.
    assert_eq!(
        means(Profile::LoadBalancer, vec![in_flight(Pass, "1 of 1"), queue()]),
        "A deploy behind a load balancer loses requests: 6 of 23 on connections that it had just accepted, or was about \
         to (held-when-signalled)."
    );
    assert_eq!(
        means(Profile::Kubernetes, vec![in_flight(Fail, "1 of 1 not: /slow"), goes_on()]),
        "A rolling update loses requests: 1 of 1 in flight (in-flight-completes); each pod may be killed when the 30 s of \
         grace are over, with all that it is doing."
    );
    assert_eq!(
        means(Profile::Standalone, vec![in_flight(Pass, "1 of 1"), held()]),
        "The process takes longer to stop than it needs, held by its clients."
    );
    // Where nothing could be caught in flight, nobody says that all is well.
    for rules in [vec![in_flight(Inconclusive, "nothing")], vec![]] {
        assert!(means(Profile::Standalone, rules).contains("is not known"));
    }
}

/// A server without a handler, as it is reported.
fn reported() -> CheckResults {
    let lost = "1 of 1 not: /slow (request r3, connection 2) was lost by FIN after 9.0 ms, before any response byte";
    let mut failed = rule("in-flight-answered", Fail, "in-flight-completes", lost);
    failed.remedy = Some("Count requests and wait for the count.".to_owned());
    failed.source = Some("https://example.org/stop".to_owned());
    failed.excerpt = vec!["▶     +0.0 ms  SIGTERM".to_owned(), "      +2.1 ms  process killed by signal 15".to_owned()];
    let stalled = "accepted, but the machine was busy";
    let mut results = results(
        Profile::Standalone,
        vec![
            rule("hup-keeps-serving", Warn, "sighup-keeps-serving", "5.0 ms after SIGHUP: killed by signal 1"),
            failed,
            rule("int-like-term", Warn, "sigint-like-sigterm", lost),
            rule("close-announced", Inconclusive, "in-flight-completes", "no response came after the signal"),
            rule("new-connections-refused", Inconclusive, "new-connection-refused", stalled),
            rule("response-untruncated", Inconclusive, "in-flight-completes", "no response had begun"),
            rule("idle-holds-nothing", Pass, "idle-keep-alive-closes", "the process ended after 5.0 ms"),
            rule("term-ends-process", Pass, "idle-exit", "the process ended after 3.0 ms"),
        ],
    );
    results.notes = vec!["no handler for SIGTERM in `python3 main.py` (pid 7)".to_owned()];
    results.causes = vec![Cause {
        what: "no handler for SIGTERM: it ends at once, whatever is in flight".to_owned(),
        remedy: None,
        rule: "in-flight-answered".to_owned(),
        follows: vec!["int-like-term".to_owned(), "close-announced".to_owned()],
    }];
    let left = |scenario: &str, with: Option<&str>| LeftOut {
        scenario: scenario.to_owned(),
        lacks: vec!["health".to_owned()],
        with: with.map(str::to_owned),
    };
    results.not_tested = vec![
        left("lame-duck-serves", Some("--ready PATH")),
        left("many-in-flight", Some("--slow PATH")),
        left("overload-sheds", None),
    ];
    results.skipped = vec!["connect-storm-over-delay: no link with delay can be made here".to_owned()];
    results.errors = vec!["half-a-request: the server did not start".to_owned()];
    results.fail_on = vec!["hup-keeps-serving".to_owned(), "readiness-fails".to_owned()];
    results
}

#[test]
fn a_report_tells_what_failed_first_then_what_was_not_tested_then_the_rest() {
    insta::assert_snapshot!(anstream::adapter::strip_str(&check(&reported())).to_string());
}

#[test]
fn a_page_tells_the_same() {
    insta::assert_snapshot!(check_page(&reported()));
}

#[test]
fn advice_is_given_where_it_helps() {
    let said = |actual: &str, missing: &[&str]| {
        let rules = vec![rule("in-flight-answered", Inconclusive, "in-flight-completes", actual)];
        let mut results = results(Profile::Standalone, rules);
        let left = |with: &&str| LeftOut {
            scenario: "many-in-flight".to_owned(),
            lacks: vec!["slow".to_owned()],
            with: Some((*with).to_owned()),
        };
        results.not_tested = missing.iter().map(left).collect();
        check(&results)
    };
    assert!(said("accepted, but the machine was busy", &[]).contains("run it again"));
    // Where it has its reason, it has it again.
    assert!(!said("no request drained", &[]).contains("run it again"));
    assert!(said("no request drained", &["--slow PATH"]).contains("name a path"));
    assert!(!said("no request drained", &[]).contains("name a path"));
}

#[test]
fn what_was_asked_for_and_not_judged_is_known() {
    assert_eq!(reported().not_judged(), ["readiness-fails"]);
}
