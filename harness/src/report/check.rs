//! What a check came to, in words: what failed first, then what was not tested, then the rest, and at the end what it
//! means for a deploy.

use std::fmt::Write;

use anstyle::Style;

use super::{paint, verdict_style};
use crate::check::{Cause, CheckResults, CheckedRule};
use crate::rules::Reason;
use crate::verdict::Verdict;

/// The report as text.
pub fn check(results: &CheckResults) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", paint(Style::new().bold(), &results.command.join(" ")));
    for note in &results.notes {
        let _ = writeln!(out, "  {}    {note}", paint(verdict_style(Verdict::Warn), "note"));
    }
    for words in &results.learned {
        let _ = writeln!(out, "  learnt  {words}");
    }
    let (failed, others): (Vec<Topic>, Vec<Topic>) =
        topics(results).into_iter().partition(|topic| topic.verdict == Verdict::Fail && !topic.lead.known);
    failed.iter().for_each(|topic| topic.tell(&mut out));
    not_tested(&mut out, results);
    others.iter().for_each(|topic| topic.tell(&mut out));
    let pass: Vec<&str> = of(results, Verdict::Pass).map(|rule| rule.rule.as_str()).collect();
    if !pass.is_empty() {
        let _ = writeln!(out, "\n{} {}", word(Verdict::Pass), pass.join(", "));
    }
    for words in &results.told {
        let _ = writeln!(out, "\ntold {words}");
    }
    let _ = writeln!(out, "\n{}\n{}", totals(results), paint(Style::new().bold(), &results.deploy));
    out
}

/// A rule that is broken, or a cause that others share.
pub(super) struct Topic<'r> {
    /// The worst verdict of it.
    pub verdict: Verdict,
    /// What it is, where several rules come from it.
    pub what: Option<&'r Cause>,
    /// The rule that says it best.
    pub lead: &'r CheckedRule,
    /// Those that follow from it.
    pub follows: Vec<&'r CheckedRule>,
}

/// What is broken, what several rules come from first, and failures before warnings.
pub(super) fn topics(results: &CheckResults) -> Vec<Topic<'_>> {
    let mut topics = Vec::new();
    for cause in &results.causes {
        let Some(lead) = results.rule(&cause.rule) else { continue };
        let follows: Vec<&CheckedRule> = cause.follows.iter().filter_map(|slug| results.rule(slug)).collect();
        let fails = |rule: &&CheckedRule| rule.verdict == Verdict::Fail;
        let verdict = if follows.iter().any(fails) { Verdict::Fail } else { lead.verdict };
        topics.push(Topic { verdict, what: Some(cause), lead, follows });
    }
    let alone = results.rules.iter().filter(|rule| rule.is_broken() && !is_told(results, rule));
    topics.extend(alone.map(|lead| Topic { verdict: lead.verdict, what: None, lead, follows: Vec::new() }));
    topics.sort_by_key(|topic| topic.verdict != Verdict::Fail);
    topics
}

/// Whether it is told below a cause, or as one.
fn is_told(results: &CheckResults, rule: &CheckedRule) -> bool {
    results.causes.iter().any(|cause| cause.rule == rule.rule || cause.follows.contains(&rule.rule))
}

/// Rules about which nothing can be told, together where that is for the same reason.
pub(super) fn untold(results: &CheckResults) -> Vec<(&str, Vec<&CheckedRule>)> {
    let mut reasons: Vec<(&str, Vec<&CheckedRule>)> = Vec::new();
    for rule in of(results, Verdict::Inconclusive).filter(|rule| !is_told(results, rule)) {
        match reasons.iter_mut().find(|(reason, _)| *reason == rule.actual) {
            Some((_, rules)) => rules.push(rule),
            None => reasons.push((&rule.actual, vec![rule])),
        }
    }
    reasons
}

/// What helps where nothing could be told, and the reason does not say it itself.
pub(super) fn to_test(results: &CheckResults, reason: &str, rules: &[&CheckedRule]) -> Option<&'static str> {
    let slow_is_named = results.not_tested.iter().all(|left| left.with.as_deref() != Some("--slow PATH"));
    let in_flight = |rule: &&CheckedRule| ["in-flight-answered", "response-untruncated"].contains(&rule.rule.as_str());
    match reason {
        _ if rules.iter().any(|rule| rule.reason == Some(Reason::Stalled)) => {
            Some("the machine was busy: run it again when it is quieter")
        }
        reason if reason.contains("--slow") || slow_is_named => None,
        _ if rules.iter().any(in_flight) => Some("name a path that takes half a second or more: --slow PATH"),
        _ => None,
    }
}

/// Scenarios that were left out, by the option with which they would be played.
pub(super) fn left_out(results: &CheckResults) -> Vec<(&str, Vec<&str>)> {
    let mut options: Vec<(&str, Vec<&str>)> = Vec::new();
    for left in &results.not_tested {
        let Some(option) = left.with.as_deref() else { continue };
        match options.iter_mut().find(|(other, _)| *other == option) {
            Some((_, scenarios)) => scenarios.push(&left.scenario),
            None => options.push((option, vec![&left.scenario])),
        }
    }
    options
}

/// How many rules came to what.
pub(super) fn totals(results: &CheckResults) -> String {
    let verdicts = [Verdict::Fail, Verdict::Warn, Verdict::Inconclusive, Verdict::Pass];
    let counts: Vec<String> =
        verdicts.iter().map(|verdict| format!("{} {}", of(results, *verdict).count(), verdict.word())).collect();
    format!("{} rules in {:.0} s: {}", results.rules.len(), results.took_s, counts.join(", "))
}

fn of(results: &CheckResults, verdict: Verdict) -> impl Iterator<Item = &CheckedRule> {
    results.rules.iter().filter(move |rule| rule.verdict == verdict)
}

fn word(verdict: Verdict) -> String {
    paint(verdict_style(verdict), verdict.word())
}

impl Topic<'_> {
    /// What to do about it, and where that is documented.
    pub(super) fn remedy(&self) -> Option<(&str, Option<&str>)> {
        match self.what.and_then(|cause| cause.remedy.as_deref()) {
            Some(remedy) => Some((remedy, None)),
            None => Some((self.lead.remedy.as_deref()?, self.lead.source.as_deref())),
        }
    }

    fn tell(&self, out: &mut String) {
        let rule = self.lead;
        let bold = Style::new().bold();
        let known = if rule.known { ", known" } else { "" };
        let of = format!("({}{known}; {})", rule.level.word(), rule.scenario);
        let _ = match self.what {
            Some(cause) => {
                let heading = paint(bold, &cause.what);
                writeln!(out, "\n{} {heading}\n  rule      {} {of}", word(self.verdict), rule.rule)
            }
            None => writeln!(out, "\n{} {} {of}", word(self.verdict), paint(bold, &rule.rule)),
        };
        let _ = writeln!(out, "  expected  {}", rule.expected);
        let _ = writeln!(out, "  actual    {}", rule.actual);
        if let Some(why) = &rule.why {
            let _ = writeln!(out, "  why here  {why}");
        }
        if let Some((remedy, source)) = self.remedy() {
            let source = source.map_or(String::new(), |source| format!(" ({source})"));
            let _ = writeln!(out, "  remedy    {remedy}{source}");
        }
        for line in &rule.excerpt {
            let _ = writeln!(out, "      {line}");
        }
        if !self.follows.is_empty() {
            let longest = self.follows.iter().map(|rule| rule.rule.len()).max().unwrap_or(0);
            let _ = writeln!(out, "  and from this follow");
            for rule in &self.follows {
                let verdict = paint(verdict_style(rule.verdict), &format!("{:<12}", rule.verdict.word()));
                let _ = writeln!(out, "    {verdict} {:<longest$}  {}", rule.rule, rule.actual);
            }
        }
    }
}

fn not_tested(out: &mut String, results: &CheckResults) {
    let heading = paint(verdict_style(Verdict::Inconclusive).bold(), "not tested");
    let _ = writeln!(out, "\n{heading}");
    for verdict in [Verdict::Error, Verdict::Skipped] {
        let reasons = if verdict == Verdict::Error { &results.errors } else { &results.skipped };
        for reason in reasons {
            let _ = writeln!(out, "  {} {reason}", word(verdict));
        }
    }
    for rule in results.not_judged() {
        let _ = writeln!(out, "  {} {rule}, which --fail-on names, was not judged", word(Verdict::Inconclusive));
    }
    for (reason, rules) in untold(results) {
        let names: Vec<&str> = rules.iter().map(|rule| rule.rule.as_str()).collect();
        let _ = writeln!(out, "  {} {}: {reason}", word(Verdict::Inconclusive), names.join(", "));
        if let Some(how) = to_test(results, reason, &rules) {
            let _ = writeln!(out, "    {how}");
        }
    }
    for (option, scenarios) in left_out(results) {
        let _ = writeln!(out, "  with {option}: {}", scenarios.join(", "));
    }
    if !results.left_out.is_empty() {
        let _ = writeln!(out, "  without --without-load: {}", results.left_out.join(", "));
    }
    let _ = writeln!(out, "  by no check: {}", results.untestable.join(", "));
}
