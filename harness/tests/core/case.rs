//! The table of the rules: which outcome each has on which timeline. Every rule appears with all three outcomes.

use std::collections::BTreeSet;

use drainspec::rules::{self, Outcome};
use drainspec::timeline::View;

use crate::run::Run;

/// One timeline and what a rule makes of it.
pub struct Case {
    rule: &'static str,
    what: &'static str,
    run: Run,
    outcome: Outcome,
}

/// The rule holds.
pub fn holds(rule: &'static str, what: &'static str, run: Run) -> Case {
    Case { rule, what, run, outcome: Outcome::Holds }
}

/// The rule is violated.
pub fn violated(rule: &'static str, what: &'static str, run: Run) -> Case {
    Case { rule, what, run, outcome: Outcome::Violated }
}

/// The timeline does not tell.
pub fn unclear(rule: &'static str, what: &'static str, run: Run) -> Case {
    Case { rule, what, run, outcome: Outcome::Inconclusive }
}

fn table() -> Vec<Case> {
    let mut table = crate::signals::cases();
    table.extend(crate::requests::cases());
    table.extend(crate::connections::cases());
    table.extend(crate::peace::cases());
    table.extend(crate::health::cases());
    table.extend(crate::fleets::cases());
    table
}

#[test]
fn every_rule_finds_in_every_timeline_what_is_there() {
    let mut wrong = Vec::new();
    for case in table() {
        let timeline = case.run.judged_by(&[case.rule]);
        let rule = rules::find(case.rule).unwrap_or_else(|| panic!("no rule `{}`", case.rule));
        let finding = (rule.judge)(&View::new(&timeline));
        if finding.outcome != case.outcome {
            let (rule, what) = (case.rule, case.what);
            wrong.push(format!(
                "{rule}: {what}: expected {:?}, found {:?}: {}",
                case.outcome, finding.outcome, finding.actual
            ));
        }
        assert!(!finding.actual.is_empty(), "{}: {}: says nothing", case.rule, case.what);
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_violation_points_at_records() {
    for case in table().into_iter().filter(|case| case.outcome == Outcome::Violated) {
        let timeline = case.run.judged_by(&[case.rule]);
        let finding = (rules::find(case.rule).unwrap().judge)(&View::new(&timeline));
        let (rule, what) = (case.rule, case.what);
        assert!(!finding.evidence.is_empty(), "{rule}: {what}: no evidence for {:?}", finding.actual);
        for at in finding.evidence {
            let there = timeline.records.iter().any(|record| record.t_us == at);
            assert!(there, "{rule}: {what}: no record at {at}, which is evidence for {:?}", finding.actual);
        }
    }
}

#[test]
fn every_rule_is_in_the_table_with_all_three_outcomes() {
    let table = table();
    let mut missing = Vec::new();
    for rule in rules::all() {
        for outcome in [Outcome::Holds, Outcome::Violated, Outcome::Inconclusive] {
            if !table.iter().any(|case| case.rule == rule.slug && case.outcome == outcome) {
                missing.push(format!("{}: no timeline where it is {outcome:?}", rule.slug));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn no_case_is_there_twice() {
    let mut seen = BTreeSet::new();
    for case in table() {
        assert!(seen.insert((case.rule, case.what)), "{}: {} is there twice", case.rule, case.what);
    }
}
