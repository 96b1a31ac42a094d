//! What people read, as snapshots. Colours are taken away first: they only repeat what the words say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use drainspec::catalog::Kind;
use drainspec::report::{excerpt, failures, overview, summary, unexpected};
use drainspec::results::{Cell, FORMAT, Repeats, Results};
use drainspec::timeline::{Break, Ending, Role, Timeline};
use drainspec::verdict::{Verdict, judge};

use crate::run::{run, stopped};

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

fn cell(server: &str, scenario: &str, verdict: Verdict) -> Cell {
    Cell {
        server: server.to_owned(),
        kind: if server.starts_with("naive") { Kind::Naive } else { Kind::Reference },
        language: "none".to_owned(),
        topology: "direct".to_owned(),
        scenario: scenario.to_owned(),
        verdict,
        expected_verdict: Verdict::Pass,
        as_expected: matches!(verdict, Verdict::Pass | Verdict::Warn),
        untold: false,
        reason: None,
        duration_ms: 1_234.5,
        repeats: Repeats { pass: 1, of: 1 },
        measures: BTreeMap::new(),
        rules: Vec::new(),
        timelines: Vec::new(),
        replaced: Vec::new(),
    }
}

fn results() -> Results {
    let mut known = cell("naive/go", "in-flight-completes", Verdict::Fail);
    known.as_expected = true;
    let mut flaky = cell("go", "in-flight-completes", Verdict::Fail);
    flaky.repeats = Repeats { pass: 2, of: 3 };
    let mut lacking = cell("naive/go", "lame-duck-serves", Verdict::Unsupported);
    lacking.as_expected = true;
    let cells = vec![
        // Not in the order of the scenarios: results come as they are ready.
        flaky,
        cell("go", "idle-exit", Verdict::Pass),
        known,
        cell("naive/go", "idle-exit", Verdict::Warn),
        lacking,
        cell("go", "lame-duck-serves", Verdict::Inconclusive),
        cell("go", "immediate-rebind", Verdict::Error),
    ];
    Results {
        format: FORMAT,
        version: "0.0.0".to_owned(),
        started: "2026-01-02T03:04:05Z".to_owned(),
        machine: BTreeMap::new(),
        cells,
    }
}

/// As the matrix makes it of a run.
fn judged(server: &str, scenario: &str, timeline: &Timeline) -> (Cell, BTreeMap<String, Vec<String>>) {
    let rules = judge(timeline).unwrap();
    let verdict = Verdict::worst(rules.iter().map(|rule| rule.verdict)).unwrap();
    let shown = rules.iter().filter(|rule| !rule.evidence.is_empty());
    let excerpts = shown.map(|rule| (rule.rule.clone(), excerpt(timeline, &rule.evidence))).collect();
    let timelines = vec![PathBuf::from(format!("timelines/{server}/{scenario}-1.ndjson"))];
    let as_expected = verdict == Verdict::Pass;
    (Cell { rules, timelines, as_expected, ..cell(server, scenario, verdict) }, excerpts)
}

#[test]
fn the_table_has_a_row_for_each_scenario_in_its_group() {
    insta::assert_snapshot!(overview(&results(), false, 180));
}

#[test]
fn the_colours_of_the_table_change_no_word() {
    let coloured = overview(&results(), true, 180);
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&plain(&coloured)), words(&overview(&results(), false, 180)));
}

#[test]
fn what_is_too_wide_for_a_table_is_told_server_by_server() {
    insta::assert_snapshot!(overview(&results(), false, 40));
}

#[test]
fn what_nobody_expected_and_what_was_not_told_have_a_line_each() {
    let mut results = results();
    let clean = results.cells.iter().position(|cell| cell.as_expected).unwrap();
    results.cells[clean].untold = true;
    insta::assert_snapshot!(unexpected(&results).join("\n"));
    insta::assert_snapshot!(plain(&summary(&results, 12.4)));
}

#[test]
fn the_summary_counts_the_worst_first() {
    insta::assert_snapshot!(plain(&summary(&results(), 12.4)));
}

#[test]
fn the_summary_of_expected_results_says_so() {
    let mut results = results();
    results.cells.retain(|cell| cell.as_expected);
    insta::assert_snapshot!(plain(&summary(&results, 0.6)));
}

#[test]
fn a_failure_shows_rule_expected_actual_and_the_records() {
    let lossy = run().opened(1, Role::Warmup).sent("r1", Role::InFlight).at(900).sent("r2", Role::InFlight);
    let lossy = lossy.at(1_000).signal("SIGTERM").listener_closed().at(1_250).answered_close("r1", 200);
    let lossy = lossy.at(1_300).broken("r2", Break::Reset).ended(1, Ending::Reset).exited(0);
    let timeline = lossy.judged_by(&["in-flight-answered", "close-announced", "clean-exit-status"]);
    let (cell, excerpts) = judged("go", "in-flight-completes", &timeline);
    insta::assert_snapshot!(plain(&failures(&cell, &excerpts)));
}

#[test]
fn a_warning_names_its_level() {
    let timeline =
        stopped().without_promise().at(1_200).exited(1).judged_by(&["term-ends-process", "clean-exit-status"]);
    let (cell, excerpts) = judged("naive/go", "idle-exit", &timeline);
    insta::assert_snapshot!(plain(&failures(&cell, &excerpts)));
}

#[test]
fn a_missing_precondition_says_which() {
    let timeline = stopped().exited(0).unconfirmed("a request is in flight").judged_by(&["in-flight-answered"]);
    let (cell, excerpts) = judged("go", "in-flight-completes", &timeline);
    insta::assert_snapshot!(plain(&failures(&cell, &excerpts)));
}

#[test]
fn an_error_shows_its_reason() {
    let mut failed = cell("go", "idle-exit", Verdict::Error);
    failed.reason = Some("the server ended with exit status 2 before it listened".to_owned());
    insta::assert_snapshot!(plain(&failures(&failed, &BTreeMap::new())));
}

#[test]
fn an_unexpected_pass_says_what_to_do() {
    let mut better = cell("naive/go", "idle-exit", Verdict::Pass);
    better.as_expected = false;
    insta::assert_snapshot!(plain(&failures(&better, &BTreeMap::new())));
}

#[test]
fn a_long_timeline_is_shown_in_part() {
    let mut long = run();
    for number in 0..40 {
        let id = format!("r{number}");
        long = long.sent(&id, Role::KeepAlive).answered(&id, 200);
    }
    let timeline = long.at(1_000).signal("SIGTERM").sent("late", Role::Late).broken("late", Break::Fin).judged_by(&[]);
    let evidence: Vec<u64> = timeline.records.iter().step_by(9).map(|record| record.t_us).collect();
    let lines = excerpt(&timeline, &evidence);
    assert!(lines.len() <= 15, "{} lines", lines.len());
    insta::assert_snapshot!(lines.join("\n"));
}

/// Names, levels and sentences are what people build on: they change on purpose or not at all.
#[test]
fn the_rules_are_these() {
    let rules = drainspec::rules::all()
        .map(|rule| format!("{:<30} {:<6} {:<8} {}", rule.slug, rule.level.word(), rule.basis.word(), rule.sentence));
    insta::assert_snapshot!(rules.collect::<Vec<_>>().join("\n"));
}
